"""From a topology and its allocations to the plan: every object that should exist, per namespace. Pure.

Read in packet order: a pod (`_pod`), its node (`_node`), the overlay (`netlab.overlay`), the underlay (`_fabric`,
`_router`), and what is beside the cluster (`_external`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_interface

from netlab import names
from netlab.controllers.environment import environment, expand
from netlab.overlay import overlay_of
from netlab.overlay.backend import POD_BRIDGE, UPLINK, Share, Site
from netlab.overlay.udp import most_segments
from netlab.plan.objects import (
    GSO_MAX_SEGS,
    PAUSE,
    Addr,
    Bridge,
    ControlPlane,
    End,
    Loopback,
    Netns,
    Object,
    Objects,
    Plan,
    Process,
    Refusal,
    Route,
    Sysctl,
    Veth,
)
from netlab.plan.rules import rulesets
from netlab.plan.underlay import (
    ANYWHERE,
    machine_routes,
    router_address,
    router_routes,
    service_routes,
    with_prefix,
)
from netlab.store.store import Snapshot
from netlab.topology.model import Address, Network, Node, Pod, Proxy, Role, Router, Segment, Topology, UdpBackend
from netlab.topology.pod import SYSTEM, Container

POD_INTERFACE = "eth0"


def build(topology: Topology, snapshot: Snapshot) -> Plan:
    """Return everything that the lab should consist of."""
    pods: dict[str, list[Pod]] = defaultdict(list)
    for pod in topology.pods:
        pods[pod.node].append(pod)
    objects: dict[Netns, frozenset[Object]] = {
        names.fabric(topology.name): frozenset((*_fabric(topology), *_control_plane(topology, snapshot)))
    }
    refusals: list[Refusal] = []
    for router in topology.routers:
        objects[names.netns(topology.name, router.name)] = frozenset(_router(topology, router))
    for node in topology.nodes:
        netns = names.netns(topology.name, node.name)
        found = set(_machine(topology, snapshot, node))
        if node.role is Role.CLUSTER:
            found |= set(service_routes(topology, topology.segment(node.segment)))
            share = _overlay_share(topology, snapshot, node)
            refusals += share.refusals
            found |= share.objects
            found |= set(_node(topology, snapshot, node, pods[node.name]))
        objects[netns] = frozenset(found)
    for pod in topology.pods:
        if not pod.host_network:
            objects[names.netns(topology.name, pod.name)] = frozenset(_pod(topology, snapshot, pod))
    return Plan(objects, tuple(refusals))


def build_pods(topology: Topology, snapshot: Snapshot, pods: Iterable[Pod]) -> Objects:
    """Return what `build` has of some pods: their namespaces, and what stands for them in their nodes'."""
    objects: dict[Netns, set[Object]] = defaultdict(set)
    for pod in pods:
        objects[names.netns(topology.name, pod.node)] |= set(_pod_on_node(topology, snapshot, pod))
        if not pod.host_network:
            objects[names.netns(topology.name, pod.name)] |= set(_pod(topology, snapshot, pod))
    return {netns: frozenset(found) for netns, found in objects.items()}


def counts(objects: Objects) -> dict[str, int]:
    """Count a plan's objects by kind, namespaces included."""
    found: dict[str, int] = {"namespaces": len(objects)}
    for entries in objects.values():
        for entry in entries:
            kind = type(entry).__name__.lower()
            found[kind] = found.get(kind, 0) + 1
    return found


# --- the pod ---------------------------------------------------------------------------------------------------------


def _pod(topology: Topology, snapshot: Snapshot, pod: Pod) -> Iterator[Object]:
    """Yield what is in a pod's namespace: eth0, its addresses, and the routes that flannel's CNI plugin asks for."""
    yield from _base(topology)
    yield _pod_cable(topology, snapshot, pod)[0]
    lease = snapshot.leases[pod.node]
    for address in snapshot.pods[pod.name]:
        pod_cidr = lease.pod_cidr(address.version)
        if pod_cidr is None:
            continue
        gateway = gateway_of(pod_cidr)
        yield Addr(POD_INTERFACE, ip_interface(f"{address}/{pod_cidr.prefixlen}"))
        yield Route(ANYWHERE[address.version], POD_INTERFACE, gateway)
        for cidr in topology.cluster_cidrs:
            if cidr.version == address.version:
                yield Route(cidr, POD_INTERFACE, gateway)
    yield from _processes(snapshot, pod)


def _pod_cable(topology: Topology, snapshot: Snapshot, pod: Pod) -> tuple[Veth, Veth]:
    """Return both ends of a pod's cable: eth0 in the pod, a hairpin port of cni0 in the node."""
    lab, port = topology.name, names.pod_port(pod.name, pod.node)
    inside, outside = names.netns(lab, pod.name), names.netns(lab, pod.node)
    mtu = pod_mtu(topology, pod.node)
    mac = _address_mac(snapshot.pods[pod.name], lab, pod.name, POD_INTERFACE)
    backend = topology.backend
    segments = most_segments(backend, mtu) if isinstance(backend, UdpBackend) else GSO_MAX_SEGS
    return (
        Veth(POD_INTERFACE, End(outside, port), mtu, mac, gso_max_segs=segments),
        Veth(port, End(inside, POD_INTERFACE), mtu, names.mac(lab, pod.node, port), master=POD_BRIDGE, hairpin=True),
    )


def _processes(snapshot: Snapshot, pod: Pod) -> Iterator[Process]:
    """Yield a pod's processes: pause first, which holds the pod; none where there is nothing to hold it for."""
    if not pod.containers:
        return
    yield Process(pod.name, PAUSE, (PAUSE,))
    for container in pod.containers:
        env = variables(snapshot, pod, container)
        argv = tuple(expand(word, dict(env)) for word in container.command)
        if not argv:
            argv = ("netlab-echo", *(f"--port={port.port}/{port.protocol}" for port in container.ports))
            env = (("NETLAB_NAMESPACE", pod.namespace), ("NETLAB_NODE", pod.node), *env)
        restart, grace = container.restart, float(pod.grace)
        yield Process(pod.name, container.name, argv, env, container.working_dir, restart, grace)


def variables(snapshot: Snapshot, pod: Pod, container: Container) -> tuple[tuple[str, str], ...]:
    """Return a container's environment variables."""
    node = snapshot.leases[pod.node].public_ips
    return environment(container, pod, node if pod.host_network else snapshot.pods[pod.name], node)


def _control_plane(topology: Topology, snapshot: Snapshot) -> Iterator[ControlPlane]:
    """Yield the lab's control plane, where there is anything for it to do.

    Its version covers all that it reads but the pods of workloads, which it makes itself.
    """
    if topology.proxy is Proxy.NONE or not topology.cluster_nodes:
        return
    pods = tuple(pod for pod in topology.pods if pod.owner in ("", SYSTEM))
    addresses = {pod.name: snapshot.pods.get(pod.name) for pod in pods}
    known = repr((replace(topology, pods=pods, checks=()), snapshot.leases, snapshot.machines, addresses))
    yield ControlPlane(names.short_hash(known, digits=16))


# --- the node --------------------------------------------------------------------------------------------------------


def _node(topology: Topology, snapshot: Snapshot, node: Node, pods: list[Pod]) -> Iterator[Object]:
    """Yield what makes a machine a node: forwarding, cni0 with the pods' ports, the packet-filter rules."""
    lease = snapshot.leases[node.name]
    yield from _forwarding(topology.families)
    if topology.proxy is not Proxy.NONE and node.proxy is not Proxy.NONE:
        yield from _conntrack(tcp_be_liberal=topology.kube_proxy.tcp_be_liberal)
    gateways = tuple(gateway_of(cidr) for cidr in lease.pod_cidrs)
    mac = _address_mac(gateways, topology.name, node.name, POD_BRIDGE)
    yield Bridge(POD_BRIDGE, pod_mtu(topology, node.name), mac)
    for gateway, cidr in zip(gateways, lease.pod_cidrs, strict=True):
        yield Addr(POD_BRIDGE, ip_interface(f"{gateway}/{cidr.prefixlen}"))
    for pod in pods:
        yield from _pod_on_node(topology, snapshot, pod)
    for cidr in lease.pod_cidrs:
        cluster = next(cluster for cluster in topology.cluster_cidrs if cluster.version == cidr.version)
        yield from rulesets(topology.netfilter, cidr, cluster, ip_masq=topology.ip_masq)


def _pod_on_node(topology: Topology, snapshot: Snapshot, pod: Pod) -> Iterator[Object]:
    """Yield a pod's port on its node, or with hostNetwork its processes."""
    if pod.host_network:
        yield from _processes(snapshot, pod)
    else:
        yield _pod_cable(topology, snapshot, pod)[1]


def _overlay_share(topology: Topology, snapshot: Snapshot, node: Node) -> Share:
    peers = (snapshot.leases[other.name] for other in topology.cluster_nodes if other is not node)
    return overlay_of(topology.backend).share(_site(topology, snapshot, node), peers)


def _site(topology: Topology, snapshot: Snapshot, node: Node) -> Site:
    segment = topology.segment(node.segment)
    return Site(
        lab=topology.name,
        netns=names.netns(topology.name, node.name),
        me=snapshot.leases[node.name],
        links=segment.cidrs,
        mtu=segment.mtu,
        cluster_cidrs=topology.cluster_cidrs,
    )


def node_addresses(topology: Topology, snapshot: Snapshot, node: Node) -> tuple[Address, ...]:
    """Return every address of a node but loopback's: the underlay's, cni0's, the overlay device's."""
    lease = snapshot.leases[node.name]
    overlay = overlay_of(topology.backend).share(_site(topology, snapshot, node), ()).objects
    own = sorted((entry.ip.ip for entry in overlay if isinstance(entry, Addr)), key=lambda ip: ip.version)
    return (*lease.public_ips, *map(gateway_of, lease.pod_cidrs), *own)


def gateway_of(pod_cidr: Network) -> Address:
    """Return cni0's address: the first of the podCIDR (host-local's default, facts.md 2.7)."""
    return pod_cidr.network_address + 1


def pod_mtu(topology: Topology, node: str) -> int:
    """Return the MTU of a node's pods: its segment's, less the overlay's overhead."""
    segment = next(entry.segment for entry in topology.nodes if entry.name == node)
    return overlay_of(topology.backend).pod_mtu(topology.segment(segment).mtu)


# --- the underlay ----------------------------------------------------------------------------------------------------


def _fabric(topology: Topology) -> Iterator[Object]:
    """Yield the underlay: one bridge per segment, one port for each machine and router on it."""
    lab = topology.name
    yield Loopback()
    yield Sysctl("net/ipv6/conf/all/disable_ipv6", "1")  # switches have no addresses
    for tool in ("iptables", "ip6tables", "arptables"):
        yield Sysctl(f"net/bridge/bridge-nf-call-{tool}", "0")  # and no packet filter
    for segment in topology.segments:
        bridge = names.segment_bridge(segment.name)
        yield Bridge(bridge, segment.mtu, names.mac(lab, "", bridge))
        for member, interface in _attached(topology, segment):
            port = names.fabric_port(member, interface)
            end = End(names.netns(lab, member), interface)
            yield Veth(port, end, segment.mtu, names.mac(lab, "", port), master=bridge)


def _attached(topology: Topology, segment: Segment) -> Iterator[tuple[str, str]]:
    for router in topology.routers:
        if segment.name in router.segments:
            yield router.name, f"eth{router.segments.index(segment.name)}"
    for node in topology.nodes:
        if node.segment == segment.name:
            yield node.name, UPLINK


def _uplink(topology: Topology, member: str, interface: str, segment: Segment) -> Veth:
    end = End(names.fabric(topology.name), names.fabric_port(member, interface))
    return Veth(interface, end, segment.mtu, names.mac(topology.name, member, interface))


def _machine(topology: Topology, snapshot: Snapshot, node: Node) -> Iterator[Object]:
    """Yield what every machine has: loopback, its uplink, the underlay's addresses and routes."""
    segment = topology.segment(node.segment)
    yield from _base(topology)
    yield _uplink(topology, node.name, UPLINK, segment)
    lease = snapshot.leases.get(node.name)
    for address in lease.public_ips if lease else snapshot.machines[node.name]:
        yield with_prefix(address, segment)
    yield from machine_routes(topology, segment)


def _router(topology: Topology, router: Router) -> Iterator[Object]:
    """Yield a router: one interface in each of its segments, and the ways to the others."""
    yield from _base(topology)
    yield from _forwarding({cidr.version for segment in topology.segments for cidr in segment.cidrs})
    for index, name in enumerate(router.segments):
        segment = topology.segment(name)
        yield _uplink(topology, router.name, f"eth{index}", segment)
        for cidr in segment.cidrs:
            address = router_address(topology, router, cidr, name)
            yield Addr(f"eth{index}", ip_interface(f"{address}/{cidr.prefixlen}"))
    yield from router_routes(topology, router)


def _base(topology: Topology) -> Iterator[Object]:
    """Yield what every machine and pod starts with. Where no IPv6 is used it is off: no noise in captures."""
    yield Loopback()
    uses_ipv6 = any(cidr.version == 6 for segment in topology.segments for cidr in segment.cidrs)
    if uses_ipv6 or 6 in topology.families:
        yield Sysctl("net/ipv6/conf/all/disable_ipv6", "0")
        yield Sysctl("net/ipv6/conf/default/accept_dad", "0")  # as CNI does: no second of waiting (facts.md 2.6)
    else:
        yield Sysctl("net/ipv6/conf/all/disable_ipv6", "1")


def _forwarding(families: set[int] | tuple[int, ...]) -> Iterator[Sysctl]:
    if 4 in families:
        yield Sysctl("net/ipv4/ip_forward", "1")
    if 6 in families:
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")


def _conntrack(*, tcp_be_liberal: bool) -> Iterator[Sysctl]:
    """Yield what kube-proxy sets of connection tracking when it starts (facts.md 3.1)."""
    yield Sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "86400")
    yield Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "3600")
    yield Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1" if tcp_be_liberal else "0")


def _address_mac(addresses: tuple[Address, ...], *parts: str) -> str:
    """Return Kubernetes' customary MAC for the IPv4 address among these; a hashed one when there is none."""
    ipv4 = next((address for address in addresses if address.version == 4), None)
    return names.mac_of_ipv4(ipv4.packed) if ipv4 else names.mac(*parts)
