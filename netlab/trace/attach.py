"""The rules that a packet met and its NAT, each put where on its way it met them. Pure.

A report names the devices: with one to go out by it belongs where the packet leaves by that, else where it came in. The
packet is recognized by its IP header, which may be the outer or the inner one of what was seen there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from netlab.trace.connections import Connection
from netlab.trace.correlate import Role
from netlab.trace.headers import Ip, first
from netlab.trace.hits import Hit, Section
from netlab.trace.model import Cause, Event, Hop, Source, Topic, Way

COMMENTS = (re.compile(r'-m comment --comment ("[^"]*"|\S+)'), re.compile(r'comment "([^"]*)"'))

FindText = Callable[[str, Hit], str]  # by namespace


def attach_rules(ways: Iterable[Way], sections: Iterable[Section], find_text: FindText) -> tuple[Way, ...]:
    """Return the ways with the rules among the causes of their hops. Reports about packets that nobody saw are left."""
    ways = tuple(ways)
    found: dict[tuple[int, int], list[Cause]] = defaultdict(list)
    for section in sections:
        place = next((place for place in _places(ways, section)), None)
        if place is not None:
            causes = (_cause(hit, find_text(section.namespace, hit)) for hit in section.hits)
            found[place] += [cause for cause in causes if cause]
    return tuple(
        replace(way, hops=tuple(_with(hop, found[number, step]) for step, hop in enumerate(way.hops)))
        for number, way in enumerate(ways)
    )


def attach_connections(ways: Iterable[Way], connections: Iterable[tuple[str, Connection]]) -> tuple[Way, ...]:
    """Return the ways with each translated connection where the packet was changed last in that namespace."""
    ways = tuple(ways)
    for namespace, connection in connections:
        if connection.is_translated:
            ways = tuple(_with_connection(way, namespace, connection) for way in ways)
    return ways


def _with_connection(way: Way, namespace: str, connection: Connection) -> Way:
    changed = [
        place
        for place, hop in enumerate(way.hops)
        if hop.namespace == namespace
        and connection.is_of(hop.headers)
        and any(change.startswith(("source", "destination")) for change in hop.changes)
    ]
    if not changed or way.role is not Role.PROBE:
        return way
    cause = Cause(Topic.CONNTRACK, str(connection), source=Source.SEEN)
    hops = list(way.hops)
    hops[changed[-1]] = _with(hops[changed[-1]], [cause])
    return replace(way, hops=tuple(hops))


def _with(hop: Hop, causes: Sequence[Cause]) -> Hop:
    return replace(hop, causes=(*hop.causes, *causes)) if causes else hop


def _places(ways: Sequence[Way], section: Section) -> Iterator[tuple[int, int]]:
    """Yield where a section may belong, the best first: where this very header is outermost, then where it is inside.

    Rules at OUTPUT may send a packet to another device than they were told of.
    """
    here = [
        (number, step, hop)
        for number, way in enumerate(ways)
        for step, hop in enumerate(way.hops)
        if hop.namespace == section.namespace
    ]
    first = section.first
    wanted = (Event.OUT, first.oif) if first.oif else (Event.IN, first.iif)
    for is_of in (_is_outermost, _is_inside):
        mine = [(number, step, hop) for number, step, hop in here if is_of(first, hop)]
        yield from ((number, step) for number, step, hop in mine if (hop.event, hop.ifindex) == wanted)
        yield from ((number, step) for number, step, hop in mine if hop.event is Event.DROPPED)
        yield from ((number, step) for number, step, hop in mine if hop.event is wanted[0])
        yield from ((number, step) for number, step, hop in mine if (hop.event, hop.ifindex) == (Event.IN, first.iif))
        yield from ((number, step) for number, step, hop in mine if hop.event is not Event.OUT)


def _is_outermost(hit: Hit, hop: Hop) -> bool:
    header = first(hop.headers, Ip)
    return header is not None and _is_of(hit, header)


def _is_inside(hit: Hit, hop: Hop) -> bool:
    return any(_is_of(hit, header) for header in hop.headers if isinstance(header, Ip))


def _is_of(hit: Hit, header: Ip) -> bool:
    """Say whether a report can be about a packet with this header: NAT may have changed its source in between."""
    return header.protocol == hit.protocol and (header.version == 6 or header.ident == hit.ident)


def _cause(hit: Hit, text: str) -> Cause | None:
    """Return what a report is shown as; a legacy chain's policy is known by its text alone, and may accept."""
    where = f"{hit.table} {hit.chain}"
    if hit.kind == "policy":
        verdict = hit.verdict or text
        shown = Cause(Topic.RULE, f"{where}: policy {verdict}", source=Source.SEEN)
        return None if verdict == "accept" else shown
    said, comment = without_comment(text or f"rule {hit.handle or hit.number}")
    return Cause(Topic.RULE, f"{where}: {said}", comment, Source.SEEN)


def without_comment(text: str) -> tuple[str, str]:
    """Take the comment out of a rule of iptables or nftables; it says what the rule is there for."""
    for pattern in COMMENTS:
        if match := pattern.search(text):
            rest = text[: match.start()] + text[match.end() :]
            return " ".join(rest.split()), match[1].strip('"')
    return " ".join(text.split()), ""
