"""A train of datagrams as UDP_GRO gives it -> packets for the TUN device, whole runs of a flow as one. Pure.

The rule: segments become one super-packet only where the kernel's GSO would take that apart into the very same bytes.
So headers are compared with those that GSO would write (rows.py), and the checksums of TCP and UDP are verified first,
because NEEDS_CSUM keeps the receiving kernel from doing that. All else is passed on as it came: fragments, IP options,
extension headers, SYN, RST and URG, no payload, no or a wrong checksum. The order of packets never changes.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby

import numpy as np

from netlab.checksum import internet_checksum, word_sum
from netlab.tunnel.packet import IPV4_HEADER, IPV6_HEADER, TCP, UDP
from netlab.tunnel.rows import (
    ACK,
    CHECKSUM_OFFSET,
    CWR,
    ECE,
    LAST_ONLY,
    TCP_DATA_OFFSET,
    TCP_FLAGS,
    TCP_HEADER,
    TCP_SEQUENCE,
    UDP_HEADER,
    UDP_MAX_SEGMENTS,
    Headers,
    Segments,
    Shape,
    get,
    put,
    set_lengths,
    shorten,
    swapped,
)
from netlab.tunnel.vnet import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, PLAIN, VnetHeader

ROOM = 65536  # for a train; what is joined has at least one header less, so it is never above 65535 bytes
JOINABLE_FLAGS = ACK | ECE | CWR  # of the first segment
SHAPES_KEPT = 64  # a bound for memory; a node has a handful
# What the kernel's GSO never writes there: 0 in UDP means no checksum, 0xFFFF in TCP is a 0 written otherwise.
FOREIGN_CHECKSUM = {TCP: 0xFFFF, UDP: 0}

Frame = tuple[bytes, memoryview]  # a virtio_net_hdr, and the packet to write behind it


class Joiner:
    """Joins what was received into `room`. What it returns is valid until the next datagram is received there.

    `protocols` are those of which the kernel takes super-packets: without USO only TCP.
    """

    def __init__(self, protocols: Collection[int] = (TCP, UDP)) -> None:
        self._protocols = frozenset(protocols)
        self._buffer = bytearray(2 * ROOM)  # twice, so that views of whole rows may begin with the last row
        self.room = memoryview(self._buffer)[:ROOM]
        self._out = bytearray(2 * ROOM)
        self._out_view = memoryview(self._out)
        self._out_octets = np.frombuffer(self._out, np.uint8)
        self._views: dict[Shape, tuple[Segments, Headers]] = {}

    def join(self, length: int, size: int) -> list[Frame]:
        """Return the packets of a train of `length` bytes in which each datagram but the last has `size`, in order.

        Packets are not checked: what is not an IP packet comes out as it is.
        """
        if length <= size:
            return [(PLAIN, self.room[:length])]
        if size < IPV4_HEADER + UDP_HEADER:
            step = max(size, 1)
            return [(PLAIN, self.room[start : min(start + step, length)]) for start in range(0, length, step)]
        rows = -(-length // size)
        self._buffer[length : rows * size] = bytes(rows * size - length)
        frames: list[Frame] = []
        row = 0
        while row < rows:
            shape = self._shape(row * size, size) if row + 1 < rows else None
            end = self._run_end(shape, row, rows, length) if shape is not None else row + 1
            if shape is None or end - row == 1:
                frames.append((PLAIN, self.room[row * size : min(end * size, length)]))
            else:
                frames += self._join_verified(shape, row, end, length)
            row = end
        return frames

    def _shape(self, at: int, size: int) -> Shape | None:
        """Return the shape of the segment at an offset, if others may be joined to it."""
        buffer = self._buffer
        if buffer[at] == 0x45:
            version, network, protocol = 4, IPV4_HEADER, buffer[at + 9]
            whole = get(buffer, at + 2) == size and not (buffer[at + 6] & 0xBF or buffer[at + 7])
        elif buffer[at] >> 4 == 6:
            version, network, protocol = 6, IPV6_HEADER, buffer[at + 6]
            whole = get(buffer, at + 4) + IPV6_HEADER == size
        else:
            return None
        if not whole or protocol not in self._protocols:
            return None
        header = network + UDP_HEADER
        if protocol == TCP:
            transport = at + network
            header = network + (buffer[transport + TCP_DATA_OFFSET] >> 4) * 4
            if header < network + TCP_HEADER or buffer[transport + TCP_FLAGS] & ~JOINABLE_FLAGS:
                return None
        return Shape.of(version, protocol, network, header, size - header) if header < size else None

    def _run_end(self, shape: Shape, row: int, rows: int, length: int) -> int:
        """Return the row behind the longest run from `row` on whose headers are those of one super-packet."""
        size, at = shape.size, row * shape.size
        count = rows - row if shape.protocol == TCP else min(rows - row, UDP_MAX_SEGMENTS)
        if not self._may_follow(shape, at, at + size):
            return row + 1
        received, expected = self._views_of(shape)
        header = self._buffer[at : at + shape.header]
        if shape.protocol == TCP:
            header[shape.flags] &= ~CWR
        expected.predict(header, count)
        if shape.protocol == TCP:
            expected.octets[0, shape.flags] = self._buffer[at + shape.flags]
        expected.checksums[:count] = received.checksums[row : row + count]
        want, have = expected.octets[: count - 1], received.octets[row : row + count - 1]
        same = count - 1
        if want.tobytes() != have.tobytes():
            same = int((want != have).any(axis=1).argmax())
            if same == 0:
                return row + 1
        end = row + same
        payload = min(size, length - end * size) - shape.header
        return end + self._may_end(shape, bytearray(expected.octets[same].tobytes()), end * size, payload)

    def _may_follow(self, shape: Shape, at: int, following: int) -> bool:
        """Say whether two segments could be neighbours in a flow: quick, for trains in which flows are mixed."""
        buffer, network = self._buffer, shape.network
        addresses = 12 if shape.version == 4 else 8
        if buffer[at + addresses : at + network + 4] != buffer[following + addresses : following + network + 4]:
            return False
        if shape.version == 4 and (get(buffer, at + 4) + 1) & 0xFFFF != get(buffer, following + 4):
            return False
        if shape.protocol == UDP:
            return True
        return (self._sequence(shape, at) + shape.payload) & 0xFFFF_FFFF == self._sequence(shape, following)

    def _sequence(self, shape: Shape, at: int) -> int:
        at += shape.network + TCP_SEQUENCE
        return int.from_bytes(self._buffer[at : at + 4], "big")

    def _may_end(self, shape: Shape, expected: bytearray, at: int, payload: int) -> bool:
        """Say whether the segment at an offset ends a run: as expected, but with PSH or FIN, or shorter."""
        if payload < 1:
            return False
        header = self._buffer[at : at + shape.header]
        if payload < shape.payload:
            shorten(expected, shape, payload)
        if shape.protocol == TCP:
            expected[shape.flags] |= header[shape.flags] & LAST_ONLY
        return header == expected

    def _join_verified(self, shape: Shape, row: int, end: int, length: int) -> list[Frame]:
        """Join a run whose headers fit, leaving out what has a wrong checksum."""
        size, at = shape.size, row * shape.size
        received, _ = self._views_of(shape)
        sums = received.sums(row, end)
        missing = max(0, end * size - length)
        if missing:
            sums[-1] += swapped(0xFFFF - missing)
        sums += swapped(self._pseudo_sum(shape, at, size - shape.network))
        wrong = sums % 0xFFFF != 0
        wrong |= received.checksums[row:end] == FOREIGN_CHECKSUM[shape.protocol]
        if not np.count_nonzero(wrong):
            return [self._joined(shape, row, end, length)]
        frames: list[Frame] = []
        for is_wrong, group in groupby(range(row, end), key=lambda number: bool(wrong[number - row])):
            numbers = list(group)
            if not is_wrong and len(numbers) > 1:
                frames.append(self._joined(shape, numbers[0], numbers[-1] + 1, length))
            else:
                frames += [(PLAIN, self.room[number * size : min(number * size + size, length)]) for number in numbers]
        return frames

    def _joined(self, shape: Shape, row: int, end: int, length: int) -> Frame:
        """Write one super-packet to where its first segment stands, in the buffer for output."""
        size, at, last = shape.size, row * shape.size, (end - 1) * shape.size
        payload = min(end * size, length) - at - (end - row) * shape.header
        header = self._buffer[at : at + shape.header]
        set_lengths(header, shape, payload)
        if shape.version == 4:
            put(header, 10, 0)
            put(header, 10, internet_checksum(header[: shape.network]))
        if shape.protocol == TCP:
            header[shape.flags] |= self._buffer[last + shape.flags] & LAST_ONLY
        put(header, shape.checksum, self._pseudo_sum(shape, at, shape.header + payload - shape.network))
        received, _ = self._views_of(shape)
        self._out[at : at + shape.header] = header
        start, count = at + shape.header, end - row
        whole = self._out_octets[start : start + count * shape.payload]
        whole.reshape(count, shape.payload)[:] = received.payload[row:end]
        return _vnet_header(shape, header), self._out_view[at : start + payload]

    def _pseudo_sum(self, shape: Shape, at: int, length: int) -> int:
        """Return the sum of the pseudo header for `length` bytes of TCP or UDP (RFC 9293 3.1, RFC 8200 8.1)."""
        addresses = self._buffer[at + (12 if shape.version == 4 else 8) : at + shape.network]
        return (word_sum(addresses) + shape.protocol + length) % 0xFFFF

    def _views_of(self, shape: Shape) -> tuple[Segments, Headers]:
        """Return views of the received rows, and of room for as many headers as they should have."""
        views = self._views.get(shape)
        if views is None:
            if len(self._views) == SHAPES_KEPT:
                self._views.clear()
            received = Segments(self._buffer, shape)
            expected = Headers(bytearray(received.count * shape.header), shape, stride=shape.header)
            views = self._views[shape] = received, expected
        return views


def _vnet_header(shape: Shape, header: bytearray) -> bytes:
    """Return the virtio_net_hdr of a super-packet that begins with `header`."""
    if shape.protocol == UDP:
        kind = GSO_UDP_L4
    else:
        kind = GSO_TCPV4 if shape.version == 4 else GSO_TCPV6
        kind |= GSO_ECN if header[shape.flags] & CWR else 0
    network, offset = shape.network, CHECKSUM_OFFSET[shape.protocol]
    return VnetHeader(NEEDS_CSUM, kind, shape.header, shape.payload, network, offset).pack()
