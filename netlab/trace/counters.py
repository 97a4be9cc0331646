"""The last step of the ladder: nobody may see packets here, so interfaces' counters are read before and after a probe.

A counter says how many, not which: other traffic counts too. So the way that the tables foretell is gone through, and
each step of it was seen whose interface counted meanwhile. Where they stop counting the packet was lost.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from netlab.kernel import netns
from netlab.kernel.netlink import Message, Socket, attributes
from netlab.kernel.rtnetlink import IFINFO, IFLA_IFNAME, RTM_GETLINK
from netlab.trace.layout import Kind
from netlab.trace.sighting import Sighting

IFLA_STATS64 = 23
PACKETS = struct.Struct("=QQ")  # struct rtnl_link_stats64: received, sent, and more
DUMP = Message(RTM_GETLINK, 0, IFINFO.pack(0, 0, 0, 0, 0))

Counts = Mapping[tuple[str, str, Kind], int]  # by namespace, device and direction


class CounterWatch:
    """Counters of the interfaces of some namespaces since it was made. For `with`."""

    seen_by = "what interfaces counted meanwhile, on the way that the tables foretell; other traffic counts too"
    reasons: Mapping[int, str] = {}
    tells_at_end = True

    def __init__(self, namespaces: Iterable[str], foretold: Sequence[Sighting]) -> None:
        self._namespaces = sorted(namespaces)
        self._foretold = foretold
        self._before = self._read()

    def _read(self) -> Counts:
        return {key: count for each in netns.call_each(self._namespaces, _read).values() for key, count in each.items()}

    def take(self) -> list[Sighting]:
        """Return nothing: only at the end it is known who counted."""
        return []

    def rest(self) -> list[Sighting]:
        """Return the steps whose interfaces counted."""
        return counted(self._foretold, self._before, self._read())

    def __enter__(self) -> CounterWatch:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is held."""


def counted(foretold: Sequence[Sighting], before: Counts, after: Counts) -> list[Sighting]:
    """Return the way up to the first interface that did not count: behind it others' packets did. Pure."""
    found: list[Sighting] = []
    for step in foretold:
        key = step.namespace, step.device, step.kind
        if step.kind in (Kind.IN, Kind.OUT) and after.get(key, 0) <= before.get(key, 0):
            break
        found.append(step)
    return found


def _read(name: str) -> Counts:
    """Return the counters of this thread's namespace."""
    asked = Socket()
    try:
        found: dict[tuple[str, str, Kind], int] = {}
        for _, buffer, start, end in asked.dump(DUMP):
            link = attributes(buffer, start + IFINFO.size, end)
            device = link[IFLA_IFNAME].rstrip(b"\0").decode()
            received, sent = PACKETS.unpack_from(link[IFLA_STATS64])
            found |= {(name, device, Kind.IN): received, (name, device, Kind.OUT): sent}
        return found
    finally:
        asked.close()
