"""What a lab is, as frozen values. Everything here is already valid: `topology.load` made it, or nobody did.

No defaults are left open and no short forms remain: `replicas` are single pods, every pod knows its node, every
node its segment. Addresses that the user did not choose are absent; the store allocates them (`store.store`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from netlab.topology.addresses import Address, Network
from netlab.topology.pod import SYSTEM, Container, ContainerPort, DnsPolicy, EnvVar, HostAlias, HttpGet, Pod, Probe
from netlab.topology.service import EndpointSlice, Service

__all__ = [  # the parts that have modules of their own
    "Address",
    "Container",
    "ContainerPort",
    "DnsPolicy",
    "EndpointSlice",
    "EnvVar",
    "HostAlias",
    "HttpGet",
    "Network",
    "Pod",
    "Probe",
    "Service",
]


class Proxy(StrEnum):
    """How nodes carry out Services: kube-proxy's mode; `none` for no Services and no cluster DNS."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"
    IPVS = "ipvs"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class NodePortAddresses:
    """Which of their addresses nodes have NodePorts at; neither of the two is each mode's default."""

    primary: bool = False  # a node's own, of the underlay, alone
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class KubeProxy:
    """What may be chosen of kube-proxy's configuration beside its mode (KubeProxyConfiguration), with its defaults."""

    node_port_addresses: NodePortAddresses = NodePortAddresses()
    masquerade_all: bool = False  # of modes iptables and ipvs
    nftables_masquerade_all: bool = False
    localhost_node_ports: bool = True
    tcp_be_liberal: bool = False


@dataclass(frozen=True, slots=True)
class Ipvs:
    """How nodes in mode ipvs balance, as in kube-proxy's configuration."""

    scheduler: str = "rr"
    strict_arp: bool = False


class Netfilter(StrEnum):
    """Which packet filter carries the masquerade rules: flannel's EnableNFTables."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


class ForwarderKind(StrEnum):
    """Which program carries packets in the backend udp; `auto` is the fastest that the machine allows."""

    AUTO = "auto"
    SIMPLE = "simple"
    BATCHED = "batched"
    EBPF = "ebpf"


class Role(StrEnum):
    """A member of the cluster, or a free machine beside it (no pods, no lease)."""

    CLUSTER = "cluster"
    EXTERNAL = "external"


class Expect(StrEnum):
    """What a check must see."""

    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    TOO_BIG = "too-big"


class CheckProtocol(StrEnum):
    """What a check sends."""

    ICMP = "icmp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class BridgeBackend:
    """No overlay: pods reach the pods of their own node only (flannel's `alloc`)."""

    type: ClassVar[str] = "bridge"


@dataclass(frozen=True, slots=True)
class VxlanBackend:
    """flannel's vxlan backend and its options (facts.md 1.10). `mtu` is the underlay's, before the overhead."""

    type: ClassVar[str] = "vxlan"
    vni: int = 1
    port: int = 8472
    direct_routing: bool = False
    mtu: int | None = None
    learning: bool = False
    gbp: bool = False


@dataclass(frozen=True, slots=True)
class HostGwBackend:
    """flannel's host-gw backend: plain routes between nodes of one segment (facts.md 1.11)."""

    type: ClassVar[str] = "host-gw"


@dataclass(frozen=True, slots=True)
class IpipBackend:
    """flannel's ipip backend (facts.md 1.12)."""

    type: ClassVar[str] = "ipip"
    direct_routing: bool = False


@dataclass(frozen=True, slots=True)
class UdpBackend:
    """flannel's udp backend (facts.md 1.9): a process on each node carries pods' packets in UDP datagrams."""

    type: ClassVar[str] = "udp"
    port: int = 8285
    forwarder: ForwarderKind = ForwarderKind.AUTO


Backend = BridgeBackend | VxlanBackend | HostGwBackend | IpipBackend | UdpBackend


@dataclass(frozen=True, slots=True)
class Segment:
    """One layer-2 network of the underlay. At most one CIDR per family, IPv4 first. MTU in bytes of IP packet."""

    name: str
    cidrs: tuple[Network, ...]
    mtu: int


@dataclass(frozen=True, slots=True)
class Router:
    """A machine that joins segments and forwards between them, with one interface in each."""

    name: str
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A machine on one segment. `addresses` are those the user chose (may be empty)."""

    name: str
    segment: str
    role: Role = Role.CLUSTER
    addresses: tuple[Address, ...] = ()
    proxy: Proxy | None = None  # None: the topology's


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation of the `checks:` section. `size` is the whole IP packet in bytes, sent with don't-fragment."""

    source: str
    target: str
    protocol: CheckProtocol = CheckProtocol.ICMP
    port: int | None = None
    size: int | None = None
    expect: Expect = Expect.REACHABLE


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. CIDR tuples hold at most one network per family, IPv4 first when there is one."""

    name: str
    cluster_cidrs: tuple[Network, ...]
    service_cidrs: tuple[Network, ...]
    node_mask_ipv4: int
    node_mask_ipv6: int
    backend: Backend
    ip_masq: bool
    netfilter: Netfilter
    segments: tuple[Segment, ...]
    routers: tuple[Router, ...]
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    checks: tuple[Check, ...] = ()
    services: tuple[Service, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    proxy: Proxy = Proxy.IPTABLES
    ipvs: Ipvs = Ipvs()
    kube_proxy: KubeProxy = KubeProxy()
    load_balancer_cidrs: tuple[Network, ...] = ()

    @property
    def families(self) -> tuple[int, ...]:
        """Return the IP versions of the pod network: (4,), (6,) or (4, 6)."""
        return tuple(network.version for network in self.cluster_cidrs)

    @property
    def cluster_nodes(self) -> tuple[Node, ...]:
        """Return the nodes that carry pods and hold a lease."""
        return tuple(node for node in self.nodes if node.role is Role.CLUSTER)

    def node_mask(self, version: int) -> int:
        """Return the prefix length of a node's podCIDR for an IP version."""
        return self.node_mask_ipv4 if version == 4 else self.node_mask_ipv6

    def segment(self, name: str) -> Segment:
        """Return the segment of that name."""
        return next(segment for segment in self.segments if segment.name == name)

    def find_pod(self, name: str) -> Pod | None:
        """Return the pod of that name."""
        return next((pod for pod in self.pods if pod.name == name), None)

    @property
    def own_pods(self) -> tuple[Pod, ...]:
        """Return the pods that somebody asked for: not those that every cluster has."""
        return tuple(pod for pod in self.pods if pod.owner != SYSTEM)

    def find_node(self, name: str) -> Node | None:
        """Return the node of that name."""
        return next((node for node in self.nodes if node.name == name), None)

    def members(self) -> Iterator[str]:
        """Yield every name that `netlab exec` takes: nodes, routers, pods."""
        yield from (node.name for node in self.nodes)
        yield from (router.name for router in self.routers)
        yield from (pod.name for pod in self.pods)
