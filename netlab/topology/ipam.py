"""Who gets which addresses: pure allocation, by flannel's and host-local's rules.

podCIDRs follow flannel's store (facts.md 1.2 and 1.4): all of one length, the first of the cluster network is never
handed out, a node keeps the one that it holds while it still fits. Where flannel picks at random among the first
hundred free ones, netlab takes the lowest, so that a lab is the same every time.

Pods' addresses follow CNI's host-local (facts.md 2.7): .1 is the bridge, the first pod gets .2.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
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


def free_pod_cidr(cluster: Network, length: int, taken: Iterable[Network]) -> Network:
    """Return the lowest free podCIDR. Raises PlanError when all are taken."""
    used = {network for network in taken if network.version == cluster.version}
    for candidate in pod_cidrs(cluster, length):
        if candidate not in used:
            return candidate
    hint = "use a larger clusterCIDR or a longer nodeCIDRMaskSize"
    raise PlanError(f"out of subnets: clusterCIDR {cluster} has no free /{length} left for another node", hint)


def first_free(network: Network, reserved: int, taken: Container[Address], who: str) -> Address:
    """Return the first free host address of a network, the first `reserved` ones left out.

    Raises PlanError when there is none.
    """
    base = network.network_address
    hosts = network.num_addresses - (1 if network.version == 4 else 0)  # the last IPv4 address is the broadcast
    for offset in range(1 + reserved, hosts):
        if base + offset not in taken:
            return base + offset
    raise PlanError(f"no IP addresses available in {network} for {who}", "use a larger network")
