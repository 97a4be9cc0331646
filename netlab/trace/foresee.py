"""A prediction for a lab that is up: the kernel's tables are asked, no packet is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from netlab import names
from netlab.errors import KernelError
from netlab.found import FoundLab
from netlab.kernel.lookup import KernelTables
from netlab.topology.addresses import Address
from netlab.topology.model import Proxy, UdpBackend, VxlanBackend
from netlab.trace.cables import Cables
from netlab.trace.connections import Connection
from netlab.trace.correlate import Role
from netlab.trace.explain import explain
from netlab.trace.headers import ICMP, ICMP_ECHOES, ICMPV6, TCP, UDP, Headers, Icmp, Ip, Tcp, Udp
from netlab.trace.model import Trace, Verdict, Way
from netlab.trace.places import find_namespaces, find_places
from netlab.trace.predict import TTL, Choice, Prediction, World, predict
from netlab.trace.question import Protocol, Question

if TYPE_CHECKING:
    from netlab.explain.choices import Asked, Destination
    from netlab.explain.model import Reading

Translate = Callable[[str, Headers], tuple[Choice, ...]]

HEADER = {Protocol.ICMP: 8, Protocol.UDP: 8, Protocol.TCP: 20}
SMALLEST = {4: 20, 6: 40}
PAYLOAD = 16
READ_FROM = "what the kernel's tables say now; nothing was sent"


def explained(lab: FoundLab, question: Question) -> Trace:
    """Return a prediction in the form of a trace."""
    found, tables = foresee(lab, question)
    places = find_places(lab)
    way = Way(Role.PROBE, explain(found.steps, tables, places, start=0))
    last = way.hops[-1].member if way.hops else question.source
    verdict = Verdict.DELIVERED if found.arrives else Verdict.LOST
    summary = f"it would come to {last}" if found.arrives else f"it would not arrive: {found.end}"
    return Trace(lab.name, str(question), verdict, summary, (way,) if way.hops else (), READ_FROM, _remarks(found))


def _remarks(found: Prediction) -> tuple[str, ...]:
    if len(found.choices) < 2:
        return ()
    listed = ", ".join(f"{one.address}:{one.port} {one.chance}" for one in found.choices)
    return (f"the Service's rules choose by chance, and the first is followed: {listed}",)


def foresee(lab: FoundLab, question: Question) -> tuple[Prediction, Mapping[str, KernelTables]]:
    """Return the way that a probe would take, and the tables that it was read from."""
    tables: dict[str, KernelTables] = {}
    return predict(_world(lab, tables, _by_rules(lab)), lab.netns(question.source), packet(question)), tables


def foretell(
    lab: FoundLab, question: Question, tables: Mapping[str, KernelTables], connections: Iterable[tuple[str, Connection]]
) -> Prediction:
    """Return the way that a probe should have taken, given the destinations that it was given on it."""
    made = list(connections)

    def translate(namespace: str, headers: Headers) -> tuple[Choice, ...]:
        for where, connection in made:
            if where == namespace and connection.is_translated and connection.begins(headers):
                to = connection.reply
                return (Choice(to.src, to.sport, "", to.dst != connection.original.src),)
        return ()

    return predict(_world(lab, dict(tables), translate), lab.netns(question.source), packet(question))


def packet(question: Question) -> Headers:
    """Return the headers of the probe that a question asks for, without a source."""
    version, protocol, options = question.address.version, question.protocol, question.options
    numbers = {Protocol.TCP: TCP, Protocol.UDP: UDP, Protocol.ICMP: ICMP if version == 4 else ICMPV6}
    inside: dict[Protocol, Tcp | Udp | Icmp] = {
        Protocol.TCP: Tcp(0, question.port, 0, 0, "S"),
        Protocol.UDP: Udp(0, question.port),
        Protocol.ICMP: Icmp(ICMP_ECHOES[numbers[Protocol.ICMP]][0], 0),
    }
    length = options.size or SMALLEST[version] + HEADER[protocol] + PAYLOAD
    nowhere = ip_address("0.0.0.0" if version == 4 else "::")
    ip = Ip(
        version,
        nowhere,
        question.address,
        numbers[protocol],
        options.ttl or TTL,
        length,
        dont_fragment=options.dont_fragment,
    )
    return ip, inside[protocol]


def _world(lab: FoundLab, tables: dict[str, KernelTables], translate: Translate) -> World:
    snapshot, backend = lab.snapshot, lab.topology.backend

    def find_tables(namespace: str) -> KernelTables | None:
        if namespace not in tables:
            try:
                tables[namespace] = KernelTables.of(namespace)
            except KernelError:
                return None
        return tables[namespace]

    cables = Cables(list(find_namespaces(lab).values()), find_tables)
    return World(
        find_tables,
        cables.peer,
        cables.owner,
        {cidr: ip for lease in snapshot.leases.values() for cidr in lease.pod_cidrs for ip in lease.public_ips},
        backend.port if isinstance(backend, UdpBackend) else UdpBackend().port,
        backend.port if isinstance(backend, VxlanBackend) else VxlanBackend().port,
        translate,
    )


def _by_rules(lab: FoundLab) -> Translate:
    """Return what finds destinations in the Service rules of nodes, which are read when they are first asked for."""
    from netlab.explain.choices import destinations, real_servers
    from netlab.explain.read import read
    from netlab.proxy.ipvs_netlink import virtual_servers

    snapshot = lab.snapshot
    nodes = {names.netns(lab.name, node.name): node.name for node in lab.topology.cluster_nodes}
    modes = {node.name: node.proxy or lab.topology.proxy for node in lab.topology.cluster_nodes}

    @cache
    def reading(node: str) -> Reading:
        return read(lambda argv: lab.exec(node, argv), lab.topology.families)

    def chosen(node: str, asked: Asked, source: Address | None) -> tuple[Destination, ...]:
        if modes[node] is Proxy.IPVS:
            return real_servers(virtual_servers(lab.netns(node), asked[0].version), asked)
        return destinations(reading(node), asked, source, snapshot.leases[node].public_ips)

    def translate(namespace: str, headers: Headers) -> tuple[Choice, ...]:
        ports = next((header for header in headers if isinstance(header, (Tcp, Udp))), None)
        if ports is None or namespace not in nodes:
            return ()
        ip = next(header for header in headers if isinstance(header, Ip))
        asked = ip.dst, "tcp" if isinstance(ports, Tcp) else "udp", ports.dport
        found = chosen(nodes[namespace], asked, None if ip.src.is_unspecified else ip.src)
        return tuple(Choice(one.address, one.port, one.chance, one.masqueraded) for one in found)

    return translate
