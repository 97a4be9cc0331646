"""Captures on disk: the classic pcap format, with nanoseconds (draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import struct
from typing import BinaryIO

MAGIC_NANOSECONDS = 0xA1B2_3C4D
VERSION = (2, 4)
SNAPLEN = 65535
LINKTYPE_ETHERNET = 1
FILE_HEADER = struct.Struct("<IHHiIII")
RECORD_HEADER = struct.Struct("<IIII")  # seconds, nanoseconds, bytes kept, bytes on the wire


class PcapWriter:
    """Write frames to a new capture, which others may read while it grows.

    The writer never flushes: whoever owns the stream does, after the frames that a reader should see.
    """

    def __init__(self, stream: BinaryIO, *, link_type: int = LINKTYPE_ETHERNET) -> None:
        self._stream = stream
        stream.write(FILE_HEADER.pack(MAGIC_NANOSECONDS, *VERSION, 0, 0, SNAPLEN, link_type))

    def write(self, frame: bytes, nanoseconds: int) -> None:
        """Append a frame that was seen at a time, in nanoseconds since 1970. Only its first 65535 bytes are kept."""
        seconds, fraction = divmod(nanoseconds, 1_000_000_000)
        kept = frame[:SNAPLEN]
        # One write for each record: a flush then leaves no half record behind.
        self._stream.write(RECORD_HEADER.pack(seconds, fraction, len(kept), len(frame)) + kept)
