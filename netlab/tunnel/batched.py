"""The batched loop: the simple loop's work, for many packets at each crossing between kernel and program.

A TUN device with IFF_VNET_HDR hands over TCP's super-packets whole, up to 64 KiB: one read instead of 45. They are
split here (split.py) and leave by one send with UDP_SEGMENT. With UDP_GRO one receive returns many datagrams; those of
a flow are put together again (join.py) and enter the kernel by one write. Small packets come one at a time from the
device, but what waits there leaves by one send (slots.py). Whatever does not fit goes the simple loop's way.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping
from io import FileIO
from types import MappingProxyType

from netlab.tunnel.endpoint import Endpoint, drop_reason
from netlab.tunnel.join import Joiner
from netlab.tunnel.offloads import SOL_UDP, UDP_GRO, UDP_SEGMENT, Offloads
from netlab.tunnel.packet import MAX_PAYLOAD, TCP, UDP, Drop
from netlab.tunnel.routes import Peer
from netlab.tunnel.rows import UDP_MAX_SEGMENTS
from netlab.tunnel.simple import admit, find_way
from netlab.tunnel.slots import Run, Slots
from netlab.tunnel.split import Splitter
from netlab.tunnel.vnet import GSO_NONE, LENGTH, NEEDS_CSUM, PLAIN, VnetHeader, finish_checksum

FEW = 3  # packets that are sooner sent one by one than prepared together
MANY = 8  # packets that are a sign of load
ANCILLARY = socket.CMSG_SPACE(4)
_SEGMENT_SIZE, _GRO_SIZE = struct.Struct("=H"), struct.Struct("=i")


def run(end: Endpoint, offloads: Offloads, more: Mapping[int, Callable[[], None]] = MappingProxyType({})) -> None:
    """Carry packets both ways until the TUN device, which has IFF_VNET_HDR, is gone. Raises OSError then.

    `more` are descriptors to look at, and what to do when they can be read.
    """
    sender, receiver = Sender(end, offloads), Receiver(end, offloads)
    ways = {end.tun: sender.wake, end.socket.fileno(): receiver.wake, end.asked: end.reload, **more}
    poll = select.epoll()
    for fd in ways:
        poll.register(fd, select.EPOLLIN)
    gc.freeze()  # what is there stays: never look at it again
    while True:
        for fd, _ in poll.poll():
            ways[fd]()


class Sender:
    """The way from the TUN device to the peers."""

    def __init__(self, end: Endpoint, offloads: Offloads) -> None:
        self._end = end
        self._device = FileIO(end.tun, closefd=False)  # where nothing waits it says None: quicker than to raise
        self._per_send = UDP_MAX_SEGMENTS if offloads.segment else 1
        self._splitter = Splitter()
        self._slots = Slots()

    def wake(self) -> None:
        """Send one super-packet, or what waits of others, as far as there are slots."""
        read = self._device.readinto
        sizes: list[int] = []
        for room in self._slots.rooms:
            size = read(room)
            if size is None:
                break
            if room[1] != GSO_NONE:
                self._send_small(sizes)
                return self._send_super(VnetHeader.unpack(room), room[LENGTH:size])
            sizes.append(size - LENGTH)
        self._send_small(sizes)
        if len(sizes) > MANY:
            os.sched_yield()  # while others have the processor more comes together: a third more packets in all

    def _send_super(self, header: VnetHeader, packet: memoryview) -> None:
        peer = find_way(self._end, packet)
        if peer is None:
            return
        sent = False
        for train in self._splitter.split(header, packet):
            self._send_train(train.packets, train.size, peer)
            sent = True
        if not sent:
            self._end.drop(Drop.MALFORMED)

    def _send_small(self, sizes: list[int]) -> None:
        """Send what lies in the slots."""
        if len(sizes) <= FEW:
            for room, size in zip(self._slots.rooms, sizes, strict=False):
                self._send_one(room[: LENGTH + size])
            return
        for found in self._slots.runs(sizes, self._end.routes.find_ipv4):
            if found.peer is None or found.end - found.first <= FEW or not self._send_run(found, found.peer):
                for number in range(found.first, found.end):
                    self._send_one(self._slots.rooms[number][: LENGTH + sizes[number]])

    def _send_run(self, found: Run, peer: Peer) -> bool:
        packets = self._slots.prepare(found)
        if packets is None:
            return False
        step = found.size * max(1, min(self._per_send, MAX_PAYLOAD // found.size))
        for start in range(0, len(packets), step):
            self._send_train(packets[start : start + step], found.size, peer)
        return True

    def _send_one(self, frame: memoryview) -> None:
        packet = frame[LENGTH:]
        if frame[0] & NEEDS_CSUM and not finish_checksum(frame, packet):
            return self._end.drop(Drop.MALFORMED)
        peer = find_way(self._end, packet)
        if peer:
            self._send_packet(packet, self._end.place_of(peer))

    def _send_train(self, packets: memoryview, size: int, peer: Peer) -> None:
        """Send packets of `size` bytes each, the last one perhaps shorter, by one call if that can be."""
        if len(packets) <= size or self._per_send == 1:
            return self._send_each(packets, size, peer)
        try:
            self._end.socket.sendmsg(
                [packets], [(SOL_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(size))], 0, self._end.place_of(peer)
            )
        except OSError as exc:
            reason = drop_reason(exc)
            if reason is Drop.QUEUE_FULL:
                return self._end.counters.dropped(reason, -(-len(packets) // size))
            self._send_each(packets, size, peer)  # longer than the path allows: the kernel makes fragments of each
        else:
            self._end.counters.sent(len(packets), -(-len(packets) // size))

    def _send_each(self, packets: memoryview, size: int, peer: Peer) -> None:
        place = self._end.place_of(peer)
        for start in range(0, len(packets), size):
            self._send_packet(packets[start : start + size], place)

    def _send_packet(self, packet: memoryview, place: tuple[str, int]) -> None:
        try:
            self._end.socket.sendto(packet, place)
        except OSError as exc:
            self._end.drop(drop_reason(exc))
        else:
            self._end.counters.sent(len(packet))


class Receiver:
    """The way from the peers into the TUN device."""

    def __init__(self, end: Endpoint, offloads: Offloads) -> None:
        self._end = end
        self._joiner = Joiner((TCP, UDP) if offloads.uso else (TCP,))
        self._rooms = [self._joiner.room]

    def wake(self) -> None:
        """Take in what one receive returns."""
        end = self._end
        try:
            length, ancillary, _, (sender, _port) = end.socket.recvmsg_into(self._rooms, ANCILLARY)
        except BlockingIOError:
            return  # its checksum was wrong
        size = length
        for level, kind, value in ancillary:
            if (level, kind) == (SOL_UDP, UDP_GRO):
                (size,) = _GRO_SIZE.unpack(value)
        for header, packet in self._joiner.join(length, size):
            if admit(end, packet, sender):
                self._write(header, packet)

    def _write(self, header: bytes, packet: memoryview) -> None:
        try:
            os.writev(self._end.tun, (header, packet))
        except OSError as exc:
            return self._end.drop(drop_reason(exc))
        if header is PLAIN:
            self._end.counters.received(len(packet))
        else:  # as they were on the wire, each with headers
            left = VnetHeader.unpack(header)
            count = -(-(len(packet) - left.hdr_len) // left.gso_size)
            self._end.counters.received(len(packet) + (count - 1) * left.hdr_len, count)
