"""Allocate a whole topology: what members hold is kept where it still fits, the rest is handed out in file order. Pure.

Order matters: addresses that the user chose come first, then those that are held, then new ones; so that nobody is
given what another may keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import NamedTuple

from netlab.store.store import Lease, Snapshot
from netlab.topology.ipam import Pool, fits, next_pod_cidr, pod_cidrs
from netlab.topology.model import Address, Network, Role, Segment, Topology


def allocate(topology: Topology, held: Snapshot) -> Snapshot:
    """Return the allocations of a topology, given those of an earlier run. Raises PlanError when something is full."""
    machines = _machine_addresses(topology, held)
    cidrs = _pod_cidrs(topology, held)
    leases = {node.name: Lease(node.name, machines[node.name], cidrs[node.name]) for node in topology.cluster_nodes}
    external = {node.name: machines[node.name] for node in topology.nodes if node.role is Role.EXTERNAL}
    return Snapshot(leases, external, _pod_addresses(topology, leases, held))


def _machine_addresses(topology: Topology, held: Snapshot) -> dict[str, tuple[Address, ...]]:
    """Give each machine one address per family of its segment; routers sit in front, and .1 is kept for one to come."""
    before = {**{name: lease.public_ips for name, lease in held.leases.items()}, **held.machines}
    taken = {address for node in topology.nodes for address in node.addresses}
    taken |= {address for segment in topology.segments for address in _router_addresses(topology, segment)}
    pools = {cidr: Pool(cidr, reserved=1, taken=taken) for segment in topology.segments for cidr in segment.cidrs}
    wanted = [
        _Wish(f"node {node.name}", topology.segment(node.segment).cidrs, node.addresses, before.get(node.name, ()))
        for node in topology.nodes
    ]
    return dict(zip((node.name for node in topology.nodes), _grant(wanted, pools, taken), strict=True))


def _router_addresses(topology: Topology, segment: Segment) -> Iterator[Address]:
    joined = sum(segment.name in router.segments for router in topology.routers)
    return (cidr.network_address + 1 + index for cidr in segment.cidrs for index in range(joined))


def _pod_addresses(topology: Topology, leases: dict[str, Lease], held: Snapshot) -> dict[str, tuple[Address, ...]]:
    """Give each pod one address per family from its node's podCIDR, after cni0's."""
    pods = [pod for pod in topology.pods if not pod.host_network]
    taken = {address for pod in pods for address in pod.addresses}
    pools = {cidr: Pool(cidr, reserved=1, taken=taken) for lease in leases.values() for cidr in lease.pod_cidrs}
    taken |= {cidr.network_address + 1 for cidr in pools}
    wanted = [
        _Wish(
            f"pod {pod.name} on node {pod.node}", leases[pod.node].pod_cidrs, pod.addresses, held.pods.get(pod.name, ())
        )
        for pod in pods
    ]
    return dict(zip((pod.name for pod in pods), _grant(wanted, pools, taken), strict=True))


class _Wish(NamedTuple):
    """One address wanted from each of `cidrs`: the one `chosen` by the user, else the one `held`, else any."""

    who: str
    cidrs: tuple[Network, ...]
    chosen: tuple[Address, ...]
    held: tuple[Address, ...]


def _grant(wishes: list[_Wish], pools: dict[Network, Pool], taken: set[Address]) -> Iterator[tuple[Address, ...]]:
    """Yield what each wish gets, in their order; what is held goes out before anything new."""
    granted: list[dict[Network, Address]] = []
    for wish in wishes:
        found = {cidr: address for cidr in wish.cidrs for address in wish.chosen if address.version == cidr.version}
        for cidr in wish.cidrs:
            old = next((a for a in wish.held if a in cidr and a not in taken), None)
            if old and cidr not in found:
                found[cidr] = old
                taken.add(old)
        granted.append(found)
    for wish, found in zip(wishes, granted, strict=True):
        for cidr in wish.cidrs:
            if cidr not in found:
                found[cidr] = pools[cidr].take(wish.who)
                taken.add(found[cidr])
        yield tuple(found[cidr] for cidr in wish.cidrs)


def _pod_cidrs(topology: Topology, held: Snapshot) -> dict[str, tuple[Network, ...]]:
    """Give each node a podCIDR per family: the one of its pods' chosen addresses, else the one it holds, else any."""
    granted: dict[str, dict[Network, Network]] = {node.name: {} for node in topology.cluster_nodes}
    taken: set[Network] = set()
    for cluster in topology.cluster_cidrs:
        length = topology.node_mask(cluster.version)
        for pod in topology.pods:
            for address in pod.addresses:
                if address in cluster:
                    granted[pod.node][cluster] = ip_network((address, length), strict=False)
        taken |= {found[cluster] for found in granted.values() if cluster in found}
        for name, found in granted.items():
            old = held.leases[name].pod_cidr(cluster.version) if name in held.leases else None
            if cluster not in found and old and old not in taken and fits(old, cluster, length):
                found[cluster] = old
                taken.add(old)
        free = (cidr for cidr in pod_cidrs(cluster, length) if cidr not in taken)
        for found in granted.values():
            if cluster not in found:
                found[cluster] = next_pod_cidr(free, cluster, length)
    return {name: tuple(found[cluster] for cluster in topology.cluster_cidrs) for name, found in granted.items()}
