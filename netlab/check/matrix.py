"""Who should reach whom: members, probes, expectations, verdicts. Pure.

Read in order: `members` (who there is), `pairs` and `stated` (what is asked), `by_design` (what the backend cannot do);
`netlab.kernel.probe` asks; `judge` and `report` say what the answers mean. `netlab.check.text` prints a report.

What is expected of a pair:
  - everything reaches everything, except what the backend cannot do by design: bridge between nodes, host-gw between
    segments. That it fails is right (`Result.BY_DESIGN`, a `-` in the matrix, no failure).
  - if such a pair does reach each other, somebody built a way of their own, which is what a lab is for: it is reported
    (`Result.AGAINST_DESIGN`, `ok!`) and is no failure. Who wants it to be one writes it into `checks:` as unreachable.
  - a check of the topology's `checks:` section is judged by its own `expect`, whatever the backend.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from netlab import names
from netlab.check.sample import spread
from netlab.errors import StoreError, UsageError
from netlab.plan.underlay import first_hops, router_address
from netlab.store.store import Snapshot
from netlab.topology.model import (
    Address,
    BridgeBackend,
    Check,
    CheckProtocol,
    Expect,
    HostGwBackend,
    IpipBackend,
    Node,
    Pod,
    Role,
    Router,
    Topology,
)

LIMIT = 20_000  # probes; more pairs than that are sampled


@dataclass(frozen=True, slots=True)
class Member:
    """A source or target of probes. A hostNetwork pod has its node's namespace and addresses.

    `node` is a machine's own name or that of the node a pod runs on; `node_netns` is that machine's namespace.
    `on_pod_network` says whether the addresses are from a podCIDR, and not the underlay's.
    """

    name: str
    netns: str
    node: str
    node_netns: str
    segment: str
    on_pod_network: bool
    addresses: tuple[Address, ...]

    def find_address(self, version: int) -> Address | None:
        """Return the first address of that IP version."""
        return next((address for address in self.addresses if address.version == version), None)

    @property
    def versions(self) -> frozenset[int]:
        """Return the IP versions that the member has addresses of."""
        return frozenset(address.version for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Probe:
    """One question. `family` is the IP version, `size` the whole IP packet in bytes (sent with don't-fragment).

    `by_design` says why the backend cannot do it; empty where it should work.
    """

    source: Member
    target: Member
    family: int
    address: Address
    protocol: CheckProtocol = CheckProtocol.ICMP
    port: int | None = None
    size: int | None = None
    expect: Expect = Expect.REACHABLE
    by_design: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The pairs to probe, and how many probes all pairs would have needed."""

    probes: tuple[Probe, ...]
    total: int


class Outcome(StrEnum):
    """What happened to a probe."""

    ANSWERED = "answered"
    TOO_BIG = "too-big"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe saw: `seconds` is the round trip of an answered one, `reason` why it was not."""

    outcome: Outcome
    seconds: float | None = None
    reason: str = ""


class Result(StrEnum):
    """What a probe's answer means."""

    OK = "ok"
    FAIL = "fail"
    BY_DESIGN = "by-design"
    AGAINST_DESIGN = "against-design"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one probe; `reason` says why it failed, or what was seen where a failure was expected."""

    result: Result
    seconds: float | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Say whether things are as expected."""
        return self.result is not Result.FAIL


@dataclass(frozen=True, slots=True)
class Finding:
    """A probe and its verdict."""

    probe: Probe
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a check found. `total` counts the probes that all pairs would need, `seconds` is the wall time."""

    lab: str
    pairs: tuple[Finding, ...]
    checks: tuple[Finding, ...]
    total: int
    seconds: float

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Return what is not as expected: pairs, then checks."""
        return tuple(finding for finding in (*self.pairs, *self.checks) if not finding.verdict.ok)

    @property
    def probes(self) -> int:
        """Return how many probes were sent."""
        return len(self.pairs) + len(self.checks)

    @property
    def sampled(self) -> bool:
        """Say whether only a part of the pairs was probed."""
        return len(self.pairs) < self.total

    @property
    def ok(self) -> bool:
        """Say whether everything is as expected."""
        return not self.failures


# --- who there is ----------------------------------------------------------------------------------------------------


def members(topology: Topology, snapshot: Snapshot) -> dict[str, Member]:
    """Return everybody who can send or be asked, by name. Raises StoreError where addresses are missing."""
    found = {router.name: _router(topology, router) for router in topology.routers}
    for node in topology.nodes:
        found[node.name] = _machine(topology, snapshot, node)
    for pod in topology.pods:
        found[pod.name] = _pod(topology, snapshot, pod, found[pod.node])
    return found


def _router(topology: Topology, router: Router) -> Member:
    netns = names.netns(topology.name, router.name)
    addresses = tuple(
        router_address(topology, router, cidr, segment)
        for segment in router.segments
        for cidr in topology.segment(segment).cidrs
    )
    return Member(router.name, netns, router.name, netns, router.segments[0], on_pod_network=False, addresses=addresses)


def _machine(topology: Topology, snapshot: Snapshot, node: Node) -> Member:
    lease = snapshot.leases.get(node.name)
    addresses = lease.public_ips if lease else snapshot.machines.get(node.name)
    netns = names.netns(topology.name, node.name)
    return Member(node.name, netns, node.name, netns, node.segment, on_pod_network=False, addresses=_known(node, addresses))


def _pod(topology: Topology, snapshot: Snapshot, pod: Pod, node: Member) -> Member:
    if pod.host_network:
        return Member(pod.name, node.netns, node.name, node.netns, node.segment, False, node.addresses)
    netns = names.netns(topology.name, pod.name)
    addresses = _known(pod, snapshot.pods.get(pod.name))
    return Member(pod.name, netns, node.name, node.netns, node.segment, on_pod_network=True, addresses=addresses)


def _known(owner: Node | Pod, addresses: tuple[Address, ...] | None) -> tuple[Address, ...]:
    if addresses is None:
        raise StoreError(f"{owner.name} has no address yet", "`netlab up` the file first")
    return addresses


# --- what is asked ---------------------------------------------------------------------------------------------------


def pairs(topology: Topology, snapshot: Snapshot, limit: int = LIMIT) -> Selection:
    """Return probes from every pod and cluster node to every pod, in every IP version that both have.

    Where that is more than `limit`, return a sample that is spread evenly and always the same: each source and each
    target at least once and every pair of nodes, as far as the limit goes (`netlab.check.sample`).
    """
    everybody = members(topology, snapshot)
    targets = [everybody[pod.name] for pod in topology.pods]
    sources = targets + [everybody[node.name] for node in topology.cluster_nodes]
    total = _count(sources, targets)
    if total <= limit:
        chosen = ((source, target) for source in sources for target in targets if source is not target)
    else:
        places = [member.node for member in sources], [member.node for member in targets]
        spread_pairs = spread(*places, count=max(1, limit // max(1, len(topology.families))))
        chosen = ((sources[source], targets[target]) for source, target in spread_pairs)
    return Selection(tuple(probe for pair in chosen for probe in _pair(topology, *pair)), total)


def _count(sources: Sequence[Member], targets: Sequence[Member]) -> int:
    """Count the probes that all pairs need, without making them."""
    sending, asked = Counter(member.versions for member in sources), Counter(member.versions for member in targets)
    crossed = sum(len(a & b) * n * m for a, n in sending.items() for b, m in asked.items())
    return crossed - sum(len(target.versions) for target in targets)  # nobody asks itself; every target is a source


def _pair(topology: Topology, source: Member, target: Member) -> Iterator[Probe]:
    for address in target.addresses:
        if address.version in source.versions:
            why = by_design(topology, source, target, address.version)
            yield Probe(source, target, address.version, address, by_design=why)


def stated(topology: Topology, snapshot: Snapshot) -> tuple[Probe, ...]:
    """Return the probes of the topology's `checks:`, one for each IP version that both ends have, in file order.

    Raises UsageError for a check whose ends are unknown or have no IP version in common.
    """
    everybody = members(topology, snapshot)
    return tuple(probe for check in topology.checks for probe in _check(check, everybody))


def _check(check: Check, everybody: Mapping[str, Member]) -> list[Probe]:
    subject = f"check {check.source} -> {check.target}"
    for name in (check.source, check.target):
        if name not in everybody:
            raise UsageError(f"{subject}: there is no {name}", "name a node, router or pod")
    source, target = everybody[check.source], everybody[check.target]
    found = []
    for version in sorted(source.versions & target.versions):
        address = target.find_address(version)
        assert address is not None  # the version is among the target's
        found.append(Probe(source, target, version, address, check.protocol, check.port, check.size, check.expect))
    if not found:
        raise UsageError(f"{subject}: they have no IP version in common", "give both IPv4 or both IPv6 addresses")
    return found


# --- what is expected ------------------------------------------------------------------------------------------------


def by_design(topology: Topology, source: Member, target: Member, version: int) -> str:
    """Say why the backend cannot let one member reach another; empty where it can.

    A node's own address is on the underlay: a pod reaches it by masquerading, whatever the backend (facts.md 9.3).
    """
    if source.node == target.node:
        return ""
    if source.segment != target.segment and target.segment not in first_hops(topology, source.segment):
        return f"no router leads from segment {source.segment} to segment {target.segment}"
    if not (source.on_pod_network or target.on_pod_network):
        return ""
    cannot = _limit_of_backend(topology, source, target, version)
    if not cannot or target.on_pod_network:
        return cannot
    return "" if topology.ip_masq else f"{cannot}, and without ipMasq no answer finds its way back to the pod"


def _limit_of_backend(topology: Topology, source: Member, target: Member, version: int) -> str:
    """Say why a backend cannot carry pods' packets between two nodes; empty where it can."""
    match topology.backend:
        case BridgeBackend():
            return "the bridge backend joins the pods of one node only"
        case HostGwBackend() if source.segment != target.segment:
            return f"host-gw needs the next hop on the same link; segments {source.segment} and {target.segment} differ"
        case IpipBackend() if version == 6:
            return "the ipip backend carries IPv4 only"
    return ""


WANTED = {
    Expect.REACHABLE: Outcome.ANSWERED,
    Expect.UNREACHABLE: Outcome.FAILED,
    Expect.TOO_BIG: Outcome.TOO_BIG,
}


def judge(probe: Probe, answer: Answer) -> Verdict:
    """Compare what a probe saw with what was expected of it."""
    if probe.by_design:
        answered = answer.outcome is Outcome.ANSWERED
        result = Result.AGAINST_DESIGN if answered else Result.BY_DESIGN
        return Verdict(result, answer.seconds, probe.by_design if answered else answer.reason)
    if answer.outcome is WANTED[probe.expect]:
        return Verdict(Result.OK, answer.seconds, answer.reason)
    seen = "it was answered" if answer.outcome is Outcome.ANSWERED else answer.reason
    return Verdict(Result.FAIL, answer.seconds, seen)


def report(
    topology: Topology, selection: Selection, checks: Sequence[Probe], answers: Sequence[Answer], seconds: float
) -> Report:
    """Judge the answers to a selection's probes followed by those of the checks."""
    probes = (*selection.probes, *checks)
    findings = [Finding(probe, judge(probe, answer)) for probe, answer in zip(probes, answers, strict=True)]
    count = len(selection.probes)
    return Report(topology.name, tuple(findings[:count]), tuple(findings[count:]), selection.total, seconds)
