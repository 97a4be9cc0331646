"""Programs and maps in the kernel, by bpf(2) and nothing else: no compiler, no libbpf, no tc.

Read in order: `Map` (what programs and Python share), `load` (the verifier's check), `attach_tcx` (where packets meet a
program), `attach_raw_tracepoint` (where the kernel does), `run` (a program on bytes, for tests). Everything is a file
descriptor: the kernel keeps a program or map while a descriptor or another of them holds it, and a link detaches when
its descriptor is closed. When the process dies, all of it is gone.

Source: linux/bpf.h (`union bpf_attr`; every structure here is a prefix of it) and bpf(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.feature_probes import BPF_SYSCALL

if TYPE_CHECKING:
    from netlab.bpf.assembler import Program
    from netlab.bpf.encoded import Encoded

LOG_SIZE = 1 << 20
LOG_LINES = 12  # of the verifier's log, in an error's text: the instruction that it refused and what it knew there
NAME_LENGTH = 15
OUTPUT_SIZE = 1 << 16


class Command(IntEnum):
    """BPF_* of `enum bpf_cmd`."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    PROG_TEST_RUN = 10
    RAW_TRACEPOINT_OPEN = 17
    LINK_CREATE = 28


class MapType(IntEnum):
    """BPF_MAP_TYPE_*."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    RINGBUF = 27


class ProgramType(IntEnum):
    """BPF_PROG_TYPE_*."""

    SCHED_CLS = 3
    RAW_TRACEPOINT = 17


class TcxHook(IntEnum):
    """BPF_TCX_*: where on an interface, as the interface sees it."""

    INGRESS = 46
    EGRESS = 47


NO_PREALLOC = 1  # BPF_F_NO_PREALLOC: memory is taken by entry; an LPM trie demands it


Buffer = ctypes.Array[ctypes.c_char]


def bpf(command: Command, attributes: bytes | Buffer) -> int:
    """Call bpf(2) and return its answer; some commands write into a buffer. Raises OSError."""
    number = BPF_SYSCALL.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {os.uname().machine} is not known")
    return netns.syscall("syscall", ctypes.c_long(number), int(command), attributes, len(attributes))


def _buffer(content: bytes) -> tuple[Buffer, int]:
    """Return a copy of some bytes and its address, which lives as long as the copy."""
    kept = ctypes.create_string_buffer(content, len(content))
    return kept, ctypes.addressof(kept)


# --- maps ------------------------------------------------------------------------------------------------------------


class Map:
    """A table that programs and Python share. Keys and values are bytes of fixed sizes.

    In a map of kind PERCPU_ARRAY a value is read as those of all possible CPUs, one behind the other. A hash that
    programs at tracepoints change is `preallocated`: before Linux 6.1 they may not take memory.
    """

    def __init__(
        self, name: str, kind: MapType, *, key_size: int, value_size: int, entries: int, preallocated: bool = False
    ) -> None:
        flags = NO_PREALLOC if kind in (MapType.HASH, MapType.LPM_TRIE) and not preallocated else 0
        head = struct.pack("=7I", kind, key_size, value_size, entries, flags, 0, 0)
        try:
            self.fd = bpf(Command.MAP_CREATE, head + name.encode()[:NAME_LENGTH].ljust(16, b"\0"))
        except OSError as exc:
            raise KernelError(exc.errno, f"make BPF map {name}") from exc
        self.name = name
        self.key_size = key_size
        self.value_size = value_size
        self.read_size = -(-value_size // 8) * 8 * possible_cpus() if kind is MapType.PERCPU_ARRAY else value_size

    def __setitem__(self, key: bytes, value: bytes) -> None:
        """Add or replace an entry. Raises KernelError, with ENOSPC when the map is full."""
        self._call(Command.MAP_UPDATE_ELEM, key, value)

    def __getitem__(self, key: bytes) -> bytes:
        """Return an entry's value. Raises KeyError."""
        value = ctypes.create_string_buffer(self.read_size)
        try:
            self._element(Command.MAP_LOOKUP_ELEM, key, ctypes.addressof(value))
        except FileNotFoundError:
            raise KeyError(key) from None
        return value.raw

    def __delitem__(self, key: bytes) -> None:
        """Take an entry out. Raises KernelError, with ENOENT when there is none."""
        self._call(Command.MAP_DELETE_ELEM, key)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys. Change nothing meanwhile: the kernel begins again when the last key is gone."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while True:
            try:
                self._element(Command.MAP_GET_NEXT_KEY, key, ctypes.addressof(following))
            except FileNotFoundError:
                return
            key = following.raw
            yield key

    def close(self) -> None:
        """Close the descriptor; the map goes when no program uses it either."""
        os.close(self.fd)

    def __enter__(self) -> Map:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, command: Command, key: bytes, value: bytes | None = None) -> None:
        if value is not None and len(value) != self.value_size:
            raise ValueError(f"BPF map {self.name} has values of {self.value_size} bytes, not {len(value)}")
        kept, address = _buffer(value or b"")
        try:
            self._element(command, key, address if value is not None else 0)
        except OSError as exc:
            raise KernelError(exc.errno, f"change BPF map {self.name}") from exc
        del kept  # the kernel has read it

    def _element(self, command: Command, key: bytes | None, value: int) -> None:
        if key is not None and len(key) != self.key_size:
            raise ValueError(f"BPF map {self.name} has keys of {self.key_size} bytes, not {len(key)}")
        kept, address = _buffer(key or b"")
        bpf(command, struct.pack("=I4xQQQ", self.fd, address if key is not None else 0, value, 0))
        del kept


def possible_cpus() -> int:
    """Return how many CPUs may ever be: "0-1,4" is 3."""
    listed = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return sum(int(part.split("-")[-1]) - int(part.split("-")[0]) + 1 for part in listed.split(","))


# --- programs --------------------------------------------------------------------------------------------------------


def load(program: Program | Encoded, kind: ProgramType, *, name: str, maps: Mapping[str, Map], licence: str) -> int:
    """Have the verifier check a program, and return its descriptor.

    Some helpers want a licence that is compatible with the GPL (bpf-helpers(7)). Raises KernelError, whose `reason`
    is the end of the verifier's log.
    """
    code = program.code({key: maps[key].fd for key in program.maps})
    instructions, first = _buffer(code)
    licence_text, second = _buffer(licence.encode() + b"\0")

    def attributes(log: tuple[int, int, int]) -> bytes:
        head = struct.pack("=IIQQ", kind, len(code) // 8, first, second)
        return head + struct.pack("=IIQII16s", *log, 0, 0, name.encode()[:NAME_LENGTH])

    try:
        return bpf(Command.PROG_LOAD, attributes((0, 0, 0)))
    except OSError as exc:
        reason = _verifier_log(attributes) if exc.errno in (errno.EACCES, errno.EINVAL, errno.E2BIG) else ""
        raise KernelError(exc.errno, f"load BPF program {name}", reason) from exc
    finally:
        del instructions, licence_text


def _verifier_log(attributes: Callable[[tuple[int, int, int]], bytes]) -> str:
    """Load again, with a log this time, and return its end without the statistics."""
    log = ctypes.create_string_buffer(LOG_SIZE)
    try:
        os.close(bpf(Command.PROG_LOAD, attributes((1, LOG_SIZE, ctypes.addressof(log)))))
    except OSError:
        lines = log.value.decode(errors="replace").splitlines()
        return "\n".join([line for line in lines if not line.startswith("processed ")][-LOG_LINES:])
    return ""


def attach_tcx(program: int, ifindex: int, hook: TcxHook) -> int:
    """Attach a tc program to an interface of this thread's namespace, behind those there; return the link's descriptor.

    Since Linux 6.6; older kernels answer EINVAL. Raises KernelError.
    """
    try:
        return bpf(Command.LINK_CREATE, struct.pack("=IIII", program, ifindex, hook, 0))
    except OSError as exc:
        raise KernelError(exc.errno, f"attach a BPF program at tcx {hook.name.lower()}") from exc


def attach_raw_tracepoint(program: int, name: str) -> int:
    """Have a program run at a tracepoint, for all namespaces; return the descriptor that holds it. Raises KernelError.

    The tracepoint's name is the last part of events/GROUP/NAME in tracefs.
    """
    kept, address = _buffer(name.encode() + b"\0")
    try:
        return bpf(Command.RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", address, program))
    except OSError as exc:
        raise KernelError(exc.errno, f"attach a BPF program at tracepoint {name}") from exc
    finally:
        del kept


class Answer(NamedTuple):
    """What a program returned, and the packet as it left it."""

    value: int
    packet: bytes


def run(program: int, packet: bytes) -> Answer:
    """Run a tc program once on an Ethernet frame of at least 14 bytes, without sending anything. Raises KernelError."""
    given, source = _buffer(packet)
    output = ctypes.create_string_buffer(OUTPUT_SIZE)
    attributes = struct.pack("=IIIIQQ", program, 0, len(packet), OUTPUT_SIZE, source, ctypes.addressof(output))
    attributes += struct.pack("=IIIIQQ", 1, 0, 0, 0, 0, 0)
    buffer, _ = _buffer(attributes)
    try:
        bpf(Command.PROG_TEST_RUN, buffer)
    except OSError as exc:
        raise KernelError(exc.errno, "run a BPF program") from exc
    _, value, _, size = struct.unpack_from("=IIII", buffer.raw)
    del given
    return Answer(value, output.raw[:size])
