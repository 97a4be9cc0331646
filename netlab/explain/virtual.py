"""One Service's part of a node in IPVS mode: virtual servers, and the shared rules that its packets meet. Pure.

Nothing in the kernel names the Service there: its addresses and ports must be known. Virtual servers stand among the
chains of rules as if they were one, and the real servers of each as another.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from netlab.explain.ipsets import resolved
from netlab.explain.model import (
    VIRTUAL_SERVERS,
    Balance,
    Counters,
    Entries,
    Layer4,
    Packet,
    Place,
    Rule,
    Serve,
    Tables,
    To,
    ToPort,
)
from netlab.explain.tree import IPVS_STEPS, Door, PortTree, behind, door, doors
from netlab.explain.words import met
from netlab.explain.words import port as place
from netlab.proxy.ipvs_netlink import Listed
from netlab.service.ipvs_sets import IpSet
from netlab.service.model import Endpoint, ServicePort


def chains(listed: Iterable[Listed]) -> dict[Place, tuple[Rule, ...]]:
    """Return virtual servers as rules of one chain, and their real servers as rules of a chain for each."""
    ways: list[Rule] = []
    found: dict[Place, tuple[Rule, ...]] = {}
    table = VIRTUAL_SERVERS[0]
    for one in listed:
        key, kept = one.key, one.installed
        name = place(Packet(key.address, key.protocol.lower(), key.port))
        where = To((ip_network(key.address),)), Layer4(key.protocol.lower()), ToPort(key.port)
        timeout = kept.timeout if kept.is_persistent else 0
        action = Balance(kept.scheduler, name, timeout)
        ways.append(Rule(*VIRTUAL_SERVERS, where, action, counters=Counters(*one.seen)))
        found[table, name] = tuple(
            Rule(table, name, (), Serve(str(Endpoint(*server)), weight), counters=Counters(*seen))
            for server, weight, seen in one.servers
        )
    return {VIRTUAL_SERVERS: tuple(ways), **found}


def trees(ports: Iterable[ServicePort], tables: Tables) -> tuple[PortTree, ...]:
    """Return what a node has for each port of a Service."""
    return tuple(_tree(port, tables) for port in ports if port.cluster_ip.version == tables.version)


def _tree(port: ServicePort, tables: Tables) -> PortTree:
    entries = tuple(doors(port))
    packets = [packet for entry in entries for packet in packets_to(entry, tables)]
    steps = tuple(
        tuple(rule for place in step for rule in tables.chain(*place) if _concerns(rule, tables, packets))
        for step in IPVS_STEPS
    )
    places = behind(tables, [rule for step in steps for rule in step])
    chains_behind = {place: tables.chains[place] for place in places}
    return PortTree(str(port), port.protocol.lower(), tables, steps, chains_behind, entries)


def packets_to(entry: Door, tables: Tables) -> list[Packet]:
    """Return a packet for each address that a way in has: for a NodePort those of its virtual servers."""
    if entry.host:
        return [Packet(ip_address(entry.host), entry.protocol, entry.port, to_node=True)]
    services = tables.sets.get(IpSet.IPVS_IPS.called(tables.version), Entries((), frozenset())).texts
    found = [door(rule) for rule in tables.chain(*VIRTUAL_SERVERS)]
    return [
        Packet(ip_address(one.host), one.protocol, one.port, to_node=True)
        for one in found
        if (one.protocol, one.port) == (entry.protocol, entry.port) and one.host not in services
    ]


def _concerns(rule: Rule, tables: Tables, packets: Iterable[Packet]) -> bool:
    """Say whether one of the packets may meet a rule."""
    return any(may_meet(rule, tables, packet) for packet in packets)


def may_meet(rule: Rule, tables: Tables, packet: Packet) -> bool:
    """Say whether a packet may meet a rule, whatever its source."""
    found = resolved(rule, tables.sets, packet)
    return found is not None and all(met(one, packet) is not False for one in found.conditions)
