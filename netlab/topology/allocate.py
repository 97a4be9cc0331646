"""Allocate a whole topology: what members hold is kept where it still fits, the rest is handed out in file order. Pure.

Order matters: addresses that the user chose come first, then those that are held, then new ones; so that nobody is
given what another may keep.
"""

from __future__ import annotations

from netlab.store.store import Lease, Snapshot
from netlab.topology.ipam import first_free, fits, free_pod_cidr
from netlab.topology.model import Address, Network, Node, Pod, Role, Segment, Topology


def allocate(topology: Topology, held: Snapshot) -> Snapshot:
    """Return the allocations of a topology, given those of an earlier run. Raises PlanError when something is full."""
    machines = _machine_addresses(topology, held)
    cidrs = _pod_cidrs(topology, held)
    leases = {node.name: Lease(node.name, machines[node.name], cidrs[node.name]) for node in topology.cluster_nodes}
    external = {node.name: machines[node.name] for node in topology.nodes if node.role is Role.EXTERNAL}
    return Snapshot(leases, external, _pod_addresses(topology, leases, held))


def _machine_addresses(topology: Topology, held: Snapshot) -> dict[str, tuple[Address, ...]]:
    """Give each machine one address per family of its segment; routers sit in front."""
    before = {**{name: lease.public_ips for name, lease in held.leases.items()}, **held.machines}
    taken = {address for node in topology.nodes for address in node.addresses}
    kept: dict[str, dict[int, Address]] = {}
    for node in topology.nodes:
        segment = topology.segment(node.segment)
        chosen = {address.version: address for address in node.addresses}
        for cidr in segment.cidrs:
            old = next((a for a in before.get(node.name, ()) if a.version == cidr.version), None)
            if (
                cidr.version not in chosen
                and old
                and old in cidr
                and old not in taken | _routers(topology, segment, cidr)
            ):
                chosen[cidr.version] = old
                taken.add(old)
        kept[node.name] = chosen
    return {node.name: _complete_machine(topology, node, kept[node.name], taken) for node in topology.nodes}


def _complete_machine(
    topology: Topology, node: Node, chosen: dict[int, Address], taken: set[Address]
) -> tuple[Address, ...]:
    segment = topology.segment(node.segment)
    for cidr in segment.cidrs:
        if cidr.version not in chosen:
            reserved = max(1, len(_routers(topology, segment, cidr)))  # .1 is kept for a router that may come
            chosen[cidr.version] = first_free(cidr, reserved, taken, f"node {node.name}")
            taken.add(chosen[cidr.version])
    return tuple(chosen[cidr.version] for cidr in segment.cidrs)


def _routers(topology: Topology, segment: Segment, cidr: Network) -> set[Address]:
    """Return the addresses that routers take in a segment: the first ones."""
    joined = sum(segment.name in router.segments for router in topology.routers)
    return {cidr.network_address + 1 + index for index in range(joined)}


def _pod_cidrs(topology: Topology, held: Snapshot) -> dict[str, tuple[Network, ...]]:
    kept: dict[str, dict[int, Network]] = {node.name: {} for node in topology.cluster_nodes}
    taken: set[Network] = set()
    for cluster in topology.cluster_cidrs:
        for name, chosen in kept.items():
            old = held.leases[name].pod_cidr(cluster.version) if name in held.leases else None
            if old and old not in taken and fits(old, cluster, topology.node_mask(cluster.version)):
                chosen[cluster.version] = old
                taken.add(old)
    for cluster in topology.cluster_cidrs:
        for chosen in kept.values():
            if cluster.version not in chosen:
                chosen[cluster.version] = free_pod_cidr(cluster, topology.node_mask(cluster.version), taken)
                taken.add(chosen[cluster.version])
    return {name: tuple(chosen[c.version] for c in topology.cluster_cidrs) for name, chosen in kept.items()}


def _pod_addresses(topology: Topology, leases: dict[str, Lease], held: Snapshot) -> dict[str, tuple[Address, ...]]:
    pods = [pod for pod in topology.pods if not pod.host_network]
    taken = {address for pod in pods for address in pod.addresses}
    taken |= {cidr.network_address + 1 for lease in leases.values() for cidr in lease.pod_cidrs}  # cni0
    kept: dict[str, dict[int, Address]] = {}
    for pod in pods:
        chosen = {address.version: address for address in pod.addresses}
        for cidr in leases[pod.node].pod_cidrs:
            old = next((a for a in held.pods.get(pod.name, ()) if a.version == cidr.version), None)
            if cidr.version not in chosen and old and old in cidr and old not in taken:
                chosen[cidr.version] = old
                taken.add(old)
        kept[pod.name] = chosen
    return {pod.name: _complete_pod(pod, leases[pod.node], kept[pod.name], taken) for pod in pods}


def _complete_pod(pod: Pod, lease: Lease, chosen: dict[int, Address], taken: set[Address]) -> tuple[Address, ...]:
    for cidr in lease.pod_cidrs:
        if cidr.version not in chosen:
            chosen[cidr.version] = first_free(cidr, 1, taken, f"pod {pod.name} on node {lease.node}")
            taken.add(chosen[cidr.version])
    return tuple(chosen[cidr.version] for cidr in lease.pod_cidrs)
