"""Who holds which addresses: the store's protocol and the values that it hands out.

A lease is flannel's (facts.md 1.3): a node's public address, its podCIDR and what its backend published. The store of
a single machine also remembers pods' addresses, as the CNI plugin host-local does on each node (facts.md 2.7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from netlab.topology.model import Address, Network, Role, Topology


@dataclass(frozen=True, slots=True)
class Lease:
    """What one node holds: one public address and one podCIDR per IP version, IPv4 first."""

    node: str
    public_ips: tuple[Address, ...]
    pod_cidrs: tuple[Network, ...]

    def public_ip(self, version: int) -> Address | None:
        """Return the node's underlay address of that IP version."""
        return next((ip for ip in self.public_ips if ip.version == version), None)

    def pod_cidr(self, version: int) -> Network | None:
        """Return the node's podCIDR of that IP version."""
        return next((cidr for cidr in self.pod_cidrs if cidr.version == version), None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every allocation of a lab at one moment.

    leases: by cluster node. machines: underlay addresses of external nodes (routers take theirs by position).
    pods: addresses of pods that have their own namespace.
    """

    leases: Mapping[str, Lease] = field(default_factory=dict)
    machines: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    pods: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)

    def covers(self, topology: Topology) -> bool:
        """Say whether every member of a topology has its allocation."""
        return (
            all(node.name in self.leases for node in topology.cluster_nodes)
            and all(node.name in self.machines for node in topology.nodes if node.role is Role.EXTERNAL)
            and all(pod.name in self.pods for pod in topology.pods if not pod.host_network)
        )


class Store(Protocol):
    """Where allocations are kept between runs."""

    def read(self) -> Snapshot:
        """Return what is allocated now (empty when nothing is known)."""

    def acquire(self, topology: Topology) -> Snapshot:
        """Give every member of the topology what it needs, keeping what it holds; forget members that left."""
