"""Captures of several interfaces in one file, with nanoseconds and comments: the blocks of pcapng as bytes. Pure.

A file is a `section`, then for each interface an `interface` before its first `packet`; interfaces have numbers in the
order in which they come. `statistics` ends it. Each function returns one block, so that a reader may follow a file that
grows. Source: draft-ietf-opsawg-pcapng, sections 3 (blocks, options) and 4 (each block).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

from netlab import __version__

SNAPLEN = 262144  # bytes; what Wireshark takes for one packet
COMMENT_MAX = 65535  # bytes of an option

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
BYTE_ORDER = 0x1A2B3C4D
VERSION = (1, 0)
UNKNOWN_LENGTH = -1  # of the section
NANOSECONDS = b"\x09"  # if_tsresol: a negative power of 10
PCAP_FILTER = b"\0"  # if_filter: what follows is a text of pcap-filter(7)

# Options: those of every block, of the section, the interface, the packet, the statistics.
END, COMMENT = 0, 1
APPLICATION = 4
NAME, DESCRIPTION, RESOLUTION, FILTER = 2, 3, 9, 11
FLAGS = 2
RECEIVED, DROPPED = 4, 5

BLOCK = struct.Struct("<II")
TRAILER = struct.Struct("<I")
OPTION = struct.Struct("<HH")
SECTION_BODY = struct.Struct("<IHHq")
INTERFACE_BODY = struct.Struct("<HHI")
PACKET_HEADER = struct.Struct("<IIIIIII")  # with the block's type and length
PACKET_END = struct.Struct("<HHIHHI")  # the flags, the end of options, the block's length
PACKET_SIZE = PACKET_HEADER.size + PACKET_END.size  # of one that is empty
STATISTICS_BODY = struct.Struct("<III")
PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4


class LinkType(IntEnum):
    """What a packet begins with (tcpdump.org/linktypes.html)."""

    ETHERNET = 1
    RAW = 101  # an IP header


class Direction(IntEnum):
    """Which way a packet crossed its interface: the low bits of epb_flags."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


def section(*, comment: str = "") -> bytes:
    """Return the block that a file begins with."""
    body = SECTION_BODY.pack(BYTE_ORDER, *VERSION, UNKNOWN_LENGTH)
    return _block(SECTION, body, [*_comment(comment), (APPLICATION, f"netlab {__version__}".encode())])


def interface(name: str, link: LinkType, *, description: str = "", filter_text: str = "") -> bytes:
    """Return the block of an interface whose times are nanoseconds."""
    options = [(NAME, name.encode())]
    if description:
        options.append((DESCRIPTION, description.encode()))
    options.append((RESOLUTION, NANOSECONDS))
    if filter_text:
        options.append((FILTER, PCAP_FILTER + filter_text.encode()))
    return _block(INTERFACE, INTERFACE_BODY.pack(link, 0, SNAPLEN), options)


def packet(
    number: int,
    nanoseconds: int,
    content: bytes,
    *,
    direction: Direction = Direction.UNKNOWN,
    length: int = 0,
    comment: str = "",
) -> bytes:
    """Return the block of a packet at interface `number`, seen so many nanoseconds after 1970.

    `length`: bytes that it had, where they are more than there are in `content`.
    """
    kept = len(content)
    if kept > SNAPLEN:
        length, kept, content = max(length, kept), SNAPLEN, content[:SNAPLEN]
    options = b"".join(_option(*one) for one in _comment(comment)) if comment else b""
    padding = PADDING[kept & 3]
    total = PACKET_SIZE + kept + len(padding) + len(options)
    high, low = nanoseconds >> 32, nanoseconds & 0xFFFF_FFFF
    header = PACKET_HEADER.pack(PACKET, total, number, high, low, kept, length if length > kept else kept)
    return header + content + padding + options + PACKET_END.pack(FLAGS, 4, direction, END, 0, total)


def statistics(number: int, nanoseconds: int, *, received: int, dropped: int | None, comment: str = "") -> bytes:
    """Return the block that says how many packets came at an interface, and how many the kernel had no room for."""
    options = [*_comment(comment), (RECEIVED, received.to_bytes(8, "little"))]
    if dropped is not None:
        options.append((DROPPED, dropped.to_bytes(8, "little")))
    return _block(STATISTICS, STATISTICS_BODY.pack(number, nanoseconds >> 32, nanoseconds & 0xFFFF_FFFF), options)


def _comment(text: str) -> list[tuple[int, bytes]]:
    return [(COMMENT, text.encode()[:COMMENT_MAX].decode(errors="ignore").encode())] if text else []


def _option(code: int, value: bytes) -> bytes:
    return OPTION.pack(code, len(value)) + value + PADDING[len(value) & 3]


def _block(kind: int, body: bytes, options: Iterable[tuple[int, bytes]]) -> bytes:
    content = body + b"".join(_option(code, value) for code, value in options) + OPTION.pack(END, 0)
    total = BLOCK.size + len(content) + TRAILER.size
    return BLOCK.pack(kind, total) + content + TRAILER.pack(total)
