"""ipip: IPv4 in IPv4, one device for all peers (facts.md 1.12). The route's gateway becomes the outer destination."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface

from netlab.overlay.backend import UPLINK, Share, Site
from netlab.plan.objects import Addr, Ipip, Object, Route
from netlab.store.store import Lease
from netlab.topology.model import IpipBackend

DEVICE = "flannel.ipip"


@dataclass(frozen=True, slots=True)
class IpipOverlay:
    """One tunnel device and one onlink route per peer. IPv4 only, as in flannel."""

    options: IpipBackend
    overhead: int = 20  # the outer IPv4 header

    def pod_mtu(self, link_mtu: int) -> int:
        """Return what is left of the link's MTU."""
        return link_mtu - self.overhead

    def share(self, site: Site, peers: Iterable[Lease]) -> Share:
        """Return the device, its address (the podCIDR's base) and the route to each peer."""
        cidr, local = site.me.pod_cidr(4), site.me.public_ip(4)
        if cidr is None or local is None:
            return Share(frozenset())
        found: set[Object] = {
            Ipip(DEVICE, local, self.pod_mtu(site.mtu)),
            Addr(DEVICE, ip_interface(f"{cidr.network_address}/32")),
        }
        for peer in peers:
            peer_cidr, gateway = peer.pod_cidr(4), peer.public_ip(4)
            if peer_cidr is None:
                continue
            if self.options.direct_routing and site.is_on_link(peer, 4):
                found.add(Route(peer_cidr, UPLINK, gateway))
            else:
                found.add(Route(peer_cidr, DEVICE, gateway, onlink=True))
        return Share(frozenset(found))
