"""A packet's headers, outermost first, from as many of its bytes as there are. Pure.

Scapy takes 80 to 240 us for one packet (facts: tracing.md A2); a trace has some thirty, and only needs what decides
where a packet goes. Sources: RFC 791, 8200, 768, 9293, 792, 4443, 7348; flannel's UDP backend carries bare IP packets.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

from netlab.topology.addresses import Address

ETHERTYPES = {0x0800: 4, 0x86DD: 6}
FRAGMENT_HEADER = 44  # IPv6's
ICMP, IPIP, TCP, UDP, IPV6, ICMPV6 = 1, 4, 6, 17, 41, 58
PROTOCOLS = {ICMP: "icmp", IPIP: "ipip", TCP: "tcp", UDP: "udp", IPV6: "ipv6", ICMPV6: "icmp6"}
ICMP_ERRORS = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}
ICMP_ECHOES = {ICMP: (8, 0), ICMPV6: (128, 129)}  # request, reply
TCP_FLAGS = "FSRPAUEC"


@dataclass(frozen=True, slots=True)
class Ethernet:
    """A frame's header."""

    src: str
    dst: str
    type: int


@dataclass(frozen=True, slots=True)
class Ip:
    """A header of IPv4 or IPv6. `length`: of the whole packet, as it says; `ident` is 0 in a whole IPv6 packet."""

    version: int
    src: Address
    dst: Address
    protocol: int
    ttl: int
    length: int
    ident: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    offset: int = 0  # bytes


@dataclass(frozen=True, slots=True)
class Udp:
    """A UDP header."""

    sport: int
    dport: int


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP header; `flags` as tcpdump's letters."""

    sport: int
    dport: int
    seq: int
    ack: int
    flags: str


@dataclass(frozen=True, slots=True)
class Icmp:
    """A header of ICMP or ICMPv6. `ident` and `seq` are an echo's, and 0 otherwise; `mtu` is that of "too big"."""

    type: int
    code: int
    ident: int = 0
    seq: int = 0
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN header."""

    vni: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What follows is not carried but quoted: by an ICMP error."""


Header = Ethernet | Ip | Udp | Tcp | Icmp | Vxlan | Quote
Headers = tuple[Header, ...]
H = TypeVar("H", Ethernet, Ip, Udp, Tcp, Icmp, Vxlan)


@dataclass(frozen=True, slots=True)
class Ports:
    """The UDP ports behind which there is another packet."""

    vxlan: Collection[int] = (8472, 4789)
    tunnel: Collection[int] = (8285,)


def parse(packet: bytes, frame: bytes, ports: Ports) -> Headers:
    """Take an IP packet apart; `frame` is its Ethernet header, or empty. What is cut off is left out."""
    return tuple(_parse(packet, frame, ports))


def _parse(packet: bytes, frame: bytes, ports: Ports) -> Iterator[Header]:
    if len(frame) == 14:
        yield _ethernet(frame)
    try:
        yield from _ip(packet, ports)
    except (struct.error, IndexError):
        return


def _ethernet(frame: bytes) -> Ethernet:
    return Ethernet(frame[6:12].hex(":"), frame[0:6].hex(":"), int.from_bytes(frame[12:14], "big"))


def _ip(packet: bytes, ports: Ports) -> Iterator[Header]:
    match packet[0] >> 4:
        case 4:
            length, ident, fragment, ttl, protocol, source, target = struct.unpack_from("!2xHHHBB2x4s4s", packet)
            src, dst = ip_address(source), ip_address(target)
            offset = (fragment & 0x1FFF) * 8
            yield Ip(
                4, src, dst, protocol, ttl, length, ident, bool(fragment & 0x4000), bool(fragment & 0x2000), offset
            )
            size = (packet[0] & 15) * 4
            if offset or size < 20:  # what follows is not a header
                return
            rest = packet[size:]
        case 6:
            length, protocol, ttl, source, target = struct.unpack_from("!4xHBB16s16s", packet)
            src, dst, rest = ip_address(source), ip_address(target), packet[40:]
            if protocol != FRAGMENT_HEADER:
                yield Ip(6, src, dst, protocol, ttl, length + 40)
            else:
                protocol, place, ident = struct.unpack_from("!BxHI", rest)
                offset, rest = place & 0xFFF8, rest[8:]
                yield Ip(6, src, dst, protocol, ttl, length + 40, ident, False, bool(place & 1), offset)
                if offset:
                    return
        case _:
            return
    yield from _transport(protocol, rest, ports)


def _transport(protocol: int, rest: bytes, ports: Ports) -> Iterator[Header]:
    if protocol in (IPIP, IPV6):
        yield from _ip(rest, ports)
    elif protocol == UDP:
        yield from _udp(rest, ports)
    elif protocol == TCP:
        sport, dport, seq, ack, bits = struct.unpack_from("!HHIIxB", rest)
        flags = "".join(letter for place, letter in enumerate(TCP_FLAGS) if bits >> place & 1)
        yield Tcp(sport, dport, seq, ack, flags)
    elif protocol in (ICMP, ICMPV6):
        yield from _icmp(protocol, rest, ports)


def _udp(rest: bytes, ports: Ports) -> Iterator[Header]:
    header = Udp(*struct.unpack_from("!HH4x", rest))
    yield header
    if header.dport in ports.vxlan:
        yield Vxlan(struct.unpack_from("!12xI", rest)[0] >> 8)
        yield _ethernet(*struct.unpack_from("!16x14s", rest))
        yield from _ip(rest[30:], ports)
    elif header.dport in ports.tunnel:
        yield from _ip(rest[8:], ports)


def _icmp(protocol: int, rest: bytes, ports: Ports) -> Iterator[Header]:
    kind, code, high, low = struct.unpack_from("!BBxxHH", rest)
    if kind in ICMP_ECHOES[protocol]:
        yield Icmp(kind, code, high, low)
        return
    yield Icmp(kind, code, mtu=low if protocol == ICMP else high << 16 | low)
    if kind in ICMP_ERRORS[protocol]:
        yield Quote()
        yield from _ip(rest[8:], ports)


# --- what is asked of them -------------------------------------------------------------------------------------------


def innermost(headers: Headers) -> Headers:
    """Return a packet without what it is wrapped in: from the last IP header that is not quoted."""
    end = headers.index(Quote()) if Quote() in headers else len(headers)
    starts = [place for place, header in enumerate(headers[:end]) if isinstance(header, Ip)]
    return headers[starts[-1] :] if starts else ()


def outer(headers: Headers) -> Headers:
    """Return what a packet is wrapped in: up to the innermost IP header, without the frame right before that."""
    inner = innermost(headers)
    around = headers[: len(headers) - len(inner)]
    return around[:-1] if around and isinstance(around[-1], Ethernet) else around


def first(headers: Headers, kind: type[H]) -> H | None:
    """Return the outermost header of a kind."""
    return next((header for header in headers if isinstance(header, kind)), None)


def inner_ip(headers: Headers) -> Ip | None:
    """Return the IP header that is not wrapped around another one, nor quoted."""
    return first(innermost(headers), Ip)


def fragment_offset(headers: Headers) -> int:
    """Return where in its packet a fragment behind the first begins, in bytes; 0 for all else."""
    return max((header.offset for header in headers if isinstance(header, Ip)), default=0)


def is_echo_reply(headers: Headers) -> bool:
    """Say whether a packet is an echo reply."""
    ip, rest = (*innermost(headers), None, None)[:2]
    return isinstance(ip, Ip) and isinstance(rest, Icmp) and rest.type == ICMP_ECHOES[ip.protocol][1]


def with_port(address: Address, port: int) -> str:
    """Return an address and port as URLs write them."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
