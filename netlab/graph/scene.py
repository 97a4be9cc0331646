"""What a picture of a lab shows, before any format is chosen: `compose` makes a Scene, each renderer draws it.

A scene holds text that is ready to be read, in the order of the topology file, so the three formats say the same words
and the same input gives the same picture. What is not allocated yet is simply absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from netlab.overlay import overlay_of
from netlab.overlay.backend import POD_BRIDGE, UPLINK
from netlab.overlay.ipip import DEVICE as IPIP_DEVICE
from netlab.overlay.ipip import IpipOverlay
from netlab.overlay.udp import DEVICE as UDP_DEVICE
from netlab.overlay.udp import UdpOverlay
from netlab.overlay.vxlan import HEADROOM, VxlanOverlay
from netlab.plan.build import gateway_of
from netlab.plan.underlay import router_address
from netlab.store.store import Lease, Snapshot
from netlab.topology import model
from netlab.topology.model import BridgeBackend, HostGwBackend, IpipBackend, Role, Topology, UdpBackend, VxlanBackend

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
class RouterPort:
    """A router's interface in a segment, which is named by its position in the scene."""

    segment: int
    interface: Interface


@dataclass(frozen=True, slots=True)
class RouterBox:
    """A router and its interfaces, in the order of the scene's segments."""

    name: str
    ports: tuple[RouterPort, ...]

    @property
    def segments(self) -> tuple[int, ...]:
        """Return the positions of the segments that the router joins, ascending."""
        return tuple(port.segment for port in self.ports)


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
    is_small = len(topology.pods) <= FULL_PODS_MAX and len(topology.nodes) <= FULL_NODES_MAX
    return Scene(
        name=topology.name,
        facts=_facts(topology),
        segments=segments,
        routers=tuple(_router(topology, router) for router in topology.routers),
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
        uplink=Interface(UPLINK, _texts(addresses)),
        pod_cidrs=_texts(lease.pod_cidrs) if lease else (),
        bridge=_bridge(lease) if in_cluster else None,
        tunnels=_tunnels(topology, lease) if in_cluster else (),
        pods=tuple(_pod(snapshot, pod) for pod in pods),
        pod_mtu=overlay_of(topology.backend).pod_mtu(topology.segment(node.segment).mtu),
    )


def _pod(snapshot: Snapshot, pod: model.Pod) -> PodBox:
    addresses = () if pod.host_network else snapshot.pods.get(pod.name, pod.addresses)
    labels = tuple(f"{key}={value}" for key, value in pod.labels)
    return PodBox(pod.name, _texts(addresses), pod.host_network, labels)


def _bridge(lease: Lease | None) -> Interface:
    """Return the bridge, which is the gateway of the node's pods."""
    cidrs = lease.pod_cidrs if lease else ()
    return Interface(POD_BRIDGE, tuple(f"{gateway_of(cidr)}/{cidr.prefixlen}" for cidr in cidrs))


def _tunnels(topology: Topology, lease: Lease | None) -> tuple[Interface, ...]:
    """Return the overlay's devices, each on its podCIDR's first address, alone (facts.md 1.10 and 1.12)."""
    match overlay_of(topology.backend):
        case VxlanOverlay() as overlay:
            names = {version: overlay.device(version) for version in topology.families}
        case IpipOverlay():
            names = {4: IPIP_DEVICE}
        case UdpOverlay():
            names = {4: UDP_DEVICE}
        case _:
            names = {}
    if lease is None:
        return tuple(Interface(name, ()) for name in names.values())
    return tuple(
        Interface(names[cidr.version], (str(cidr.network_address),))
        for cidr in lease.pod_cidrs
        if cidr.version in names and lease.public_ip(cidr.version)
    )


def _router(topology: Topology, router: model.Router) -> RouterBox:
    ports = [
        RouterPort(
            position,
            Interface(
                f"eth{router.segments.index(segment.name)}",
                _texts(router_address(topology, router, cidr, segment.name) for cidr in segment.cidrs),
            ),
        )
        for position, segment in enumerate(topology.segments)
        if segment.name in router.segments
    ]
    return RouterBox(router.name, tuple(ports))


def _overlay(topology: Topology) -> Overlay:
    backend = topology.backend
    match backend:
        case VxlanBackend():
            how = [f"VNI {backend.vni}", f"UDP port {backend.port}"]
        case IpipBackend():
            how = ["IP protocol 4"]
        case UdpBackend():
            how = [f"UDP port {backend.port}", f"forwarder {backend.forwarder}"]
        case HostGwBackend():
            how = ["plain routes inside a segment"]
        case BridgeBackend():
            how = ["no path between nodes"]
    tunnelled = isinstance(backend, VxlanBackend | IpipBackend | UdpBackend)
    if isinstance(backend, VxlanBackend | IpipBackend) and backend.direct_routing:
        how.append("DirectRouting: no tunnel inside a segment")
    return Overlay(backend.type, (*how, _overhead(topology), f"pod MTU {_pod_mtus(topology)}"), tunnelled)


def _overhead(topology: Topology) -> str:
    overhead = count(overlay_of(topology.backend).overhead, "byte")
    has_vxlan6 = isinstance(topology.backend, VxlanBackend) and 6 in topology.families
    return f"overhead {overhead}" + (f" ({HEADROOM[6]} over IPv6)" if has_vxlan6 else "")  # flannel counts 50 for both


def _pod_mtus(topology: Topology) -> str:
    """Return the pods' MTU, or the smallest and the largest where segments differ."""
    in_use = {node.segment for node in topology.cluster_nodes}
    overlay = overlay_of(topology.backend)
    mtus = sorted(overlay.pod_mtu(segment.mtu) for segment in topology.segments if segment.name in in_use)
    return " to ".join(_texts(dict.fromkeys([mtus[0], mtus[-1]]))) if mtus else "unknown"
