"""Which proxier carries out which mode, and what other modes have left. Each is imported where a lab wants it."""

from __future__ import annotations

from netlab.proxy.proxier import NodeTarget, Proxier
from netlab.topology.model import Proxy


def make(mode: Proxy, target: NodeTarget) -> Proxier:
    """Return a proxier for a node, which has not touched the kernel yet."""
    if mode is Proxy.IPVS:
        from netlab.proxy.ipvs import IpvsProxier

        return IpvsProxier(target)
    if mode is Proxy.NFTABLES:
        from netlab.proxy.nftables import NftablesProxier

        return NftablesProxier(target)
    from netlab.proxy.iptables import IptablesProxier

    return IptablesProxier(target)


def clear(target: NodeTarget, mode: Proxy) -> None:
    """Take away what other modes have left in a node, as kube-proxy does when it starts."""
    from netlab.proxy import leftovers

    for other in leftovers.find(target, mode):
        proxier = make(other, target)
        try:
            proxier.remove()
        finally:
            proxier.close()
