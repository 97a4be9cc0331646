"""A node's whole tables in kube-proxy's iptables mode: fixed chains, and the text of a sync (facts.md 3.2, 3.4, 3.8).

Pure. What a sync writes is made of each port's ready lines (iptables.py), so one change among many ports costs a join.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from netlab.service.iptables import Chain, PortRules, appended, declared
from netlab.service.iptables_names import (
    CANARY,
    EXTERNAL_SERVICES,
    FIREWALL,
    FORWARD,
    MARK_MASQ,
    NODE_PORTS,
    POSTROUTING,
    PROXY_FIREWALL,
    SERVICES,
    Prefix,
)
from netlab.service.model import ProxyNode
from netlab.topology.model import Address, Network

MARK = "0x004000"  # as kube-proxy writes it; iptables-save prints 0x4000
CANARY_TABLES = ("filter", "nat", "mangle")  # none of the three left: somebody flushed them
LOOPBACK = IPv4Network("127.0.0.0/8")


class Jump(NamedTuple):
    """The rule in a built-in chain that leads to one of ours; it goes in front of what is there when it is missing."""

    table: str
    chain: str
    rule: str


@dataclass(frozen=True, slots=True)
class Base:
    """What a node's tables hold whatever the Services are.

    `last` are the rules that end nat's KUBE-SERVICES. `localhost_node_ports` asks for the sysctl
    net.ipv4.conf.all.route_localnet=1. Put `jumps` in one by one: each goes in front of the one before.
    """

    filter: tuple[Chain, ...]
    nat: tuple[Chain, ...]
    last: tuple[str, ...]
    jumps: tuple[Jump, ...]
    localhost_node_ports: bool


def base(
    node: ProxyNode,
    *,
    localhost_node_ports: bool = True,
    tcp_be_liberal: bool = False,
    random_fully: bool = True,
) -> Base:
    """Return the fixed chains and rules of a node, of the IP version of its first address.

    The options are kube-proxy's --iptables-localhost-nodeports, the sysctl nf_conntrack_tcp_be_liberal, and whether the
    tool knows MASQUERADE --random-fully (iptables 1.6.2).
    """
    version = node.addresses[0].version
    listening = [network for network in node.node_port_addresses if network.version == version]
    localhost = localhost_node_ports and version == 4 and (not listening or any(map(_has_loopback, listening)))
    return Base(
        filter=tuple(_filter_chains(localhost=localhost, tcp_be_liberal=tcp_be_liberal)),
        nat=tuple(_nat_chains(random_fully=random_fully)),
        last=tuple(_last(node, listening, localhost=localhost)),
        jumps=tuple(_jumps(localhost=localhost)),
        localhost_node_ports=localhost,
    )


def _has_loopback(network: Network) -> bool:
    return network.network_address.is_loopback or LOOPBACK.network_address in network


def _filter_chains(*, localhost: bool, tcp_be_liberal: bool) -> Iterator[Chain]:
    invalid = () if tcp_be_liberal else ("-m conntrack --ctstate INVALID -j DROP",)
    forward = (
        *invalid,
        f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {MARK}/{MARK} -j ACCEPT',
        '-m comment --comment "kubernetes forwarding conntrack rule"'
        " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    )
    yield Chain(SERVICES, ())
    yield Chain(EXTERNAL_SERVICES, ())
    yield Chain(FORWARD, forward)
    yield Chain(NODE_PORTS, ())
    yield Chain(PROXY_FIREWALL, ())
    if localhost:  # route_localnet lets a neighbor reach 127.0.0.1 otherwise: CVE-2020-8558
        new = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
        blocked = (
            f'-m comment --comment "block incoming localnet connections" -d {LOOPBACK} ! -s {LOOPBACK} {new} -j DROP'
        )
        yield Chain(FIREWALL, (blocked,))


def _nat_chains(*, random_fully: bool) -> Iterator[Chain]:
    masquerade = '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE'
    postrouting = (
        f"-m mark ! --mark {MARK}/{MARK} -j RETURN",
        f"-j MARK --xor-mark {MARK}",  # a packet that comes again, inside a tunnel's, is not masqueraded twice
        f"{masquerade} --random-fully" if random_fully else masquerade,
    )
    yield Chain(SERVICES, ())
    yield Chain(NODE_PORTS, ())
    yield Chain(POSTROUTING, postrouting)
    yield Chain(MARK_MASQ, (f"-j MARK --or-mark {MARK}",))


def _last(node: ProxyNode, listening: list[Network], *, localhost: bool) -> Iterator[str]:
    comment = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    version = node.addresses[0].version
    if not listening or any(network.prefixlen == 0 for network in listening):
        no_loopback = " ! -d ::1/128" if version == 6 else "" if localhost else f" ! -d {LOOPBACK}"
        yield f"{comment} -m addrtype --dst-type LOCAL{no_loopback} -j {NODE_PORTS}"
        return
    own: list[Address] = [address for address in node.addresses if not address.is_loopback]
    if localhost:
        own.append(IPv4Address("127.0.0.1"))
    for address in own:
        if any(address in network for network in listening):
            yield f"{comment} -d {address} -j {NODE_PORTS}"


def _jumps(*, localhost: bool) -> Iterator[Jump]:
    new = "-m conntrack --ctstate NEW "
    external = f'{new}-m comment --comment "kubernetes externally-visible service portals" -j {EXTERNAL_SERVICES}'
    health = f'-m comment --comment "kubernetes health check service ports" -j {NODE_PORTS}'
    services = f'-m comment --comment "kubernetes service portals" -j {SERVICES}'
    firewall = f'{new}-m comment --comment "kubernetes load balancer firewall" -j {PROXY_FIREWALL}'
    yield Jump("filter", "INPUT", external)
    yield Jump("filter", "FORWARD", external)
    yield Jump("filter", "INPUT", health)
    yield Jump("filter", "FORWARD", new + services)
    yield Jump("filter", "OUTPUT", new + services)
    yield Jump("filter", "FORWARD", f'-m comment --comment "kubernetes forwarding rules" -j {FORWARD}')
    for chain in ("INPUT", "OUTPUT", "FORWARD"):
        yield Jump("filter", chain, firewall)
    yield Jump("nat", "OUTPUT", services)
    yield Jump("nat", "PREROUTING", services)
    yield Jump("nat", "POSTROUTING", f'-m comment --comment "kubernetes postrouting rules" -j {POSTROUTING}')
    if localhost:
        yield Jump("filter", "INPUT", f"-j {FIREWALL}")
        yield Jump("filter", "OUTPUT", f"-j {FIREWALL}")


# --- one sync --------------------------------------------------------------------------------------------------------


def full_input(
    fixed: Base, ports: Collection[PortRules], *, existing: Iterable[str] = (), jumps: Collection[Jump] = ()
) -> Iterator[str]:
    """Yield the input for `iptables-restore --noflush` that writes every chain, and the canaries: filter, then nat.

    Each table changes at once. Of the `existing` chains of nat, those that are a port's by name but no port's any more
    are deleted. `jumps` are those that are missing. A port's chains stand where its lines are, so that the tool works
    on the first ports while later ones are made.
    """
    yield from _filter(fixed, ports, jumps, canary=True)
    yield from ("*nat\n", declared([*(chain.name for chain in fixed.nat), CANARY]), appended(fixed.nat))
    stale = {name for name in existing if name.startswith(tuple(Prefix))}
    for port in ports:
        chains = port.chains
        names = [name for name, _ in chains]
        stale.difference_update(names)
        yield declared(names)
        yield port.nat_text
        yield appended(chains)
    yield appended([Chain(SERVICES, fixed.last)])
    yield from (_inserted("nat", jumps), _deleted(stale), "COMMIT\n")
    yield f"*mangle\n{declared([CANARY])}COMMIT\n"


def partial_input(
    fixed: Base,
    ports: Collection[PortRules],
    changed: Iterable[PortRules],
    *,
    stale: Collection[str] = (),
    shared: Collection[str] = ("filter", "nat"),
) -> Iterator[str]:
    """Yield the input that writes the chains of changed ports, and those that ports share, of all there are.

    `stale` are chains that changed ports had and have no more. `shared` are the tables whose shared chains have to
    change: kube-proxy writes them every time (facts.md 3.8), which comes to the same rules, but takes a time that
    grows with the number of ports where one endpoint of one port has changed.
    """
    if "filter" in shared:
        yield from _filter(fixed, ports, (), canary=False)
    own = [chain for port in changed for chain in port.chains]
    if not (own or stale or "nat" in shared):
        return
    yield from ("*nat\n", declared(name for name, _ in own))
    if "nat" in shared:
        yield from (declared(chain.name for chain in fixed.nat), appended(fixed.nat))
        yield "".join([port.nat_text for port in ports])
        yield appended([Chain(SERVICES, fixed.last)])
    yield from (appended(own), _deleted(stale), "COMMIT\n")


def _filter(fixed: Base, ports: Iterable[PortRules], jumps: Collection[Jump], *, canary: bool) -> Iterator[str]:
    names = [*(chain.name for chain in fixed.filter), *([CANARY] if canary else [])]
    yield from ("*filter\n", declared(names), appended(fixed.filter))
    yield "".join([port.filter_text for port in ports])
    yield from (_inserted("filter", jumps), "COMMIT\n")


def _deleted(stale: Collection[str]) -> str:
    names = sorted(stale)  # all are emptied first: they refer to each other
    return declared(names) + "".join([f"-X {name}\n" for name in names])


def _inserted(table: str, jumps: Iterable[Jump]) -> str:
    return "".join(f"-I {jump.chain} {jump.rule}\n" for jump in jumps if jump.table == table)


def dropped_chains(before: Iterable[PortRules], after: Iterable[PortRules]) -> frozenset[str]:
    """Return the chains that changed ports had and do not have any more."""
    return frozenset(_names(before)) - frozenset(_names(after))


def _names(ports: Iterable[PortRules]) -> Iterator[str]:
    return (name for port in ports for name, _ in port.chains)
