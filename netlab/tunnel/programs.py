"""The udp backend inside the kernel: three tc programs for flannel's wire format. Pure.

    pod ... -> flannel0, tcx egress:  `send_program`     look up, pay a TTL, put IPv4 and UDP in front -> uplink
    uplink, tcx ingress:              `receive_program`  admit, pay a TTL, take IPv4 and UDP off -> flannel0's ingress
    cni0, tcx egress:                 `deliver_program`  super-packets from flannel0 -> the pod's port, whole

What they do is what the loop in user space does, datagram for datagram. All else they pass up, untouched: to the TUN's
reader or to the socket, where that loop waits. It also refuses, and logs, what may not come in. All is counted.

- TTL: one is paid by each program, as by flannel's two processes; the kernel pays one more wherever it forwards. A
  packet whose TTL would become 0 is passed up, because user space can say Time Exceeded (RFC 792).
- UDP checksum: the programs send none (RFC 768: all zero), for that would cost a pass over each packet, and the inner
  checksums are end to end. They pass up datagrams that have one, because it must be verified (RFC 1122 4.1.3.4) and
  such a datagram comes from a socket. So programs take what programs sent, and sockets what sockets sent.
- The outer header has DF and id 0 (RFC 6864: an atomic datagram), its TTL is 64 and its TOS 0; routing and neighbours
  of the outer packet are the kernel's, over the uplink only. The underlay's INPUT and OUTPUT rules do not see it.
- A TCP super-packet stays whole: it is cut, one inner packet to a datagram, where a real link asks for it. A virtual
  link never asks, so a peer in user space must be marked plain (`FastPath.set_peers`): what it gets is passed up.
- Packet sockets (tcpdump) on flannel0 do not see what `send_program` took, nor those on cni0 what `deliver_program`
  took: it left before they look.
- Why `deliver_program`: no helper clears a packet's "encapsulated" mark after decapsulation, and a bridge's own
  interface (unlike veth) has no offloads for encapsulated packets, so the kernel would cut every super-packet there
  (netif_skb_features and hw_enc_features): three times slower.

In order: layout, then each program in the order of a packet's way through it. What stands in the maps is in `maps`.
"""

from __future__ import annotations

import struct
import sys
from ipaddress import IPv4Address

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
    to_big_endian,
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
DONT_FRAGMENT, MORE_FRAGMENTS, FRAGMENT_OFFSET = 0x4000, 0x2000, 0x1FFF
OUTER_TTL = 64


def _at(header: Address, offset: int) -> Address:
    return header.base + (header.offset + offset)


# --- sending ---------------------------------------------------------------------------------------------------------


def send_program(local: IPv4Address, port: int, *, uplink: int) -> Program:
    """Return the program for tcx egress of the TUN. `uplink`: interface index. Maps: routes, counters."""
    return _program(
        Counter.SENT,
        [
            _begin(),
            load(WORD, LENGTH, SKB + SKB_LEN),
            load(WORD, R2, SKB + SKB_PROTOCOL),
            jump_if(R2, "!=", ETHERTYPE_IPV4, "UP_NOT_IPV4"),
            call(Helper.SKB_LOAD_BYTES, SKB, 0, INNER, IPV4),
            jump_if(R0, "!=", 0, "UP_NOT_IPV4"),
            _check_inner(),
            jump_if(LENGTH, ">", LONGEST, "UP_TOO_LONG"),
            _find_peer(),
            _pay_ttl(),
            _fill_outer(local, port),
            call(Helper.SKB_ADJUST_ROOM, SKB, OVERHEAD, ROOM_AT_MAC, FIXED_GSO | ENCAP_IPV4 | ENCAP_UDP),
            jump_if(R0, "!=", 0, "UP_NO_ROOM"),  # nothing is changed yet
            call(Helper.SKB_CHANGE_HEAD, SKB, ETHERNET, 0),  # redirect_neigh demands a frame
            jump_if(R0, "!=", 0, "DROPPED"),
            call(Helper.SKB_STORE_BYTES, SKB, ETHERNET, OUTER, OVERHEAD + IPV4, 0),
            jump_if(R0, "!=", 0, "DROPPED"),
            call(Helper.REDIRECT_NEIGH, uplink, 0, 0, 0),
        ],
    )


def _find_peer() -> Block:
    """Put the address of the inner destination's peer into the outer header."""
    return [
        _look_up(_at(INNER, 16), otherwise="UP_NO_ROUTE"),
        load(WORD, R2, R0 + 4),
        jump_if(R2, "!=", 0, "UP_PLAIN_PEER"),
        load(WORD, R2, R0 + 0),
        store(WORD, _at(OUTER, 16), R2),
    ]


def _fill_outer(local: IPv4Address, port: int) -> Block:
    """Fill in the outer headers (RFC 791, RFC 768); the destination is there."""
    return [
        store(WORD, _at(OUTER, 0), in_memory(bytes([PLAIN_HEADER, 0, 0, 0]))),
        _store_length(_at(OUTER, 2), more=OVERHEAD),
        store(WORD, _at(OUTER, 4), in_memory(struct.pack(">HH", 0, DONT_FRAGMENT))),
        store(WORD, _at(OUTER, 8), in_memory(struct.pack(">BBH", OUTER_TTL, UDP_PROTOCOL, 0))),
        store(WORD, _at(OUTER, 12), in_memory(local.packed)),
        _checksum(OUTER),
        store(HALF, _at(OUTER, 10), R2),
        store(WORD, _at(OUTER_UDP, 0), in_memory(struct.pack(">HH", port, port))),
        _store_length(_at(OUTER_UDP, 4), more=UDP),
        store(HALF, _at(OUTER_UDP, 6), 0),
    ]


def _store_length(target: Address, *, more: int) -> Block:
    return [alu(R2, "=", LENGTH), alu(R2, "+=", more), to_big_endian(R2, 16), store(HALF, target, R2)]


# --- receiving -------------------------------------------------------------------------------------------------------


def receive_program(local: IPv4Address, port: int, *, tun: int) -> Program:
    """Return the program for tcx ingress of an Ethernet uplink. `tun`: interface index.

    Maps: routes, counters.
    """
    return _program(
        Counter.RECEIVED,
        [
            _begin(),
            _is_ours(local, port),
            load(HALF, LENGTH, _at(OUTER, 2)),
            to_big_endian(LENGTH, 16),
            alu(LENGTH, "-=", OVERHEAD),
            load(HALF, R2, _at(OUTER, 6)),
            jump_if(R2, "&", in_memory(MORE_FRAGMENTS.to_bytes(2)), "UP_FRAGMENT"),
            load(HALF, R2, _at(OUTER_UDP, 6)),
            jump_if(R2, "!=", 0, "UP_CHECKSUM"),
            _check_inner(),
            _check_lengths(),
            _admit(),
            _pay_ttl(),
            call(Helper.SKB_ADJUST_ROOM, SKB, -OVERHEAD, ROOM_AT_MAC, FIXED_GSO),
            jump_if(R0, "!=", 0, "UP_NO_ROOM"),
            call(Helper.SKB_STORE_BYTES, SKB, ETHERNET + 8, _at(INNER, 8), 4, 0),
            jump_if(R0, "!=", 0, "DROPPED"),
            call(Helper.REDIRECT, tun, TO_INGRESS),
        ],
    )


def _is_ours(local: IPv4Address, port: int) -> Block:
    """Let go, uncounted, what is not a datagram for our address and port, or what the kernel would drop anyway."""
    return [
        load(WORD, R2, SKB + SKB_PROTOCOL),
        jump_if(R2, "!=", ETHERTYPE_IPV4, "not ours"),
        call(Helper.SKB_LOAD_BYTES, SKB, ETHERNET, OUTER, OVERHEAD + IPV4),
        jump_if(R0, "!=", 0, "not ours"),
        load(BYTE, R2, _at(OUTER, 0)),
        jump_if(R2, "!=", PLAIN_HEADER, "not ours"),
        load(BYTE, R2, _at(OUTER, 9)),
        jump_if(R2, "!=", UDP_PROTOCOL, "not ours"),
        load(WORD, R2, _at(OUTER, 16)),
        jump_if(R2, "!=", in_memory(local.packed), "not ours", width=32),
        load(HALF, R2, _at(OUTER, 6)),
        jump_if(R2, "&", in_memory(FRAGMENT_OFFSET.to_bytes(2)), "not ours"),
        load(HALF, R2, _at(OUTER_UDP, 2)),
        jump_if(R2, "!=", in_memory(port.to_bytes(2)), "not ours"),
        _checksum(OUTER),
        jump_if(R2, "!=", 0, "not ours"),
        _leave_alone(),
    ]


def _check_lengths() -> Block:
    """Demand that the datagram is one inner packet and nothing else; a frame may be padded behind it."""
    return [
        load(HALF, R2, _at(INNER, 2)),
        to_big_endian(R2, 16),
        jump_if(R2, "!=", LENGTH, "UP_LENGTH"),
        load(HALF, R2, _at(OUTER_UDP, 4)),
        to_big_endian(R2, 16),
        alu(R2, "-=", UDP),
        jump_if(R2, "!=", LENGTH, "UP_LENGTH"),
    ]


def _admit() -> Block:
    """Demand that the inner source is the sender's."""
    return [
        _look_up(_at(INNER, 12), otherwise="UP_NOT_ADMITTED"),
        load(WORD, R2, R0 + 0),
        load(WORD, R3, _at(OUTER, 12)),
        jump_if(R2, "!=", R3, "UP_NOT_ADMITTED"),
    ]


# --- delivering ------------------------------------------------------------------------------------------------------


def deliver_program(*, tun: int) -> Program:
    """Return the program for tcx egress of the pods' bridge. `tun`: interface index. Maps: ports, counters.

    A pod that is not in the map gets its packets over the bridge, cut.
    """
    return _program(
        Counter.DELIVERED,
        [
            _begin(),
            load(WORD, R2, SKB + SKB_GSO_SIZE),
            jump_if(R2, "==", 0, "not ours"),
            load(WORD, R2, SKB + SKB_INGRESS_IFINDEX),
            jump_if(R2, "!=", tun, "not ours"),
            load(WORD, R2, SKB + SKB_PROTOCOL),
            jump_if(R2, "!=", ETHERTYPE_IPV4, "not ours"),
            call(Helper.SKB_LOAD_BYTES, SKB, 0, KEY, 6),  # the destination's MAC address
            jump_if(R0, "!=", 0, "not ours"),
            call(Helper.MAP_LOOKUP_ELEM, "ports", KEY),
            jump_if(R0, "==", 0, "not ours"),
            _leave_alone(),
            load(WORD, LENGTH, SKB + SKB_LEN),
            alu(LENGTH, "-=", ETHERNET),
            load(WORD, R1, R0 + 0),
            call(Helper.REDIRECT, R1, 0),
        ],
    )


# --- all ------------------------------------------------------------------------------------------------------------


def _begin() -> Block:
    """Keep the packet, and how many it will be on the wire."""
    return [
        alu(SKB, "=", R1),
        load(WORD, PACKETS, SKB + SKB_GSO_SEGMENTS),
        jump_if(PACKETS, "!=", 0, "begun"),
        alu(PACKETS, "=", 1),
        label("begun"),
    ]


def _leave_alone() -> Block:
    """Let go, uncounted, what has jumped to "not ours"; go on with the rest."""
    return [jump("ours"), label("not ours"), alu(R0, "=", TCX_NEXT), leave(), label("ours")]


def _check_inner() -> Block:
    """Pass up what is not a plain IPv4 header, and super-packets that are not TCP's."""
    return [
        load(BYTE, R2, _at(INNER, 0)),
        jump_if(R2, "==", PLAIN_HEADER, "plain header"),
        alu(R2, ">>=", 4),
        jump_if(R2, "==", 4, "UP_OPTIONS"),
        jump("UP_NOT_IPV4"),
        label("plain header"),
        load(WORD, R2, SKB + SKB_GSO_SIZE),
        jump_if(R2, "==", 0, "may be whole"),
        load(BYTE, R2, _at(INNER, 9)),
        jump_if(R2, "!=", TCP_PROTOCOL, "UP_GSO"),
        label("may be whole"),
    ]


def _look_up(inner_address: Address, *, otherwise: str) -> Block:
    """Find whose an inner address is: R0 points at the entry of `routes`."""
    return [
        store(WORD, KEY, 32),
        load(WORD, R2, inner_address),
        store(WORD, _at(KEY, 4), R2),
        call(Helper.MAP_LOOKUP_ELEM, "routes", KEY),
        jump_if(R0, "==", 0, otherwise),
    ]


def _pay_ttl() -> Block:
    """Take one from the inner TTL on the stack, and correct the checksum: HC' = ~(~HC + ~m + m'), RFC 1624 eqn. 3.

    m is the 16-bit word of TTL and protocol, m' = m - 0x100, so ~m + m' = 0xFEFF whatever they are. The sum over the
    packet stays as it was: nothing else must be told.
    """
    return [
        load(BYTE, R2, _at(INNER, 8)),
        jump_if(R2, "<=", 1, "UP_TTL"),
        alu(R2, "-=", 1),
        store(BYTE, _at(INNER, 8), R2),
        load(HALF, R2, _at(INNER, 10)),
        alu(R2, "^=", 0xFFFF),
        alu(R2, "+=", in_memory(b"\xfe\xff")),
        _fold(R2, R3),
        alu(R2, "^=", 0xFFFF),
        store(HALF, _at(INNER, 10), R2),
    ]


def _checksum(header: Address) -> Block:
    """Put the Internet checksum of an IPv4 header into R2: 0 when the one in it is right (RFC 1071)."""
    return [
        alu(R2, "=", 0),
        [[load(HALF, R3, _at(header, offset)), alu(R2, "+=", R3)] for offset in range(0, IPV4, 2)],
        _fold(R2, R3),
        alu(R2, "^=", 0xFFFF),
    ]


def _fold(total: Register, scratch: Register) -> Block:
    """Add the carries of a sum of 16-bit words until it is one: twice is enough for 65,537 words."""
    once = [alu(scratch, "=", total), alu(scratch, ">>=", 16), alu(total, "&=", 0xFFFF), alu(total, "+=", scratch)]
    return [once, once]


def _program(done: Counter, body: Block) -> Program:
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
            [_add(R0 + offset, amount) for offset, amount in ((0, PACKETS), (8, LENGTH), (16, 1))],
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
