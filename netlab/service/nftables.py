"""What one port of a Service adds to the table of kube-proxy's nftables mode, as 1.33 does (facts.md section 5). Pure.

It depends on that port and the node only: where one of 10,000 Services changes, only its own objects are rendered and
compared. nftables_table.py has the rest of the table, and writes both for `nft -f`.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from netlab.service.choice import Choice, choose
from netlab.service.model import Endpoint, Policy, ProxyNode, ServicePort
from netlab.topology.model import Address

TABLE = "kube-proxy"
AFFINITY = "affinity-"  # what the names of affinity sets begin with
NAME_LIMIT = 240  # nft allows 256, the longest prefix may have 16 (facts.md 5.3)
REJECT = "goto reject-chain"

Chains = Mapping[str, tuple[str, ...]]  # name -> rules in order
Elements = Mapping[str, tuple[tuple[str, str | None], ...]]  # set or map -> (key, verdict as in a rule; None in a set)


@dataclass(frozen=True, slots=True)
class PortObjects:
    """What one port of a Service adds to the table. `sets` are the affinity sets: name -> definition."""

    table: str
    chains: Chains = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    elements: Elements = field(default_factory=dict)


class Words(NamedTuple):
    """What nft calls the things of an IP version."""

    ip: str
    address: str
    loopback: str

    @property
    def table(self) -> str:
        return f"{self.ip} {TABLE}"


WORDS = {4: Words("ip", "ipv4_addr", "127.0.0.0/8"), 6: Words("ip6", "ipv6_addr", "::1")}


# --- names (facts.md 5.3) --------------------------------------------------------------------------------------------


def service_name(port: ServicePort) -> str:
    """Return what the names of a port's chains end in: "HASH-ns/svc/proto/port"."""
    return _hashed(_path(port))


def endpoint_name(port: ServicePort, endpoint: Endpoint) -> str:
    """Return what the names of an endpoint's chain and affinity set end in."""
    return _destination_name(_path(port), str(endpoint.address), endpoint.port)


def _destination_name(path: str, address: str, port: int) -> str:
    return _hashed(f"{path}__{address.replace(':', '.')}/{port}")


def _path(port: ServicePort) -> str:
    return f"{port.namespace}/{port.name}/{port.protocol.lower()}/{port.port_name}"


def _hashed(text: str) -> str:
    """Return a text after 8 characters of base32 (RFC 4648): 40 bits of its hash, ten at a time."""
    bits = int.from_bytes(sha256(text.encode()).digest()[:5], "big")
    name = f"{_TWO[bits >> 30]}{_TWO[bits >> 20 & 1023]}{_TWO[bits >> 10 & 1023]}{_TWO[bits & 1023]}-{text}"
    return name if len(name) <= NAME_LIMIT else f"{name[: NAME_LIMIT - 3]}..."


_LETTERS = string.ascii_uppercase + "234567"
_TWO = [first + second for first in _LETTERS for second in _LETTERS]


# --- one port --------------------------------------------------------------------------------------------------------


class _Destination(NamedTuple):
    """An endpoint, as text: many thousands are written at once."""

    name: str
    address: str
    place: str  # address and port


@dataclass(frozen=True, slots=True)
class _View:
    """A port as one node sees it, with what all of its rules need."""

    port: ServicePort
    node: ProxyNode
    words: Words
    choice: Choice
    name: str

    @property
    def firewalled(self) -> bool:
        return bool(self.port.load_balancer_ips and self.port.source_ranges)

    def used(self, policy: Policy) -> list[_Destination]:
        """Return the endpoints of the chain for a policy, none where nothing leads to it.

        What is reachable from outside needs the Cluster chain under any policy: the node and its pods go there.
        """
        port = self.port
        wanted = port.internal_policy is policy
        if port.is_external:
            wanted |= policy in (Policy.CLUSTER, port.external_policy)
        if not wanted:
            return []
        path = _path(port)
        found = []
        for endpoint in self.choice.under(policy):
            address, number = str(endpoint.address), endpoint.port
            place = f"[{address}]:{number}" if endpoint.address.version == 6 else f"{address}:{number}"
            found.append(_Destination(_destination_name(path, address, number), address, place))
        return found

    def chain(self, policy: Policy) -> str:
        return f"{'service' if policy is Policy.CLUSTER else 'local'}-{self.name}"

    def no_endpoint(self) -> str:
        """Return the verdict on packets to it, with kube-proxy's comment: whose they are no chain's name says."""
        return f'{"drop" if self.choice.any else REJECT} comment "{self.port}"'


def render(port: ServicePort, node: ProxyNode) -> PortObjects:
    """Return what one port adds to a node's table."""
    words = WORDS[port.cluster_ip.version]
    view = _View(port, node, words, choose(port, node.name), service_name(port))
    used = {policy: view.used(policy) for policy in Policy}
    names = (end.name for ends in used.values() for end in ends) if port.affinity else ()
    definition = affinity_set(port.cluster_ip.version, port.affinity)
    return PortObjects(
        words.table,
        dict(_chains(view, used)),
        {f"{AFFINITY}{name}": definition for name in names},
        _elements(view),
    )


def affinity_set(version: int, timeout: int) -> str:
    """Return the definition of the set of an endpoint's clients, each forgotten after so many seconds."""
    return f"type {WORDS[version].address}; flags dynamic,timeout; timeout {timeout}s;"


def join(objects: Iterable[PortObjects]) -> PortObjects | None:
    """Return the objects of several ports as one; None of none.

    The ports of one Service share its element of cluster-ips: only what is joined may be changed, or the first port
    that goes takes it from the others.
    """
    ports = list(objects)
    if not ports:
        return None
    elements: dict[str, dict[str, str | None]] = {}
    for port in ports:
        for name, pairs in port.elements.items():
            elements.setdefault(name, {}).update(pairs)
    return PortObjects(
        ports[0].table,
        {name: rules for port in ports for name, rules in port.chains.items()},
        {name: definition for port in ports for name, definition in port.sets.items()},
        {name: tuple(found.items()) for name, found in elements.items()},
    )


def _elements(view: _View) -> Elements:
    """Return what leads to the port's chains, or refuses where there is no endpoint."""
    port, choice = view.port, view.choice
    protocol = port.protocol.lower()
    targets = {address: f"{address} . {protocol} . {port.port}" for address in (port.cluster_ip, *_vips(port))}
    inside, outside = choice.under(port.internal_policy), choice.under(port.external_policy)
    vips = [targets[address] for address in _vips(port)]
    node_port = [f"{protocol} . {port.node_port}"] if port.node_port else []
    found: dict[str, dict[str, str | None]] = {
        "cluster-ips": {str(port.cluster_ip): None},
        "service-ips": {targets[port.cluster_ip]: f"goto {view.chain(port.internal_policy)}"} if inside else {},
        "no-endpoint-services": {} if inside else {targets[port.cluster_ip]: view.no_endpoint()},
    }
    if choice.any:
        found["service-ips"] |= dict.fromkeys(vips, f"goto external-{view.name}")
        found["service-nodeports"] = dict.fromkeys(node_port, f"goto external-{view.name}")
    if (
        not outside
    ):  # the node's pods do not come here under policy Local: their packets have an endpoint's address already
        found["no-endpoint-services"] |= dict.fromkeys(vips, view.no_endpoint())
        found["no-endpoint-nodeports"] = dict.fromkeys(node_port, view.no_endpoint())
    if view.firewalled:
        balancers = [targets[address] for address in port.load_balancer_ips]
        found["firewall-ips"] = dict.fromkeys(balancers, f"goto firewall-{view.name}")
    return {name: tuple(pairs.items()) for name, pairs in found.items() if pairs}


def _vips(port: ServicePort) -> tuple[Address, ...]:
    return *port.external_ips, *port.load_balancer_ips


def _chains(view: _View, used: Mapping[Policy, Iterable[_Destination]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a port's chains in the order of a packet's way; an endpoint's comes twice where both policies have it."""
    if view.firewalled:
        yield f"firewall-{view.name}", (_firewall_rule(view),)
    if view.port.is_external and view.choice.any:
        yield f"external-{view.name}", tuple(_external_rules(view))
    for policy, ends in used.items():
        if names := [end.name for end in ends]:
            entry = _cluster_ip_rules(view) if policy is view.port.internal_policy else ()
            yield view.chain(policy), (*entry, *_balance_rules(view, names))
    translate = f"meta l4proto {view.port.protocol.lower()} dnat to"
    for ends in used.values():
        for end in ends:
            yield f"endpoint-{end.name}", _endpoint_rules(view, end, translate)


def _firewall_rule(view: _View) -> str:
    """Return the rule on who may use the load balancer's addresses.

    On a node in the ranges those addresses may be the node's own, and then the source of what it sends to them.
    """
    port = view.port
    allowed = [str(cidr) for cidr in port.source_ranges]
    if any(view.node.addresses[0] in cidr for cidr in port.source_ranges):
        allowed += [str(address) for address in port.load_balancer_ips]
    return f"{view.words.ip} saddr != {{ {', '.join(allowed)} }} drop"


def _external_rules(view: _View) -> Iterator[str]:
    policy, cluster = view.port.external_policy, view.chain(Policy.CLUSTER)
    if policy is Policy.CLUSTER:
        yield "jump mark-for-masquerade"
    else:
        if view.node.local:
            yield f'{view.words.ip} saddr {view.node.local} goto {cluster} comment "short-circuit pod traffic"'
        yield 'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"'
        yield f'fib saddr type local goto {cluster} comment "short-circuit local traffic"'
    if view.choice.under(policy):
        yield f"goto {view.chain(policy)}"


def _cluster_ip_rules(view: _View) -> tuple[str, ...]:
    port, node, ip = view.port, view.node, view.words.ip
    to_cluster_ip = f"{ip} daddr {port.cluster_ip} {port.protocol.lower()} dport {port.port}"
    if node.masquerade_all:
        return (f"{to_cluster_ip} jump mark-for-masquerade",)
    return (f"{to_cluster_ip} {ip} saddr != {node.local} jump mark-for-masquerade",) if node.local else ()


def _balance_rules(view: _View, names: list[str]) -> Iterator[str]:
    if view.port.affinity:
        yield from (f"{view.words.ip} saddr @{AFFINITY}{name} goto endpoint-{name}" for name in names)
    verdicts = ", ".join(f"{number} : goto endpoint-{name}" for number, name in enumerate(names))
    yield f"numgen random mod {len(names)} vmap {{ {verdicts} }}"


def _endpoint_rules(view: _View, end: _Destination, translate: str) -> tuple[str, ...]:
    ip = view.words.ip
    hairpin, translation = f"{ip} saddr {end.address} jump mark-for-masquerade", f"{translate} {end.place}"
    if view.port.affinity:
        return hairpin, f"update @{AFFINITY}{end.name} {{ {ip} saddr }}", translation
    return hairpin, translation
