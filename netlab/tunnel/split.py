"""A super-packet as the TUN device gives it -> packets of wire size, ready for one send with UDP_SEGMENT. Pure.

What the kernel's GSO would do (rows.py), in one numpy pass over all segments. The pseudo header's sum is taken from the
partial checksum that the kernel left, so that extension headers, also a routing header, need not be understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from netlab.tunnel.packet import MAX_PAYLOAD, TCP, UDP
from netlab.tunnel.rows import (
    CHECKSUM_OFFSET,
    FIRST_ONLY,
    LAST_ONLY,
    MULTIPLE,
    TCP_DATA_OFFSET,
    TCP_HEADER,
    UDP_HEADER,
    UDP_MAX_SEGMENTS,
    Segments,
    Shape,
    get,
    put,
    set_lengths,
    shorten,
)
from netlab.tunnel.vnet import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader

SHAPES_KEPT = 64  # a bound for memory; a node has a handful


class Train(NamedTuple):
    """Packets one behind another, each of `size` bytes but the last, which may be shorter."""

    size: int
    packets: memoryview


class Splitter:
    """Splits super-packets into one buffer that is used again and again."""

    def __init__(self) -> None:
        self._buffer = bytearray(MAX_PAYLOAD)
        self._view = memoryview(self._buffer)
        self._segments: dict[Shape, Segments] = {}

    def split(self, header: VnetHeader, packet: memoryview) -> Iterator[Train]:
        """Yield the packets of a super-packet in order, no more at once than one send takes; usually once.

        Each train is overwritten by the next. `packet` is not changed: call `take_hop` on it first. Yields nothing when
        the headers contradict each other.
        """
        shape = super_shape(header, packet)
        if shape is None:
            return
        rows = self._rows(shape)
        per_send = min(rows.count, UDP_MAX_SEGMENTS)
        first = _segment_header(shape, packet)
        segments = -(-(len(packet) - shape.header) // shape.payload)
        for start in range(0, segments, per_send):
            count = min(per_send, segments - start)
            rows.predict(first, count, start=start)
            begin = shape.header + start * shape.payload
            missing = self._copy_payload(rows, packet[begin : begin + count * shape.payload], count)
            if start == 0 and shape.protocol == TCP:
                self._buffer[shape.flags] |= packet[shape.flags] & FIRST_ONLY
            if start + count == segments:
                self._finish_last(shape, packet, (count - 1) * shape.size, missing)
            _write_checksums(rows, count)
            yield Train(shape.size, self._view[: count * shape.size - missing])

    def _rows(self, shape: Shape) -> Segments:
        rows = self._segments.get(shape)
        if rows is None:
            if len(self._segments) == SHAPES_KEPT:
                self._segments.clear()
            rows = self._segments[shape] = Segments(self._buffer, shape)
        return rows

    def _copy_payload(self, rows: Segments, payload: memoryview, count: int) -> int:
        """Fill `count` rows, the last with zeros at its end; return how many, in bytes."""
        size = rows.shape.payload
        full = len(payload) // size
        octets = np.frombuffer(payload, np.uint8)
        rows.payload[:full] = octets[: full * size].reshape(full, size)
        if full == count:
            return 0
        rest = len(payload) - full * size
        rows.payload[full, :rest] = octets[full * size :]
        rows.payload[full, rest:] = 0
        return size - rest

    def _finish_last(self, shape: Shape, packet: memoryview, offset: int, missing: int) -> None:
        """Give the last segment the flags that only it has, and its lengths."""
        header = self._view[offset : offset + shape.header]
        if shape.protocol == TCP:
            header[shape.flags] |= packet[shape.flags] & LAST_ONLY
        if missing:
            shorten(header, shape, shape.payload - missing)
            put(header, shape.checksum, (get(header, shape.checksum) - missing) % 0xFFFF)


def super_shape(header: VnetHeader, packet: memoryview) -> Shape | None:
    """Return the shape of a super-packet's segments; None when it is not one, or contradicts itself."""
    kind = header.gso_type & ~GSO_ECN
    network, length = header.csum_start, len(packet)
    if not header.flags & NEEDS_CSUM or not header.gso_size or length < network + UDP_HEADER or network < 20:
        return None
    version, protocol = packet[0] >> 4, UDP if kind == GSO_UDP_L4 else TCP
    if kind not in (GSO_UDP_L4, GSO_TCPV4 if version == 4 else GSO_TCPV6):
        return None
    if header.csum_offset != CHECKSUM_OFFSET[protocol] or not _is_whole(packet, protocol, network):
        return None
    transport = UDP_HEADER
    if protocol == TCP:
        if length < network + TCP_HEADER:
            return None
        transport = (packet[network + TCP_DATA_OFFSET] >> 4) * 4
        if transport < TCP_HEADER:
            return None
    shape = Shape.of(version, protocol, network, network + transport, header.gso_size)
    return shape if shape.header < length and shape.size <= MAX_PAYLOAD else None


def _is_whole(packet: memoryview, protocol: int, network: int) -> bool:
    """Say whether an IP packet has the length that it says, is no fragment, and `network` bytes of header."""
    if packet[0] >> 4 == 4:
        whole = get(packet, 2) == len(packet) and packet[9] == protocol
        return whole and network == (packet[0] & 0x0F) * 4 and not (packet[6] & 0x3F or packet[7])
    if packet[0] >> 4 != 6 or network < 40 or get(packet, 4) + 40 != len(packet):
        return False
    return network > 40 or packet[6] == protocol


def _segment_header(shape: Shape, packet: memoryview) -> bytearray:
    """Return the headers of a full segment, without CWR, FIN and PSH and with its own partial checksum."""
    header = bytearray(packet[: shape.header])
    set_lengths(header, shape, shape.payload)
    if shape.protocol == TCP:
        header[shape.flags] &= ~(FIRST_ONLY | LAST_ONLY)
    put(header, shape.checksum, (get(header, shape.checksum) + shape.size - len(packet)) % 0xFFFF)
    return header


def _write_checksums(rows: Segments, count: int) -> None:
    """Complete the partial checksums. As the kernel: UDP writes 0xFFFF for 0, which would mean none."""
    checksums = (MULTIPLE - rows.sums(0, count)) % 0xFFFF
    if rows.shape.protocol == UDP:
        checksums[checksums == 0] = 0xFFFF
    rows.checksums[:count] = checksums
