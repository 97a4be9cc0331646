"""Inner IP packets as bytes: is it one, whose is it, one hop less, and the ICMP errors about it. Pure.

A packet is anything indexable as bytes. `check` comes first: the other functions trust what it has accepted.
Sources: RFC 791, 8200 (IP), 1624 (checksum update), 1122 and 1812 (ICMP errors), 4443 (ICMPv6).
"""

from __future__ import annotations

import struct
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from netlab.checksum import Buffer, internet_checksum

MutableBuffer = bytearray | memoryview

MAX_PAYLOAD = 65507  # bytes of a UDP datagram over IPv4, and of all datagrams of one send together
IPV4_HEADER, IPV6_HEADER = 20, 40
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FRAGMENT, AUTHENTICATION = 44, 51
EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140, FRAGMENT, AUTHENTICATION})  # IANA's IPv6 extension header types

TIME_EXCEEDED = {4: 11, 6: 3}  # code 0: in transit
NET_UNREACHABLE = {4: 3, 6: 1}  # code 0: network unreachable, no route to destination
ICMP_QUERIES = frozenset({0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43})  # what is not one of these may be an error
ICMPV6_REDIRECT = 137
ERROR_SIZE = {4: 576, 6: 1280}  # the largest error, headers included: RFC 1812 4.3.2.3, RFC 4443 2.4(c)
ERROR_TTL = 64
INTERNETWORK_CONTROL = 0xC0  # the precedence of errors: RFC 1812 4.3.2.5
DONT_FRAGMENT = 0x4000


class Drop(StrEnum):
    """Why a packet was not forwarded: the names of the counters."""

    MALFORMED = "malformed"  # not an IP packet
    TRUNCATED = "truncated"  # shorter than its header says
    TTL_EXCEEDED = "ttl-exceeded"
    NO_ROUTE = "no-route"  # no peer holds the destination
    UNKNOWN_SENDER = "unknown-sender"  # the datagram comes from no peer's address
    FOREIGN_SOURCE = "foreign-source"  # the inner source is not one of the sender's
    TOO_BIG = "too-big"  # the underlay refuses the size: EMSGSIZE
    QUEUE_FULL = "queue-full"  # socket or TUN device: EAGAIN, ENOBUFS
    REFUSED = "refused"  # any other errno of a write or a send


def check(packet: Buffer) -> Drop | None:
    """Return why a packet cannot be forwarded, or None. Bytes behind the packet's own length do no harm.

    The checksum is not looked at: whoever receives the packet does that.
    """
    length = len(packet)
    if length < IPV4_HEADER:
        return Drop.MALFORMED
    first = packet[0]
    if first >> 4 == 4:
        header, total = (first & 0x0F) * 4, packet[2] << 8 | packet[3]
        if header < IPV4_HEADER or total < header:
            return Drop.MALFORMED
    elif first >> 4 == 6:
        total = IPV6_HEADER + (packet[4] << 8 | packet[5])
    else:
        return Drop.MALFORMED
    return Drop.TRUNCATED if length < total else None


def version(packet: Buffer) -> int:
    """Return 4 or 6."""
    return packet[0] >> 4


def source(packet: Buffer) -> bytes:
    """Return the source address, 4 or 16 bytes."""
    return bytes(packet[12:16] if packet[0] >> 4 == 4 else packet[8:24])


def destination(packet: Buffer) -> bytes:
    """Return the destination address, 4 or 16 bytes."""
    return bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])


def take_hop(packet: MutableBuffer) -> bool:
    """Take one from the TTL or hop limit, in place. False, and nothing changed, where none would be left."""
    if packet[0] >> 4 == 6:
        if packet[7] < 2:
            return False
        packet[7] -= 1
        return True
    if packet[8] < 2:
        return False
    packet[8] -= 1
    # RFC 1624 equation 3 for a word that is 0x0100 less. Like the kernel's ip_decrease_ttl it never gives 0xFFFF.
    checksum = (packet[10] << 8 | packet[11]) + 0x0100
    if checksum >= 0xFFFF:
        checksum -= 0xFFFF
    packet[10], packet[11] = checksum >> 8, checksum & 0xFF
    return True


def time_exceeded(packet: Buffer, speaker: IPv4Address | IPv6Address) -> bytes | None:
    """Return the ICMP error for a packet without hops left, from `speaker`; None where no error may be sent.

    None also where `speaker` is of the other IP version. The caller limits the rate: RFC 1812 4.3.2.8, RFC 4443 2.4(f).
    """
    return _error(packet, speaker, TIME_EXCEEDED)


def net_unreachable(packet: Buffer, speaker: IPv4Address | IPv6Address) -> bytes | None:
    """Return the ICMP error for a destination that no peer holds; None as in `time_exceeded`."""
    return _error(packet, speaker, NET_UNREACHABLE)


def _error(packet: Buffer, speaker: IPv4Address | IPv6Address, kinds: dict[int, int]) -> bytes | None:
    number = version(packet)
    if speaker.version != number:
        return None
    if number == 4:
        return _error_v4(packet, speaker, kinds[4]) if _deserves_error_v4(packet) else None
    return _error_v6(packet, speaker, kinds[6]) if _deserves_error_v6(packet) else None


def _deserves_error_v4(packet: Buffer) -> bool:
    """Apply RFC 1122 section 3.2.2: no error about errors, later fragments, nor from or to what is not one host."""
    header = (packet[0] & 0x0F) * 4
    if (packet[6] & 0x1F) or packet[7]:
        return False
    if packet[12] in (0, 127) or packet[12] >= 224 or packet[16] >= 224:
        return False
    return packet[9] != ICMP or (len(packet) > header and packet[header] in ICMP_QUERIES)


def _deserves_error_v6(packet: Buffer) -> bool:
    """Apply RFC 4443 section 2.4(e). Where extension headers hide what the packet is, it may be an error: no."""
    if packet[8] == 0xFF or not any(packet[8:23]) or packet[24] == 0xFF:  # multicast, :: and ::1
        return False
    found = _upper_layer(packet)
    if found is None:
        return False
    protocol, offset = found
    return protocol != ICMPV6 or (
        0 < offset < len(packet) and packet[offset] >= 128 and packet[offset] != ICMPV6_REDIRECT
    )


def _upper_layer(packet: Buffer) -> tuple[int, int] | None:
    """Find the protocol behind IPv6's extension headers and where it begins: 0 in a later fragment.

    None where the headers run out of the packet.
    """
    protocol, offset = packet[6], IPV6_HEADER
    while protocol in EXTENSIONS:
        if len(packet) < offset + 8:
            return None
        following, length = packet[offset], packet[offset + 1]
        if protocol == FRAGMENT:
            if packet[offset + 2] or packet[offset + 3] & 0xF8:
                return following, 0
            offset += 8
        else:
            offset += (length + 2) * 4 if protocol == AUTHENTICATION else (length + 1) * 8
        protocol = following
    return protocol, offset


def _error_v4(packet: Buffer, speaker: IPv4Address | IPv6Address, kind: int) -> bytes:
    """Make the error as an atomic datagram: DF and no id (RFC 6864), at most 576 bytes."""
    quoted = bytes(packet[: ERROR_SIZE[4] - IPV4_HEADER - 8])
    message = bytearray(struct.pack(">BBHI", kind, 0, 0, 0) + quoted)
    struct.pack_into(">H", message, 2, internet_checksum(message))
    header = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s",
            *(0x45, INTERNETWORK_CONTROL, IPV4_HEADER + len(message), 0, DONT_FRAGMENT, ERROR_TTL, ICMP, 0),
            *(speaker.packed, source(packet)),
        )
    )
    struct.pack_into(">H", header, 10, internet_checksum(header))
    return bytes(header + message)


def _error_v6(packet: Buffer, speaker: IPv4Address | IPv6Address, kind: int) -> bytes:
    quoted = bytes(packet[: ERROR_SIZE[6] - IPV6_HEADER - 8])
    message = bytearray(struct.pack(">BBHI", kind, 0, 0, 0) + quoted)
    addresses = speaker.packed + source(packet)
    pseudo = addresses + struct.pack(">II", len(message), ICMPV6)
    struct.pack_into(">H", message, 2, internet_checksum(pseudo + message))
    return struct.pack(">IHBB", 6 << 28, len(message), ICMPV6, ERROR_TTL) + addresses + bytes(message)
