"""How a trace ended, in a word and a sentence. Pure."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from netlab.check.packets import words
from netlab.trace.correlate import Role
from netlab.trace.drops import REFUSING
from netlab.trace.headers import ICMP, Icmp, Ip, innermost
from netlab.trace.model import Drop, Event, Hop, Verdict, Way
from netlab.trace.probe import Heard, Reply
from netlab.trace.question import Question
from netlab.trace.tables import RouteEntry, Tables

# What the kernel's errors mean to who sends what cannot leave (ip_route_output_key, ip_output).
UNSENT = {
    errno.ENETUNREACH: "{source} has no route to {address}",
    errno.EHOSTUNREACH: "the route of {source} to {address} is unreachable",
    errno.EINVAL: "the route of {source} to {address} is a blackhole, or the address is no host's",
    errno.EACCES: "the route of {source} to {address} is prohibited, or it is a broadcast address",
    errno.EPERM: "the packet filter of {source} forbids it",
    errno.EMSGSIZE: "it is larger than the MTU of the device of {source}, and must not be fragmented",
    errno.EADDRNOTAVAIL: "{source} has no address to send from",
}


def judge(question: Question, heard: Heard, ways: Sequence[Way], tables: Mapping[str, Tables]) -> tuple[Verdict, str]:
    """Return what became of a probe: what its sender heard counts most, then how far it was seen."""
    probe = next((way for way in ways if way.role is Role.PROBE), None)
    if probe is None:
        return Verdict.NOT_SENT, f"{question.source} sent nothing: {_unsent(question, heard)}"
    last = probe.hops[-1]
    told = _told(question, heard, ways)
    if heard.reply is Reply.ANSWER:
        return Verdict.ANSWERED, f"{last.member} answered"
    if heard.reply is Reply.REFUSED:
        if probe.drop:
            return Verdict.REFUSED, f"refused {_at(last, probe.drop)}{told}"
        return Verdict.REFUSED, f"{last.member} refused it{told}"
    if probe.drop:
        return Verdict.DROPPED, f"dropped {_at(last, probe.drop)}{told}"
    answer = next((way for way in ways if way.role is Role.ANSWER), None)
    if answer and answer.drop:
        end = answer.hops[-1]
        return Verdict.DROPPED, f"it came to {last.member}, whose answer was dropped {_at(end, answer.drop)}"
    if last.event is Event.DELIVERED or _is_home(last, tables):
        return Verdict.DELIVERED, f"it came to {last.member}, and no answer was heard{_no_way_back(last, tables)}"
    return Verdict.LOST, f"it was last seen on {last.member}, {last.device}, going {last.event}"


def _at(last: Hop, drop: Drop) -> str:
    return f"on {last.member}{f', {last.device}' if last.device else ''}: {drop.sentence}"


def _unsent(question: Question, heard: Heard) -> str:
    """Say what the sender's own kernel meant."""
    if sentence := UNSENT.get(heard.error):
        return f"{sentence.format(source=question.source, address=question.address)} ({heard.words})"
    return heard.words or "no packet was seen"


def _told(question: Question, heard: Heard, ways: Sequence[Way]) -> str:
    """Say what the sender was told, and by whom."""
    for way in ways:
        if way.role is Role.ERROR and way.hops[-1].member == question.source and not way.drop:
            return f"; {way.hops[0].member} told {question.source}: {_error(way.hops[0])}"
    return f"; {question.source} heard: {heard.words}" if heard.words else ""


def _error(hop: Hop) -> str:
    inner = innermost(hop.headers)
    match inner[:2]:
        case (Ip(protocol=protocol), Icmp(type=kind, code=code, mtu=mtu)):
            said = words(4 if protocol == ICMP else 6, kind, code)
            return f"{said}, MTU {mtu}" if mtu else said
        case _:
            return "an ICMP error"


def _is_home(last: Hop, tables: Mapping[str, Tables]) -> bool:
    """Say whether a packet that nobody has read is where its address is."""
    inner, known = innermost(last.headers), tables.get(last.namespace)
    if last.event is not Event.IN or not known or not inner or not isinstance(inner[0], Ip):
        return False
    found = known.route(inner[0].dst, None, "", 0)
    return isinstance(found, RouteEntry) and found.kind == "local"


def _no_way_back(last: Hop, tables: Mapping[str, Tables]) -> str:
    """Say so if who received it has no route to its source."""
    inner, known = innermost(last.headers), tables.get(last.namespace)
    if not known or not inner or not isinstance(inner[0], Ip):
        return ""
    found = known.route(inner[0].src, None, "", 0)
    if isinstance(found, RouteEntry) and found.kind not in REFUSING:
        return ""
    return f": {last.member} has no route back to {inner[0].src}"
