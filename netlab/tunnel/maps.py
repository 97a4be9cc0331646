"""What the eBPF programs of the udp backend and Python share: the entries of three maps. Pure.

    routes    longest prefix of an inner address -> the peer that holds it; for destinations, and for who may send them
    ports     a pod's MAC address -> the index of its port on the bridge
    counters  by `Counter`, one `COUNT` for each CPU

Numbers are in this machine's byte order, addresses in the network's.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

# --- counters --------------------------------------------------------------------------------------------------------


class Counter(IntEnum):
    """What became of a packet: the index into the map `counters`. UP: passed to the loop in user space."""

    SENT = 0
    RECEIVED = 1
    DROPPED = 2  # the kernel refused a change that was half done
    UP_NOT_IPV4 = 3
    UP_OPTIONS = 4
    UP_TTL = 5  # it would become 0
    UP_GSO = 6  # a super-packet, but not of TCP: after decapsulation the kernel cannot cut it
    UP_NO_ROOM = 7  # the kernel refused to add or take off headers: an encapsulated packet inside, or no memory
    UP_NO_ROUTE = 8
    UP_PLAIN_PEER = 9
    UP_TOO_LONG = 10  # a super-packet that 16 bits of outer length cannot describe
    UP_FRAGMENT = 11  # the outer packet's first
    UP_CHECKSUM = 12
    UP_LENGTH = 13  # the datagram is not exactly one inner packet: malformed, or a train
    UP_PATH_MTU = 14  # longer than the path to the peer takes
    UP_NOT_ADMITTED = 15  # the inner source is in no podCIDR of the outer one
    DELIVERED = 16  # a super-packet, of those received, that did not have to be cut at the bridge


COUNTER_KEY = struct.Struct("=I")
COUNT = struct.Struct("=QQQ")  # packets on the wire, bytes from the inner IP header on, batches (runs of the program)


# --- keys and values -------------------------------------------------------------------------------------------------

ROUTE_KEY, ROUTE_VALUE = (
    struct.Struct("=I4s"),
    struct.Struct("=4sI"),
)  # prefix length, prefix; peer, longest packet for it
PORT_KEY, PORT_VALUE = struct.Struct("=6s"), struct.Struct("=I")


def route(pod_cidr: IPv4Network, peer: IPv4Address, *, longest: int) -> tuple[bytes, bytes]:
    """Return an entry of `routes`: the longest prefix of an inner address says whose it is.

    `longest`: bytes of an inner packet that may go there without user space; 0: none may.
    """
    key = ROUTE_KEY.pack(pod_cidr.prefixlen, pod_cidr.network_address.packed)
    return key, ROUTE_VALUE.pack(peer.packed, longest)


def port(mac: bytes, ifindex: int) -> tuple[bytes, bytes]:
    """Return an entry of `ports`."""
    return PORT_KEY.pack(mac), PORT_VALUE.pack(ifindex)
