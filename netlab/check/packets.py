"""ICMP echo requests, their answers and ICMP errors, as bytes; the kernel's extended errors. Pure.

Sources: RFC 792 and 1191 (ICMP), RFC 4443 (ICMPv6), linux/icmp.h, linux/icmpv6.h, linux/errqueue.h.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple

from netlab.topology.model import Address

IP_HEADER = {4: 20, 6: 40}
ICMP_HEADER = 8
SMALLEST = {version: header + ICMP_HEADER for version, header in IP_HEADER.items()}
USUAL = {version: smallest + 56 for version, smallest in SMALLEST.items()}  # what `ping` sends
LARGEST = 65535

ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
PROTOCOL = {4: 1, 6: 58}  # IPPROTO_ICMP, IPPROTO_ICMPV6
UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM = 3, 11, 12
FRAG_NEEDED = 4  # a code of UNREACHABLE
V6_UNREACHABLE, V6_TOO_BIG, V6_TIME_EXCEEDED, V6_PARAMETER_PROBLEM = 1, 2, 3, 4
ERRORS = {
    4: frozenset({UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM}),
    6: frozenset({V6_UNREACHABLE, V6_TOO_BIG, V6_TIME_EXCEEDED, V6_PARAMETER_PROBLEM}),
}

# The words are those of iputils' ping, which people search for.
WORDS = {
    (4, UNREACHABLE, 0): "Destination net unreachable",
    (4, UNREACHABLE, 1): "Destination host unreachable",
    (4, UNREACHABLE, 2): "Destination protocol unreachable",
    (4, UNREACHABLE, 3): "Destination port unreachable",
    (4, UNREACHABLE, FRAG_NEEDED): "Frag needed and DF set",
    (4, UNREACHABLE, 5): "Source route failed",
    (4, UNREACHABLE, 6): "Destination net unknown",
    (4, UNREACHABLE, 7): "Destination host unknown",
    (4, UNREACHABLE, 9): "Destination net prohibited",
    (4, UNREACHABLE, 10): "Destination host prohibited",
    (4, UNREACHABLE, 13): "Packet filtered",
    (4, TIME_EXCEEDED, 0): "Time to live exceeded",
    (4, TIME_EXCEEDED, 1): "Frag reassembly time exceeded",
    (4, PARAMETER_PROBLEM, 0): "Parameter problem",
    (6, V6_UNREACHABLE, 0): "Destination unreachable: no route",
    (6, V6_UNREACHABLE, 1): "Destination unreachable: administratively prohibited",
    (6, V6_UNREACHABLE, 2): "Destination unreachable: beyond scope of source address",
    (6, V6_UNREACHABLE, 3): "Destination unreachable: address unreachable",
    (6, V6_UNREACHABLE, 4): "Destination unreachable: port unreachable",
    (6, V6_UNREACHABLE, 5): "Destination unreachable: source address failed ingress or egress policy",
    (6, V6_UNREACHABLE, 6): "Destination unreachable: reject route",
    (6, V6_TOO_BIG, 0): "Packet too big",
    (6, V6_TIME_EXCEEDED, 0): "Hop limit exceeded",
    (6, V6_TIME_EXCEEDED, 1): "Fragment reassembly time exceeded",
    (6, V6_PARAMETER_PROBLEM, 0): "Parameter problem",
}


class Echo(NamedTuple):
    """What ties an answer to its question."""

    ident: int
    sequence: int


class IcmpError(NamedTuple):
    """An ICMP error about one of our echo requests; `destination` is that request's. `mtu` is 0 unless it says one."""

    echo: Echo
    destination: bytes
    version: int
    type: int
    code: int
    mtu: int

    @property
    def is_too_big(self) -> bool:
        """Say whether the packet was larger than a link on its way."""
        return is_too_big(self.version, self.type, self.code)

    def words(self) -> str:
        """Say what the error means, with the MTU where it names one."""
        return words(self.version, self.type, self.code) + (f", mtu={self.mtu}" if self.mtu else "")


class ExtendedError(NamedTuple):
    """An entry of a socket's error queue (ip(7), IP_RECVERR). `sayer` is None for an error of this machine's own."""

    errno: int
    type: int
    code: int
    mtu: int
    sayer: Address | None


def words(version: int, kind: int, code: int) -> str:
    """Say what an ICMP error means."""
    return WORDS.get((version, kind, code)) or f"ICMP type {kind} code {code}"


def is_too_big(version: int, kind: int, code: int) -> bool:
    """Say whether an ICMP error means "larger than a link on the way"."""
    return (kind, code) == (UNREACHABLE, FRAG_NEEDED) if version == 4 else kind == V6_TOO_BIG


def echo_request(version: int, echo: Echo, size: int) -> bytes:
    """Pack an echo request that makes an IP packet of `size` bytes, headers included.

    The payload is zeros, which add nothing to the checksum. The kernel itself fills in ICMPv6's (RFC 3542 section 3.1).
    """
    kind = ECHO_REQUEST[version] << 8
    total = kind + echo.ident + echo.sequence
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF if version == 4 else 0
    return struct.pack(">HHHH", kind, checksum, *echo) + bytes(max(0, size - SMALLEST[version]))


def parse(version: int, packet: bytes) -> Echo | IcmpError | None:
    """Read what a raw ICMP socket received; None when it is neither an echo reply nor an error about a request.

    IPv4 sockets deliver the IP header, IPv6 sockets do not.
    """
    start = (packet[0] & 0x0F) * 4 if version == 4 and packet else 0
    if len(packet) < start + ICMP_HEADER:
        return None
    kind, code, _, high, low = struct.unpack_from(">BBHHH", packet, start)
    if kind == ECHO_REPLY[version]:
        return Echo(high, low)
    if kind not in ERRORS[version]:
        return None
    quoted = _quoted_echo(version, packet, start + ICMP_HEADER)
    if quoted is None:
        return None
    echo, destination = quoted
    mtu = 0
    if is_too_big(version, kind, code):
        mtu = low if version == 4 else high << 16 | low
    return IcmpError(echo, destination, version, kind, code, mtu)


def _quoted_echo(version: int, packet: bytes, start: int) -> tuple[Echo, bytes] | None:
    """Find our echo request in the IP packet that an error quotes; return it with its destination address."""
    if len(packet) < start + SMALLEST[version]:
        return None
    if version == 4:
        end, protocol = start + (packet[start] & 0x0F) * 4, packet[start + 9]
        destination = packet[start + 16 : start + 20]
    else:
        end, protocol = start + IP_HEADER[6], packet[start + 6]
        destination = packet[start + 24 : start + 40]
    if protocol != PROTOCOL[version] or len(packet) < end + ICMP_HEADER or packet[end] != ECHO_REQUEST[version]:
        return None
    return Echo(*struct.unpack_from(">HH", packet, end + 4)), destination


def parse_extended_error(payload: bytes) -> ExtendedError | None:
    """Read `struct sock_extended_err` and the address of the machine that sent the error, if there is one."""
    if len(payload) < 16:
        return None
    code_number, _, kind, code, _, mtu, _ = struct.unpack_from("=IBBBBII", payload)
    family = struct.unpack_from("=H", payload, 16)[0] if len(payload) >= 18 else 0
    sayer: Address | None = None
    if family == 2 and len(payload) >= 24:
        sayer = ip_address(payload[20:24])  # struct sockaddr_in: family, port, address
    elif family == 10 and len(payload) >= 40:
        sayer = ip_address(payload[24:40])  # struct sockaddr_in6: family, port, flow label, address
    return ExtendedError(code_number, kind, code, mtu, sayer)


def socket_filter(version: int) -> bytes:
    """Return the value of ICMP_FILTER or ICMPV6_FILTER that lets echo replies and errors in: a set bit keeps out."""
    wanted = ERRORS[version] | {ECHO_REPLY[version]}
    bits = 32 if version == 4 else 256
    blocked = [sum(1 << bit for bit in range(32) if word + bit not in wanted) for word in range(0, bits, 32)]
    return struct.pack(f"={len(blocked)}I", *blocked)
