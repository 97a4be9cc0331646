"""The ways of a trace that a picture can show, each with a name, and which part of the lab they are about. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netlab.graph.scene import Detail, NodeBox, RouterBox, RouterPort, Scene, SegmentBar, count
from netlab.trace.correlate import Role
from netlab.trace.headers import Ip
from netlab.trace.model import Drop, Hop, Trace, Way

TITLES = {
    Role.PROBE: "there",
    Role.FRAGMENT: "fragment",
    Role.ANSWER: "back",
    Role.ANSWER_FRAGMENT: "back, fragment",
    Role.ERROR: "ICMP error",
    Role.MORE: "later packet",
}
FORWARD = (Role.PROBE, Role.FRAGMENT)
WHOLE_NODES, WHOLE_PODS = 3, 12  # a lab of this size is drawn whole
NODES_WITH_COPIES = 6
NODE_PODS = 6  # a node's, that are drawn though the packet meets none of them


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at: its name, its hops, what it branched off from if it is a copy's, and how it ended."""

    title: str
    role: Role
    hops: tuple[Hop, ...]
    drop: Drop | None = None
    follows: Hop | None = None
    is_copy: bool = False

    @property
    def is_back(self) -> bool:
        """Whether it goes to the probe's sender."""
        return self.role not in FORWARD

    def before(self, step: int) -> Hop | None:
        """Return the hop before one of them."""
        return self.hops[step - 1] if step else self.follows


def views(trace: Trace) -> tuple[View, ...]:
    """Return all ways and their copies, in the order in which they began."""
    totals = Counter(way.role for way in trace.ways)
    seen: Counter[Role] = Counter()
    found: list[View] = []
    for way in trace.ways:
        seen[way.role] += 1
        found += _views(way, seen[way.role], totals[way.role])
    return tuple(view for view in found if view.hops)


def _views(way: Way, number: int, total: int) -> Iterator[View]:
    title = TITLES.get(way.role, str(way.role))
    if way.role in (Role.FRAGMENT, Role.ANSWER_FRAGMENT):
        title = f"{title} {number + 1}"  # the first travels as the packet itself
    elif total > 1:
        title = f"{title} {number}"
    yield View(title, way.role, way.hops, way.drop)
    for copy in way.copies:
        whose = copy[-1].member if copy else ""
        yield View(f"{title}: copy to {whose}", way.role, copy, follows=_branching(way, copy), is_copy=True)


def _branching(way: Way, copy: Sequence[Hop]) -> Hop | None:
    """Return the hop that a copy was made at: the last before it in its namespace."""
    before = [hop for hop in way.hops if copy and hop.namespace == copy[0].namespace and hop.time <= copy[0].time]
    return before[-1] if before else None


# --- which part of the lab -------------------------------------------------------------------------------------------


def owners(scene: Scene) -> dict[str, str]:
    """Return whose each address is, as words."""
    found: dict[str, str] = {}
    for router in scene.routers:
        found |= {address: f"router {router.name}" for port in router.ports for address in port.interface.addresses}
    for node in scene.nodes:
        found |= dict.fromkeys(node.uplink.addresses, f"node {node.name}")
        devices = (*([node.bridge] if node.bridge else []), *node.tunnels)
        found |= {address: f"{one.name} of {node.name}" for one in devices for address in one.addresses}
        found |= {address: f"pod {pod.name}" for pod in node.pods for address in pod.addresses}
    return {address.partition("/")[0]: whose for address, whose in found.items()}


def focus(scene: Scene, trace: Trace) -> Scene:
    """Return a scene of what a trace is about, in full detail: a small lab whole, else what the packet met."""
    pods = sum(len(node.pods) for node in scene.nodes)
    if len(scene.nodes) <= WHOLE_NODES and pods <= WHOLE_PODS:
        return scene
    copies = {hop.member for way in trace.ways for copy in way.copies for hop in copy}
    met = {hop.member for way in trace.ways for hop in way.hops} | _addressed(trace, owners(scene))
    wider = met | copies
    is_few = sum(_is_met(node, wider) for node in scene.nodes) <= NODES_WITH_COPIES
    kept = _only(scene, wider if is_few else met)
    drawn, all_nodes = len(kept.nodes), len(scene.nodes)
    if not drawn or drawn == all_nodes:
        return replace(_only(scene, met | {node.name for node in scene.nodes}), facts=scene.facts)
    return replace(kept, facts=(f"{drawn} of {count(all_nodes, 'node')} drawn",))


def _addressed(trace: Trace, whose: Mapping[str, str]) -> set[str]:
    """Return the members that the packets' addresses are of, also if no packet came there."""
    hops = (hop for way in trace.ways for hop in way.hops)
    addresses = {str(end) for hop in hops for header in hop.headers if isinstance(header, Ip) for end in _ends(header)}
    return {whose[address].rpartition(" ")[2] for address in addresses if address in whose}


def _ends(header: Ip) -> tuple[object, object]:
    return header.src, header.dst


def _is_met(node: NodeBox, members: set[str]) -> bool:
    return node.name in members or any(pod.name in members for pod in node.pods)


def _only(scene: Scene, members: set[str]) -> Scene:
    """Return a scene without the nodes, routers and segments that have to do with none of the members."""
    routers = [router for router in scene.routers if router.name in members]
    wanted = {port.segment for router in routers for port in router.ports}
    segments: list[SegmentBar] = []
    positions: dict[int, int] = {}
    for index, segment in enumerate(scene.segments):
        nodes = tuple(_slim(node, members) for node in segment.nodes if _is_met(node, members))
        if nodes or index in wanted:
            positions[index] = len(segments)
            segments.append(replace(segment, nodes=nodes))
    return replace(
        scene,
        segments=tuple(segments),
        routers=tuple(_moved(router, positions) for router in routers),
        detail=Detail.FULL,
    )


def _slim(node: NodeBox, members: set[str]) -> NodeBox:
    if len(node.pods) <= NODE_PODS:
        return node
    return replace(node, pods=tuple(pod for pod in node.pods if pod.name in members))


def _moved(router: RouterBox, positions: Mapping[int, int]) -> RouterBox:
    return replace(router, ports=tuple(RouterPort(positions[port.segment], port.interface) for port in router.ports))
