"""Who gets which addresses: pure allocation, by flannel's and host-local's rules.

podCIDRs follow flannel's store (facts.md 1.2 and 1.4): all of one length, the first of the cluster network is never
handed out, a node keeps the one that it holds while it still fits. Where flannel picks at random among the first
hundred free ones, netlab takes the lowest, so that a lab is the same every time.

Pods' addresses follow CNI's host-local (facts.md 2.7): .1 is the bridge, the first pod gets .2.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from ipaddress import ip_network

from netaddr import IPNetwork

from netlab.errors import PlanError
from netlab.topology.model import Address, Network


def pod_cidrs(cluster: Network, length: int) -> Iterator[Network]:
    """Yield the podCIDRs of a cluster network that may be handed out, in order (SubnetMin to SubnetMax)."""
    subnets = IPNetwork(str(cluster)).subnet(length)
    next(subnets, None)  # the first is never handed out
    return (ip_network(str(subnet)) for subnet in subnets)


def fits(held: Network, cluster: Network, length: int) -> bool:
    """Say whether a podCIDR from an earlier run may still be used."""
    return (
        held.version == cluster.version
        and held.prefixlen == length
        and IPNetwork(str(held)) in IPNetwork(str(cluster))
        and held.network_address != cluster.network_address
    )


def next_pod_cidr(free: Iterator[Network], cluster: Network, length: int) -> Network:
    """Return the next free podCIDR. Raises PlanError when all are taken."""
    found = next(free, None)
    if found is None:
        hint = "use a larger clusterCIDR or a longer nodeCIDRMaskSize"
        raise PlanError(f"out of subnets: clusterCIDR {cluster} has no free /{length} left for another node", hint)
    return found


class Pool:
    """A network's host addresses, handed out in order. The first `reserved` and those in `taken` are left out.

    `taken` is looked at when an address is asked for: it may grow in the meantime.
    """

    def __init__(self, network: Network, *, reserved: int, taken: Container[Address]) -> None:
        self._network = network
        self._taken = taken
        # the last IPv4 address is the broadcast
        self._offsets = iter(range(1 + reserved, network.num_addresses - (1 if network.version == 4 else 0)))

    def take(self, who: str) -> Address:
        """Return the next free address. Raises PlanError when there is none left for `who`."""
        for offset in self._offsets:
            address = self._network.network_address + offset
            if address not in self._taken:
                return address
        raise PlanError(f"no IP addresses available in {self._network} for {who}", "use a larger network")
