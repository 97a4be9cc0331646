"""A node's whole tables in kube-proxy's iptables mode: fixed chains, and the text of a sync (facts.md 3.2, 3.4, 3.8).

Pure. What a sync writes is made of each port's ready lines (iptables.py), so one change among many ports costs a join.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from netlab.service.iptables import Chain, PortRules, appended
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
from netlab.service.model import Protocol, ProxyNode
from netlab.topology.model import Address, Network

PortKey = tuple[str, str, str, Protocol, int]  # ServicePort.key

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


def restore_input(
    fixed: Base,
    ports: Mapping[PortKey, PortRules],
    *,
    changed: Collection[PortKey] | None,
    stale: Collection[str] = (),
    jumps: Collection[Jump] = (),
) -> str:
    """Return the input for `iptables-restore --noflush`: filter, then nat; each table changes at once.

    `ports` are all there are. A full sync (`changed` None) writes every chain, and the canaries; a partial one writes
    the chains that ports share, and of the others those of changed ports only (one that is gone counts for nothing:
    name its chains as stale). `stale` chains are emptied and deleted. `jumps` are those that are missing.
    """
    full = changed is None
    own = ports.values() if changed is None else [ports[key] for key in sorted(changed) if key in ports]
    canary = [Chain(CANARY, ())] if full else []
    chains = [chain for port in own for chain in port.chains]
    text = [
        "*filter\n",
        _declared(chain.name for chain in (*fixed.filter, *canary)),
        appended(fixed.filter),
        *[port.filter_text for port in ports.values()],
        _inserted("filter", jumps),
        "COMMIT\n*nat\n",
        _declared(chain.name for chain in (*fixed.nat, *canary, *chains)),
        _declared(sorted(stale)),
        appended(fixed.nat),
        *[port.nat_text for port in ports.values()],
        appended([Chain(SERVICES, fixed.last)]),
        appended(chains),
        _inserted("nat", jumps),
        *[f"-X {name}\n" for name in sorted(stale)],
        "COMMIT\n",
    ]
    if full:
        text.append(f"*mangle\n{_declared([CANARY])}COMMIT\n")
    return "".join(text)


def _declared(names: Iterable[str]) -> str:
    return "".join(f":{name} - [0:0]\n" for name in names)


def _inserted(table: str, jumps: Iterable[Jump]) -> str:
    return "".join(f"-I {jump.chain} {jump.rule}\n" for jump in jumps if jump.table == table)


def dropped_chains(before: PortRules | None, after: PortRules | None) -> frozenset[str]:
    """Return the chains that a port no longer has: what is stale after a change. None stands for no such port."""
    kept = {chain.name for chain in after.chains} if after else set()
    return frozenset(chain.name for chain in before.chains if chain.name not in kept) if before else frozenset()


def stale_chains(existing: Iterable[str], ports: Iterable[PortRules]) -> frozenset[str]:
    """Return those of table nat's chains that are a port's by name but belong to no port: for a full sync."""
    kept = {chain.name for port in ports for chain in port.chains}
    return frozenset(name for name in existing if name.startswith(tuple(Prefix)) and name not in kept)
