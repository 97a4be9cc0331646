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
from netlab.kernel.rtnl import AF_INET, AF_INET6, DUMP_NEIGHBORS, NDA_DST, RTM_DELNEIGH

NUD_LEARNED = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20  # incomplete, reachable, stale, delay, probe, failed
NTF_KEEP = 0x10 | 0x08  # externally learned, proxy
LIMIT = 1024  # entries, where the kernel does not tell: the default
SPARE = 3  # one third is left to everybody else on the machine
LEAST = 64
TABLES = {4: ("ipv4", "arp_cache"), 6: ("ipv6", "ndisc_cache")}

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type (linux/neighbour.h)


def room(version: int) -> int:
    """Return how many new neighbours of an IP version this machine has room for, with some to spare.

    Inside a user namespace neither the limit nor the use can be read: then it assumes the default and an empty table.
    """
    family, table = TABLES[version]
    limit = _read_int(f"/proc/sys/net/{family}/neigh/default/gc_thresh3") or LIMIT
    free = limit - _entries(table)
    return max(LEAST, free - free // SPARE)


def _read_int(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def _entries(table: str) -> int:
    """Read the number of entries in use: the first hexadecimal field of the table's statistics."""
    try:
        return int(Path(f"/proc/net/stat/{table}").read_text().splitlines()[1].split()[0], 16)
    except (OSError, ValueError, IndexError):
        return 0


def flush(netns_names: Iterable[str]) -> None:
    """Delete the learned neighbours in some namespaces. Raises KernelError when one is missing."""
    netns.call_each(netns_names, _flush_here)


def _flush_here(_: str) -> None:
    socket = Socket()
    try:
        deletions = []
        for _, buffer, start, end in socket.dump(DUMP_NEIGHBORS):
            family, index, state, flags, _ = _NDMSG.unpack_from(buffer, start)
            address = attributes(buffer, start + _NDMSG.size, end).get(NDA_DST)
            if address and family in (AF_INET, AF_INET6) and state & NUD_LEARNED and not flags & NTF_KEEP:
                body = _NDMSG.pack(family, index, 0, 0, 0) + attribute(NDA_DST, address)
                deletions.append(Message(RTM_DELNEIGH, 0, body))
        socket.request(deletions)  # what is refused has gone meanwhile
    finally:
        socket.close()
