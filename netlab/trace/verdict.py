"""How a trace ended, in a word and a sentence. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netlab.trace.correlate import Role
from netlab.trace.headers import Ip, innermost
from netlab.trace.model import Event, Hop, Verdict, Way
from netlab.trace.probe import Heard, Reply
from netlab.trace.question import Question
from netlab.trace.tables import RouteEntry, Tables


def judge(question: Question, heard: Heard, ways: Sequence[Way], tables: Mapping[str, Tables]) -> tuple[Verdict, str]:
    """Return what became of a probe: what its sender heard counts most, then how far it was seen."""
    probe = next((way for way in ways if way.role is Role.PROBE), None)
    if probe is None:
        return Verdict.NOT_SENT, f"{question.source} sent nothing: {heard.words or 'no packet was seen'}"
    last = probe.hops[-1]
    if heard.reply is Reply.ANSWER:
        return Verdict.ANSWERED, f"{_who(last)} answered"
    if heard.reply is Reply.REFUSED:
        return Verdict.REFUSED, f"{_who(last)} refused it: {heard.words}"
    if probe.drop:
        words = f"dropped on {last.member}, {last.device}: {probe.drop.sentence}"
        return Verdict.DROPPED, f"{words}; {question.source} heard: {heard.words}" if heard.words else words
    if last.event is Event.DELIVERED or _is_home(last, tables):
        return Verdict.DELIVERED, f"it came to {_who(last)}, and no answer was heard"
    return Verdict.LOST, f"it was last seen on {last.member}, {last.device}, going {last.event}"


def _who(last: Hop) -> str:
    return last.member


def _is_home(last: Hop, tables: Mapping[str, Tables]) -> bool:
    """Say whether a packet that nobody has read is where its address is."""
    inner, known = innermost(last.headers), tables.get(last.namespace)
    if last.event is not Event.IN or not known or not inner or not isinstance(inner[0], Ip):
        return False
    found = known.route(inner[0].dst, None, "", 0)
    return isinstance(found, RouteEntry) and found.kind == "local"
