"""What a picture of a lab shows, before any format is chosen: `compose` makes a Scene, each renderer draws it.

A scene holds text that is ready to be read, in the order of the topology file, so the three formats say the same words
and the same input gives the same picture. What is not allocated yet is simply absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from netlab.store.store import Lease, Snapshot
from netlab.topology import model
from netlab.topology.model import BridgeBackend, HostGwBackend, IpipBackend, Role, Topology, VxlanBackend

FULL_PODS_MAX = 64
FULL_NODES_MAX = 32


class Detail(Enum):
    """How much of a lab is drawn: every pod with its addresses, or each node with a count of its pods."""

    FULL = auto()
    COMPACT = auto()


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of a node and the addresses on it."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PodBox:
    """A pod. With `host_network` it has no interface of its own. `labels` are `key=value`."""

    name: str
    addresses: tuple[str, ...]
    host_network: bool
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeBox:
    """A machine on a segment. `bridge` and `tunnels` are empty for an external machine; `pod_mtu` is in bytes."""

    name: str
    role: Role
    uplink: Interface
    pod_cidrs: tuple[str, ...]
    bridge: Interface | None
    tunnels: tuple[Interface, ...]
    pods: tuple[PodBox, ...]
    pod_mtu: int

    @property
    def bridged_pods(self) -> tuple[PodBox, ...]:
        """Return the pods that hang on the node's bridge."""
        return tuple(pod for pod in self.pods if not pod.host_network)

    @property
    def host_network_pods(self) -> tuple[PodBox, ...]:
        """Return the pods that share the node's own network."""
        return tuple(pod for pod in self.pods if pod.host_network)

    @property
    def summary(self) -> str:
        """Say how many pods the node has, for a picture that has no room for each."""
        if self.role is Role.EXTERNAL:
            return "external"
        shared = len(self.host_network_pods)
        return count(len(self.pods), "pod") + (f", {shared} hostNetwork" if shared else "")


@dataclass(frozen=True, slots=True)
class SegmentBar:
    """A layer-2 network of the underlay and the nodes on it."""

    name: str
    facts: tuple[str, ...]
    nodes: tuple[NodeBox, ...]

    @property
    def kind(self) -> str:
        """Say in the picture what the bar is."""
        return "underlay"


@dataclass(frozen=True, slots=True)
class RouterBox:
    """A router and the segments that it joins, as positions in the scene's segments, ascending."""

    name: str
    segments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overlay:
    """How pods reach the pods of other nodes. `tunnelled` says whether nodes have a device for it."""

    name: str
    facts: tuple[str, ...]
    tunnelled: bool

    @property
    def kind(self) -> str:
        """Say in the picture what the bar is."""
        return "overlay" if self.tunnelled else "no overlay"


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole lab, ready to be drawn."""

    name: str
    facts: tuple[str, ...]
    segments: tuple[SegmentBar, ...]
    routers: tuple[RouterBox, ...]
    overlay: Overlay
    detail: Detail

    @property
    def nodes(self) -> tuple[NodeBox, ...]:
        """Return every node, segment by segment."""
        return tuple(node for segment in self.segments for node in segment.nodes)


def count(number: int, noun: str) -> str:
    """Return a number and its noun: "1 pod", "2 pods"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def compose(topology: Topology, snapshot: Snapshot) -> Scene:
    """Put a lab and its allocations into words. Nothing needs to be allocated."""
    pods: dict[str, list[model.Pod]] = {}
    for pod in topology.pods:
        pods.setdefault(pod.node, []).append(pod)
    segments = tuple(
        SegmentBar(
            segment.name,
            (*_texts(segment.cidrs), f"MTU {segment.mtu}"),
            tuple(
                _node(topology, snapshot, node, pods.get(node.name, ()))
                for node in topology.nodes
                if node.segment == segment.name
            ),
        )
        for segment in topology.segments
    )
    position = {segment.name: index for index, segment in enumerate(topology.segments)}
    routers = tuple(
        RouterBox(router.name, tuple(sorted(position[name] for name in router.segments))) for router in topology.routers
    )
    is_small = len(topology.pods) <= FULL_PODS_MAX and len(topology.nodes) <= FULL_NODES_MAX
    return Scene(
        name=topology.name,
        facts=_facts(topology),
        segments=segments,
        routers=routers,
        overlay=_overlay(topology),
        detail=Detail.FULL if is_small else Detail.COMPACT,
    )


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _facts(topology: Topology) -> tuple[str, ...]:
    external = len(topology.nodes) - len(topology.cluster_nodes)
    return (
        count(len(topology.cluster_nodes), "node"),
        *([f"{external} external"] if external else []),
        *([count(len(topology.routers), "router")] if topology.routers else []),
        count(len(topology.pods), "pod"),
        *(f"clusterCIDR {cidr}" for cidr in topology.cluster_cidrs),
        *(f"serviceCIDR {cidr}" for cidr in topology.service_cidrs),
    )


def _node(topology: Topology, snapshot: Snapshot, node: model.Node, pods: Iterable[model.Pod]) -> NodeBox:
    lease = snapshot.leases.get(node.name)
    addresses = lease.public_ips if lease else snapshot.machines.get(node.name, node.addresses)
    in_cluster = node.role is Role.CLUSTER
    return NodeBox(
        name=node.name,
        role=node.role,
        uplink=Interface("eth0", _texts(addresses)),
        pod_cidrs=_texts(lease.pod_cidrs) if lease else (),
        bridge=_bridge(lease) if in_cluster else None,
        tunnels=_tunnels(topology, lease) if in_cluster else (),
        pods=tuple(_pod(snapshot, pod) for pod in pods),
        pod_mtu=_pod_mtu(topology, topology.segment(node.segment)),
    )


def _pod(snapshot: Snapshot, pod: model.Pod) -> PodBox:
    addresses = () if pod.host_network else snapshot.pods.get(pod.name, pod.addresses)
    labels = tuple(f"{key}={value}" for key, value in pod.labels)
    return PodBox(pod.name, _texts(addresses), pod.host_network, labels)


def _bridge(lease: Lease | None) -> Interface:
    """Return cni0: the gateway of the node's pods, on the first address of each podCIDR (facts.md 2.6)."""
    cidrs = lease.pod_cidrs if lease else ()
    return Interface("cni0", tuple(f"{cidr.network_address + 1}/{cidr.prefixlen}" for cidr in cidrs))


def _tunnels(topology: Topology, lease: Lease | None) -> tuple[Interface, ...]:
    """Return the overlay's devices, each on its podCIDR's first address, alone (facts.md 1.10 and 1.12)."""
    match topology.backend:
        case VxlanBackend(vni=vni):
            names = {4: f"flannel.{vni}", 6: f"flannel-v6.{vni}"}
        case IpipBackend():
            names = {4: "flannel.ipip"}
        case _:
            names = {}
    return tuple(
        Interface(names[version], _texts([cidr.network_address]) if cidr else ())
        for version in topology.families
        if version in names
        for cidr in [lease.pod_cidr(version) if lease else None]
    )


def _overhead(backend: model.Backend) -> int:
    """Return the bytes that the backend adds to a packet (facts.md 9.1); flannel counts 50 for VXLAN over IPv6 too."""
    match backend:
        case VxlanBackend():
            return 50
        case IpipBackend():
            return 20
        case _:
            return 0


def _pod_mtu(topology: Topology, segment: model.Segment) -> int:
    backend = topology.backend
    underlay = backend.mtu if isinstance(backend, VxlanBackend) and backend.mtu else segment.mtu
    return underlay - _overhead(backend)


def _overlay(topology: Topology) -> Overlay:
    backend = topology.backend
    match backend:
        case VxlanBackend():
            how = [f"VNI {backend.vni}", f"UDP port {backend.port}"]
        case IpipBackend():
            how = ["IP protocol 4"]
        case HostGwBackend():
            how = ["plain routes inside a segment"]
        case BridgeBackend():
            how = ["no path between nodes"]
    if isinstance(backend, VxlanBackend | IpipBackend) and backend.direct_routing:
        how.append("DirectRouting: no tunnel inside a segment")
    return Overlay(
        name=backend.type,
        facts=(*how, f"overhead {count(_overhead(backend), 'byte')}", f"pod MTU {_pod_mtus(topology)}"),
        tunnelled=isinstance(backend, VxlanBackend | IpipBackend),
    )


def _pod_mtus(topology: Topology) -> str:
    in_use = {node.segment for node in topology.cluster_nodes}
    mtus = sorted({_pod_mtu(topology, segment) for segment in topology.segments if segment.name in in_use})
    return " to ".join(_texts(dict.fromkeys([mtus[0], mtus[-1]]))) if mtus else "unknown"
