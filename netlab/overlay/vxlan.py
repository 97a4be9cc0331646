"""vxlan: pods' packets as Ethernet frames in UDP, everything static (facts.md 1.10).

For each peer three entries, and no learning: the route says which VTEP (by its address on the overlay), the neighbour
says that VTEP's MAC, the FDB says that MAC's underlay address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_interface

from netlab import names
from netlab.overlay.backend import UPLINK, Share, Site
from netlab.plan.objects import Addr, FdbEntry, Neighbor, Object, Route, Sysctl, Vxlan
from netlab.store.store import Lease
from netlab.topology.model import VxlanBackend

# inner Ethernet 14 + VXLAN 8 + UDP 8 + outer IP 20 or 40
OVERHEAD = 50
HEADROOM = {4: 50, 6: 70}


def vtep_mac(lab: str, node: str, device: str) -> str:
    """Return a node's VTEP MAC: stable, so that peers' entries stay true when the device is made again."""
    return names.mac(lab, node, device)


@dataclass(frozen=True, slots=True)
class VxlanOverlay:
    """One VTEP per IP version and three entries per peer.

    Pods get the link's MTU less 50 for IPv6 too, as in flannel. The kernel knows better: it keeps the IPv6 VTEP at 70
    below its parent (vxlan_config_apply), so that larger packets meet a proper "packet too big" there.
    """

    options: VxlanBackend
    overhead: int = OVERHEAD

    def device(self, version: int) -> str:
        """Name the VTEP of an IP version as flannel does."""
        return f"flannel.{self.options.vni}" if version == 4 else f"flannel-v6.{self.options.vni}"

    def pod_mtu(self, link_mtu: int) -> int:
        """Return the MTU left for pods; the `MTU` option stands in for the link's."""
        return (self.options.mtu or link_mtu) - self.overhead

    def share(self, site: Site, peers: Iterable[Lease]) -> Share:
        """Return the VTEPs, their addresses (the podCIDR's base) and the entries for each peer."""
        found: set[Object] = set()
        peers = tuple(peers)
        for cidr in site.me.pod_cidrs:
            found |= set(self._vtep(site, cidr.version))
            for peer in peers:
                found |= set(self._entries(site, peer, cidr.version))
        return Share(frozenset(found))

    def _vtep(self, site: Site, version: int) -> Iterator[Object]:
        device, cidr, local = self.device(version), site.me.pod_cidr(version), site.me.public_ip(version)
        if cidr is None or local is None:
            return
        options = self.options
        yield Vxlan(
            name=device,
            vni=options.vni,
            port=options.port,
            local=local,
            parent=UPLINK,
            mtu=min(self.pod_mtu(site.mtu), site.mtu - HEADROOM[version]),
            mac=vtep_mac(site.lab, site.me.node, device),
            learning=options.learning,
            gbp=options.gbp,
        )
        yield Addr(device, ip_interface(f"{cidr.network_address}/{cidr.max_prefixlen}"))
        if version == 6:
            yield Sysctl(f"net/ipv6/conf/{device}/accept_ra", "0", device)

    def _entries(self, site: Site, peer: Lease, version: int) -> Iterator[Object]:
        device, cidr, public_ip = self.device(version), peer.pod_cidr(version), peer.public_ip(version)
        if cidr is None or public_ip is None:
            return
        if self.options.direct_routing and site.is_on_link(peer, version):
            yield Route(cidr, UPLINK, public_ip)
            return
        gateway, mac = cidr.network_address, vtep_mac(site.lab, peer.node, device)
        yield Neighbor(gateway, mac, device)
        yield FdbEntry(mac, public_ip, device)
        yield Route(cidr, device, gateway, onlink=True)
