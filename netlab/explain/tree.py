"""One Service's rules among a node's: those that lead to it, and the chains behind them, in a packet's order. Pure.

A Service is found by what kube-proxy writes into the rules: comments "ns/name:port ..." in iptables mode, names of
chains "HASH-ns/name/protocol/port" in nftables mode. An element that refuses has neither: it is found by its address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netlab.explain.model import VIRTUAL_SERVERS, Balance, Choose, Jump, Layer4, Place, Rule, Tables, To, ToPort
from netlab.service.iptables_names import (
    EXTERNAL_SERVICES,
    FIREWALL,
    FORWARD,
    MARK_MASQ,
    NODE_PORTS,
    POSTROUTING,
    PROXY_FIREWALL,
    SERVICES,
)
from netlab.service.ipvs_rules import IPVS_FILTER, IPVS_OUT_FILTER
from netlab.service.model import ServicePort
from netlab.service.nftables import TABLE

# The chains that all Services share, by the step of a packet's way in which they stand.
IPTABLES_STEPS: tuple[tuple[Place, ...], ...] = (
    (("nat", SERVICES), ("nat", NODE_PORTS)),
    (("filter", PROXY_FIREWALL), ("filter", SERVICES), ("filter", EXTERNAL_SERVICES), ("filter", NODE_PORTS)),
)
NFT_STEPS: tuple[tuple[Place, ...], ...] = (
    ((TABLE, "firewall-check"),),
    ((TABLE, "services"),),
    ((TABLE, "service-endpoints-check"), (TABLE, "nodeport-endpoints-check")),
)
IPVS_STEPS: tuple[tuple[Place, ...], ...] = (
    (("nat", SERVICES),),
    (("filter", PROXY_FIREWALL), ("filter", IPVS_FILTER)),
    (VIRTUAL_SERVERS,),
    (("filter", IPVS_OUT_FILTER),),
)
NODE_PORT_MAPS = ("service-nodeports", "no-endpoint-nodeports")
# Chains that a Service's rules jump to and that are not its own.
COMMON = {SERVICES, NODE_PORTS, EXTERNAL_SERVICES, PROXY_FIREWALL, FORWARD, FIREWALL, POSTROUTING, MARK_MASQ}
COMMON |= {"mark-for-masquerade", "reject-chain"}

NAMED = re.compile(r"([a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?)(:\S+)?(?: |\Z)")
CHAIN = re.compile(r"(?:service|local|external|firewall)-[A-Z2-7]{8}-([^/]+/[^/]+)/([a-z]+)/([^/]*)\Z")


class Door(NamedTuple):
    """Where packets for a Service's port go to: `host` is "" for the node's own addresses.

    `called` is what kube-proxy calls it ("cluster IP"), "" where that is read off the rules.
    """

    host: str
    protocol: str
    port: int
    called: str = ""


@dataclass(frozen=True, slots=True)
class PortTree:
    """What the kernel has for one port of a Service, in one IP version.

    `steps` are the ways in, by the step of the packet's way; `chains` are those behind them, each once and before those
    that it leads to. `doors` are known in IPVS mode only, where no rule names them.
    """

    port: str  # "default/web:http"
    protocol: str  # "tcp"
    tables: Tables
    steps: tuple[tuple[Rule, ...], ...]
    chains: Mapping[Place, tuple[Rule, ...]] = field(default_factory=dict)
    doors: tuple[Door, ...] = ()

    @property
    def rules(self) -> Iterator[Rule]:
        """Yield every rule in a packet's order."""
        shown: set[Place] = set()
        for ways in self.steps:
            yield from ways
            for place in behind(self.tables, ways):
                if place not in shown:
                    shown.add(place)
                    yield from self.chains[place]


Key = tuple[str, str]  # port ("default/web:http"), protocol


def tree(namespace: str, name: str, tables: Tables, ports: Iterable[ServicePort] = ()) -> tuple[PortTree, ...]:
    """Return what there is for each port of a Service; nothing where there is none. `ports` are known to be its."""
    service = f"{namespace}/{name}"
    steps = [[rule for place in step for rule in tables.chain(*place)] for step in _steps(tables)]
    keys: list[Key] = []
    for rule in (rule for step in steps for rule in step):
        key = _key(rule, service)
        if key and key not in keys:
            keys.append(key)
    chosen = {key: _chosen(key, service, steps) for key in keys}
    if tables.is_nftables:
        _add_nameless(chosen, steps, [port for port in ports if port.cluster_ip.version == tables.version])
    return tuple(_port_tree(key, tables, found) for key, found in sorted(chosen.items()))


def services(tables: Iterable[Tables]) -> set[tuple[str, str]]:
    """Return namespace and name of every Service that the rules name."""
    found = set()
    for one in tables:
        for place in shared(one):
            found |= {service for rule in one.chain(*place) if (service := _service(rule))}
    return {(namespace, name) for namespace, _, name in (service.partition("/") for service in found)}


def is_node_port(rule: Rule) -> bool:
    """Say whether a way in is a port of the node's own addresses."""
    if rule.map:
        return rule.map in NODE_PORT_MAPS
    return rule.chain == NODE_PORTS or not any(isinstance(condition, To) for condition in rule.conditions)


def door(rule: Rule) -> Door:
    """Return where packets go that meet a way in."""
    host, protocol, port = "", "", 0
    for condition in rule.conditions:
        match condition:
            case To((network,), False) if not is_node_port(rule):
                host = str(network.network_address)
            case Layer4(found, False):
                protocol = found
            case ToPort(number, False):
                port = number
    return Door(host, protocol, port)


def _steps(tables: Tables) -> tuple[tuple[Place, ...], ...]:
    if tables.is_ipvs:
        return IPVS_STEPS
    return NFT_STEPS if tables.is_nftables else IPTABLES_STEPS


def shared(tables: Tables) -> list[Place]:
    """Return the chains that all Services share."""
    return [place for step in _steps(tables) for place in step]


def targets(rule: Rule) -> tuple[str, ...]:
    """Return the chains that a rule leads to."""
    match rule.action:
        case Jump(chain):
            return (chain,)
        case Balance(_, chain):
            return (chain,)
        case Choose(shares):
            return tuple(chain for _, chain in shares)
    return ()


def _service(rule: Rule) -> str:
    if named := NAMED.match(rule.comment):
        return named[1]
    found = [named[1] for chain in targets(rule) if (named := CHAIN.match(chain))]
    return found[0] if found else ""


def _key(rule: Rule, service: str) -> Key | None:
    """Return the port of the Service that a way in names."""
    if _service(rule) != service:
        return None
    if named := NAMED.match(rule.comment):
        protocols = [condition.protocol for condition in rule.conditions if isinstance(condition, Layer4)]
        return service + (named[4] or ""), protocols[0] if protocols else ""
    named = next(found for chain in targets(rule) if (found := CHAIN.match(chain)))
    return service + (f":{named[3]}" if named[3] else ""), named[2]


def _chosen(key: Key, service: str, steps: Iterable[Iterable[Rule]]) -> list[list[Rule]]:
    """Return the port's ways in, by step: those that name it, and nameless ones that lead to the same chains."""
    listed = [list(step) for step in steps]
    named = {id(rule) for step in listed for rule in step if _key(rule, service) == key}
    own = {chain for step in listed for rule in step if id(rule) in named for chain in targets(rule)} - COMMON
    return [
        [rule for rule in step if id(rule) in named or (not rule.comment and own & set(targets(rule)))]
        for step in listed
    ]


def doors(port: ServicePort) -> Iterator[Door]:
    """Yield the addresses of a Service's port."""
    protocol = port.protocol.lower()
    yield Door(str(port.cluster_ip), protocol, port.port, "cluster IP")
    for called, addresses in (("external IP", port.external_ips), ("loadbalancer IP", port.load_balancer_ips)):
        for address in addresses:
            yield Door(str(address), protocol, port.port, called)
    if port.node_port:
        yield Door("", protocol, port.node_port, "NodePort")


def _add_nameless(chosen: dict[Key, list[list[Rule]]], steps: list[list[Rule]], ports: Iterable[ServicePort]) -> None:
    """Add the elements that refuse: no chain of theirs names the Service."""
    found = {door(rule): key for key, ways in chosen.items() for step in ways for rule in step}
    found |= {entry._replace(called=""): (str(port), entry.protocol) for port in ports for entry in doors(port)}
    for number, step in enumerate(steps):
        for rule in step:
            key = found.get(door(rule))
            if key and not _service(rule):
                chosen.setdefault(key, [[] for _ in steps])[number].append(rule)


def _port_tree(key: Key, tables: Tables, found: list[list[Rule]]) -> PortTree:
    places = behind(tables, [rule for step in found for rule in step])
    chains = {place: tables.chains[place] for place in places}
    return PortTree(key[0], key[1], tables, tuple(map(tuple, found)), chains)


def behind(tables: Tables, ways: Iterable[Rule]) -> list[Place]:
    """Return the chains that rules lead to, directly or not, each before those that it leads to itself."""
    entered: set[Place] = set()
    done: list[Place] = []

    def visit(rules: Iterable[Rule]) -> None:
        for rule in reversed(tuple(rules)):
            for chain in reversed(targets(rule)):
                place = rule.table, chain
                if chain in COMMON or place not in tables.chains or place in entered:
                    continue
                entered.add(place)
                visit(tables.chains[place])
                done.append(place)

    visit(ways)
    levels: dict[Place, int] = {}
    named: dict[Place, int] = {}
    found = done[::-1]  # each before those that it leads to
    for place in found:
        for rule in tables.chains[place]:
            for chain in targets(rule):
                further = place[0], chain
                levels[further] = max(levels.get(further, 0), levels.get(place, 0) + 1)
                named.setdefault(further, len(named))
    return sorted(found, key=lambda place: (levels.get(place, 0), named.get(place, 0)))
