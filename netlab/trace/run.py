"""A trace from its question to its answer: arm, send, wait, disarm, look up, explain."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from functools import partial

from netlab import names
from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.lookup import KernelTables
from netlab.kernel.symbols import Symbols
from netlab.kernel.tool import Call, start
from netlab.lab import Lab
from netlab.topology.model import Backend, UdpBackend, VxlanBackend
from netlab.trace.attach import attach_connections, attach_rules
from netlab.trace.connections import Connection
from netlab.trace.correlate import ENDS, Journey, Role, correlate
from netlab.trace.drops import find_drop
from netlab.trace.explain import explain
from netlab.trace.headers import Ports, fragment_offset
from netlab.trace.hits import Hit, Section, sections
from netlab.trace.layout import Direction, Kind, Target
from netlab.trace.model import Places, Trace, Way
from netlab.trace.netfilter_watch import NetfilterWatch, Report, rule_handles
from netlab.trace.places import find_namespaces, find_places
from netlab.trace.probe import Heard, Probe, Reply
from netlab.trace.question import Protocol, Question
from netlab.trace.rule_text import Texts
from netlab.trace.sighting import Sighting
from netlab.trace.sockets import PacketWatch
from netlab.trace.tables import Tables
from netlab.trace.verdict import judge
from netlab.trace.watch import Watch

STEP = 0.005  # seconds between two looks at what was seen
QUIET = 0.02  # seconds without news after which a packet that was answered or dropped has come to its end
FREED_WITH_WHOLE = "skb_release_data"
UNRESOLVED = 4.0  # seconds in which the kernel gives up on a neighbour that does not answer: 3 requests, 1 s each


class Mechanism(StrEnum):
    """How packets are seen. The first that this kernel allows is taken."""

    EBPF = "ebpf"
    SOCKETS = "sockets"


def trace(lab: Lab, question: Question, by: Mechanism | None = None) -> Trace:
    """Send one probe and say what became of it. Raises KernelError or NotSupported."""
    ports = _ports(lab.topology.backend)
    namespaces = find_namespaces(lab)
    with ExitStack() as stack:
        probe = Probe(question, lab.netns(question.source))
        stack.callback(probe.close)
        rules = stack.enter_context(NetfilterWatch(_filtering(lab), probe.cookie))
        target = Target(probe.cookie[:4], frozenset(ports.vxlan), frozenset(ports.tunnel))
        watch, remarks = _watch(target, namespaces, ports, probe, by)
        stack.enter_context(watch)
        heard, sightings = _send(probe, question, watch)
        reasons, seen_by = watch.reasons, watch.seen_by
        reports = list(rules.reports())
    tables = {name: KernelTables(name) for name in sorted({one.namespace for one in sightings if one.namespace})}
    symbols = Symbols()
    journeys = correlate(
        _without_joined(sightings, symbols),
        lambda name, device: tables[name].device(device) if name in tables else None,
    )
    places = find_places(lab)
    ways = _ways(journeys, tables, places, reasons, symbols)
    ways = attach_rules(ways, _sections(reports), _find_text())
    ways = attach_connections(ways, ((one.namespace, one.what) for one in reports if isinstance(one.what, Connection)))
    verdict, summary = judge(question, heard, ways, tables)
    return Trace(lab.name, str(question), verdict, summary, ways, seen_by, remarks)


# --- sending and waiting ---------------------------------------------------------------------------------------------


def _watch(
    target: Target, namespaces: Mapping[int, str], ports: Ports, probe: Probe, by: Mechanism | None
) -> tuple[Watch | PacketWatch, tuple[str, ...]]:
    """Return what sees packets, and remarks on why it is not the best. Raises KernelError."""
    remarks: tuple[str, ...] = ()
    if by is not Mechanism.SOCKETS:
        try:
            return Watch(target, namespaces, ports), ()
        except KernelError as exc:
            if by is Mechanism.EBPF:
                raise
            remarks = (f"eBPF is not to be had: {str(exc).splitlines()[0]}",)
    return PacketWatch(target, namespaces.values(), ports, probe.port), remarks


def _send(probe: Probe, question: Question, watch: Watch | PacketWatch) -> tuple[Heard, list[Sighting]]:
    """Send the probe; return what the sender heard and what was seen until then and a little longer."""
    sightings: list[Sighting] = []

    def look() -> bool:
        """Take in what was seen; say whether there was anything."""
        news = watch.take()
        sightings.extend(news)
        return bool(news)

    heard = probe.send()
    begin = last_news = time.monotonic()
    ready = select.poll()
    ready.register(probe.fileno(), select.POLLOUT if question.protocol is Protocol.TCP else select.POLLIN)
    while True:
        now = time.monotonic()
        if look():
            last_news = now
        if heard is None and ready.poll(STEP * 1000):
            heard = probe.receive()
            continue
        if heard is not None:
            time.sleep(STEP)
        if now - last_news > QUIET and (heard is not None or now - begin > _patience(question, sightings)):
            return heard or Heard(Reply.NONE), sightings


def _patience(question: Question, sightings: Sequence[Sighting]) -> float:
    """Return how many seconds to wait for an answer: longer for a packet that may still be on its way."""
    probes = [one for one in sightings if one.direction is not Direction.BACK]
    on_their_way = {one.buffer for one in probes if one.kind not in ENDS}
    ended = any(one.kind in ENDS and one.buffer in on_their_way for one in probes)
    return question.options.wait if ended else max(question.options.wait, UNRESOLVED)


# --- making sense of it ----------------------------------------------------------------------------------------------


def _without_joined(sightings: Iterable[Sighting], symbols: Symbols) -> list[Sighting]:
    """Have fragments that were freed with the packet that they were joined to end as they should."""
    return [
        replace(one, kind=Kind.CONSUMED)
        if one.kind is Kind.DROPPED and fragment_offset(one.headers) and symbols.name(one.location) == FREED_WITH_WHOLE
        else one
        for one in sightings
    ]


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
        copies = tuple(explain(copy, tables, places, start=start) for copy in journey.copies)
        last = journey.way[-1]
        drop = None
        if last.kind is Kind.DROPPED:
            reason = reasons.get(last.reason, f"reason {last.reason}")
            drop = find_drop(reason, symbols.name(last.location), hops)
        found.append(Way(journey.role, hops, copies, drop))
    return tuple(found)


def _ports(backend: Backend) -> Ports:
    """Return the ports of the lab's tunnels besides the usual ones."""
    usual = Ports()
    if isinstance(backend, VxlanBackend):
        return replace(usual, vxlan={*usual.vxlan, backend.port})
    return replace(usual, tunnel={*usual.tunnel, backend.port}) if isinstance(backend, UdpBackend) else usual


def _filtering(lab: Lab) -> list[str]:
    """Return the namespaces whose rules are traced: those of all but pods."""
    topology = lab.topology
    members = [*(node.name for node in topology.nodes), *(router.name for router in topology.routers)]
    return [name for name in (names.netns(lab.name, member) for member in members) if netns.is_alive(name)]


def _sections(reports: Iterable[Report]) -> list[Section]:
    found: dict[str, list[Hit]] = {}
    for report in reports:
        if isinstance(report.what, Hit):
            found.setdefault(report.namespace, []).append(report.what)
    return [section for name, hits in found.items() for section in sections(name, hits)]


def _find_text() -> Callable[[str, Hit], str]:
    """Return what finds a rule's text, reading each namespace's rules when they are first asked for."""
    texts: dict[str, Texts] = {}

    def run(name: str, argv: Sequence[str]) -> str:
        output, _ = netns.call(name, start, Call(name, tuple(argv), "")).communicate()
        return output

    def find(name: str, hit: Hit) -> str:
        if name not in texts:
            texts[name] = Texts(partial(run, name), partial(rule_handles, name))
        return texts[name].text(hit)

    return find
