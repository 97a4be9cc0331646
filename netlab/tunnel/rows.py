"""Segments of one flow as rows of an array, and the headers that the kernel's GSO gives them. Pure, with numpy.

Both directions work on rows: split.py writes the headers that GSO would write, join.py compares received headers with
those. What differs between the segments of a super-packet (tcp_gso_segment, __udp_gso_segment, inet_gso_segment):
IPv4's id (one more each) and checksum, TCP's sequence number, CWR (first segment only), FIN and PSH (last one only),
the lengths of the last segment, and the checksum of TCP or UDP.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from netlab.checksum import word_sum
from netlab.tunnel.packet import IPV6_HEADER, TCP, UDP, MutableBuffer

FIN, PSH, ACK, ECE, CWR = 0x01, 0x08, 0x10, 0x40, 0x80
FIRST_ONLY, LAST_ONLY = CWR, FIN | PSH
TCP_SEQUENCE, TCP_DATA_OFFSET, TCP_FLAGS = 4, 12, 13  # offsets in TCP's header
TCP_HEADER, UDP_HEADER = 20, 8
CHECKSUM_OFFSET = {TCP: 16, UDP: 6}

UDP_MAX_SEGMENTS = 64  # of one send and of one frame written to TUN, which is EINVAL beyond; 128 since Linux 6.9
COUNTER = np.arange(2260, dtype=np.uint32)  # a train of 65535 bytes has at most 2259 rows with payload
MULTIPLE = 65535 * 65000  # of 65535, and above every sum of a row's words: unsigned differences stay positive


class Shape(NamedTuple):
    """What the segments of a flow have in common. Lengths and offsets in bytes."""

    version: int
    protocol: int  # TCP or UDP
    network: int  # length of the IP header, with options or extension headers: where TCP or UDP begins
    header: int  # length of all headers
    payload: int  # of every segment but the last, which may have less
    size: int  # length of a full segment
    checksum: int  # offset of the checksum of TCP or UDP
    flags: int  # offset of TCP's flags

    @classmethod
    def of(cls, version: int, protocol: int, network: int, header: int, payload: int) -> Shape:
        """Return a shape with all that follows from these."""
        checksum, flags = network + CHECKSUM_OFFSET[protocol], network + TCP_FLAGS
        return cls(version, protocol, network, header, payload, header + payload, checksum, flags)


class Headers:
    """Views of the headers of `count` segments, one every `stride` bytes of a buffer.

    `octets` is (count, header); `checksums` (count,) are those of TCP or UDP, little endian as the sums of `Segments`.
    Making views costs more than using them: keep the object as long as the buffer.
    """

    def __init__(self, buffer: MutableBuffer, shape: Shape, *, stride: int) -> None:
        self.shape = shape
        self.count = count = min(len(buffer) // stride, len(COUNTER))
        self.octets: npt.NDArray[np.uint8] = np.ndarray((count, shape.header), np.uint8, buffer, 0, (stride, 1))

        def column(offset: int, kind: str) -> npt.NDArray[np.integer]:
            return np.ndarray((count,), kind, buffer, offset, (stride,))

        self.checksums = column(shape.checksum, "<u2")
        if shape.version == 4:
            self._ids, self._ip_checksums = column(4, ">u2"), column(10, ">u2")
        if shape.protocol == TCP:
            self._sequence = column(shape.network + TCP_SEQUENCE, ">u4")
            self._steps = COUNTER[:count] * np.uint32(shape.payload)

    def predict(self, header: bytearray, count: int, *, start: int = 0) -> None:
        """Write the headers of `count` segments, the first of which is number `start` of its super-packet.

        `header` is that of segment 0, with the lengths of a full one and without CWR, FIN and PSH. Its checksum of TCP
        or UDP is repeated, that of IP is computed.
        """
        shape = self.shape
        self.octets[:count] = np.frombuffer(header, np.uint8)
        if shape.version == 4:
            ids = COUNTER[:count] + ((header[4] << 8 | header[5]) + start)
            ids &= 0xFFFF
            self._ids[:count] = ids
            rest = word_sum(header[:4] + header[6:10] + header[12 : shape.network])
            self._ip_checksums[:count] = (MULTIPLE - rest - ids) % 0xFFFF
        if shape.protocol == TCP:
            offset = shape.network + TCP_SEQUENCE
            first = int.from_bytes(header[offset : offset + 4], "big") + start * shape.payload
            self._sequence[:count] = self._steps[:count] + (first & 0xFFFF_FFFF)  # wraps, as sequence numbers do


class Segments(Headers):
    """Views of whole segments that lie one behind another in a buffer. `payload` is (count, payload)."""

    def __init__(self, buffer: MutableBuffer, shape: Shape) -> None:
        super().__init__(buffer, shape, stride=shape.size)
        stride, count, network = shape.size, self.count, shape.network
        self.payload: npt.NDArray[np.uint8]
        self.payload = np.ndarray((count, shape.payload), np.uint8, buffer, shape.header, (stride, 1))
        self._words: npt.NDArray[np.uint16]
        self._words = np.ndarray((count, (stride - network) // 2), "<u2", buffer, network, (stride, 2))
        self._odd: npt.NDArray[np.uint8] | None = None
        if (stride - network) % 2:
            self._odd = np.ndarray((count,), np.uint8, buffer, stride - 1, (stride,))

    def sums(self, first: int, end: int) -> npt.NDArray[np.uint32]:
        """Return, for each row, the sum of its 16-bit words from the header of TCP or UDP on, read as little endian.

        Ones' complement sums do not mind the byte order, if all is in the same one (RFC 1071 section 2(B)).
        """
        found: npt.NDArray[np.uint32] = np.add.reduce(self._words[first:end], axis=1, dtype=np.uint32)
        if self._odd is not None:
            found += self._odd[first:end]
        return found


def set_lengths(header: MutableBuffer, shape: Shape, payload: int) -> None:
    """Write the lengths of IP and UDP for a packet with `payload` bytes behind its headers."""
    total = shape.header + payload
    if shape.version == 4:
        header[2], header[3] = total >> 8, total & 0xFF
    else:
        header[4], header[5] = (total - IPV6_HEADER) >> 8, (total - IPV6_HEADER) & 0xFF
    if shape.protocol == UDP:
        length = total - shape.network
        header[shape.network + 4], header[shape.network + 5] = length >> 8, length & 0xFF


def shorten(header: MutableBuffer, shape: Shape, payload: int) -> None:
    """Make a full segment's header that of one with `payload` bytes: the lengths and the IP checksum."""
    set_lengths(header, shape, payload)
    if shape.version == 4:
        put(header, 10, (get(header, 10) + shape.payload - payload) % 0xFFFF)


def get(buffer: MutableBuffer, offset: int) -> int:
    """Read 16 bits in network order."""
    return buffer[offset] << 8 | buffer[offset + 1]


def put(buffer: MutableBuffer, offset: int, value: int) -> None:
    """Write 16 bits in network order."""
    buffer[offset], buffer[offset + 1] = value >> 8, value & 0xFF


def swapped(value: int) -> int:
    """Return 16 bits in the other byte order."""
    return (value & 0xFF) << 8 | value >> 8
