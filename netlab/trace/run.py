"""A trace from its question to its answer: what was collected is put together, looked up and explained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from netlab.found import FoundLab
from netlab.kernel import netns
from netlab.kernel.lookup import KernelTables
from netlab.kernel.symbols import Symbols
from netlab.kernel.tool import Call, start
from netlab.trace.attach import FindText, attach_connections, attach_rules
from netlab.trace.collect import Collected, Mechanism, collect
from netlab.trace.compare import differences
from netlab.trace.connections import Connection
from netlab.trace.correlate import Journey, Role, correlate
from netlab.trace.drops import find_drop, name_rule
from netlab.trace.explain import explain
from netlab.trace.foresee import foretell
from netlab.trace.headers import Ip, Quote, Tcp, Udp, first, fragment_offset, innermost, is_echo_reply, with_port
from netlab.trace.hits import Hit, Section, sections
from netlab.trace.layout import Kind
from netlab.trace.model import Places, Trace, Way
from netlab.trace.netfilter_watch import Report, open_rules, rule_handles
from netlab.trace.places import find_places
from netlab.trace.probe import Reply
from netlab.trace.question import Question
from netlab.trace.rule_text import Argv, Texts, listing_of
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Tables
from netlab.trace.verdict import judge

if TYPE_CHECKING:
    from netlab.trace.flow import Flow

FREED_WITH_WHOLE = "skb_release_data"
TAKES_ERRORS, NO_REASON = "icmpv6_rcv", "NOT_SPECIFIED"  # what Linux 6.1 frees it has passed on before


def trace(lab: FoundLab, question: Question, by: Mechanism | None = None) -> Trace:
    """Send one probe and say what became of it. Raises KernelError or NotSupported."""
    found = collect(lab, question, by)
    try:
        return understand(lab, question, found)
    finally:
        found.disarming.join()


def trace_flow(lab: FoundLab, flow: Flow) -> Trace:
    """Follow the next packet that a filter lets pass. Raises KernelError, NotSupported, NetlabError when none came."""
    from netlab.trace.flow import follow

    question, found = follow(lab, flow)
    try:
        return understand(lab, question, found, is_new=False)
    finally:
        found.disarming.join()


def understand(lab: FoundLab, question: Question, found: Collected, *, is_new: bool = True) -> Trace:
    """Say what became of a packet. Where one of a known connection goes is not foretold."""
    found = replace(found, sightings=_with_sender(found.sightings, question, lab.netns(question.source)))
    known = sorted({one.namespace for one in found.sightings if one.namespace})
    tables = netns.call_each(known, KernelTables.here)
    symbols = Symbols()
    journeys = correlate(
        _with_true_ends(found, symbols, lab.netns(question.source)),
        lambda name, device: tables[name].device(device) if name in tables else None,
    )
    places = find_places(lab)
    ways = _ways(journeys, tables, places, found.reasons, symbols)
    ways = tuple(_since_sending(way, question) if way.role is Role.PROBE else way for way in ways)
    with ExitStack() as stack:
        met = _sections(found.reports)
        ways = attach_rules(ways, met, _find_text(met, stack))
    ways = tuple(name_rule(way) for way in ways)
    connections = [(one.namespace, one.what) for one in found.reports if isinstance(one.what, Connection)]
    ways = attach_connections(ways, connections)
    verdict, summary = judge(question, found.heard, ways, tables)
    probe = next((way for way in ways if way.role is Role.PROBE), None)
    differ: tuple[str, ...] = ()
    if probe and is_new:
        expected = foretell(lab, question, tables, connections)
        differ = differences(probe.hops, expected, places.members, tables)
    return Trace(lab.name, str(question), verdict, summary, ways, found.seen_by, (*differ, *found.remarks), found.began)


def _with_sender(sightings: Sequence[Sighting], question: Question, sender: str) -> list[Sighting]:
    """Have a probe that was dropped before it had a device be dropped where it was sent."""
    seen = {one.buffer for one in sightings if one.namespace}

    def is_unsent(one: Sighting) -> bool:
        ip = first(one.headers, Ip)
        is_new = one.kind is Kind.DROPPED and not one.namespace and one.buffer not in seen
        return is_new and ip is not None and ip.dst == question.address

    return [replace(one, namespace=sender) if is_unsent(one) else one for one in sightings]


def _with_true_ends(found: Collected, symbols: Symbols, sender: str) -> list[Sighting]:
    """Have those end as they should that the kernel frees as if they were dropped.

    Fragments are freed with the packet that they were joined to; an echo reply, once raw sockets have a copy of it; an
    ICMPv6 error, once whom it is about was told.
    """

    def is_joined(one: Sighting) -> bool:
        return bool(fragment_offset(one.headers)) and symbols.name(one.location) == FREED_WITH_WHOLE

    def is_heard(one: Sighting) -> bool:
        return found.heard.reply is Reply.ANSWER and one.namespace == sender and is_echo_reply(one.headers)

    def is_told(one: Sighting) -> bool:
        no_reason = found.reasons.get(one.reason) == NO_REASON
        return no_reason and Quote() in one.headers and symbols.name(one.location) == TAKES_ERRORS

    def has_ended(one: Sighting) -> bool:
        return one.kind is Kind.DROPPED and (is_joined(one) or is_heard(one) or is_told(one))

    return [replace(one, kind=Kind.CONSUMED) if has_ended(one) else one for one in found.sightings]


def _ways(
    journeys: Iterable[Journey],
    tables: Mapping[str, Tables],
    places: Places,
    reasons: Mapping[int, str],
    symbols: Symbols,
) -> tuple[Way, ...]:
    found: list[Way] = []
    shown = [journey for journey in journeys if journey.role is not Role.MORE]
    start = min((journey.way[0].time for journey in shown), default=0)
    for journey in shown:
        hops = explain(journey.way, tables, places, start=start)
        branches = zip(journey.copies, journey.branched_from, strict=True)
        copies = tuple(explain(copy, tables, places, start=start, follows=after) for copy, after in branches)
        last = journey.way[-1]
        drop = None
        if last.kind is Kind.DROPPED:
            reason = reasons.get(last.reason, f"reason {last.reason}")
            drop = find_drop(reason, symbols.name(last.location), hops, tables.get(last.namespace))
        found.append(Way(journey.role, hops, copies, drop))
    return tuple(found)


def _since_sending(way: Way, question: Question) -> Way:
    """Say at the first hop what rules changed before the packet was seen: a node's own packets meet them first."""
    ip, rest = (*innermost(way.hops[0].headers), None, None)[:2]
    if not isinstance(ip, Ip) or ip.dst == question.address:
        return way
    was, now = (str(end) for end in (question.address, ip.dst))
    if isinstance(rest, (Tcp, Udp)):
        was, now = with_port(question.address, question.port), with_port(ip.dst, rest.dport)
    first = replace(way.hops[0], changes=(f"destination {was} -> {now}", *way.hops[0].changes))
    return replace(way, hops=(first, *way.hops[1:]))


def _sections(reports: Iterable[Report]) -> list[Section]:
    found: dict[str, list[Hit]] = {}
    for report in reports:
        if isinstance(report.what, Hit):
            found.setdefault(report.namespace, []).append(report.what)
    return [section for name, hits in found.items() for section in sections(name, hits)]


def _find_text(sections: Iterable[Section], stack: ExitStack) -> FindText:
    """Return what finds a rule's text. All listings that are needed are asked for at once, in all namespaces."""
    wanted = {(section.namespace, listing_of(hit)) for section in sections for hit in section.hits}
    started = {(name, argv): netns.call(name, start, Call(name, argv, "")) for name, argv in sorted(wanted)}
    for process in started.values():
        stack.enter_context(process)  # which ends it, if nobody asks for what it lists
    texts: dict[str, Texts] = {}

    def run(name: str, argv: Argv) -> str:
        process = started.pop((name, argv), None) or netns.call(name, start, Call(name, argv, ""))
        return process.communicate()[0]

    def find(name: str, hit: Hit) -> str:
        if name not in texts:
            asked = open_rules(name)
            stack.callback(asked.close)
            texts[name] = Texts(partial(run, name), partial(rule_handles, asked))
        return texts[name].text(hit)

    return find
