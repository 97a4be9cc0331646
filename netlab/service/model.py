"""What a proxier works on: each port of each Service with its endpoints, and the node that it works for. Pure.

Names are those of Kubernetes' v1 Service and discovery.k8s.io/v1 EndpointSlice. A ServicePort is of one IP version: a
dual-stack Service is one for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from netlab.topology.addresses import Address, Network
from netlab.topology.service import Policy, Protocol

__all__ = ["Endpoint", "Policy", "Protocol", "ProxyNode", "ServicePort"]


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A pod behind a Service's port, or an address that an EndpointSlice names.

    `node` is empty for one that is on no node; `node_hints` are the nodes whose clients it is meant for, empty for all.
    The conditions are EndpointSlice's with the absent ones filled in
    (facts.md 8.1).
    """

    address: Address
    port: int
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service. 0 and empty tuples stand for what it does not have.

    `load_balancer_ips` are those with ipMode VIP; `source_ranges` hold for them only. `affinity` is the timeout of
    sessionAffinity ClientIP in seconds, 0 without.
    """

    namespace: str
    name: str
    port_name: str
    protocol: Protocol
    cluster_ip: Address
    port: int
    node_port: int = 0
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    source_ranges: tuple[Network, ...] = ()
    affinity: int = 0
    external_policy: Policy = Policy.CLUSTER
    internal_policy: Policy = Policy.CLUSTER
    health_check_node_port: int = 0
    endpoints: tuple[Endpoint, ...] = ()

    def __str__(self) -> str:
        """Return kube-proxy's servicePortName: "ns/name:port", or "ns/name" where the port has no name."""
        return f"{self.namespace}/{self.name}:{self.port_name}" if self.port_name else f"{self.namespace}/{self.name}"

    @property
    def is_external(self) -> bool:
        """Whether it has an address for clients outside the cluster."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)

    @property
    def key(self) -> tuple[str, str, str, Protocol, int]:
        """What makes it another one: not its endpoints, nor anything that may change."""
        return self.namespace, self.name, self.port_name, self.protocol, self.cluster_ip.version


@dataclass(frozen=True, slots=True)
class ProxyNode:
    """The node that rules are for, in one IP version.

    `addresses` are its own, its InternalIP first. `local` is what pods' addresses are in (detectLocalMode ClusterCIDR);
    None leaves rules that need it out.
    `node_port_addresses`: which of the addresses NodePorts listen at; empty is each mode's default.
    """

    name: str
    addresses: tuple[Address, ...]
    local: Network | None = None
    masquerade_all: bool = False
    node_port_addresses: tuple[Network, ...] = ()
