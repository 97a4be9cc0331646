"""The programs of `program` in the kernel: attached to its tracepoints, and what they saw read back.

They see every namespace of the machine at once, so one set of them is enough; whose packets they look for is in them.
They end with this process, however that ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType

from netlab.bpf import btf
from netlab.bpf.loader import Map, MapType, ProgramType, attach_raw_tracepoint, load
from netlab.bpf.ring import Ring
from netlab.trace.layout import DIRECTION_SIZE, FLOW, FRAGMENT, MOST_FLOWS, Target
from netlab.trace.program import DROP_REASONS, MEMBERS, programs

RING = 1 << 20  # bytes: some 3,000 sightings
NEEDED_BY = "seeing packets at the kernel's tracepoints"


class Watch:
    """Programs that look for a packet. Use it in a `with` statement; raises KernelError or NotSupported."""

    def __init__(self, target: Target) -> None:
        layout = btf.find(MEMBERS, (DROP_REASONS,), needed_by=NEEDED_BY)
        self.reasons = {
            value: name.removeprefix("SKB_DROP_REASON_") for value, name in layout.enums[DROP_REASONS].items()
        }
        self._stack = ExitStack()
        with self._stack:
            maps: dict[str, Map] = {
                "flows": _known("flows", FLOW.size),
                "fragments": _known("fragments", FRAGMENT.size),
            }
            for known in maps.values():
                self._stack.enter_context(known)
            self._seen = self._stack.enter_context(Ring("seen", size=RING))
            maps["seen"] = self._seen
            loaded = {}
            for name, program in programs(layout.offsets, target).items():
                loaded[name] = load(program, ProgramType.RAW_TRACEPOINT, name=name, maps=maps, licence="GPL")
                self._stack.callback(os.close, loaded[name])
            for name, descriptor in loaded.items():
                self._stack.callback(os.close, attach_raw_tracepoint(descriptor, name))
            self._stack = self._stack.pop_all()  # all went well: they stay until `close`

    def records(self) -> Iterator[bytes]:
        """Yield what was seen since the last call."""
        return self._seen.records()

    def close(self) -> None:
        """Take the programs away."""
        self._stack.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _known(name: str, key_size: int) -> Map:
    """Make a map of what packets are known by, to their direction."""
    sizes = {"key_size": key_size, "value_size": DIRECTION_SIZE, "entries": MOST_FLOWS}
    return Map(name, MapType.HASH, **sizes, preallocated=True)
