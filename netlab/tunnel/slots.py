"""Packets as a TUN device gives them, many at a time -> trains for one send each. Pure, with numpy.

For what the kernel has not made into super-packets: each packet lies in a slot of its own, behind its virtio_net_hdr.
Neighbours of one length that go to one peer are a run, and a run is prepared at once: a hop is taken from each,
checksums that the kernel left partial are completed, and the packets are laid one behind another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from netlab.tunnel.packet import IPV4_HEADER
from netlab.tunnel.routes import Peer
from netlab.tunnel.vnet import LENGTH as HEAD
from netlab.tunnel.vnet import NEEDS_CSUM, VnetHeader

SLOTS = 64
SLOT = 65600  # bytes: virtio_net_hdr and the longest packet; no power of two, which caches would not bear
PLAIN_IPV4 = 0x45  # version 4, no options
KEPT = 64  # views; a bound for memory

Numbers = npt.NDArray[np.integer]


class Run(NamedTuple):
    """The packets of the slots from `first` up to, but not including, `end`, `size` bytes each.

    Without a peer they must be looked at one by one.
    """

    first: int
    end: int
    size: int
    peer: Peer | None


class Slots:
    """Room for packets, and what is read and written in all of them at once."""

    def __init__(self) -> None:
        self._buffer = bytearray(SLOTS * SLOT)
        whole = memoryview(self._buffer)
        self.rooms = [whole[start : start + SLOT] for start in range(0, len(whole), SLOT)]
        self._octets = np.frombuffer(self._buffer, np.uint8).reshape(SLOTS, SLOT)
        self._out = bytearray(SLOTS * SLOT)
        self._out_view = memoryview(self._out)
        self._out_octets = np.frombuffer(self._out, np.uint8)
        self._left_to_do = [self._column(0, "<u8"), self._column(8, "<u2")]  # virtio_net_hdr
        self._first, self._total = self._column(HEAD, "u1"), self._column(HEAD + 2, ">u2")
        self._ttl, self._ip_checksum = self._column(HEAD + 8, "u1"), self._column(HEAD + 10, ">u2")
        self._destination = self._column(HEAD + 16, ">u4")
        self._alike = (*self._left_to_do, self._column(HEAD, "<u4"), self._ttl, self._destination)
        self._checksummed: dict[tuple[int, int, int], tuple[Numbers, Numbers | None, Numbers]] = {}

    def runs(self, sizes: Sequence[int], find: Callable[[int], Peer | None]) -> Iterator[Run]:
        """Yield all packets in order. `sizes`: bytes of each packet. `find` knows who holds an IPv4 address."""
        count = len(sizes)
        if self._are_alike(sizes):
            yield Run(0, count, sizes[0], find(int(self._destination[0])))
            return
        lengths = np.array(sizes)
        plain = (self._first[:count] == PLAIN_IPV4) & (self._total[:count] == lengths)
        plain &= (self._ttl[:count] > 1) & (lengths >= IPV4_HEADER)
        peers = map(find, self._destination[:count].tolist())
        left_to_do = (column[:count].tolist() for column in self._left_to_do)
        keys = list(zip(plain.tolist(), sizes, *left_to_do, peers, strict=True))
        for key, numbers in groupby(range(count), key=keys.__getitem__):
            first, *others = numbers
            yield Run(first, first + 1 + len(others), key[1], key[-1] if key[0] else None)

    def _are_alike(self, sizes: Sequence[int]) -> bool:
        """Say whether all packets make one run: quick, because under load most do."""
        count, size = len(sizes), sizes[0]
        if sizes.count(size) < count or not self._is_plain(size):
            return False
        return not any(np.count_nonzero(column[:count] != column[0]) for column in self._alike)

    def _is_plain(self, size: int) -> bool:
        """Say whether the first packet is one that `prepare` can do."""
        header = self.rooms[0][HEAD : HEAD + 9]
        return size >= IPV4_HEADER and header[0] == PLAIN_IPV4 and header[2] << 8 | header[3] == size and header[8] > 1

    def prepare(self, run: Run) -> memoryview | None:
        """Return the packets of a run with a peer, one behind another, until the next call.

        None, and nothing changed, when the virtio_net_hdr points outside.
        """
        rows = slice(run.first, run.end)
        header = VnetHeader.unpack(self.rooms[run.first])
        if header.flags & NEEDS_CSUM:
            field = header.csum_start + header.csum_offset
            if header.csum_start < IPV4_HEADER or field + 2 > run.size:
                return None
            words, odd, checksums = self._views(header.csum_start, field, run.size)
            sums = np.add.reduce(words[rows], axis=1, dtype=np.uint32)
            if odd is not None:
                sums += odd[rows]
            checksums[rows] = 0xFFFF - sums % 0xFFFF  # never 0, which is none in UDP (vnet.finish_checksum)
        self._ttl[rows] -= 1
        self._ip_checksum[rows] = (self._ip_checksum[rows].astype(np.uint32) + 0x0100) % 0xFFFF  # packet.take_hop
        count = run.end - run.first
        packed = self._out_octets[: count * run.size].reshape(count, run.size)
        packed[:] = self._octets[rows, HEAD : HEAD + run.size]
        return self._out_view[: count * run.size]

    def _column(self, offset: int, kind: str) -> Numbers:
        return np.ndarray((SLOTS,), kind, self._buffer, offset, (SLOT,))

    def _views(self, start: int, field: int, size: int) -> tuple[Numbers, Numbers | None, Numbers]:
        """Return what a checksum covers as little-endian words, the odd byte behind them, and the checksum."""
        key = (start, field, size)
        views = self._checksummed.get(key)
        if views is None:
            if len(self._checksummed) == KEPT:
                self._checksummed.clear()
            shape = (SLOTS, (size - start) // 2)
            words: Numbers = np.ndarray(shape, "<u2", self._buffer, HEAD + start, (SLOT, 2))
            odd = self._column(HEAD + size - 1, "u1") if (size - start) % 2 else None
            views = self._checksummed[key] = words, odd, self._column(HEAD + field, "<u2")
        return views
