"""The kernel's neighbour tables (ARP and NDP): how much they hold, and emptying them. `check.batches` says why.

Only what the kernel learned by itself is deleted, as `ip neigh flush` does, and it is learned again with the next
packet. What was put there on purpose (permanent entries, as VXLAN's) stays.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from netlab.kernel import netns
from netlab.kernel.netlink import Message, Socket, attribute, attributes
from netlab.kernel.rtnetlink import DUMP_NEIGHBORS, NDA_DST, RTM_DELNEIGH

NUD_LEARNED = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20  # incomplete, reachable, stale, delay, probe, failed
NTF_KEEP = 0x10 | 0x08  # externally learned, proxy
DEFAULT_LIMIT = 1024  # entries: where the kernel does not tell, as inside a user namespace
SHARE = 3  # netlab uses one third, for other labs have the same tables

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type (linux/neighbour.h)


def room(version: int) -> int:
    """Return how many neighbours of an IP version may be learned at a time.

    How many there are is not asked: the kernel counts permanent entries too (/proc/net/stat/arp_cache), which do not
    count for the limit, and a big VXLAN lab has thousands of them.
    """
    try:
        limit = int(Path(f"/proc/sys/net/ipv{version}/neigh/default/gc_thresh3").read_text())
    except (OSError, ValueError):
        limit = DEFAULT_LIMIT
    return limit // SHARE


def flush(netns_names: Iterable[str]) -> None:
    """Delete the learned neighbours in some namespaces; those that are gone have none."""
    netns.call_each(filter(netns.is_alive, netns_names), _flush_here)


def _flush_here(netns_name: str) -> None:
    socket = Socket()
    try:
        deletions = []
        for _, buffer, start, end in socket.dump(DUMP_NEIGHBORS):
            family, index, state, flags, _ = _NDMSG.unpack_from(buffer, start)
            if state & NUD_LEARNED and not flags & NTF_KEEP:
                address = attributes(buffer, start + _NDMSG.size, end)[NDA_DST]
                body = _NDMSG.pack(family, index, 0, 0, 0) + attribute(NDA_DST, address)
                deletions.append(Message(RTM_DELNEIGH, 0, body))
        socket.request(deletions)  # what is refused has gone meanwhile
    finally:
        socket.close()
