"""What a backend is: leases in, kernel objects out. Pure, and the same for a namespace or a real machine.

Each backend names the bytes that it adds to a pod's packet and the objects that one node needs to reach the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from netlab.plan.objects import Netns, Object, Refusal
from netlab.store.store import Lease
from netlab.topology.model import Network

UPLINK = "eth0"  # a node's interface on the underlay
POD_BRIDGE = "cni0"  # its bridge to its pods


@dataclass(frozen=True, slots=True)
class Site:
    """Where a backend works: a node's namespace, its lease, its underlay, the pod network of the whole cluster.

    `links` are the networks that the uplink is on: what is inside needs no router. `mtu` is the uplink's.
    """

    lab: str
    netns: Netns
    me: Lease
    links: tuple[Network, ...]
    mtu: int
    cluster_cidrs: tuple[Network, ...]

    def is_on_link(self, lease: Lease, version: int) -> bool:
        """Say whether a peer's public address is reached without a router."""
        address = lease.public_ip(version)
        return address is not None and any(address in link for link in self.links if link.version == version)


@dataclass(frozen=True, slots=True)
class Share:
    """A node's share of the overlay: its objects, and what had to be left out."""

    objects: frozenset[Object]
    refusals: tuple[Refusal, ...] = ()


class Overlay(Protocol):
    """A way to carry pods' packets between nodes."""

    @property
    def overhead(self) -> int:
        """Bytes added to a pod's packet on the underlay."""

    def pod_mtu(self, link_mtu: int) -> int:
        """Return the MTU of pods whose node's uplink has `link_mtu`, in bytes of IP packet."""

    def share(self, site: Site, peers: Iterable[Lease]) -> Share:
        """Return what one node needs to reach its peers."""
