"""The header that a TUN device with IFF_VNET_HDR puts before each packet, both ways. Pure.

Source: struct virtio_net_hdr, linux/virtio_net.h. Little endian, as TUN has it on little-endian machines and on every
machine after TUNSETVNETLE.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from netlab.checksum import Buffer, internet_checksum
from netlab.tunnel.packet import MutableBuffer

NEEDS_CSUM = 1  # the field at csum_start + csum_offset holds the pseudo header's sum only
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80  # the first segment has CWR set

_STRUCT = struct.Struct("<BBHHHH")
_CHECKSUM = struct.Struct("<6xHH")
LENGTH = _STRUCT.size


class VnetHeader(NamedTuple):
    """What the kernel left to do. Lengths and offsets in bytes, from the start of the IP header."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0  # a hint: take the length of the headers from the packet
    gso_size: int = 0  # payload of each segment but the last
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def unpack(cls, buffer: Buffer) -> VnetHeader:
        """Read the header that a buffer begins with. Raises struct.error when it has fewer than 10 bytes."""
        return cls._make(_STRUCT.unpack_from(buffer))

    def pack(self) -> bytes:
        """Return the 10 bytes."""
        return _STRUCT.pack(*self)


PLAIN = VnetHeader().pack()  # nothing left to do: a packet as it is on the wire


def finish_checksum(header: Buffer, packet: MutableBuffer) -> bool:
    """Complete, in place, the partial checksum of a packet whose packed header has NEEDS_CSUM.

    False where the header points outside. A checksum that comes out as 0 is written as 0xFFFF: 0 means none in UDP
    (skb_checksum_help does the same).
    """
    start, offset = _CHECKSUM.unpack_from(header)
    field = start + offset
    if field + 2 > len(packet):
        return False
    checksum = internet_checksum(packet[start:]) or 0xFFFF
    packet[field], packet[field + 1] = checksum >> 8, checksum & 0xFF
    return True
