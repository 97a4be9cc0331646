"""What a forwarder has carried and dropped, in a small file that it shares with whoever wants to look.

The file is mapped into memory: counting costs no system call, and what was counted outlives a killed forwarder, which
goes on where it ended. Layout, native byte order: the magic, then one unsigned 64-bit number for each of `NAMES`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from netlab.tunnel.packet import Drop

PATIENCE, PAUSE = 1.0, 0.0005  # seconds
MAGIC = b"nlcount2"  # the last character is the version of the layout
TOTALS = (
    *("sentPackets", "sentBytes", "sentBatches"),  # from the TUN device to peers; bytes of inner packets
    *("receivedPackets", "receivedBytes", "receivedBatches"),
)
UPDATES = "updates"  # how often the forwarder was asked to bring the numbers up to date
NAMES = (*TOTALS, *Drop, UPDATES)
SIZE = len(MAGIC) + 8 * len(NAMES)

_SENT, _RECEIVED, _UPDATES = 0, 3, NAMES.index(UPDATES)
_DROPS = {reason: NAMES.index(reason) for reason in Drop}


class Counters:
    """Counters of one forwarder. A batch is what went through one call of the system."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the file at `path`, or make it; without a path nobody else sees the numbers. Raises OSError."""
        memory = mmap.mmap(-1, SIZE) if path is None else _map(path)
        if memory[: len(MAGIC)] != MAGIC:
            memory[:] = MAGIC + bytes(SIZE - len(MAGIC))
        self.numbers = memoryview(memory)[len(MAGIC) :].cast("Q")

    def sent(self, octets: int, packets: int = 1, batches: int = 1) -> None:
        """Count what went to peers."""
        self._add(_SENT, octets, packets, batches)

    def received(self, octets: int, packets: int = 1, batches: int = 1) -> None:
        """Count what went into the TUN device."""
        self._add(_RECEIVED, octets, packets, batches)

    def dropped(self, reason: Drop, packets: int = 1) -> None:
        """Count packets that were not forwarded."""
        self.numbers[_DROPS[reason]] += packets

    def updated(self) -> None:
        """Say that everything is counted until now."""
        self.numbers[_UPDATES] += 1

    def _add(self, first: int, octets: int, packets: int, batches: int) -> None:
        numbers = self.numbers
        numbers[first] += packets
        numbers[first + 1] += octets
        numbers[first + 2] += batches


def find(path: Path) -> Mapping[str, int] | None:
    """Return what a forwarder has counted until now, by `NAMES`; None when there is no such file, or another's."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) != SIZE or not content.startswith(MAGIC):
        return None
    return dict(zip(NAMES, struct.unpack_from(f"={len(NAMES)}Q", content, len(MAGIC)), strict=True))


def find_now(path: Path, pid: int) -> Mapping[str, int] | None:
    """Do as `find`, after the forwarder, process `pid`, has counted to the end.

    Programs in the kernel have counters of their own, which it adds when it is asked.
    """
    before = find(path)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while (now := find(path)) and before and now[UPDATES] == before[UPDATES] and time.monotonic() < deadline:
            time.sleep(PAUSE)
    return find(path)


def _map(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(fd, SIZE)
        return mmap.mmap(fd, SIZE)
    finally:
        os.close(fd)
