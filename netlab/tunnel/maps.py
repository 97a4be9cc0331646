"""What the eBPF programs of the udp backend and Python share: the entries of four maps. Pure.

    routes    longest prefix of an inner address -> the peer that holds it; for destinations, and for who may send them
    peers     the set of the peers' addresses
    pods      a pod's address -> the index of its port on the bridge
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
    DROPPED_UNKNOWN_PEER = 2  # the outer source is no peer's
    DROPPED_FOREIGN_SOURCE = 3  # the inner source is not in a podCIDR of that peer
    DROPPED_FAILED = 4  # the kernel refused a change that was half done
    UP_NOT_IPV4 = 5
    UP_OPTIONS = 6
    UP_TTL = 7  # it would become 0
    UP_GSO = 8  # a super-packet, but not of TCP: after decapsulation the kernel cannot cut it
    UP_NO_ROOM = 9  # the kernel refused to add or take off headers: an encapsulated packet inside, or no memory
    UP_NO_ROUTE = 10
    UP_PLAIN_PEER = 11
    UP_TOO_LONG = 12  # a super-packet that 16 bits of outer length cannot describe
    UP_FRAGMENT = 13  # the outer packet's first
    UP_CHECKSUM = 14
    UP_LENGTH = 15  # the datagram is not exactly one inner packet: malformed, or a train
    DELIVERED = 16  # a super-packet, of those received, that did not have to be cut at the bridge

    @property
    def is_drop(self) -> bool:
        """Say whether the packet ended there."""
        return self.name.startswith("DROPPED")


COUNTER_KEY = struct.Struct("=I")
COUNT = struct.Struct("=QQQ")  # packets on the wire, bytes from the inner IP header on, batches (runs of the program)


# --- keys and values -------------------------------------------------------------------------------------------------

ROUTE_KEY, ROUTE_VALUE = struct.Struct("=I4s"), struct.Struct("=4sI")  # prefix length, prefix; peer, whether plain
POD_KEY, POD_VALUE = struct.Struct("=4s"), struct.Struct("=I")
PEER_KEY, PEER_VALUE = struct.Struct("=4s"), struct.Struct("=I")  # peers is a set: the value says nothing


def route(pod_cidr: IPv4Network, peer: IPv4Address, *, plain: bool) -> tuple[bytes, bytes]:
    """Return an entry of `routes`: the longest prefix of an inner address says whose it is."""
    key = ROUTE_KEY.pack(pod_cidr.prefixlen, pod_cidr.network_address.packed)
    return key, ROUTE_VALUE.pack(peer.packed, plain)


def member(peer: IPv4Address) -> tuple[bytes, bytes]:
    """Return an entry of `peers`."""
    return PEER_KEY.pack(peer.packed), PEER_VALUE.pack(1)


def pod(address: IPv4Address, port: int) -> tuple[bytes, bytes]:
    """Return an entry of `pods`. `port`: interface index."""
    return POD_KEY.pack(address.packed), POD_VALUE.pack(port)
