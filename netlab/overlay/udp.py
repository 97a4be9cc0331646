"""udp: pods' packets in UDP datagrams, carried by a process on each node (facts.md 1.9). IPv4 only, as in flannel.

The kernel routes the whole pod network to a TUN device; which node a packet goes to is the process's business. Pods of
the node itself keep their longer route, to cni0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_interface

from netlab.overlay.backend import POD_BRIDGE, UPLINK, Share, Site
from netlab.plan.objects import GSO_MAX_SEGS, Addr, Forwarder, Object, Route, Tun
from netlab.store.store import Lease
from netlab.topology.model import ForwarderKind, UdpBackend
from netlab.tunnel.packet import MAX_PAYLOAD
from netlab.tunnel.routes import Peer

DEVICE = "flannel0"


@dataclass(frozen=True, slots=True)
class UdpOverlay:
    """One TUN device, one route for all peers, and the process that knows them."""

    options: UdpBackend
    overhead: int = 28  # the outer IPv4 and UDP headers

    def pod_mtu(self, link_mtu: int) -> int:
        """Return what is left of the link's MTU."""
        return link_mtu - self.overhead

    def share(self, site: Site, peers: Iterable[Lease]) -> Share:
        """Return the device, its address (the podCIDR's base), the route to all pods and the forwarder."""
        cidr, local = site.me.pod_cidr(4), site.me.public_ip(4)
        if not isinstance(cidr, IPv4Network) or not isinstance(local, IPv4Address):
            return Share(frozenset())
        mtu = self.pod_mtu(site.mtu)
        found: set[Object] = {
            Tun(DEVICE, mtu, gso_max_segs=most_segments(self.options, mtu)),
            Addr(DEVICE, ip_interface(f"{cidr.network_address}/32")),
            Forwarder(
                node=site.me.node,
                dev=DEVICE,
                mtu=mtu,
                local=local,
                port=self.options.port,
                uplink=UPLINK,
                bridge=POD_BRIDGE,
                source=cidr.network_address,
                kind=self.options.forwarder.value,
                peers=tuple(_peer(lease) for lease in peers),
            ),
        }
        found |= {Route(cluster, DEVICE) for cluster in site.cluster_cidrs if cluster.version == 4}
        return Share(frozenset(found))


def most_segments(options: UdpBackend, pod_mtu: int) -> int:
    """Return how many segments a super-packet may have, on the TUN device and on pods' interfaces.

    The batched forwarder sends each by one call, if they are not too many for that. The programs in the kernel have no
    such limit, and iperf3's blocks would go badly with it: four streams lose a third.
    """
    return MAX_PAYLOAD // pod_mtu if options.forwarder is ForwarderKind.BATCHED else GSO_MAX_SEGS


def _peer(lease: Lease) -> Peer:
    address, cidr = lease.public_ip(4), lease.pod_cidr(4)
    assert isinstance(address, IPv4Address), "an underlay without IPv4 was refused (topology.network_rules)"
    assert isinstance(cidr, IPv4Network)
    return Peer(address, (cidr,))
