"""Services as their owner declares them: Kubernetes' v1 Service and EndpointSlice, as frozen values.

What the cluster adds (addresses and node ports that nobody chose, endpoints) is not in here: see `controllers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from netlab.topology.addresses import Address, Network

AFFINITY_DEFAULT = 10800  # seconds: spec.sessionAffinityConfig.clientIP.timeoutSeconds
NODE_PORTS = range(30000, 32768)  # the API server's --service-node-port-range
DEFAULT_NAMESPACE = "default"

Labels = tuple[tuple[str, str], ...]


class Protocol(StrEnum):
    """The layer 4 protocol of a port."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class Policy(StrEnum):
    """externalTrafficPolicy and internalTrafficPolicy: which endpoints a packet may go to."""

    CLUSTER = "Cluster"  # all
    LOCAL = "Local"  # those on the node that it comes to


class ServiceType(StrEnum):
    """How clients reach a Service. A headless one is of type ClusterIP with `headless` set."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a Service. `target` is the endpoint's port, as a number or a container port's name."""

    port: int
    name: str = ""
    protocol: Protocol = Protocol.TCP
    target: str = ""  # "": the same as `port`
    node_port: int = 0  # 0: the cluster chooses


@dataclass(frozen=True, slots=True)
class Service:
    """A Service. Empty tuples stand for what was left to the cluster or is not wanted; `selector` None for no selector.

    `ip_families` are those that were asked for, in order; empty means the cluster's first, or with `dual_stack` all
    that it has. `affinity` is in seconds, 0 without.
    """

    name: str
    namespace: str = DEFAULT_NAMESPACE
    labels: Labels = ()
    type: ServiceType = ServiceType.CLUSTER_IP
    headless: bool = False
    selector: Labels | None = None
    ports: tuple[Port, ...] = ()
    cluster_ips: tuple[Address, ...] = ()
    ip_families: tuple[int, ...] = ()
    dual_stack: bool = False
    external_name: str = ""
    external_ips: tuple[Address, ...] = ()
    load_balancer_ip: Address | None = None
    source_ranges: tuple[Network, ...] = ()
    affinity: int = 0
    external_policy: Policy = Policy.CLUSTER
    internal_policy: Policy = Policy.CLUSTER
    publish_not_ready: bool = False
    health_check_node_port: int = 0  # 0: the cluster chooses where one is needed
    allocates_node_ports: bool = True  # spec.allocateLoadBalancerNodePorts
    prefers_same_node: bool = False  # spec.trafficDistribution PreferSameNode

    @property
    def key(self) -> tuple[str, str]:
        """Return what names it in the cluster."""
        return self.namespace, self.name

    @property
    def has_cluster_ip(self) -> bool:
        """Say whether it has an address of its own."""
        return not self.headless and self.type is not ServiceType.EXTERNAL_NAME

    @property
    def has_node_ports(self) -> bool:
        """Say whether its ports are open on nodes."""
        balanced = self.type is ServiceType.LOAD_BALANCER and self.allocates_node_ports
        return self.type is ServiceType.NODE_PORT or balanced

    @property
    def needs_health_check(self) -> bool:
        """Say whether a load balancer must ask nodes for local endpoints: healthCheckNodePort."""
        return self.type is ServiceType.LOAD_BALANCER and self.external_policy is Policy.LOCAL


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace that is there whether anything is in it or not: cluster DNS knows its name."""

    name: str

    @property
    def key(self) -> tuple[str]:
        """Return what names it in the cluster."""
        return (self.name,)


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One endpoint of an EndpointSlice, with absent conditions filled in (facts.md 8.1). Hints are `hints.forNodes`."""

    addresses: tuple[Address, ...]
    hostname: str = ""
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlicePort:
    """One port of an EndpointSlice; Services' ports find it by name."""

    port: int
    name: str = ""
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Endpoints that somebody wrote down for a Service without selector (label kubernetes.io/service-name)."""

    name: str
    service: str
    namespace: str = DEFAULT_NAMESPACE
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Return what names it in the cluster."""
        return self.namespace, self.name
