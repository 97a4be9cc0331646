"""How the programs at tracepoints find out whose packet one is: its headers, taken apart in eBPF. Pure.

Read in order: `read_headers` (IP), `enter_tunnels`, `read_transport`; then fragments. The key of the map `flows` is
filled in on the way. Labels that are not here are the program's: INNER, TRANSPORT, KNOWN, LOOK UP, TELL, LEAVE.

R2 is a header's protocol, R3 the offset of what follows it, R1 points at it.
"""

from __future__ import annotations

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
    R10,
    WORD,
    Address,
    Block,
    Helper,
    Instruction,
    Register,
    Size,
    alu,
    call,
    jump,
    jump_if,
    label,
    load,
    store,
    to_big_endian,
)
from netlab.trace.headers import ICMP_ECHOES, ICMP_ERRORS, IPIP, IPV6, TCP, UDP
from netlab.trace.layout import FLOW, SNAP, Target
from netlab.trace.stack import BASE, COOKIE_AT, FOLLOWING_AT, FRAGMENT_AT, IDENT_AT, KEY, PACKET, RECORD, VALUE, forget

IPV4_HEADER, IPV6_HEADER, UDP_HEADER, ICMP_HEADER, VXLAN_AND_ETHERNET = 20, 40, 8, 8, 8 + 14
TCP_SEQUENCE, TCP_ACKNOWLEDGED = 4, 8  # where in the header
FRAGMENT_OFFSET, MORE_FRAGMENTS = 0x1FFF, 0x2000
FRAGMENT_HEADER, FRAGMENT_HEADER_SIZE, FRAGMENT_OFFSET_6 = 44, 8, 0xFFF8  # IPv6's
MOST_HEADERS = 140  # bytes in front of the innermost TCP, UDP or ICMP header: room is left for a packet that it quotes
PORTS_AT = KEY + 32


def probe_read(target: Address, size: int, source: Register, offset: int = 0) -> Block:
    """Copy from the kernel's memory."""
    return [
        alu(R3, "=", source),
        alu(R3, "+=", offset),
        call(Helper.PROBE_READ_KERNEL, target, size, R3),
    ]


def _point_at(offset: Register) -> Block:
    """Let R1 be what `_load` counts from."""
    return [alu(R1, "=", RECORD), alu(R1, "+=", offset)]


def _load(size: Size, dst: Register, offset: int) -> Instruction:
    """Load a number of the packet as it stands there."""
    return load(size, dst, R1 + (PACKET + offset))


def _half(dst: Register, offset: int) -> Block:
    """Load a number of two bytes, from network byte order."""
    return [_load(HALF, dst, offset), to_big_endian(dst, 16)]


def _copy(size: Size, offset: int, *targets: int) -> Block:
    """Copy a number of the packet to the stack."""
    return [_load(size, R4, offset), *(store(size, R10 + target, R4) for target in targets)]


def _go_if_equal(offset: int, expected: int, target: str, *, otherwise: str) -> Block:
    """Compare 4 bytes of the packet with some on the stack."""
    return [
        _load(WORD, R4, offset),
        load(WORD, R5, R10 + expected),
        jump_if(R4, "==", R5, target),
        jump(otherwise),
    ]


def read_headers(what: str) -> Block:
    """Read the IP header at BASE: its protocol goes to R2, the offset of what follows to R3; fill in the key."""
    return [
        *(store(DOUBLE, R10 + (KEY + place), 0) for place in range(0, FLOW.size, 8)),
        _point_at(BASE),
        alu(R3, "=", BASE),
        _copy(HALF, 4, IDENT_AT),
        _load(BYTE, R4, 0),
        alu(R5, "=", R4),
        alu(R5, ">>=", 4),
        jump_if(R5, "==", 6, f"{what} IPv6"),
        jump_if(R4, "!=", 0x45, "LEAVE"),
        _load(BYTE, R2, 9),
        _half(R4, 6),
        jump_if(R4, "&", FRAGMENT_OFFSET, f"{what} fragment" if what in FRAGMENT_AT else "LEAVE"),
        jump_if(R4, "&", MORE_FRAGMENTS, f"{what} first fragment") if what in FRAGMENT_AT else [],
        label(f"{what} whole"),
        _copy(WORD, 12, KEY),
        _copy(WORD, 16, KEY + 16),
        alu(R3, "+=", IPV4_HEADER),
        jump(f"{what} read"),
        label(f"{what} IPv6"),
        _load(BYTE, R2, 6),
        *(_copy(DOUBLE, 8 + place, KEY + place) for place in range(0, 32, 8)),
        alu(R3, "+=", IPV6_HEADER),
        jump_if(R2, "==", FRAGMENT_HEADER, f"{what} IPv6 fragment") if what in FRAGMENT_AT else [],
        label(f"{what} read"),
        store(BYTE, R10 + (KEY + 36), R2),
        _point_at(R3),
    ]


def identify(dst: Register) -> Block:
    """Load what tells a packet from the one before in the same memory: IPv4's identification, IPv6's length."""
    return load(HALF, dst, R10 + IDENT_AT)


def enter_tunnels(target: Target) -> Block:
    """Go on at the packet inside, where there is one."""
    return [
        alu(BASE, "=", R3),
        jump_if(R2, "==", IPIP, "INNER"),
        jump_if(R2, "==", IPV6, "INNER"),
        jump_if(R2, "!=", UDP, "NO TUNNEL"),
        _half(R4, 2),
        alu(BASE, "+=", UDP_HEADER),
        *(jump_if(R4, "==", port, "INNER") for port in sorted(target.tunnel_ports)),
        alu(BASE, "+=", VXLAN_AND_ETHERNET),
        *(jump_if(R4, "==", port, "INNER") for port in sorted(target.vxlan_ports)),
        label("NO TUNNEL"),
        alu(BASE, "=", 0),
        jump("TRANSPORT"),
    ]


def read_transport() -> Block:
    """Find out whose packet it is. Complete the key; go on at KNOWN, KNOWN ANSWER, LOOK UP or LEAVE."""
    return [
        forget(R3, MOST_HEADERS),
        _point_at(R3),
        *(jump_if(R2, "==", protocol, f"icmp {protocol}") for protocol in ICMP_ECHOES),
        jump_if(R2, "==", TCP, "TCP"),
        jump_if(R2, "!=", UDP, "LEAVE"),
        _copy(WORD, 0, PORTS_AT),
        _go_if_equal(UDP_HEADER, COOKIE_AT, "KNOWN", otherwise="LOOK UP"),
        label("TCP"),
        _copy(WORD, 0, PORTS_AT),
        _go_if_equal(TCP_SEQUENCE, COOKIE_AT, "KNOWN", otherwise="ANSWER"),
        label("ANSWER"),
        _go_if_equal(TCP_ACKNOWLEDGED, FOLLOWING_AT, "KNOWN ANSWER", otherwise="LOOK UP"),
        [_sort_icmp(protocol) for protocol in ICMP_ECHOES],
        label("ECHO"),
        _echo_ports(),
        _go_if_equal(ICMP_HEADER, COOKIE_AT, "KNOWN", otherwise="LOOK UP"),
        label("QUOTED"),
        alu(BASE, "=", R3),
        alu(BASE, "+=", ICMP_HEADER),
        read_headers("quoted"),
        alu(BASE, "=", SNAP),  # nothing there is a packet: no filter is to look at it
        _copy(WORD, 0, PORTS_AT),
        jump_if(R2, "==", TCP, "LOOK UP"),
        jump_if(R2, "==", UDP, "LOOK UP"),
        _echo_ports(),
        jump("LOOK UP"),
    ]


def _echo_ports() -> Block:
    """An echo has no ports: its identifier, behind type, code and checksum, stands for both."""
    return _copy(HALF, 4, PORTS_AT, PORTS_AT + 2)


def _sort_icmp(protocol: int) -> Block:
    return [
        label(f"icmp {protocol}"),
        _load(BYTE, R4, 0),
        *(jump_if(R4, "==", kind, "QUOTED") for kind in ICMP_ERRORS[protocol]),
        *(jump_if(R4, "==", kind, "ECHO") for kind in ICMP_ECHOES[protocol]),
        jump("LEAVE"),
    ]


def _note_fragment(what: str, src: int, dst: int, ident: int) -> Block:
    """Put down what a packet's fragments have in common: 4 bytes of each address, 2 of the identification, R2."""
    at = FRAGMENT_AT[what]
    return [
        _copy(WORD, src, at),
        _copy(WORD, dst, at + 4),
        _copy(HALF, ident, at + 8),
        store(HALF, R10 + (at + 10), R2),
    ]


def _note_ipv4(what: str) -> Block:
    return _note_fragment(what, 12, 16, 4)


def _enter_fragment_header(what: str) -> Block:
    """IPv6 has a header of its own for it (RFC 8200 section 4.5): what is behind it is the packet's."""
    return [
        label(f"{what} IPv6 fragment"),
        _load(BYTE, R2, IPV6_HEADER),
        alu(R3, "+=", FRAGMENT_HEADER_SIZE),
        _note_fragment(what, 8 + 12, 24 + 12, IPV6_HEADER + 6),
        _half(R4, IPV6_HEADER + 2),
        jump_if(R4, "&", FRAGMENT_OFFSET_6, f"{what} later"),
        jump(f"{what} read"),
    ]


def learn_fragment(what: str) -> Block:
    """Put it into `fragments`, if this is the first one."""
    at = FRAGMENT_AT[what]
    return [
        load(WORD, R1, R10 + at),
        jump_if(R1, "==", 0, f"{what} not cut"),
        call(Helper.MAP_UPDATE_ELEM, "fragments", R10 + at, R10 + VALUE, 0),
        label(f"{what} not cut"),
    ]


def look_up_fragment(what: str) -> Block:
    """Note the first fragment and go on; tell of a later one, if the first was told of."""
    return [
        label(f"{what} first fragment"),
        _note_ipv4(what),
        jump(f"{what} whole"),
        _enter_fragment_header(what),
        label(f"{what} fragment"),
        _note_ipv4(what),
        label(f"{what} later"),
        call(Helper.MAP_LOOKUP_ELEM, "fragments", R10 + FRAGMENT_AT[what]),
        jump_if(R0, "==", 0, "LEAVE"),
        load(WORD, R1, R0 + 0),
        store(WORD, R10 + VALUE, R1),
        jump("TELL"),
    ]
