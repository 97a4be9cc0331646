"""Which destinations a node's Service rules give to a new connection, with their probabilities. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import ip_address

from netlab.explain.explain import MASQUERADED, Walk
from netlab.explain.model import Packet, Reading, Tables
from netlab.explain.tree import Door, PortTree, door, services, tree
from netlab.explain.words import chance
from netlab.proxy.ipvs_netlink import Listed
from netlab.topology.addresses import Address

Asked = tuple[Address, str, int]  # destination, protocol, port


@dataclass(frozen=True, slots=True)
class Destination:
    """One endpoint that may be chosen. `chance`: with which probability, in words."""

    address: Address
    port: int
    chance: str
    masqueraded: bool


def destinations(
    reading: Reading, asked: Asked, source: Address | None, own: Collection[Address]
) -> tuple[Destination, ...]:
    """Return the endpoints that packets to an address and port may get; `own` are the node's addresses.

    `source` None: the node itself sends it.
    """
    for tables in reading.tables:
        if tables.version == asked[0].version:
            for port_tree, entry in _doors(tables, asked, own):
                packet = Packet(asked[0], asked[1], asked[2], source, source is None or source in own, not entry.host)
                lines = Walk(port_tree, {}, packet).door(entry)
                masqueraded = any(MASQUERADED in line.text for line in lines)
                return tuple(
                    Destination(*_split(line.endpoint), chance(line.probability), masqueraded)
                    for line in lines
                    if line.endpoint and line.probability is not None
                )
    return ()


def real_servers(listing: Iterable[Listed], asked: Asked) -> tuple[Destination, ...]:
    """Return the real servers that a virtual server of IPVS chooses from, each with its share by weight.

    Whether it is masqueraded is decided by IP sets, which are not looked at.
    """
    for listed in listing:
        if (listed.key.address, listed.key.protocol.lower(), listed.key.port) == asked:
            total = sum(weight for _, weight, _ in listed.servers) or 1
            return tuple(
                Destination(server.address, server.port, chance(Fraction(weight, total)), masqueraded=False)
                for server, weight, _ in listed.servers
                if weight
            )
    return ()


def _doors(tables: Tables, asked: Asked, own: Collection[Address]) -> Iterator[tuple[PortTree, Door]]:
    """Yield the ways into Services that an address and port are."""
    hosts = {str(asked[0])} | ({""} if asked[0] in own else set())
    for namespace, name in sorted(services([tables])):
        for port_tree in tree(namespace, name, tables):
            for entry in {door(rule) for step in port_tree.steps for rule in step}:
                if entry.host in hosts and (entry.protocol, entry.port) == asked[1:]:
                    yield port_tree, entry


def _split(endpoint: str) -> tuple[Address, int]:
    host, _, port = endpoint.rpartition(":")
    return ip_address(host.strip("[]")), int(port)
