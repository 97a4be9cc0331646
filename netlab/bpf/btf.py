"""Where the running kernel keeps the members of its structures, what its numbers mean: BTF. Pure but for `find`.

A program that reads `skb->dev->ifindex` needs two offsets, which differ from kernel to kernel. The kernel says them in
/sys/kernel/btf/vmlinux: a header, then types one after the other, which name each other by number, then all names
(Documentation/bpf/btf.rst in the kernel's source; the tables below carry its words). There are some 100,000 types, so
what was found is kept in the cache folder under the kernel's release and build.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from netlab.errors import NotSupported
from netlab.kept import kept

VMLINUX = Path("/sys/kernel/btf/vmlinux")
MAGIC = 0xEB9F
BITS = 8

STRUCT, UNION, ENUM = 4, 5, 6
TRANSPARENT = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type_tag: what they stand for has the members
_NAMED = struct.Struct("=III")  # `struct btf_type`: name, info, size or type
_HEADER = struct.Struct("=HBBIIIII")
_MEMBER = 12  # bytes of `struct btf_member`
_ENTRY = struct.Struct("=Ii")  # `struct btf_enum`: name, value
# Bytes behind a `struct btf_type`, by kind: (fixed, for each of its members).
_BEHIND = {
    1: (4, 0),  # int
    3: (12, 0),  # array
    STRUCT: (0, _MEMBER),
    UNION: (0, _MEMBER),
    ENUM: (0, 8),
    13: (0, 8),  # func_proto
    14: (4, 0),  # var
    15: (0, 12),  # datasec
    17: (4, 0),  # decl_tag
    19: (0, 12),  # enum64
}


class Layout(NamedTuple):
    """Offsets by "structure.member", in bytes from the structure's beginning; each enumeration's names by value."""

    offsets: Mapping[str, int]
    enums: Mapping[str, Mapping[int, str]]


class Types:
    """The types of these names, from the content of a BTF file. Raises ValueError when it is none."""

    def __init__(self, content: bytes, names: Iterable[str]) -> None:
        self._content = content
        magic, _, _, header, types, types_length, strings, _ = _HEADER.unpack_from(content)
        if magic != MAGIC:
            raise ValueError("this is no BTF of this machine's byte order")
        self._strings: int = header + strings
        self._places = [0]  # by type number; number 0 is void
        self._named: dict[tuple[int, str], int] = {}
        self._index(header + types, header + types + types_length, names)

    def _index(self, place: int, end: int, wanted: Iterable[str]) -> None:
        names = {self._find_string(name): name for name in wanted}
        unpack, places = _NAMED.unpack_from, self._places
        while place < end:
            name, details, _ = unpack(self._content, place)
            places.append(place)
            kind = details >> 24 & 31
            if name in names:
                self._named[kind, names[name]] = place
            place += 12
            if kind in _BEHIND:
                fixed, each = _BEHIND[kind]
                place += fixed + each * (details & 0xFFFF)

    def _find_string(self, name: str) -> int:
        place = self._content.find(b"\0" + name.encode() + b"\0", self._strings)
        return place + 1 - self._strings

    def offset(self, structure: str, member: str) -> int:
        """Return where a member is, in bytes. Raises KeyError for one that this kernel does not have."""
        place, found = self._named[STRUCT, structure], 0
        for part in member.split("."):
            bits, kind = self._member(place, part)
            found, place = found + bits // BITS, self._places[kind]
        return found

    def enum(self, name: str) -> dict[int, str]:
        """Return an enumeration's names by value. Raises KeyError when this kernel does not have it."""
        place = self._named[ENUM, name]
        count: int = _NAMED.unpack_from(self._content, place)[1] & 0xFFFF
        entries = (_ENTRY.unpack_from(self._content, place + 12 + _ENTRY.size * number) for number in range(count))
        return {value: self._string(offset) for offset, value in entries}

    def _member(self, place: int, name: str) -> tuple[int, int]:
        """Return the offset in bits and the type of a member, which may be inside unnamed structures."""
        _, details, _ = _NAMED.unpack_from(self._content, place)
        for member, kind, bits in self._members(place, details):
            if member == name:
                return bits, kind
            if not member:
                with suppress(KeyError):
                    inner, inner_kind = self._member(self._places[kind], name)
                    return bits + inner, inner_kind
        raise KeyError(name)

    def _members(self, place: int, details: int) -> Iterator[tuple[str, int, int]]:
        _, _, target = _NAMED.unpack_from(self._content, place)
        kind = details >> 24 & 31
        if kind in TRANSPARENT:
            place = self._places[target]
            yield from self._members(place, _NAMED.unpack_from(self._content, place)[1])
        if kind not in (STRUCT, UNION):
            return
        has_bitfields = details >> 31
        for at in range(place + 12, place + 12 + _MEMBER * (details & 0xFFFF), _MEMBER):
            name, member_kind, offset = _NAMED.unpack_from(self._content, at)
            yield self._string(name), member_kind, offset & 0xFFFFFF if has_bitfields else offset

    def _string(self, offset: int) -> str:
        start = self._strings + offset
        return self._content[start : self._content.index(b"\0", start)].decode()


def read(content: bytes, members: Mapping[str, Iterable[str]], enums: Iterable[str] = ()) -> Layout:
    """Find members of structures ("ns.inum" for a member's member) and enumerations. Raises ValueError or KeyError."""
    enums = tuple(enums)
    types = Types(content, [*members, *enums])
    found = {f"{name}.{member}": types.offset(name, member) for name, wanted in members.items() for member in wanted}
    return Layout(found, {name: types.enum(name) for name in enums})


def find(members: Mapping[str, Sequence[str]], enums: Sequence[str], *, needed_by: str, file: Path = VMLINUX) -> Layout:
    """Find members and enumerations of the running kernel, as `read` does. Raises NotSupported when it is silent."""
    kernel = os.uname()
    key = f"{kernel.release} {kernel.version} {sorted((name, *wanted) for name, wanted in members.items())} {[*enums]}"

    def search() -> Layout:
        try:
            return read(file.read_bytes(), members, enums)
        except (OSError, ValueError, KeyError, IndexError, struct.error) as exc:
            raise NotSupported("BTF, the kernel's type information", needed_by, "CONFIG_DEBUG_INFO_BTF=y") from exc

    return kept("btf.json", key, _from_json, search, Layout._asdict)


def _from_json(value: Any) -> Layout:
    enums = {name: {int(number): word for number, word in words.items()} for name, words in value["enums"].items()}
    return Layout({name: int(offset) for name, offset in value["offsets"].items()}, enums)
