"""The ring buffer through which programs tell Python what happened, in the order in which it did.

The kernel maps two pages with one counter each, the consumer's and the producer's, and the data twice in a row, so that
no record is ever cut. A record is a header of 8 bytes (its length and two bits), then its bytes, rounded up to 8.
Source: kernel/bpf/ringbuf.c; Documentation/bpf/ringbuf.rst.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from types import TracebackType

from netlab.bpf.loader import Map, MapType

HEADER = 8
BUSY, DISCARDED = 1 << 31, 1 << 30  # not written yet; to be passed over
_U64, _U32 = struct.Struct("=Q"), struct.Struct("=I")


class Ring(Map):
    """A map of kind RINGBUF. `size` is a power of two and of whole pages, in bytes."""

    def __init__(self, name: str, *, size: int) -> None:
        super().__init__(name, MapType.RINGBUF, key_size=0, value_size=0, entries=size)
        page = mmap.PAGESIZE
        self._mask = size - 1
        self._consumer = mmap.mmap(self.fd, page)
        self._records = mmap.mmap(self.fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        self._read = 0

    def records(self) -> Iterator[bytes]:
        """Yield the records that are there by now, each once."""
        written = _U64.unpack_from(self._records, 0)[0]
        while self._read < written:
            at = mmap.PAGESIZE + (self._read & self._mask)
            head = _U32.unpack_from(self._records, at)[0]
            if head & BUSY:
                break
            length = head & ~DISCARDED
            if not head & DISCARDED:
                yield self._records[at + HEADER : at + HEADER + length]
            self._read += HEADER + length + -length % 8
            _U64.pack_into(self._consumer, 0, self._read)

    def close(self) -> None:
        """Unmap the memory and close the descriptor."""
        self._consumer.close()
        self._records.close()
        super().close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
