"""The programs of `program` in the kernel: attached to its tracepoints, and what they saw read back.

They see every namespace of the machine at once, so one set of them is enough; whose packets they look for is in them.
They end with this process, however that ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType

from netlab.bpf import btf
from netlab.bpf.encoded import Encoded
from netlab.bpf.loader import Map, MapType, ProgramType, attach_raw_tracepoint, load
from netlab.bpf.ring import Ring
from netlab.trace.headers import Ports
from netlab.trace.kept import kept_programs
from netlab.trace.layout import (
    DROP_REASONS,
    FLOW,
    FRAGMENT,
    MEMBERS,
    MOST_FLOWS,
    MOST_SOURCES,
    RECORD_SIZE,
    VALUE_SIZE,
    Target,
)
from netlab.trace.mark import following
from netlab.trace.sighting import Sighting, read

POINTER = 8  # bytes
RING = 1 << 20  # bytes: some 3,000 sightings
NEEDED_BY = "seeing packets at the kernel's tracepoints"


class Watch:
    """Programs that look for a packet. Use it in a `with` statement; raises KernelError or NotSupported."""

    seen_by = "eBPF programs at the kernel's tracepoints"
    tells_at_end = False

    def __init__(self, target: Target, namespaces: Mapping[int, str], ports: Ports) -> None:
        self._namespaces, self._ports = namespaces, ports
        layout = btf.find(MEMBERS, (DROP_REASONS,), needed_by=NEEDED_BY)
        self.reasons = {
            value: name.removeprefix("SKB_DROP_REASON_") for value, name in layout.enums[DROP_REASONS].items()
        }
        self._stack = ExitStack()
        with self._stack:
            maps = self._maps = _maps(target)
            for known in maps.values():
                self._stack.enter_context(known)
            maps["cookie"][bytes(4)] = target.cookie + following(target.cookie)
            self._seen = self._stack.enter_context(Ring("seen", size=RING))
            maps["seen"] = self._seen
            for name, program in kept_programs(layout.offsets, target).items():
                self._attach(name, program)
            self._stack = self._stack.pop_all()  # all went well: they stay until `close`

    def _attach(self, name: str, program: Encoded) -> None:
        """Have a program run at the tracepoint of that name."""
        record = self._stack.enter_context(_one_for_each_cpu("record", RECORD_SIZE))
        maps = {**self._maps, "record": record}
        loaded = load(program, ProgramType.RAW_TRACEPOINT, name=name, maps=maps, licence="GPL")
        self._stack.callback(os.close, loaded)
        self._stack.callback(os.close, attach_raw_tracepoint(loaded, name))

    def follow(self, sources: Iterable[int]) -> None:
        """Take up, from now on, the first packet that the filter lets pass in one of these namespaces, by inode."""
        for source in sources:
            self._maps["sources"][source.to_bytes(4, sys.byteorder)] = bytes(4)
        self._maps["budget"][bytes(4)] = (1).to_bytes(4, sys.byteorder)

    def take(self) -> list[Sighting]:
        """Return what was seen since the last call, in the order in which it was."""
        return [read(record, self._namespaces, self._ports) for record in self._seen.records()]

    def rest(self) -> list[Sighting]:
        """Return what was seen since then, at the end."""
        return self.take()

    def close(self) -> None:
        """Take the programs away."""
        self._stack.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _maps(target: Target) -> dict[str, Map]:
    """Make what programs and Python share."""
    found = {
        "cookie": Map("cookie", MapType.ARRAY, key_size=4, value_size=VALUE_SIZE, entries=1),
        "flows": _known("flows", FLOW.size),
        "fragments": _known("fragments", FRAGMENT.size),
        "buffers": _known("buffers", POINTER, MapType.LRU_HASH),
    }
    if target.filter:
        from netlab.trace.adopt import FILTERED_SIZE

        found |= {
            "budget": Map("budget", MapType.ARRAY, key_size=4, value_size=4, entries=1),
            "sources": Map("sources", MapType.HASH, key_size=4, value_size=4, entries=MOST_SOURCES, preallocated=True),
            "filtered": _one_for_each_cpu("filtered", FILTERED_SIZE),
        }
    return found


def _one_for_each_cpu(name: str, size: int) -> Map:
    """Make a map of one value for each processor, for what a program works on."""
    return Map(name, MapType.PERCPU_ARRAY, key_size=4, value_size=size, entries=1)


def _known(name: str, key_size: int, kind: MapType = MapType.HASH) -> Map:
    """Make a map of what packets are known by."""
    return Map(name, kind, key_size=key_size, value_size=VALUE_SIZE, entries=MOST_FLOWS, preallocated=True)
