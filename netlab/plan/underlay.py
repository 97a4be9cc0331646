"""The underlay's addresses and routes: segments, the routers that join them, the machines on them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network

from netlab.plan.objects import Addr, Route
from netlab.topology.model import Address, Network, Proxy, Router, Segment, Topology

ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def router_address(topology: Topology, router: Router, cidr: Network, segment: str) -> Address:
    """Return a router's address in a segment: routers take the first ones, in the order of the file."""
    joined = [other.name for other in topology.routers if segment in other.segments]
    return cidr.network_address + 1 + joined.index(router.name)


def router_addresses(topology: Topology, name: str) -> Iterator[Address]:
    """Yield all addresses of a router, by interface."""
    for router in topology.routers:
        if router.name == name:
            for segment in router.segments:
                for cidr in topology.segment(segment).cidrs:
                    yield router_address(topology, router, cidr, segment)


def with_prefix(address: Address, segment: Segment) -> Addr:
    """Return a machine's address as set on its uplink, with its segment's prefix length."""
    cidr = next(cidr for cidr in segment.cidrs if cidr.version == address.version)
    return Addr("eth0", ip_interface(f"{address}/{cidr.prefixlen}"))


def first_hops(topology: Topology, start: str) -> dict[str, Router]:
    """Return, for every other segment that is reachable, the first router on a shortest way from segment `start`."""
    hops: dict[str, Router] = {}
    queue: deque[str] = deque([start])
    while queue:
        here = queue.popleft()
        for router in topology.routers:
            if here not in router.segments:
                continue
            for there in router.segments:
                if there != start and there not in hops:
                    hops[there] = hops.get(here, router)
                    queue.append(there)
    return hops


def machine_routes(topology: Topology, segment: Segment) -> Iterator[Route]:
    """Yield a machine's underlay routes: by default its segment's first router, and exceptions where that is longer."""
    gateway = next((router for router in topology.routers if segment.name in router.segments), None)
    if gateway is None:
        return
    for cidr in segment.cidrs:
        yield Route(ANYWHERE[cidr.version], "eth0", router_address(topology, gateway, cidr, segment.name))
        for name, router in first_hops(topology, segment.name).items():
            if router is gateway:
                continue
            for remote in topology.segment(name).cidrs:
                if remote.version == cidr.version:
                    yield Route(remote, "eth0", router_address(topology, router, cidr, segment.name))


def service_routes(topology: Topology, segment: Segment) -> Iterator[Route]:
    """Yield a node's routes to Services' addresses where it has no default route: any will do, but there has to be one.

    What a node sends itself is routed before its destination is translated; in a pod's packets it is translated before.
    """
    has_default = any(segment.name in router.segments for router in topology.routers)
    if topology.proxy is Proxy.NONE or has_default:
        return
    versions = {cidr.version for cidr in segment.cidrs}
    for cidr in (*topology.service_cidrs, *topology.load_balancer_cidrs):
        if cidr.version in versions:
            yield Route(cidr, "eth0")


def router_routes(topology: Topology, router: Router) -> Iterator[Route]:
    """Yield a router's routes to the segments that it does not join itself."""
    done: set[str] = set(router.segments)
    ways = {name: first_hops(_without(topology, router), name) for name in router.segments}
    for target in topology.segments:
        if target.name in done:
            continue
        for index, here in enumerate(router.segments):
            if target.name not in ways[here]:
                continue
            hop = ways[here][target.name]
            yield from _routes_by(topology, target, here, hop, f"eth{index}")
            break


def _without(topology: Topology, router: Router) -> Topology:
    """Return the topology as seen by a router that looks for other ways than itself."""
    from dataclasses import replace

    return replace(topology, routers=tuple(other for other in topology.routers if other is not router))


def _routes_by(topology: Topology, target: Segment, here: str, hop: Router, dev: str) -> Iterator[Route]:
    local = {cidr.version: cidr for cidr in topology.segment(here).cidrs}
    for remote in target.cidrs:
        if remote.version in local:
            yield Route(remote, dev, router_address(topology, hop, local[remote.version], here))
