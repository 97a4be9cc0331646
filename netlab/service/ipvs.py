"""One Service port as kube-proxy's IPVS mode makes it on a node (facts.md 4.2, 4.4, 8.2). Pure.

A port becomes virtual servers of the kernel, addresses of kube-ipvs0, entries of IP sets, and in one case a rule of its
own. It depends on nothing but the port and the node: ipvs_table.py joins ports, ipvs_rules.py has what all share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from netlab.service.choice import Choice, choose
from netlab.service.ipvs_sets import NODE_PORT_SETS, Entry, IpSet, networks, place
from netlab.service.model import Policy, ProxyNode, ServicePort
from netlab.topology.addresses import Address
from netlab.topology.service import Protocol

SCHEDULER = "rr"
MAGLEV = "mh"


class Flag(IntFlag):
    """What kube-proxy sets of a virtual server's flags (linux/ip_vs.h)."""

    NONE = 0
    PERSISTENT = 0x1
    SOURCE_HASH = 0x10  # mh-port, which kube-proxy calls so


class VirtualKey(NamedTuple):
    """What the kernel tells virtual servers apart by."""

    address: Address
    protocol: Protocol
    port: int


class RealServer(NamedTuple):
    """Where a virtual server sends to, by NAT."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """A virtual server with its real servers, each of weight 1. `timeout` is the affinity's in seconds, 0 without."""

    key: VirtualKey
    scheduler: str = SCHEDULER
    flags: Flag = Flag.NONE
    timeout: int = 0
    servers: tuple[RealServer, ...] = ()


@dataclass(frozen=True, slots=True)
class PortServers:
    """What one port adds to a node. `addresses` are kube-ipvs0's; `out_filter` are rules of KUBE-IPVS-OUT-FILTER."""

    virtual: tuple[VirtualServer, ...] = ()
    addresses: tuple[Address, ...] = ()
    entries: tuple[Entry, ...] = ()
    out_filter: tuple[str, ...] = ()


def render(port: ServicePort, node: ProxyNode, *, scheduler: str = SCHEDULER) -> PortServers:
    """Return what a port is on a node, which has a virtual server for a NodePort on each of its addresses."""
    view = _View(port, node, choose(port, node.name), scheduler)
    addresses = tuple(view.bound)
    entries = (*_of_port(view), *(Entry(IpSet.IPVS_IPS, str(address)) for address in addresses))
    return PortServers(tuple(_virtual(view)), addresses, tuple(dict.fromkeys(entries)), tuple(_out_filter(view)))


@dataclass(frozen=True, slots=True)
class _View:
    """A port as one node sees it."""

    port: ServicePort
    node: ProxyNode
    choice: Choice
    scheduler: str

    @property
    def outside(self) -> tuple[Address, ...]:
        return (*self.port.external_ips, *self.port.load_balancer_ips)

    @property
    def bound(self) -> Iterator[Address]:
        """What kube-ipvs0 gets: not an address that another interface of the node has."""
        for address in dict.fromkeys((self.port.cluster_ip, *self.outside)):
            if address not in self.node.addresses:
                yield address

    @property
    def node_port_addresses(self) -> tuple[Address, ...]:
        return node_port_addresses(self.node) if self.port.node_port else ()

    @property
    def ranges_have_node(self) -> bool:
        return any(self.node.addresses[0] in network for network in self.port.source_ranges)

    def servers(self, policy: Policy) -> tuple[RealServer, ...]:
        """Return where packets go under a policy: with none of its own a node under Local sends to all there are."""
        chosen = self.choice.under(policy) or self.choice.cluster
        return tuple(RealServer(endpoint.address, endpoint.port) for endpoint in chosen)


def node_port_addresses(node: ProxyNode) -> tuple[Address, ...]:
    """Return where NodePorts listen: every address of the node, or those in the given networks; none of loopback."""
    version = node.addresses[0].version
    listening = [network for network in node.node_port_addresses if network.version == version]
    return tuple(
        address
        for address in dict.fromkeys(node.addresses)
        if not address.is_loopback and (not listening or any(address in network for network in listening))
    )


# --- virtual servers -------------------------------------------------------------------------------------------------


def _virtual(view: _View) -> Iterator[VirtualServer]:
    port = view.port
    yield _server(view, port.cluster_ip, port.port, view.servers(port.internal_policy))
    outside = view.servers(port.external_policy) if port.is_external else ()
    for address in dict.fromkeys(view.outside):
        yield _server(view, address, port.port, outside)
    for address in view.node_port_addresses:
        yield _server(view, address, port.node_port, outside)


def _server(view: _View, address: Address, port: int, servers: tuple[RealServer, ...]) -> VirtualServer:
    flags = Flag.SOURCE_HASH if view.scheduler == MAGLEV else Flag.NONE
    if view.port.affinity:
        flags |= Flag.PERSISTENT
    key = VirtualKey(address, view.port.protocol, port)
    return VirtualServer(key, view.scheduler, flags, view.port.affinity, servers)


# --- entries of sets -------------------------------------------------------------------------------------------------


def _of_port(view: _View) -> Iterator[Entry]:
    port = view.port
    for endpoint in port.endpoints:
        if endpoint.node == view.node.name:  # only here can it reach itself
            at = place(endpoint.address, port.protocol, endpoint.port)
            yield Entry(IpSet.LOOP_BACK, f"{at},{endpoint.address}")
    yield Entry(IpSet.CLUSTER_IP, place(port.cluster_ip, port.protocol, port.port))
    external = IpSet.EXTERNAL_IP_LOCAL if port.external_policy is Policy.LOCAL else IpSet.EXTERNAL_IP
    for address in port.external_ips:
        yield Entry(external, place(address, port.protocol, port.port))
    for address in port.load_balancer_ips:
        yield from _balancer(view, address)
    yield from _node_port(view)
    if port.health_check_node_port:
        yield Entry(IpSet.HEALTH_CHECK, str(port.health_check_node_port))


def _balancer(view: _View, address: Address) -> Iterator[Entry]:
    port = view.port
    at = place(address, port.protocol, port.port)
    yield Entry(IpSet.LOAD_BALANCER, at)
    if port.external_policy is Policy.LOCAL:
        yield Entry(IpSet.LOAD_BALANCER_LOCAL, at)
    if not port.source_ranges:
        return
    yield Entry(IpSet.LOAD_BALANCER_FW, at)
    for network in port.source_ranges:
        for text in networks(network):
            yield Entry(IpSet.SOURCE_CIDR, f"{at},{text}")
    if view.ranges_have_node:  # the node's own packets have it as source, for it is a local address
        yield Entry(IpSet.SOURCE_IP, f"{at},{address}")


def _node_port(view: _View) -> Iterator[Entry]:
    port = view.port
    if not port.node_port:
        return
    everyone, local = NODE_PORT_SETS[port.protocol]
    for ip_set in (everyone, local) if port.external_policy is Policy.LOCAL else (everyone,):
        if port.protocol is Protocol.SCTP:
            for address in view.node_port_addresses:
                yield Entry(ip_set, place(address, port.protocol, port.node_port))
        else:
            yield Entry(ip_set, str(port.node_port))


# --- rules -----------------------------------------------------------------------------------------------------------


def _out_filter(view: _View) -> Iterator[str]:
    port = view.port
    if port.source_ranges and not view.ranges_have_node:  # kubernetes#119656
        for address in port.load_balancer_ips:
            match = f"--vaddr {address} --vproto {port.protocol.lower()} --vport {port.port}"
            yield f"-s {address} -m ipvs {match} -j DROP"
