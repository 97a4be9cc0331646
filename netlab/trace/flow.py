"""Real traffic instead of a probe: the first packet that a filter lets pass is followed, and what answers it.

Read in order: `follow` (the edge: arm, wait, disarm), `has_ended`; then what the sightings come to, all of it pure.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from netlab import names
from netlab.bpf.classic import Instruction
from netlab.errors import KernelError, NetlabError
from netlab.found import FoundLab
from netlab.kernel.lookup import KernelTables
from netlab.topology.addresses import Address
from netlab.trace.collect import STEP, Collected, filtering, tunnel_ports
from netlab.trace.correlate import ENDS, identify
from netlab.trace.headers import Ip, Quote, Tcp, Udp, inner_ip, innermost
from netlab.trace.hits import Hit
from netlab.trace.layout import Direction, Kind, Target
from netlab.trace.mark import filter_table
from netlab.trace.netfilter_watch import NetfilterWatch, Report
from netlab.trace.places import find_namespaces
from netlab.trace.probe import COOKIE, Heard, Reply
from netlab.trace.question import Options, Protocol, Question
from netlab.trace.sighting import Sighting
from netlab.trace.watch import Watch

LOOK = 0.005  # seconds between two looks while nothing is to be seen
SETTLED = 0.02  # seconds in which the rest is seen of a packet that was answered
DROPPED = 0.1  # seconds in which somebody tells the sender of a drop
UNANSWERED = 1.0  # seconds in which an answer is waited for


@dataclass(frozen=True, slots=True)
class Flow:
    """What to follow: a filter of packets that begin with their IP header, as text and compiled.

    `source`: the member that the packet is to come from, "" for any. `wait`: seconds in which one is to come.
    """

    text: str
    instructions: tuple[Instruction, ...]
    source: str = ""
    wait: float = 60.0

    def __str__(self) -> str:
        return f"{repr(self.text) if self.text else 'any filter'}{f', from {self.source}' if self.source else ''}"


def follow(lab: FoundLab, flow: Flow) -> tuple[Question, Collected]:
    """Wait for a packet and watch it; return what it would have been to send it, and what became of it.

    Raises KernelError, NotSupported, or NetlabError when none came.
    """
    namespaces = find_namespaces(lab)
    ports = tunnel_ports(lab.topology.backend)
    target = Target(os.urandom(COOKIE)[:4], frozenset(ports.vxlan), frozenset(ports.tunnel), flow.instructions)
    from_these = {lab.netns(flow.source)} if flow.source else {lab.netns(name) for name in lab.topology.members()}
    with ExitStack() as stack:
        watch = stack.enter_context(Watch(target, namespaces, ports))
        rules, remarks = _watch_rules(lab, flow, stack)
        list(rules.reports() if rules else ())  # of packets that are not followed
        began = time.time_ns()
        seen = first_packets(_see(watch, flow, [inode for inode, name in namespaces.items() if name in from_these]))
        reports = first_reports(list(rules.reports() if rules else ()))
        disarming = threading.Thread(target=stack.pop_all().close)
    disarming.start()
    question = asked(seen[0], flow)
    heard = heard_by(seen, seen[0].namespace)
    remarks = (f"followed: the first packet that matched {flow}", *remarks)
    return question, Collected(heard, seen, reports, watch.reasons, watch.seen_by, remarks, began, disarming)


def _watch_rules(lab: FoundLab, flow: Flow, stack: ExitStack) -> tuple[NetfilterWatch | None, tuple[str, ...]]:
    """Have nodes tell which rules such packets meet; or return why they cannot."""
    try:
        made = filter_table(flow.instructions)
        return stack.enter_context(NetfilterWatch(filtering(lab), made, lab.folder.path)), ()
    except ValueError as exc:
        why = f"the filter is too long for the kernel's packet filter: {exc}"
    except KernelError as exc:
        why = str(exc).splitlines()[0]
    return None, (f"which rules it met is not known: {why}",)


def _see(watch: Watch, flow: Flow, sources: Sequence[int]) -> list[Sighting]:
    """Return what was seen until the packet came to its end, and its answer."""
    sightings: list[Sighting] = []
    watch.follow(sources)
    begin = time.monotonic()
    began_at = last_news = 0.0
    while not sightings or not has_ended(sightings, time.monotonic() - began_at, time.monotonic() - last_news):
        if news := watch.take():
            last_news = time.monotonic()
            began_at = began_at if sightings else last_news
            sightings += news if sightings else from_sender(news, _has_address)
            if not sightings:  # it was on its way already
                watch.follow(sources)
        if not sightings and time.monotonic() - begin > flow.wait:
            hint = "is there such traffic now? `netlab capture all -f FILTER` shows what there is"
            raise NetlabError(f"no packet of the lab matched {flow} within {flow.wait:g} s", hint)
        time.sleep(STEP if sightings else LOOK)
    return sightings


def _has_address(namespace: str, address: Address) -> bool:
    tables = KernelTables.of(namespace)
    try:
        return bool(tables.holds(address))
    finally:
        tables.close()


def has_ended(sightings: Sequence[Sighting], age: float, quiet: float) -> bool:
    """Say whether there is nothing to wait for: `age`, `quiet`: seconds since the first and since the last sighting."""
    first = sightings[0]
    home = [one for one in sightings if is_answer(one) and one.namespace == first.namespace and one.kind is Kind.IN]
    if home:
        return quiet > SETTLED or age > UNANSWERED
    gone = any(one.kind is Kind.DROPPED and one.buffer == first.buffer for one in sightings)
    return age > UNANSWERED or (gone and quiet > DROPPED)


# --- what it comes to ------------------------------------------------------------------------------------------------


def is_answer(one: Sighting) -> bool:
    """Say whether a packet goes back, and is not an error's."""
    return one.direction is Direction.BACK and Quote() not in one.headers


def from_sender(sightings: Sequence[Sighting], has_address: Callable[[str, Address], bool]) -> list[Sighting]:
    """Leave out what is in front of the first packet that leaves a namespace which has its source address."""
    for place, one in enumerate(sightings):
        ip = inner_ip(one.headers)
        if one.kind is Kind.OUT and ip and not is_answer(one) and has_address(one.namespace, ip.src):
            return list(sightings[place:])
    return []


class _Begun(NamedTuple):
    """Where a packet left its sender, its places in memory, and where one of those was given up."""

    at: tuple[str, str]
    buffers: set[int]
    given_up: set[tuple[str, str]]


def first_packets(sightings: Sequence[Sighting]) -> list[Sighting]:
    """Leave out packets of the flow that look like an earlier one: those that leave the sender when one already has.

    UDP may send any number without an identification. From then on the first is known by its place in memory, and where
    that is given up (for a larger one, in front of a tunnel) by the next that leaves there.
    """
    begun: dict[Hashable, _Begun] = {}
    repeated: set[Hashable] = set()
    kept: list[Sighting] = []
    for one in sorted(sightings, key=lambda one: one.time):
        identity, place = identify(one), (one.namespace, one.device)
        first = begun.get(identity)
        if first is None:
            kept.append(one)
            if one.kind is Kind.OUT:
                begun[identity] = _Begun(place, {one.buffer}, set())
            continue
        if one.kind is Kind.OUT and place == first.at:
            repeated.add(identity)
        if one.kind is Kind.OUT and place in first.given_up:
            first.given_up.discard(place)
            first.buffers.add(one.buffer)
        if identity not in repeated or one.buffer in first.buffers:
            kept.append(one)
            first.buffers.add(one.buffer)
            if one.kind in ENDS:
                first.buffers.discard(one.buffer)
                first.given_up.add(place)
    return kept


def first_reports(reports: Sequence[Report]) -> list[Report]:
    """Leave out the rules that later packets of the flow met: of each hook and table the first report counts.

    A report that says no devices goes with the one before it.
    """
    kept: list[Report] = []
    known: dict[Hashable, tuple[int, int, bytes]] = {}
    counts = True
    for report in reports:
        hit = report.what
        if isinstance(hit, Hit) and (hit.iif or hit.oif or hit.src):
            place = (report.namespace, *hit.place, hit.iif, hit.oif, hit.src)
            who = hit.ident, hit.protocol, hit.src
            counts = (place not in known) or bool(hit.number and known[place] == who)
            known.setdefault(place, who)
        if counts or not isinstance(hit, Hit):
            kept.append(report)
    return kept


def asked(first: Sighting, flow: Flow) -> Question:
    """Return the question that would have sent a packet like this."""
    owner = names.find_owner(first.namespace)
    ip, rest = (*innermost(first.headers), None, None)[:2]
    assert isinstance(ip, Ip)  # else the programs had not seen it
    kinds = {Tcp: Protocol.TCP, Udp: Protocol.UDP}
    port = rest.dport if isinstance(rest, (Tcp, Udp)) else 0
    options = Options(size=ip.length, dont_fragment=ip.dont_fragment, ttl=ip.ttl, wait=flow.wait)
    source = owner.name if owner else first.namespace
    return Question(source, str(ip.dst), ip.dst, kinds.get(type(rest), Protocol.ICMP), port, options)


def heard_by(sightings: Sequence[Sighting], namespace: str) -> Heard:
    """Return what came back to the sender: a TCP segment that resets the connection refuses it."""
    for one in sightings:
        if one.namespace == namespace and one.kind is Kind.IN and is_answer(one):
            rest = (*innermost(one.headers), None)[1]
            return Heard(Reply.REFUSED if isinstance(rest, Tcp) and "R" in rest.flags else Reply.ANSWER)
    return Heard(Reply.NONE)
