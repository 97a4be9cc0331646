"""host-gw: the peer's node is the gateway to its pods (facts.md 1.11). No device, no overhead, one segment only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netlab.overlay.backend import UPLINK, Share, Site
from netlab.plan.objects import Object, Refusal, Route
from netlab.store.store import Lease
from netlab.topology.model import HostGwBackend


@dataclass(frozen=True, slots=True)
class HostGwOverlay:
    """One plain route per peer."""

    options: HostGwBackend
    overhead: int = 0

    def pod_mtu(self, link_mtu: int) -> int:
        """Return the link's MTU: nothing is added."""
        return link_mtu

    def share(self, site: Site, peers: Iterable[Lease]) -> Share:
        """Route each peer's podCIDR by the peer's address; refuse peers behind a router, as the kernel would.

        flannel asks the kernel, which answers "Nexthop has invalid gateway", logs that and goes on without the peer.
        """
        routes: set[Object] = set()
        refusals = []
        for peer in peers:
            for cidr in peer.pod_cidrs:
                gateway = peer.public_ip(cidr.version)
                if site.is_on_link(peer, cidr.version):
                    routes.add(Route(cidr, UPLINK, gateway))
                else:
                    why = f"next hop {gateway} of {peer.node} is on no link of {UPLINK}: Nexthop has invalid gateway"
                    refusals.append(Refusal(site.netns, f"route {cidr} via {gateway} dev {UPLINK}", why))
        return Share(frozenset(routes), tuple(refusals))
