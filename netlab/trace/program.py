"""The programs that see one packet in every namespace: at the kernel's own tracepoints, in eBPF. Pure.

    netif_receive_skb   a packet comes in by a device
    net_dev_queue       it leaves by one
    kfree_skb           it is dropped, with the reason
    consume_skb         it has come to its end as it should

Each program is the same but for where it finds its arguments. A packet is the probe's own if its payload begins with
the cookie (UDP, ICMP echo), or its sequence number is the cookie (TCP). Then its addresses and ports, and those of its
answer, are put into the map `flows`, and packets with these are seen too: answers, the rest of a TCP connection, ICMP
errors about it. So what NAT made of the probe becomes known where it does. All this is looked for in the packet itself
and, where it carries another one (VXLAN, flannel's UDP, IP in IP), in that.

What is seen is written to the ring buffer `seen`, in the form that `sighting.read` takes apart. Packets with IPv4
options or IPv6 extension headers are not followed. Fragments of IPv4 behind the first have no ports: they are known by
what the first has put into the map `fragments`. Offsets of the kernel's structures come from BTF; what is read through
them is checked by nobody, so a device that has gone reads as zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from netlab.bpf.assembler import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    WORD,
    Address,
    Block,
    Helper,
    Program,
    Register,
    alu,
    assemble,
    call,
    jump,
    jump_if,
    label,
    leave,
    load,
    point,
    store,
    to_big_endian,
)

MEMBERS = {
    "sk_buff": ("network_header", "mac_header", "tail", "head", "data", "dev", "len", "mark"),
    "net_device": ("ifindex", "name", "nd_net.net"),
    "net": ("ns.inum",),
}
DROP_REASONS = "skb_drop_reason"

# What is written: `struct seen`, then the bytes from the network header on.
SEEN = struct.Struct("=QQQIIIIIIHHI16s14s2x")
SNAP = 256  # bytes of a packet
SEEN_SIZE = SEEN.size + SNAP
FLOW = struct.Struct("=16s16s2s2sB3x")  # source, destination, ports, protocol: a key of the map `flows`
FRAGMENT = struct.Struct("=4s4s2sH")  # source, destination, identification, protocol: one of the map `fragments`
DIRECTION_SIZE = 4  # bytes of a value of both
MOST_FLOWS = 1024

ICMP, IPIP, TCP, UDP, IPV6, ICMPV6 = 1, 4, 6, 17, 41, 58
IPV4_HEADER, IPV6_HEADER, UDP_HEADER, ICMP_HEADER, VXLAN_AND_ETHERNET = 20, 40, 8, 8, 8 + 14
TCP_SEQUENCE = 4  # where in the header
FRAGMENT_OFFSET, MORE_FRAGMENTS = 0x1FFF, 0x2000
ICMP_ECHO = {ICMP: (0, 8), ICMPV6: (128, 129)}
ICMP_ERRORS = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}
NO_EXIST = 1  # BPF_NOEXIST: an entry that is there stays

NO_HEADER = 0xFFFF  # in a packet whose network header is not known
ETHERNET = 14


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


TRACEPOINTS = {
    "netif_receive_skb": Kind.IN,
    "net_dev_queue": Kind.OUT,
    "kfree_skb": Kind.DROPPED,
    "consume_skb": Kind.CONSUMED,
}


class Target(NamedTuple):
    """What is looked for: the cookie's first 4 bytes; the UDP ports behind which there is another packet."""

    cookie: bytes
    vxlan_ports: frozenset[int]
    tunnel_ports: frozenset[int]


# The stack, from its lower end: a record, then a key, then room for members of `struct sk_buff` and one number.
RECORD = -512
PACKET = RECORD + SEEN.size
KEY = PACKET + SNAP
VALUE = KEY + FLOW.size
MEMBERS_AT = VALUE + 8
FRAGMENT_AT = {"inner": -48, "outer": -32}
SCRATCH = -8
CONTEXT, BUFFER, START, BASE = R9, R6, R7, R8  # the arguments, the sk_buff, its network header, offset of the inner one


def programs(offsets: Mapping[str, int], target: Target) -> dict[str, Program]:
    """Return a program for each tracepoint; `offsets` are those of MEMBERS. Maps: flows, fragments,
    seen.

    Raises ValueError for a kernel whose structures are too different.
    """
    return {name: assemble(_program(kind, offsets, target)) for name, kind in TRACEPOINTS.items()}


def _program(kind: Kind, offsets: Mapping[str, int], target: Target) -> Block:
    return [
        alu(CONTEXT, "=", R1),
        load(DOUBLE, BUFFER, CONTEXT + 0),
        _find_packet(kind, offsets),
        _copy_packet(),
        alu(BASE, "=", 0),
        *(store(DOUBLE, R10 + (FRAGMENT_AT["inner"] + place), 0) for place in range(0, 32, 8)),
        _read_headers("outer"),
        _enter_tunnels(target),
        label("INNER"),
        _read_headers("inner"),
        label("TRANSPORT"),
        _read_transport(target.cookie),
        label("KNOWN"),
        store(WORD, R10 + VALUE, Direction.COOKIE),
        _learn(),
        jump("TELL"),
        label("LOOK UP"),
        call(Helper.MAP_LOOKUP_ELEM, "flows", R10 + KEY),
        jump_if(R0, "==", 0, "LEAVE"),
        load(WORD, R1, R0 + 0),
        store(WORD, R10 + VALUE, R1),
        label("TELL"),
        [_learn_fragment(what) for what in FRAGMENT_AT],
        _tell(kind, offsets),
        label("LEAVE"),
        alu(R0, "=", 0),
        leave(),
        [_look_up_fragment(what) for what in FRAGMENT_AT],
    ]


# --- the packet ------------------------------------------------------------------------------------------------------


def _probe_read(target: int, size: int, source: Register, offset: int = 0) -> Block:
    """Copy from the kernel's memory to the stack."""
    return [
        alu(R3, "=", source),
        alu(R3, "+=", offset),
        call(Helper.PROBE_READ_KERNEL, R10 + target, size, R3),
    ]


def _find_packet(kind: Kind, offsets: Mapping[str, int]) -> Block:
    """Read the members of the sk_buff, and point START at its network header."""
    members = {name: offsets[f"sk_buff.{name}"] for name in ("network_header", "mac_header", "tail", "head", "data")}
    first = min(members.values()) & ~7  # on the stack, as in memory, numbers stand at multiples of their size
    size = max(members.values()) + 8 - first
    if size > FRAGMENT_AT["inner"] - MEMBERS_AT:
        raise ValueError(f"the members of struct sk_buff are {size} bytes apart")
    at = {name: R10 + (MEMBERS_AT + place - first) for name, place in members.items()}
    return [
        _probe_read(MEMBERS_AT, size, BUFFER, first),
        load(DOUBLE, R4, at["head"]),
        _start_of_received(at) if kind is Kind.IN else _start_of_others(at),
        # How much is in one piece of memory behind it: what comes from pages of a file or a process is not.
        load(WORD, R5, at["tail"]),
        alu(R5, "+=", R4),
        alu(R5, "-=", START),
        jump_if(R5, "<=", SNAP, "WHOLE"),
        alu(R5, "=", SNAP),
        label("WHOLE"),
        store(HALF, _seen("captured"), R5),
        load(HALF, R1, at["mac_header"]),
        store(HALF, _seen("mac"), 0),
        alu(R1, "+=", R4),
        alu(R1, "+=", ETHERNET),
        jump_if(R1, "!=", START, "BARE"),  # not right in front of the packet: there is none
        store(HALF, _seen("mac"), ETHERNET),
        label("BARE"),
    ]


def _start_of_received(at: Mapping[str, Address]) -> Block:
    """A packet that comes in begins with its network header, which is not noted yet (net/core/dev.c)."""
    return load(DOUBLE, START, at["data"])


def _start_of_others(at: Mapping[str, Address]) -> Block:
    return [
        load(HALF, START, at["network_header"]),
        jump_if(START, "==", NO_HEADER, "LEAVE"),
        alu(START, "+=", R4),
    ]


def _copy_packet() -> Block:
    """Copy what there is of the packet; the rest of the record's room is zeros, for the verifier's sake too."""
    return [
        *(store(DOUBLE, R10 + (PACKET + place), 0) for place in range(0, SNAP, 8)),
        alu(R2, "=", R5),
        point(R1, R10 + PACKET),
        alu(R3, "=", START),
        call(Helper.PROBE_READ_KERNEL),
    ]


# --- headers ---------------------------------------------------------------------------------------------------------
#
# R2 is a header's protocol, R3 the offset of what follows it. On every way through the program the verifier knows where
# that is. It wants numbers on the stack to stand at multiples of their size, and the packet in a VXLAN packet is 50
# bytes behind the outer one: so all is loaded in pieces of at most two bytes.


def _point_behind(offset: Register) -> Block:
    """Let R1 be what `_byte` and `_half` count from."""
    return [alu(R1, "=", R10), alu(R1, "+=", offset), alu(R1, "+=", PACKET)]


def _byte(dst: Register, offset: int) -> Block:
    return load(BYTE, dst, R1 + offset)


def _half(dst: Register, offset: int) -> Block:
    """Load a number of two bytes, from network byte order."""
    return [load(HALF, dst, R1 + offset), to_big_endian(dst, 16)]


def _copy(offset: int, target: int, size: int) -> Block:
    """Copy bytes of the packet to the stack."""
    return [
        [load(HALF, R4, R1 + (offset + place)), store(HALF, R10 + (target + place), R4)] for place in range(0, size, 2)
    ]


def _go_if_cookie(offset: int, cookie: bytes, target: str, *, otherwise: str) -> Block:
    first, second = struct.unpack("=HH", cookie)
    return [
        load(HALF, R4, R1 + offset),
        jump_if(R4, "!=", first, otherwise),
        load(HALF, R4, R1 + (offset + 2)),
        jump_if(R4, "==", second, target),
        jump(otherwise),
    ]


def _read_headers(what: str) -> Block:
    """Read the IP header at BASE: its protocol goes to R2, the offset of what follows to R3; fill in the key."""
    return [
        *(store(DOUBLE, R10 + (KEY + place), 0) for place in range(0, FLOW.size, 8)),
        _point_behind(BASE),
        alu(R3, "=", BASE),
        _byte(R4, 0),
        alu(R5, "=", R4),
        alu(R5, ">>=", 4),
        jump_if(R5, "==", 6, f"{what} IPv6"),
        jump_if(R4, "!=", 0x45, "LEAVE"),
        _byte(R2, 9),
        _half(R4, 6),
        jump_if(R4, "&", FRAGMENT_OFFSET, f"{what} fragment" if what in FRAGMENT_AT else "LEAVE"),
        jump_if(R4, "&", MORE_FRAGMENTS, f"{what} first fragment") if what in FRAGMENT_AT else [],
        label(f"{what} whole"),
        _copy(12, KEY, 4),
        _copy(16, KEY + 16, 4),
        alu(R3, "+=", IPV4_HEADER),
        jump(f"{what} read"),
        label(f"{what} IPv6"),
        _byte(R2, 6),
        _copy(8, KEY, 16),
        _copy(24, KEY + 16, 16),
        alu(R3, "+=", IPV6_HEADER),
        label(f"{what} read"),
        store(BYTE, R10 + (KEY + 36), R2),
        _point_behind(R3),
    ]


def _enter_tunnels(target: Target) -> Block:
    """Go on at the packet inside, where there is one."""
    return [
        alu(BASE, "=", R3),
        jump_if(R2, "==", IPIP, "INNER"),
        jump_if(R2, "==", IPV6, "INNER"),
        jump_if(R2, "!=", UDP, "TRANSPORT"),
        _half(R4, 2),
        alu(BASE, "+=", UDP_HEADER),
        *(jump_if(R4, "==", port, "INNER") for port in sorted(target.tunnel_ports)),
        alu(BASE, "+=", VXLAN_AND_ETHERNET),
        *(jump_if(R4, "==", port, "INNER") for port in sorted(target.vxlan_ports)),
        jump("TRANSPORT"),
    ]


def _read_transport(cookie: bytes) -> Block:
    """Find out whose packet it is. Complete the key; go on at KNOWN, LOOK UP or LEAVE."""
    return [
        jump_if(R2, "==", TCP, "TCP"),
        jump_if(R2, "==", ICMP, "ICMP"),
        jump_if(R2, "==", ICMPV6, "ICMPv6"),
        jump_if(R2, "!=", UDP, "LEAVE"),
        _ports(),
        _go_if_cookie(UDP_HEADER, cookie, "KNOWN", otherwise="LOOK UP"),
        label("TCP"),
        _ports(),
        _go_if_cookie(TCP_SEQUENCE, cookie, "KNOWN", otherwise="LOOK UP"),
        _read_icmp("ICMP", ICMP, cookie),
        _read_icmp("ICMPv6", ICMPV6, cookie),
        label("QUOTED"),
        alu(BASE, "=", R3),
        alu(BASE, "+=", ICMP_HEADER),
        _read_headers("quoted"),
        _ports(),
        jump_if(R2, "==", TCP, "LOOK UP"),
        jump_if(R2, "==", UDP, "LOOK UP"),
        _echo_ports(),
        jump("LOOK UP"),
    ]


def _ports() -> Block:
    return _copy(0, KEY + 32, 4)


def _echo_ports() -> Block:
    """An echo has no ports: its identifier, behind type, code and checksum, stands for both."""
    return [_copy(4, KEY + 32, 2), _copy(4, KEY + 34, 2)]


def _read_icmp(name: str, protocol: int, cookie: bytes) -> Block:
    return [
        label(name),
        _byte(R4, 0),
        *(jump_if(R4, "==", kind, "QUOTED") for kind in ICMP_ERRORS[protocol]),
        *(jump_if(R4, "==", kind, f"{name} echo") for kind in ICMP_ECHO[protocol]),
        jump("LEAVE"),
        label(f"{name} echo"),
        _echo_ports(),
        _go_if_cookie(ICMP_HEADER, cookie, "KNOWN", otherwise="LOOK UP"),
    ]


def _note_fragment(what: str) -> Block:
    """Put down what a packet's fragments have in common; R2 is its protocol."""
    at = FRAGMENT_AT[what]
    return [_copy(12, at, 8), _copy(4, at + 8, 2), store(HALF, R10 + (at + 10), R2)]


def _learn_fragment(what: str) -> Block:
    """Put it into `fragments`, if this is the first one."""
    at = FRAGMENT_AT[what]
    return [
        load(WORD, R1, R10 + at),
        jump_if(R1, "==", 0, f"{what} not cut"),
        call(Helper.MAP_UPDATE_ELEM, "fragments", R10 + at, R10 + VALUE, 0),
        label(f"{what} not cut"),
    ]


def _look_up_fragment(what: str) -> Block:
    """Note the first fragment and go on; tell of a later one, if the first was told of."""
    return [
        label(f"{what} first fragment"),
        _note_fragment(what),
        jump(f"{what} whole"),
        label(f"{what} fragment"),
        _note_fragment(what),
        call(Helper.MAP_LOOKUP_ELEM, "fragments", R10 + FRAGMENT_AT[what]),
        jump_if(R0, "==", 0, "LEAVE"),
        load(WORD, R1, R0 + 0),
        store(WORD, R10 + VALUE, R1),
        jump("TELL"),
    ]


# --- what becomes of it ----------------------------------------------------------------------------------------------


def _learn() -> Block:
    """Put the packet's addresses and ports into `flows`, and those of its answer. The first to say so is right."""

    def swap(one: int, other: int, size: int) -> Block:
        width = {2: HALF, 8: DOUBLE}[size]
        return [
            load(width, R1, R10 + (KEY + one)),
            load(width, R2, R10 + (KEY + other)),
            store(width, R10 + (KEY + one), R2),
            store(width, R10 + (KEY + other), R1),
        ]

    def put(direction: Direction) -> Block:
        return [
            store(WORD, R10 + SCRATCH, direction),
            call(Helper.MAP_UPDATE_ELEM, "flows", R10 + KEY, R10 + SCRATCH, NO_EXIST),
        ]

    return [
        put(Direction.THERE),
        swap(0, 16, 8),
        swap(8, 24, 8),
        swap(32, 34, 2),
        put(Direction.BACK),
    ]


def _tell(kind: Kind, offsets: Mapping[str, int]) -> Block:
    """Write the record. A packet that was dropped or consumed may have lost its device: then that is zeros."""
    buffer_members = {"length": "len", "mark": "mark"}
    return [
        call(Helper.KTIME_GET_NS),
        store(DOUBLE, _seen("time"), R0),
        store(DOUBLE, _seen("buffer"), BUFFER),
        *_arguments(kind),
        store(WORD, _seen("kind"), kind),
        load(WORD, R1, R10 + VALUE),
        store(WORD, _seen("direction"), R1),
        *(
            _probe_read(RECORD + PLACES[name], 4, BUFFER, offsets[f"sk_buff.{member}"])
            for name, member in buffer_members.items()
        ),
        store(DOUBLE, _seen("frame"), 0),
        store(DOUBLE, R10 + (RECORD + PLACES["frame"] + 8), 0),
        load(HALF, R1, _seen("mac")),
        jump_if(R1, "==", 0, "NO FRAME"),
        _probe_read(RECORD + PLACES["frame"], ETHERNET, START, -ETHERNET),
        label("NO FRAME"),
        _probe_read(SCRATCH, 8, BUFFER, offsets["sk_buff.dev"]),
        load(DOUBLE, START, R10 + SCRATCH),
        _probe_read(RECORD + PLACES["ifindex"], 4, START, offsets["net_device.ifindex"]),
        _probe_read(RECORD + PLACES["device"], 16, START, offsets["net_device.name"]),
        _probe_read(SCRATCH, 8, START, offsets["net_device.nd_net.net"]),
        load(DOUBLE, START, R10 + SCRATCH),
        _probe_read(RECORD + PLACES["netns"], 4, START, offsets["net.ns.inum"]),
        call(Helper.RINGBUF_OUTPUT, "seen", R10 + RECORD, SEEN_SIZE, 0),
    ]


def _arguments(kind: Kind) -> list[Block]:
    """Write where the packet ended, and why: further arguments of those tracepoints."""
    blocks: list[Block] = [store(DOUBLE, _seen("location"), 0), store(WORD, _seen("reason"), 0)]
    if kind in (Kind.DROPPED, Kind.CONSUMED):
        blocks += [load(DOUBLE, R1, CONTEXT + 8), store(DOUBLE, _seen("location"), R1)]
    if kind is Kind.DROPPED:
        blocks += [load(DOUBLE, R1, CONTEXT + 16), store(WORD, _seen("reason"), R1)]
    return blocks


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


def _seen(field: str) -> Address:
    return R10 + (RECORD + PLACES[field])
