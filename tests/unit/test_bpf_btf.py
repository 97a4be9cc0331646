"""BTF: a small file made by hand, files that are broken, the kernel's own."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.bpf import btf
from netlab.errors import NotSupported

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST = range(1, 11)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = 12, 13, 14, 15, 16, 17, 18, 19


class Writer:
    """Writes a BTF file type by type; each method returns the number of the type."""

    def __init__(self) -> None:
        self._types: list[bytes] = []
        self._strings = b"\0"

    def string(self, text: str) -> int:
        if not text:
            return 0
        place = len(self._strings)
        self._strings += text.encode() + b"\0"
        return place

    def add(self, kind: int, name: str = "", size_or_type: int = 0, behind: bytes = b"", *, count: int = 0) -> int:
        details = kind << 24 | count
        self._types.append(struct.pack("=III", self.string(name), details & 0xFFFFFFFF, size_or_type) + behind)
        return len(self._types)

    def integer(self, name: str, size: int) -> int:
        return self.add(INT, name, size, struct.pack("=I", size * 8))

    def structure(self, name: str, *members: tuple[str, int, int], kind: int = STRUCT, bitfields: bool = False) -> int:
        """Add a structure; members are name, type and offset in bits (for bitfields with their size above)."""
        behind = b"".join(struct.pack("=III", self.string(member), of, offset) for member, of, offset in members)
        return self.add(kind | (0x80 if bitfields else 0), name, 64, behind, count=len(members))

    def enum(self, name: str, **values: int) -> int:
        behind = b"".join(struct.pack("=Ii", self.string(word), value) for word, value in values.items())
        return self.add(ENUM, name, 4, behind, count=len(values))

    def content(self) -> bytes:
        types = b"".join(self._types)
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return header + types + self._strings


def made() -> bytes:
    """Return a file with every kind of type, those that matter last."""
    to = Writer()
    u32, u64 = to.integer("u32", 4), to.integer("u64", 8)
    to.add(PTR, "", u32)
    to.add(ARRAY, "", 0, struct.pack("=III", u32, u32, 16))
    to.add(FWD, "net_device")
    proto = to.add(FUNC_PROTO, "", u32, struct.pack("=IIII", to.string("a"), u32, to.string("b"), u64), count=2)
    to.add(FUNC, "function", proto)
    to.add(VAR, "variable", u32, struct.pack("=I", 1))
    to.add(DATASEC, ".data", 8, struct.pack("=III", 1, 0, 4) * 2, count=2)
    to.add(FLOAT, "double", 8)
    to.add(DECL_TAG, "tag", u32, struct.pack("=i", -1))
    to.add(ENUM64, "big", 8, struct.pack("=III", to.string("HUGE"), 0, 1) * 3, count=3)
    inner = to.structure("ns_common", ("ops", u64, 0), ("inum", u32, 64))
    tagged = to.add(TYPE_TAG, "user", inner)
    chain = to.add(TYPEDEF, "ns_t", to.add(VOLATILE, "", to.add(CONST, "", tagged)))
    deepest = to.structure("", ("network_header", u32, 32), ("mac_header", u32, 64))
    unnamed = to.structure("", ("mark", u32, 0), ("", deepest, 32), kind=UNION)
    to.structure("sk_buff", ("head", u64, 0), ("", unnamed, 128), ("dev", u64, 320))
    to.structure("net", ("count", u32, 0), ("ns", chain, 256))
    to.structure("flags", ("first", u32, 3 << 24 | 0), ("second", u32, 5 << 24 | 40), bitfields=True)
    to.structure("empty")
    to.enum("reasons", NOT_YET=0, NO_SOCKET=3, NEGATIVE=-1)
    to.add(TYPEDEF, "sk_buff", u32)  # another kind of the same name
    return to.content()


CONTENT = made()
MEMBERS = {"sk_buff": ("head", "mark", "mac_header", "dev"), "net": ("ns.inum",)}
OFFSETS = {"sk_buff.head": 0, "sk_buff.mark": 16, "sk_buff.mac_header": 28, "sk_buff.dev": 40, "net.ns.inum": 40}
REASONS = {0: "NOT_YET", 3: "NO_SOCKET", -1: "NEGATIVE"}


def test_members_are_found_in_unnamed_ones_and_behind_typedefs() -> None:
    assert btf.read(CONTENT, MEMBERS, ["reasons"]) == (OFFSETS, {"reasons": REASONS})


def test_a_structure_with_bitfields_says_sizes_with_its_offsets() -> None:
    assert btf.read(CONTENT, {"flags": ["second"]}).offsets == {"flags.second": 5}


@pytest.mark.parametrize(
    ("name", "member"),
    [("sk_buff", "cookie"), ("net", "ns.number"), ("net", "count.inum"), ("empty", "x"), ("page", "x"), ("u32", "x")],
)
def test_what_a_kernel_does_not_have(name: str, member: str) -> None:
    with pytest.raises(KeyError):
        btf.read(CONTENT, {name: [member]})


def test_an_enumeration_that_a_kernel_does_not_have() -> None:
    with pytest.raises(KeyError):
        btf.read(CONTENT, {}, ["sk_buff"])


def test_a_file_of_another_byte_order_or_kind() -> None:
    for content in (CONTENT[1::-1] + CONTENT[2:], b"\x7fELF" + bytes(100)):
        with pytest.raises(ValueError, match="BTF"):
            btf.read(content, MEMBERS)


@given(st.integers(0, len(CONTENT) - 1))
def test_a_file_that_is_cut_off(end: int) -> None:
    """It may still hold what is asked for, if only strings of others are missing."""
    try:
        found = btf.read(CONTENT[:end], MEMBERS, ["reasons"])
    except (ValueError, KeyError, IndexError, struct.error):
        return
    assert found == (OFFSETS, {"reasons": REASONS})


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that is kept."""
    monkeypatch.setenv("NETLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "btf.json"


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """Return a file that is the kernel's."""
    file = tmp_path / "vmlinux"
    file.write_bytes(CONTENT)
    return file


def find(file: Path, members: dict[str, tuple[str, ...]] | None = None) -> btf.Layout:
    return btf.find(members or MEMBERS, ["reasons"], needed_by="a test", file=file)


def test_what_was_found_is_kept(cache: Path, kernel: Path) -> None:
    found = find(kernel)
    assert found == (OFFSETS, {"reasons": REASONS})
    kernel.unlink()
    assert find(kernel) == found
    assert [file.name for file in cache.parent.iterdir()] == ["btf.json"]


def test_another_question_is_asked_anew(cache: Path, kernel: Path) -> None:
    find(kernel)
    assert find(kernel, {"sk_buff": ("dev",)}).offsets == {"sk_buff.dev": 40}
    kernel.unlink()
    with pytest.raises(NotSupported):
        find(kernel, {"sk_buff": ("head",)})


def test_another_kernel_is_asked_anew(cache: Path, kernel: Path) -> None:
    find(kernel)
    ((key, value),) = json.loads(cache.read_text()).items()
    assert key.startswith(f"{os.uname().release} {os.uname().version} ")
    value["offsets"]["net.ns.inum"] = 4
    cache.write_text(json.dumps({"6.1.0 #1 " + key: value}))
    assert find(kernel).offsets == OFFSETS


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "null", "3", "{}", '{"6.1.0 #1": {}}'])
def test_a_broken_file_is_replaced(cache: Path, kernel: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    assert find(kernel).offsets == OFFSETS
    kernel.unlink()
    assert find(kernel).offsets == OFFSETS


@pytest.mark.parametrize(
    "value", [None, [], {}, {"offsets": {}}, {"offsets": [], "enums": {}}, {"offsets": {"a": "x"}, "enums": {}}]
)
def test_a_broken_entry_is_replaced(cache: Path, kernel: Path, value: object) -> None:
    find(kernel)
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: value}))
    assert find(kernel).offsets == OFFSETS


def test_octets_that_are_no_text_are_replaced(cache: Path, kernel: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"\xff\xfe")
    assert find(kernel).offsets == OFFSETS


def test_a_folder_that_cannot_be_made_is_no_matter(tmp_path: Path, cache: Path, kernel: Path) -> None:
    cache.parent.write_text("a file is in its place")
    assert find(kernel).offsets == OFFSETS


@pytest.mark.parametrize("content", [None, b"", CONTENT[:200], b"\x7fELF" + bytes(100)])
def test_a_kernel_without_btf(cache: Path, kernel: Path, content: bytes | None) -> None:
    kernel.unlink()
    if content is not None:
        kernel.write_bytes(content)
    with pytest.raises(NotSupported) as raised:
        find(kernel)
    assert "BTF" in str(raised.value)
    assert "CONFIG_DEBUG_INFO_BTF=y" in str(raised.value)
    assert not cache.exists()


def test_a_kernel_without_a_member(cache: Path, kernel: Path) -> None:
    with pytest.raises(NotSupported):
        find(kernel, {"sk_buff": ("cookie",)})


def test_this_machines_own_kernel(cache: Path) -> None:
    from netlab.trace.layout import DROP_REASONS
    from netlab.trace.layout import MEMBERS as TRACED

    if not btf.VMLINUX.exists():
        pytest.skip("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
    found = btf.find(TRACED, (DROP_REASONS,), needed_by="a test")
    assert set(found.offsets) == {f"{name}.{member}" for name, members in TRACED.items() for member in members}
    assert 0 < found.offsets["sk_buff.head"] < found.offsets["sk_buff.data"]
    assert found.offsets["sk_buff.data"] == found.offsets["sk_buff.head"] + 8
    assert "SKB_DROP_REASON_NO_SOCKET" in found.enums[DROP_REASONS].values()
    assert found == btf.find(TRACED, (DROP_REASONS,), needed_by="a test", file=Path("/nowhere"))
