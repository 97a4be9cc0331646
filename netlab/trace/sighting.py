"""One look at a packet: when, where and in what form somebody saw it. Pure.

`read` takes apart what the programs of `program` write; packet sockets make the same values (`sockets`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netlab.trace.headers import Headers, Ports, parse
from netlab.trace.layout import SEEN, Direction, Kind


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet at one place. `time`: nanoseconds of a clock that never goes back.

    `buffer` tells one packet in the kernel's memory from others, 0 where it is not known; `namespace` is "" where the
    device was not known any more. `packet` begins with the IP header and may be cut off. `reason` and `location` say
    why and where in the kernel it was dropped, as numbers.
    """

    time: int
    kind: Kind
    namespace: str
    device: str
    ifindex: int
    headers: Headers
    frame: bytes
    packet: bytes
    length: int
    direction: Direction = Direction.COOKIE
    buffer: int = 0
    mark: int = 0
    reason: int = 0
    location: int = 0


def read(record: bytes, namespaces: Mapping[int, str], ports: Ports) -> Sighting:
    """Take a record of the ring buffer apart; `namespaces` gives names to inode numbers."""
    time, buffer, location, kind, reason, netns, ifindex, length, mark, captured, _, direction, device, frame = (
        SEEN.unpack_from(record)
    )
    packet = record[SEEN.size : SEEN.size + captured]
    frame = frame if any(frame) else b""
    return Sighting(
        time,
        Kind(kind),
        namespaces.get(netns, ""),
        device.partition(b"\0")[0].decode(errors="replace"),
        ifindex,
        parse(packet, frame, ports),
        frame,
        packet,
        length,
        Direction(direction),
        buffer,
        mark,
        reason,
        location,
    )
