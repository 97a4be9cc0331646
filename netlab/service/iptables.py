"""One Service port as kube-proxy's iptables mode writes it on a node (facts.md 3.5 to 3.7, 8.2, 11.5). Pure text.

A port's rules depend on nothing but the port and the node, so each port is rendered once and kept; iptables_restore.py
joins them with the fixed chains. The functions stand in packet order: KUBE-SERVICES and KUBE-NODEPORTS lead to
KUBE-FW-x or KUBE-EXT-x, these to KUBE-SVC-x or KUBE-SVL-x, and these to a KUBE-SEP-x, which does the DNAT. What found
no endpoint keeps its destination and is refused in table filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from netlab.service.choice import Choice, choose
from netlab.service.iptables_names import (
    EXTERNAL_SERVICES,
    MARK_MASQ,
    NODE_PORTS,
    PROXY_FIREWALL,
    SERVICES,
    Prefix,
    destination_chain,
    port_id,
)
from netlab.service.model import Endpoint, Policy, ProxyNode, ServicePort
from netlab.topology.model import Address


class _Destination(NamedTuple):
    """An endpoint, as text."""

    chain: str
    address: str
    place: str  # address and port


class Chain(NamedTuple):
    """A chain and its rules, each without "-A CHAIN"."""

    name: str
    rules: tuple[str, ...]


@dataclass(frozen=True)
class PortRules:
    """What one port puts into the tables: chains of its own in nat, and its lines in the chains that ports share.

    Each part is made when it is asked for first: a full sync of many ports hands text to a tool that already reads.
    """

    port: ServicePort
    node: ProxyNode
    comments: bool

    @cached_property
    def _view(self) -> _View:
        port, node = self.port, self.node
        return _View(port, node, choose(port, node.name), port_id(port), str(port), self.comments)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains that are this port's alone. They are not kept: of many ports they are much text."""
        return tuple(_chains(self._view))

    @property
    def nat_services(self) -> tuple[str, ...]:
        """Its rules in KUBE-SERVICES of nat."""
        return tuple(_nat_services(self._view))

    @property
    def nat_node_ports(self) -> tuple[str, ...]:
        """Its rules in KUBE-NODEPORTS of nat."""
        return tuple(_nat_node_ports(self._view))

    @property
    def filter_services(self) -> tuple[str, ...]:
        """Its rules in KUBE-SERVICES of filter."""
        return tuple(_filter_services(self._view))

    @property
    def filter_external_services(self) -> tuple[str, ...]:
        """Its rules in KUBE-EXTERNAL-SERVICES."""
        return tuple(_filter_external_services(self._view))

    @property
    def filter_node_ports(self) -> tuple[str, ...]:
        """Its rules in KUBE-NODEPORTS of filter: health checks."""
        return tuple(_filter_node_ports(self._view))

    @property
    def filter_proxy_firewall(self) -> tuple[str, ...]:
        """Its rules in KUBE-PROXY-FIREWALL."""
        return tuple(_filter_proxy_firewall(self._view))

    @cached_property
    def filter_text(self) -> str:
        """Its lines in table filter, for iptables-restore."""
        port = self.port
        if not (port.is_external or port.health_check_node_port) and self._view.choice.under(port.internal_policy):
            return ""  # as of most ports
        chains = (
            (SERVICES, _filter_services),
            (EXTERNAL_SERVICES, _filter_external_services),
            (PROXY_FIREWALL, _filter_proxy_firewall),
            (NODE_PORTS, _filter_node_ports),
        )
        return "".join([f"-A {name} {rule}\n" for name, rules in chains for rule in rules(self._view)])

    @cached_property
    def nat_text(self) -> str:
        """Its lines in the chains of nat that ports share, for iptables-restore."""
        chains = ((SERVICES, _nat_services), (NODE_PORTS, _nat_node_ports))
        return "".join([f"-A {name} {rule}\n" for name, rules in chains for rule in rules(self._view)])


def appended(chains: Iterable[Chain]) -> str:
    """Return the lines that append every rule of these chains, each with its newline."""
    return "".join([f"-A {name} {rule}\n" for name, rules in chains for rule in rules])


def declared(names: Iterable[str]) -> str:
    """Return the lines that make chains, or empty those that are there."""
    return "".join([f":{name} - [0:0]\n" for name in names])


def render(port: ServicePort, node: ProxyNode, *, comments: bool = True) -> PortRules:
    """Return a port's rules on a node, whose first address is its own InternalIP.

    Without `comments` the rules that are there for each endpoint have none: kube-proxy beyond 1000 endpoints in all
    (facts.md 3.1 and 3.8).
    """
    return PortRules(port, node, comments)


@dataclass(frozen=True)
class _View:
    """A port as one node sees it."""

    port: ServicePort
    node: ProxyNode
    choice: Choice
    id: str
    name: str
    comments: bool

    @property
    def firewalled(self) -> bool:
        return bool(self.choice.any and self.port.load_balancer_ips and self.port.source_ranges)

    @property
    def uses_cluster(self) -> bool:
        """Whether KUBE-SVC-x exists: external policy Local needs it too, for clients in the cluster."""
        return bool(self.choice.cluster) and (self.port.internal_policy is Policy.CLUSTER or self.port.is_external)

    @property
    def uses_local(self) -> bool:
        """Whether KUBE-SVL-x exists."""
        outside = self.port.external_policy if self.port.is_external else None
        wanted = Policy.LOCAL in (self.port.internal_policy, outside)
        return bool(self.choice.local) and wanted

    def chain(self, prefix: Prefix) -> str:
        return prefix + self.id

    def policy_chain(self, policy: Policy) -> str:
        return self.chain(Prefix.LOCAL if policy is Policy.LOCAL else Prefix.CLUSTER)

    def comment(self, text: str) -> str:
        return f'-m comment --comment "{self.name} {text}"'

    @cached_property
    def to_cluster_ip(self) -> str:
        return f"{self.comment('cluster IP')} {self.match(self.port.cluster_ip)}"

    def match(self, address: Address) -> str:
        """Return what matches a packet to the port at one of its addresses."""
        return f"{self.layer4} -d {address} --dport {self.port.port}"

    @cached_property
    def layer4(self) -> str:
        protocol = self.port.protocol.lower()
        return f"-m {protocol} -p {protocol}"


# --- table nat: the chains that ports share --------------------------------------------------------------------------


def _nat_services(view: _View) -> Iterator[str]:
    port = view.port
    if view.choice.under(port.internal_policy):
        chain = view.policy_chain(port.internal_policy)
        yield f"{view.to_cluster_ip} -j {chain}"
    if not view.choice.any:
        return
    external = view.chain(Prefix.EXTERNAL)
    for address in port.external_ips:
        yield f"{view.comment('external IP')} {view.match(address)} -j {external}"
    balanced = view.chain(Prefix.FIREWALL) if view.firewalled else external
    for address in port.load_balancer_ips:
        yield f"{view.comment('loadbalancer IP')} {view.match(address)} -j {balanced}"


def _nat_node_ports(view: _View) -> Iterator[str]:
    if view.port.node_port and view.choice.any:  # source ranges do not hold here
        match = f"{view.layer4} --dport {view.port.node_port}"
        yield f"-m comment --comment {view.name} {match} -j {view.chain(Prefix.EXTERNAL)}"


# --- table nat: the chains of this port alone ------------------------------------------------------------------------


def _chains(view: _View) -> Iterator[Chain]:
    if view.choice.any and view.port.is_external:
        yield Chain(view.chain(Prefix.EXTERNAL), tuple(_external(view)))
    if view.firewalled:
        yield Chain(view.chain(Prefix.FIREWALL), tuple(_firewall(view)))
    destinations: dict[str, _Destination] = {}
    for policy, used in ((Policy.CLUSTER, view.uses_cluster), (Policy.LOCAL, view.uses_local)):
        if used:
            chosen = [_named(view, endpoint) for endpoint in view.choice.under(policy)]
            destinations |= {end.chain: end for end in chosen}
            yield Chain(view.policy_chain(policy), (*_masquerade(view, policy), *_balance(view, chosen)))
    for end in destinations.values():
        yield Chain(end.chain, tuple(_destination(view, end)))


def _named(view: _View, endpoint: Endpoint) -> _Destination:
    place = str(endpoint)
    address = place.rpartition(":")[0].strip("[]")
    return _Destination(destination_chain(view.name, view.port.protocol, place), address, place)


def _firewall(view: _View) -> Iterator[str]:
    external = view.chain(Prefix.EXTERNAL)
    comment = view.comment("loadbalancer IP")
    for network in view.port.source_ranges:
        yield f"{comment} -s {network} -j {external}"
    if any(view.node.addresses[0] in network for network in view.port.source_ranges):
        for (
            address
        ) in view.port.load_balancer_ips:  # the node's own packets have it as source where it is a local address
            yield f"{comment} -s {address} -j {external}"
    yield f'-m comment --comment "other traffic to {view.name} will be dropped by {PROXY_FIREWALL}"'


def _external(view: _View) -> Iterator[str]:
    cluster = view.chain(Prefix.CLUSTER)
    destinations = f'for {view.name} external destinations"'
    if view.port.external_policy is Policy.CLUSTER:
        yield f'-m comment --comment "masquerade traffic {destinations} -j {MARK_MASQ}'
    else:
        if view.node.local is not None:
            yield f'-m comment --comment "pod traffic {destinations} -s {view.node.local} -j {cluster}'
        own = "-m addrtype --src-type LOCAL"
        yield f'-m comment --comment "masquerade LOCAL traffic {destinations} {own} -j {MARK_MASQ}'
        yield f'-m comment --comment "route LOCAL traffic {destinations} {own} -j {cluster}'
    if view.choice.under(view.port.external_policy):
        yield f"-j {view.policy_chain(view.port.external_policy)}"


def _masquerade(view: _View, policy: Policy) -> Iterator[str]:
    """Yield what marks packets to the cluster IP, in the chain that they go to."""
    if policy is not view.port.internal_policy:
        return
    if view.node.masquerade_all:
        yield f"{view.to_cluster_ip} -j {MARK_MASQ}"
    elif view.node.local is not None:
        yield f"{view.to_cluster_ip} ! -s {view.node.local} -j {MARK_MASQ}"


def _balance(view: _View, chosen: list[_Destination]) -> Iterator[str]:
    """Yield what chooses an endpoint: the client's last one, or else each with the same probability."""
    comments = [f"{view.comment(f'-> {end.place}')} " if view.comments else "" for end in chosen]
    if view.port.affinity:
        for comment, end in zip(comments, chosen, strict=True):
            recent = f"-m recent --name {end.chain} --rcheck --seconds {view.port.affinity} --reap"
            yield f"{comment}{recent} -j {end.chain}"
    for left, comment, end in zip(range(len(chosen), 0, -1), comments, chosen, strict=True):
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield f"{comment}{chance}-j {end.chain}"


def _destination(view: _View, end: _Destination) -> Iterator[str]:
    comment = f"-m comment --comment {view.name} " if view.comments else ""
    recent = f"-m recent --name {end.chain} --set " if view.port.affinity else ""
    yield f"{comment}-s {end.address} -j {MARK_MASQ}"  # it chose itself: the answer has to come back this way
    yield f"{comment}{recent}{view.layer4} -j DNAT --to-destination {end.place}"


# --- table filter: what was not translated in nat --------------------------------------------------------------------


def _refusal(view: _View) -> tuple[str, str]:
    if view.choice.any:
        return view.comment("has no local endpoints"), "DROP"
    return view.comment("has no endpoints"), "REJECT"


def _filter_services(view: _View) -> Iterator[str]:
    if not view.choice.under(view.port.internal_policy):
        comment, verdict = _refusal(view)
        yield f"{comment} {view.match(view.port.cluster_ip)} -j {verdict}"


def _filter_external_services(view: _View) -> Iterator[str]:
    if view.choice.under(view.port.external_policy):
        return
    comment, verdict = _refusal(view)
    for address in (*view.port.external_ips, *view.port.load_balancer_ips):
        yield f"{comment} {view.match(address)} -j {verdict}"
    if view.port.node_port:
        match = f"-m addrtype --dst-type LOCAL {view.layer4} --dport {view.port.node_port}"
        yield f"{comment} {match} -j {verdict}"


def _filter_proxy_firewall(view: _View) -> Iterator[str]:
    if view.firewalled:
        comment = view.comment(f"traffic not accepted by {view.chain(Prefix.FIREWALL)}")
        for address in view.port.load_balancer_ips:
            yield f"{comment} {view.match(address)} -j DROP"


def _filter_node_ports(view: _View) -> Iterator[str]:
    if view.port.health_check_node_port:
        match = f"-m tcp -p tcp --dport {view.port.health_check_node_port}"
        yield f"{view.comment('health check node port')} {match} -j ACCEPT"
