"""What the programs at tracepoints are told and what they write. Pure."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from netlab.bpf.classic import Instruction

# What programs read of the kernel: members of its structures, and what its numbers mean.
MEMBERS = {
    "sk_buff": ("network_header", "mac_header", "tail", "head", "data", "dev", "len", "mark"),
    "net_device": ("ifindex", "name", "nd_net.net"),
    "net": ("ns.inum",),
}
DROP_REASONS = "skb_drop_reason"


class Kind(IntEnum):
    """At which tracepoint a packet was seen."""

    IN = 1
    OUT = 2
    DROPPED = 3
    CONSUMED = 4


class Direction(IntEnum):
    """Whether a packet goes the probe's way or back: a value of the map `flows`. Of the cookie alone none is known."""

    COOKIE = 0
    THERE = 1
    BACK = 2


class Target(NamedTuple):
    """What is looked for: the cookie's first 4 bytes; the UDP ports behind which there is another packet.

    With a `filter`, which is for packets that begin with their IP header, the first packet that it lets pass, too.
    """

    cookie: bytes
    vxlan_ports: frozenset[int]
    tunnel_ports: frozenset[int]
    filter: tuple[Instruction, ...] = ()


# What is written: `struct seen`, then the bytes from the network header on.
SEEN = struct.Struct("=QQQIIIIIIHHI16s14s2x")
SNAP = 256  # bytes of a packet
SEEN_SIZE = SEEN.size + SNAP
RECORD_SIZE = SEEN_SIZE + 8  # of the map `record`: what is written, and room for a number
FLOW = struct.Struct("=16s16s2s2sB3x")  # source, destination, ports, protocol: a key of the map `flows`
FRAGMENT = struct.Struct("=4s4s2sH")  # source, destination, identification, protocol: one of the map `fragments`
VALUE_SIZE = 8  # bytes of a value of these: the direction, and in `buffers` the identification
MOST_FLOWS = 1024
MOST_SOURCES = 4096  # namespaces that a flow may begin in
PLACES = {
    "time": 0,
    "buffer": 8,
    "location": 16,
    "kind": 24,
    "reason": 28,
    "netns": 32,
    "ifindex": 36,
    "length": 40,
    "mark": 44,
    "captured": 48,
    "mac": 50,
    "direction": 52,
    "device": 56,
    "frame": 72,
}
