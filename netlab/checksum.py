"""The checksum of IP, ICMP, TCP and UDP (RFC 1071). Pure."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def word_sum(octets: Buffer) -> int:
    """Return the ones' complement sum of 16-bit words (RFC 1071), as a remainder of 0xFFFF. Pads an odd octet."""
    return (int.from_bytes(octets, "big") << 8 * (len(octets) & 1)) % 0xFFFF


def internet_checksum(octets: Buffer) -> int:
    """Return the checksum of RFC 1071, of octets that are not all zero: 0 to 0xFFFE."""
    return -word_sum(octets) % 0xFFFF
