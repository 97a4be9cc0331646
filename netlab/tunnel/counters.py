"""What a forwarder has carried and dropped, in a small file that it shares with whoever wants to look.

The file is mapped into memory: counting costs no system call, and what was counted outlives a killed forwarder, which
goes on where it ended. Layout, native byte order: the magic, then one unsigned 64-bit number for each of `NAMES`.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from netlab.tunnel.packet import Drop

MAGIC = b"nlcount1"  # the last character is the version of the layout
TOTALS = (
    *("sentPackets", "sentBytes", "sentBatches"),  # from the TUN device to peers; bytes of inner packets
    *("receivedPackets", "receivedBytes", "receivedBatches"),
)
NAMES = (*TOTALS, *Drop)
SIZE = len(MAGIC) + 8 * len(NAMES)

_SENT, _RECEIVED = 0, 3
_DROPS = {reason: NAMES.index(reason) for reason in Drop}


class Counters:
    """Counters of one forwarder. A batch is what went through one call of the system."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the file at `path`, or make it; without a path nobody else sees the numbers. Raises OSError."""
        memory = mmap.mmap(-1, SIZE) if path is None else _map(path)
        if memory[: len(MAGIC)] != MAGIC:
            memory[:] = MAGIC + bytes(SIZE - len(MAGIC))
        self.numbers = memoryview(memory)[len(MAGIC) :].cast("Q")

    def sent(self, octets: int, packets: int = 1) -> None:
        """Count one batch that went to a peer."""
        self._add(_SENT, octets, packets)

    def received(self, octets: int, packets: int = 1) -> None:
        """Count one batch that went into the TUN device."""
        self._add(_RECEIVED, octets, packets)

    def dropped(self, reason: Drop, packets: int = 1) -> None:
        """Count packets that were not forwarded."""
        self.numbers[_DROPS[reason]] += packets

    def _add(self, first: int, octets: int, packets: int) -> None:
        numbers = self.numbers
        numbers[first] += packets
        numbers[first + 1] += octets
        numbers[first + 2] += 1


def find(path: Path) -> Mapping[str, int] | None:
    """Return what a forwarder has counted until now, by `NAMES`; None when there is no such file, or another's."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) != SIZE or not content.startswith(MAGIC):
        return None
    return dict(zip(NAMES, struct.unpack_from(f"={len(NAMES)}Q", content, len(MAGIC)), strict=True))


def _map(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(fd, SIZE)
        return mmap.mmap(fd, SIZE)
    finally:
        os.close(fd)
