"""What crosses the interfaces of one namespace, in a ring that the kernel fills and this process reads (packet(7)).

The kernel writes packets one behind the other into blocks, and hands over a block when it is full or RETIRE has passed:
thousands of packets cost one system call. Source: Linux Documentation/networking/packet_mmap.rst (TPACKET_V3) and
linux/if_packet.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from netlab.errors import KernelError
from netlab.kernel import netns

SOL_PACKET, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V3 = 263, 5, 6, 10, 2
SO_ATTACH_FILTER = 26
ETH_P_ALL = 0x0003
BLOCK = 128 << 10  # bytes; the longest packet that fits is a little shorter
LEAST = 8  # blocks
RETIRE = 20  # ms after which a block that is not full is handed over
FRAME = 2048  # bytes; means nothing in version 3 but must divide a block

REQUEST = struct.Struct("=IIIIIII")  # struct tpacket_req3
STATISTICS = struct.Struct("=III")  # struct tpacket_stats_v3: packets, drops, freezes
FILTER = struct.Struct("=HBBI")  # struct sock_filter
ADDRESS = struct.Struct("=HHi12x")  # struct sockaddr_ll
STATUS = struct.Struct("=I")
STATUS_AT = 8  # in a block: block_status, num_pkts, offset_to_first_pkt, blk_len of struct tpacket_block_desc
HEADER = struct.Struct("=8xIIII")
OURS, KERNELS = 1, 0  # TP_STATUS_USER, TP_STATUS_KERNEL
# struct tpacket3_hdr: next, seconds, nanoseconds, bytes kept, bytes, status, where the packet begins, VLAN tag and its
# protocol; then struct sockaddr_ll: interface, hardware type, packet type.
RECORD = struct.Struct("=IIIIIIH6xIH10x4xiHB")
TAGGED = 1 << 4  # TP_STATUS_VLAN_VALID: the kernel took the tag off
SECOND = 10**9

Instructions = Sequence[tuple[int, int, int, int]]  # of classic BPF


class Seen(NamedTuple):
    """A packet. `time`: nanoseconds since 1970; `length`: bytes that it had, where fewer were kept."""

    time: int
    ifindex: int
    hardware: int  # ARPHRD_... of linux/if_arp.h
    kind: int  # PACKET_OUTGOING and so on
    content: bytes
    length: int


class PacketRing:
    """A ring of about `size` bytes for an interface, or for all of them, of the namespace that this thread is in.

    Raises KernelError.
    """

    def __init__(self, *, ifindex: int, size: int, program: Instructions) -> None:
        self._stack = ExitStack()
        with self._stack:
            self._socket = self._stack.enter_context(_open(program))
            self._blocks = _reserve(self._socket, max(size // BLOCK, LEAST))
            self._ring = self._stack.enter_context(mmap.mmap(self._socket.fileno(), self._blocks * BLOCK))
            place = ADDRESS.pack(socket.AF_PACKET, socket.htons(ETH_P_ALL), ifindex)
            netns.syscall("bind", self._socket.fileno(), place, len(place))
            self._stack = self._stack.pop_all()
        self._next = 0

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to take."""
        return self._socket.fileno()

    def take(self) -> Iterator[Seen]:
        """Yield what the kernel has handed over, in the order in which it was seen. Free its room at once."""
        for _ in range(self._blocks):  # no more than there was: a flood must not keep other rings waiting
            start = self._next * BLOCK
            status, count, first, used = HEADER.unpack_from(self._ring, start)
            if not status & OURS:
                return
            block = self._ring[start : start + used]
            STATUS.pack_into(self._ring, start + STATUS_AT, KERNELS)
            self._next = (self._next + 1) % self._blocks
            yield from _packets(block, count, first)

    def dropped(self) -> int:
        """Return how many packets the kernel had no room for since the last call."""
        _, drops, _ = STATISTICS.unpack(self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, STATISTICS.size))
        return int(drops)

    def clear_error(self) -> None:
        """Forget that the interface went down: it may come up again."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Give the ring back. The kernel may take 10 ms."""
        self._stack.close()


def _open(program: Instructions) -> socket.socket:
    """Open a socket that gets nothing before it is bound."""
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except OSError as exc:
        raise KernelError(exc.errno, "open a packet socket") from exc
    if program:
        code = ctypes.create_string_buffer(b"".join(FILTER.pack(*one) for one in program))
        opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
    opened.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
    return opened


def _reserve(opened: socket.socket, blocks: int) -> int:
    """Have the kernel make a ring of so many blocks, or of fewer where there is not the memory; return how many."""
    while True:
        request = REQUEST.pack(BLOCK, blocks, FRAME, blocks * (BLOCK // FRAME), RETIRE, 0, 0)
        try:
            opened.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
            return blocks
        except OSError as exc:
            if exc.errno != errno.ENOMEM or blocks <= LEAST:
                raise KernelError(exc.errno, f"reserve {blocks * BLOCK} bytes for packets") from exc
            blocks //= 2


def _packets(block: bytes, count: int, start: int) -> Iterator[Seen]:
    make = Seen._make
    for _ in range(count):
        step, seconds, rest, kept, length, status, at, tag, protocol, ifindex, hardware, kind = RECORD.unpack_from(
            block, start
        )
        content = block[start + at : start + at + kept]
        if status & TAGGED:
            content = content[:12] + struct.pack("!HH", protocol, tag & 0xFFFF) + content[12:]
            length += 4
        yield make((seconds * SECOND + rest, ifindex, hardware, kind, content, length))
        start += step
