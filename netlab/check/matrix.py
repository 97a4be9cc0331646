"""Who should reach whom: the probes, what is expected of each, what an answer means. Pure.

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
from ipaddress import ip_address

from netlab import names
from netlab.check.model import Answer, Finding, Member, Outcome, Probe, Report, Result, Selection, Verdict
from netlab.check.sample import spread
from netlab.errors import StoreError, UsageError
from netlab.plan.underlay import router_address
from netlab.store.store import Snapshot
from netlab.topology.model import (
    Address,
    BridgeBackend,
    Check,
    Expect,
    HostGwBackend,
    Node,
    Pod,
    Router,
    Topology,
)

LIMIT = 20_000  # probes; more pairs than that are sampled
WANTED = {
    Expect.REACHABLE: Outcome.ANSWERED,
    Expect.UNREACHABLE: Outcome.FAILED,
    Expect.TOO_BIG: Outcome.TOO_BIG,
}

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
    return Member(
        node.name, netns, node.name, netns, node.segment, on_pod_network=False, addresses=_known(node, addresses)
    )


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
    targets = [everybody[pod.name] for pod in topology.own_pods]
    sources = targets + [everybody[node.name] for node in topology.cluster_nodes]
    total = _count(sources, targets)
    if total <= limit:
        chosen = ((source, target) for source in sources for target in targets if source is not target)
    else:
        places = [member.node for member in sources], [member.node for member in targets]
        spread_pairs = spread(*places, count=max(1, limit // max(1, len(topology.families))))
        chosen = ((sources[source], targets[target]) for source, target in sorted(spread_pairs))
    return Selection(tuple(probe for pair in chosen for probe in _pair(topology, *pair)), total)


def _count(sources: Sequence[Member], targets: Sequence[Member]) -> int:
    """Count the probes that all pairs need, without making them."""
    sending, asked = Counter(member.versions for member in sources), Counter(member.versions for member in targets)
    crossed = sum(len(a & b) * n * m for a, n in sending.items() for b, m in asked.items())
    return crossed - sum(len(target.versions) for target in targets)  # nobody asks itself; every target is a source


def _pair(topology: Topology, source: Member, target: Member) -> Iterator[Probe]:
    why = by_design(topology, source, target)
    for address in target.addresses:
        if address.version in source.versions:
            yield Probe(source, target, address.version, address, by_design=why)


def stated(topology: Topology, snapshot: Snapshot) -> tuple[Probe, ...]:
    """Return the probes of the topology's `checks:`, one for each IP version that both ends have, in file order.

    Raises UsageError for a check whose ends are unknown or have no IP version in common.
    """
    everybody = members(topology, snapshot)
    return tuple(probe for check in topology.checks for probe in _check(check, everybody))


def _check(check: Check, everybody: Mapping[str, Member]) -> list[Probe]:
    subject = f"check {check.source} -> {check.target}"
    source, target = everybody.get(check.source), everybody.get(check.target) or _stranger(check.target)
    if source is None or target is None:
        missing = check.target if source else check.source
        raise UsageError(
            f"{subject}: there is no {missing}", "name a node, a router, a pod or, as target, an IP address"
        )
    found = []
    for version in sorted(source.versions & target.versions):
        address = target.find_address(version)
        assert address is not None  # the version is among the target's
        found.append(Probe(source, target, version, address, check.protocol, check.port, check.size, check.expect))
    if not found:
        raise UsageError(f"{subject}: they have no IP version in common", "give both IPv4 or both IPv6 addresses")
    return found


def _stranger(text: str) -> Member | None:
    """Return a target that is an address and nothing more; None when the text is none."""
    try:
        return Member(text, "", "", "", "", on_pod_network=False, addresses=(ip_address(text),))
    except ValueError:
        return None


# --- what is expected ------------------------------------------------------------------------------------------------


def by_design(topology: Topology, source: Member, target: Member) -> str:
    """Say why the backend cannot let one member reach another; empty where it can.

    A node's own address is on the underlay: a pod reaches it by masquerading, whatever the backend (facts.md 9.3).
    """
    if source.node == target.node or not (source.on_pod_network or target.on_pod_network):
        return ""
    cannot = _limit_of_backend(topology, source, target)
    if not cannot or target.on_pod_network:
        return cannot
    return "" if topology.ip_masq else f"{cannot}, and without ipMasq no answer finds its way back to the pod"


def _limit_of_backend(topology: Topology, source: Member, target: Member) -> str:
    """Say why a backend cannot carry pods' packets between two nodes; empty where it can."""
    match topology.backend:
        case BridgeBackend():
            return "the bridge backend joins the pods of one node only"
        case HostGwBackend() if source.segment != target.segment:
            one, other = sorted((source.segment, target.segment))
            return f"host-gw needs the next hop on the same link, and {one} and {other} are two"
    return ""


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
