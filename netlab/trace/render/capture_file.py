"""A trace as a capture file for Wireshark: each hop a packet with a comment that says what changed and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netlab import pcapng
from netlab.pcapng import Direction, LinkType
from netlab.trace.headers import Ip, first
from netlab.trace.model import Cause, Event, Hop, Source, Trace, Way
from netlab.trace.render.tree import TITLES

DIRECTIONS = {Event.IN: Direction.INBOUND, Event.OUT: Direction.OUTBOUND}
VERBS = {Event.IN: "into", Event.OUT: "out of", Event.DROPPED: "DROPPED at", Event.DELIVERED: "delivered at"}

Place = tuple[str, str, str, LinkType]  # member, namespace, device, what its packets begin with


def capture_file(trace: Trace) -> bytes:
    """Return a trace as pcapng, in the order of time: an interface for each device that the packets crossed."""
    blocks = [pcapng.section(comment=_summary(trace))]
    numbers: dict[Place, int] = {}
    packets = []
    for hop, comment in sorted(_hops(trace), key=lambda pair: pair[0].time):
        place = _place(hop)
        if place not in numbers:
            numbers[place] = len(numbers)
            blocks.append(_interface(place))
        packets.append(
            pcapng.packet(
                numbers[place],
                trace.began + hop.time,
                hop.frame + hop.packet,
                direction=DIRECTIONS.get(hop.event, Direction.UNKNOWN),
                length=_length(hop),
                comment=comment,
            )
        )
    return b"".join(blocks + packets)


def _summary(trace: Trace) -> str:
    lines = [trace.question, f"{trace.verdict}: {trace.summary}", f"seen by {trace.seen_by}", *trace.remarks]
    return "\n".join(lines)


def _place(hop: Hop) -> Place:
    link = LinkType.ETHERNET if hop.frame else LinkType.RAW
    return hop.member or "outside the lab", hop.namespace, hop.device or "-", link


def _interface(place: Place) -> bytes:
    member, namespace, device, link = place
    return pcapng.interface(f"{member}/{device}", link, description=f"{device} in namespace {namespace or '?'}")


def _length(hop: Hop) -> int:
    """Return how many bytes a packet had: what was kept of it may be less."""
    outermost = first(hop.headers, Ip)
    return len(hop.frame) + outermost.length if outermost else 0


# --- comments --------------------------------------------------------------------------------------------------------


def _hops(trace: Trace) -> Iterator[tuple[Hop, str]]:
    """Yield each hop with its comment."""
    for way in trace.ways:
        title = TITLES.get(way.role, str(way.role))
        yield from _commented(way.hops, title, way)
        for copy in way.copies:
            yield from _commented(copy, f"{title}, a copy", way)


def _commented(hops: Sequence[Hop], title: str, way: Way) -> Iterator[tuple[Hop, str]]:
    for number, hop in enumerate(hops, start=1):
        where = f"{VERBS[hop.event]} {hop.member or 'outside the lab'}/{hop.device or '-'}"
        lines = [f"{title}, {number} of {len(hops)}: {where}", *hop.changes, *(_words(cause) for cause in hop.causes)]
        if hop.event is Event.DROPPED and way.drop:
            at = f" in {way.drop.place}" if way.drop.place else ""
            lines += [way.drop.sentence, f"the kernel's reason: {way.drop.reason}{at}", f"look at: {way.drop.hint}"]
        yield hop, "\n".join(line for line in lines if line)


def _words(cause: Cause) -> str:
    origin = f" ({cause.origin})" if cause.origin else ""
    aside = ", looked up afterwards" if cause.source is Source.LOOKED_UP else ""
    return f"{cause.topic} {cause.text}{origin}{aside}"
