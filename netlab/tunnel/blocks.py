"""What the udp backend's programs have in common: where things lie, and the steps that more than one takes. Pure.

In the order of a packet's way through a program; `program` puts the count behind it.
"""

from __future__ import annotations

import sys

from netlab.bpf.assembler import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R8,
    R9,
    R10,
    WORD,
    Address,
    Block,
    Helper,
    Instruction,
    Program,
    Register,
    alu,
    assemble,
    call,
    flatten,
    jump,
    jump_if,
    label,
    leave,
    load,
    store,
)
from netlab.tunnel.maps import Counter


def in_memory(content: bytes) -> int:
    """Return the number that this machine loads where these bytes are: for comparing with what stands in a packet."""
    return int.from_bytes(content, sys.byteorder)


# --- layout ----------------------------------------------------------------------------------------------------------

ETHERNET, IPV4, UDP = 14, 20, 8  # bytes of header; IPv4 without options
OVERHEAD = IPV4 + UDP
LONGEST = 0xFFFF - OVERHEAD  # bytes of inner packet

# The stack. The headers stand as on the wire: outer IPv4 and UDP, then the inner IPv4 header.
OUTER = R10 - 56
OUTER_UDP = R10 - 36
INNER = R10 - 28
KEY = R10 - 64  # of routes or ports
COUNTER = R10 - 68
HEADERS = R10 - 80  # bytes of headers that each segment of a super-packet repeats; 0 in other packets

# Registers that outlive calls
SKB, LENGTH, PACKETS, VERDICT = R6, R7, R8, R9  # LENGTH: bytes from the inner IP header on

# struct __sk_buff in linux/bpf.h
SKB_LEN, SKB_PROTOCOL, SKB_INGRESS_IFINDEX, SKB_GSO_SEGMENTS, SKB_GSO_SIZE = 0, 16, 36, 164, 176
TCX_NEXT, TCX_DROP = -1, 2  # enum tcx_action_base
ROOM_AT_MAC, FIXED_GSO, ENCAP_IPV4, ENCAP_UDP = 1, 1 << 0, 1 << 1, 1 << 4  # BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_*
TO_INGRESS = 1  # BPF_F_INGRESS

ETHERTYPE_IPV4 = in_memory(b"\x08\x00")
PLAIN_HEADER = 0x45  # version 4, five words
TCP_PROTOCOL, UDP_PROTOCOL = 6, 17
TCP_DATA_OFFSET = 12
DONT_FRAGMENT, MORE_FRAGMENTS, FRAGMENT_OFFSET = 0x4000, 0x2000, 0x1FFF
OUTER_TTL = 64


def at(header: Address, offset: int) -> Address:
    return header.base + (header.offset + offset)


# --- steps ---------------------------------------------------------------------------------------------------------


def begin() -> Block:
    """Keep the packet, and how many it will be on the wire."""
    return [
        alu(SKB, "=", R1),
        load(WORD, PACKETS, SKB + SKB_GSO_SEGMENTS),
        jump_if(PACKETS, "!=", 0, "begun"),
        alu(PACKETS, "=", 1),
        label("begun"),
        store(DOUBLE, HEADERS, 0),
    ]


def leave_alone() -> Block:
    """Let go, uncounted, what has jumped to "not ours"; go on with the rest."""
    return [jump("ours"), label("not ours"), alu(R0, "=", TCX_NEXT), leave(), label("ours")]


def check_inner(offset: int) -> Block:
    """Pass up what is not a plain IPv4 header, and super-packets that are not TCP's. `offset`: of the header."""
    return [
        load(BYTE, R2, at(INNER, 0)),
        jump_if(R2, "==", PLAIN_HEADER, "plain header"),
        alu(R2, ">>=", 4),
        jump_if(R2, "==", 4, "UP_OPTIONS"),
        jump("UP_NOT_IPV4"),
        label("plain header"),
        load(WORD, R2, SKB + SKB_GSO_SIZE),
        jump_if(R2, "==", 0, "may be whole"),
        load(BYTE, R2, at(INNER, 9)),
        jump_if(R2, "!=", TCP_PROTOCOL, "UP_GSO"),
        call(Helper.SKB_LOAD_BYTES, SKB, offset + IPV4 + TCP_DATA_OFFSET, KEY, 1),
        jump_if(R0, "!=", 0, "UP_GSO"),
        load(BYTE, R2, KEY),
        alu(R2, ">>=", 4),
        alu(R2, "<<=", 2),
        alu(R2, "+=", IPV4),
        store(DOUBLE, HEADERS, R2),
        label("may be whole"),
    ]


def look_up(inner_address: Address, *, otherwise: str) -> Block:
    """Find whose an inner address is: R0 points at the entry of `routes`."""
    return [
        store(WORD, KEY, 32),
        load(WORD, R2, inner_address),
        store(WORD, at(KEY, 4), R2),
        call(Helper.MAP_LOOKUP_ELEM, "routes", KEY),
        jump_if(R0, "==", 0, otherwise),
    ]


def pay_ttl() -> Block:
    """Take one from the inner TTL on the stack, and correct the checksum: HC' = ~(~HC + ~m + m'), RFC 1624 eqn. 3.

    m is the 16-bit word of TTL and protocol, m' = m - 0x100, so ~m + m' = 0xFEFF whatever they are. The sum over the
    packet stays as it was: nothing else must be told.
    """
    return [
        load(BYTE, R2, at(INNER, 8)),
        jump_if(R2, "<=", 1, "UP_TTL"),
        alu(R2, "-=", 1),
        store(BYTE, at(INNER, 8), R2),
        load(HALF, R2, at(INNER, 10)),
        alu(R2, "^=", 0xFFFF),
        alu(R2, "+=", in_memory(b"\xfe\xff")),
        _fold(R2, R3),
        alu(R2, "^=", 0xFFFF),
        store(HALF, at(INNER, 10), R2),
    ]


def checksum(header: Address) -> Block:
    """Put the Internet checksum of an IPv4 header into R2: 0 when the one in it is right (RFC 1071)."""
    return [
        alu(R2, "=", 0),
        [[load(HALF, R3, at(header, offset)), alu(R2, "+=", R3)] for offset in range(0, IPV4, 2)],
        _fold(R2, R3),
        alu(R2, "^=", 0xFFFF),
    ]


def _fold(total: Register, scratch: Register) -> Block:
    """Add the carries of a sum of 16-bit words until it is one: twice is enough for 65,537 words."""
    once = [alu(scratch, "=", total), alu(scratch, ">>=", 16), alu(total, "&=", 0xFFFF), alu(total, "+=", scratch)]
    return [once, once]


def program(done: Counter, body: Block) -> Program:
    """End a program that has redirected the packet, and every other way out that it jumps to: count, then answer."""
    targets = {entry.label for entry in flatten(body) if isinstance(entry, Instruction)}
    return assemble(
        [
            body,
            alu(VERDICT, "=", R0),
            store(WORD, COUNTER, done),
            jump("count"),
            [_give_up(other) for other in Counter if other.name in targets],
            label("count"),
            call(Helper.MAP_LOOKUP_ELEM, "counters", COUNTER),
            jump_if(R0, "==", 0, "counted"),  # never, but the verifier wants it said
            load(DOUBLE, R2, HEADERS),
            alu(R2, "*=", PACKETS),
            alu(R2, "+=", LENGTH),
            load(DOUBLE, R3, HEADERS),  # the first segment's are in LENGTH
            alu(R2, "-=", R3),
            [_add(R0 + offset, amount) for offset, amount in ((0, PACKETS), (8, R2), (16, 1))],
            label("counted"),
            alu(R0, "=", VERDICT),
            leave(),
        ]
    )


def _give_up(why: Counter) -> Block:
    return [
        label(why.name),
        store(WORD, COUNTER, why),
        alu(VERDICT, "=", TCX_DROP if why is Counter.DROPPED else TCX_NEXT),
        jump("count"),
    ]


def _add(target: Address, amount: Register | int) -> Block:
    return [load(DOUBLE, R1, target), alu(R1, "+=", amount), store(DOUBLE, target, R1)]
