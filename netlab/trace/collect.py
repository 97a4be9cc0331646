"""One probe: armed for, sent, waited for and disarmed, with all that was seen and said of it meanwhile."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from netlab import names
from netlab.errors import KernelError
from netlab.found import FoundLab
from netlab.kernel import netns
from netlab.topology.model import Backend, UdpBackend, VxlanBackend
from netlab.trace.correlate import ENDS
from netlab.trace.headers import Ports
from netlab.trace.layout import Direction, Target
from netlab.trace.mark import table
from netlab.trace.netfilter_watch import NetfilterWatch, Report
from netlab.trace.places import find_namespaces
from netlab.trace.probe import Heard, Probe, Reply
from netlab.trace.question import Protocol, Question
from netlab.trace.sighting import Sighting
from netlab.trace.watch import Watch

if TYPE_CHECKING:
    from netlab.trace.counters import CounterWatch
    from netlab.trace.sockets import PacketWatch

    AnyWatch = Watch | PacketWatch | CounterWatch

STEP = 0.001  # seconds between two looks at what was seen
QUIET = 0.005  # seconds without news after which a packet that was answered or dropped has come to its end
UNRESOLVED = 4.0  # seconds in which the kernel gives up on a neighbour that does not answer: 3 requests, 1 s each


class Mechanism(StrEnum):
    """How packets are seen. The first that this kernel allows is taken."""

    EBPF = "ebpf"
    SOCKETS = "sockets"
    COUNTERS = "counters"


NOT_HERE = {Mechanism.EBPF: "eBPF is", Mechanism.SOCKETS: "packet sockets are"}


@dataclass(frozen=True, slots=True)
class Collected:
    """What is known of a probe. `began`: when it was sent, in nanoseconds since the epoch.

    `disarming` takes away what watched; it takes the kernel a while, in which all this can be looked at.
    `reasons` has the kernel's names of why packets are dropped; `remarks` say why packets are not seen better.
    """

    heard: Heard
    sightings: Sequence[Sighting]
    reports: Sequence[Report]
    reasons: Mapping[int, str]
    seen_by: str
    remarks: tuple[str, ...]
    began: int
    disarming: threading.Thread


def collect(lab: FoundLab, question: Question, by: Mechanism | None = None) -> Collected:
    """Send a probe and watch it. Raises KernelError or NotSupported."""
    ports = tunnel_ports(lab.topology.backend)
    with ExitStack() as stack:
        probe = Probe(question, lab.netns(question.source))
        stack.callback(probe.close)
        rules = stack.enter_context(NetfilterWatch(filtering(lab), table(probe.cookie), lab.folder.path))
        target = Target(probe.cookie[:4], frozenset(ports.vxlan), frozenset(ports.tunnel))
        watch, remarks = _watch(lab, question, target, ports, probe, by)
        stack.enter_context(watch)
        began = time.time_ns()
        heard, sightings = _send(probe, question, watch)
        reports = list(rules.reports())
        disarming = threading.Thread(target=stack.pop_all().close)
    disarming.start()
    return Collected(heard, sightings, reports, watch.reasons, watch.seen_by, remarks, began, disarming)


def tunnel_ports(backend: Backend) -> Ports:
    """Return the ports of the lab's tunnels besides the usual ones."""
    usual = Ports()
    if isinstance(backend, VxlanBackend):
        return replace(usual, vxlan={*usual.vxlan, backend.port})
    return replace(usual, tunnel={*usual.tunnel, backend.port}) if isinstance(backend, UdpBackend) else usual


def filtering(lab: FoundLab) -> list[str]:
    """Return the namespaces whose rules are traced: those of all but pods."""
    topology = lab.topology
    members = [*(node.name for node in topology.nodes), *(router.name for router in topology.routers)]
    return [name for name in (names.netns(lab.name, member) for member in members) if netns.is_alive(name)]


def _watch(
    lab: FoundLab, question: Question, target: Target, ports: Ports, probe: Probe, by: Mechanism | None
) -> tuple[AnyWatch, tuple[str, ...]]:
    """Return what sees packets, the best that there is; and remarks on why it is not better. Raises KernelError."""
    namespaces = find_namespaces(lab)
    remarks: list[str] = []

    def by_ebpf() -> AnyWatch:
        return Watch(target, namespaces, ports)

    def by_sockets() -> AnyWatch:
        from netlab.trace.sockets import PacketWatch

        return PacketWatch(target, namespaces.values(), ports, probe.port)

    def by_counters() -> AnyWatch:
        from netlab.trace.counters import CounterWatch
        from netlab.trace.foresee import foresee

        return CounterWatch(namespaces.values(), foresee(lab, question)[0].steps)

    ladder = {Mechanism.EBPF: by_ebpf, Mechanism.SOCKETS: by_sockets, Mechanism.COUNTERS: by_counters}
    for mechanism, step in ladder.items():
        if by in (None, mechanism):
            try:
                return step(), tuple(remarks)
            except KernelError as exc:
                if by or mechanism is Mechanism.COUNTERS:
                    raise
                remarks.append(f"{NOT_HERE[mechanism]} not to be had: {str(exc).splitlines()[0]}")
    raise AssertionError  # the last step returns or raises


def _send(probe: Probe, question: Question, watch: AnyWatch) -> tuple[Heard, list[Sighting]]:
    """Send the probe; return what the sender heard and what was seen until then and a little longer."""
    sightings: list[Sighting] = []

    def look() -> bool:
        """Take in what was seen; say whether there was anything."""
        news = watch.take()
        sightings.extend(news)
        return bool(news)

    def patience() -> float:
        return question.options.wait if watch.tells_at_end else _patience(question, sightings)

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
        if now - last_news > QUIET and (heard is not None or now - begin > patience()):
            return heard or Heard(Reply.NONE), [*sightings, *watch.rest()]


def _patience(question: Question, sightings: Sequence[Sighting]) -> float:
    """Return how many seconds to wait for an answer: longer for a packet that may still be on its way.

    It is not at its end where it was only copied (`skb_expand_head`): it is seen in that namespace again.
    """
    probes = [one for one in sightings if one.direction is not Direction.BACK]
    on_their_way = {one.buffer for one in probes if one.kind not in ENDS}
    last = {one.namespace: place for place, one in enumerate(probes) if one.kind not in ENDS}
    ended = any(
        one.kind in ENDS and one.buffer in on_their_way and last.get(one.namespace, -1) < place
        for place, one in enumerate(probes)
    )
    return question.options.wait if ended else max(question.options.wait, UNRESOLVED)
