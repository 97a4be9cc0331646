"""What the proxiers' tests on the real kernel share: a node, Service ports, and its rules in a form to compare."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netlab.kernel import netns
from netlab.proxy import listing, tools
from netlab.proxy.iptables import IptablesProxier
from netlab.proxy.nftables import NftablesProxier
from netlab.proxy.proxier import NodeTarget, Options, PortKey, Proxier
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort
from tests.unit.service_ports import EVERYWHERE, FULL, NODE, NODE6, WEB

VARIANTS = ("iptables-legacy", "iptables-nft", "nftables")
NAME = "nl-proxy-n1"
FRESH = "nl-proxy-fresh"
SERVICE_CIDR = IPv4Network("10.96.0.0/16")
SHARED = ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL")


def target(variant: str, name: str = NAME) -> NodeTarget:
    tool = "" if variant == "nftables" else variant
    return NodeTarget(name, "n1", (NODE, NODE6), Options(tool=tool, service_cidrs=(SERVICE_CIDR,)))


def proxier(variant: str, name: str = NAME) -> Proxier:
    kind = NftablesProxier if variant == "nftables" else IptablesProxier
    return kind(target(variant, name))


@contextmanager
def nodes(*names: str) -> Iterator[None]:
    netns.create(names, lambda _: None)
    try:
        yield
    finally:
        netns.remove(names)


def run(name: str, *argv: str, text: str = "") -> str:
    """Run a program in a namespace, as somebody else would."""
    process = netns.call(
        name,
        lambda: subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ),
    )
    output, said = process.communicate(text)
    assert process.returncode == 0, said
    return output


# --- ports -----------------------------------------------------------------------------------------------------------


def variants_of(port: ServicePort) -> list[ServicePort]:
    """Return one port in every state that renders otherwise."""
    remote = tuple(end for end in port.endpoints if end.node != "n1")
    return [
        replace(port, internal_policy=internal, external_policy=external, endpoints=ends, affinity=affinity)
        for internal in Policy
        for external in Policy
        for ends in ((), remote, port.endpoints)
        for affinity in (0, 60)
    ]


def rich() -> dict[PortKey, ServicePort]:
    """Return Services of every kind, in both IP versions and three protocols."""
    found: list[ServicePort] = []
    kinds = [port for base in (WEB, EVERYWHERE, replace(FULL, source_ranges=())) for port in variants_of(base)]
    for number, port in enumerate(kinds):
        protocol = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)[number % 3]
        found.append(_as(port, number, protocol))
        found.append(_v6(found[-1]))
    return {port.key: port for port in found}


def plenty(count: int) -> dict[PortKey, ServicePort]:
    """Return so many Services with every address and two endpoints, in each IP version."""
    found = [_as(EVERYWHERE, number, (Protocol.TCP, Protocol.UDP)[number % 2]) for number in range(count)]
    return {port.key: port for one in found for port in (one, _v6(one))}


def _as(port: ServicePort, number: int, protocol: Protocol = Protocol.TCP) -> ServicePort:
    """Return a port as that of another Service, with addresses of its own."""
    return replace(
        port,
        name=f"svc-{number}",
        protocol=protocol,
        cluster_ip=IPv4Address("10.96.1.0") + number,
        node_port=30000 + number if port.node_port else 0,
        external_ips=tuple(IPv4Address("192.0.2.0") + number for _ in port.external_ips),
        load_balancer_ips=tuple(IPv4Address("203.0.113.0") + number for _ in port.load_balancer_ips),
        health_check_node_port=31000 + number if port.health_check_node_port else 0,
    )


def _v6(port: ServicePort) -> ServicePort:
    def wide(address: object) -> IPv6Address:
        return IPv6Address(f"fd00::{address}")

    return replace(
        port,
        cluster_ip=wide(port.cluster_ip),
        external_ips=tuple(map(wide, port.external_ips)),
        load_balancer_ips=tuple(map(wide, port.load_balancer_ips)),
        source_ranges=(IPv6Network("fd01::/64"),) if port.source_ranges else (),
        endpoints=tuple(
            Endpoint(wide(end.address), end.port, end.node, end.ready, end.serving, end.terminating)
            for end in port.endpoints
        ),
    )


# --- what the kernel has ---------------------------------------------------------------------------------------------


def rules(variant: str, name: str = NAME) -> object:
    """Return a node's rules in a form that two nodes with the same rules share."""
    if variant == "nftables":
        return {family: _nft(name, family) for family in ("ip", "ip6")}
    return {version: _iptables(tools.save(name, variant, version)) for version in (4, 6)}


def _iptables(saved: str) -> object:
    """Order means nothing in chains that ports share, but for the last rule of KUBE-SERVICES, nor among jumps."""
    tables = listing.parse(saved)
    for table, chains in tables.items():
        if (table == "nat") and chains.get("KUBE-SERVICES"):
            assert "NOTE: this must be the last rule" in chains["KUBE-SERVICES"][-1]
    return {
        (table, chain): sorted(found) if chain in SHARED or not chain.startswith("KUBE-") else found
        for table, chains in tables.items()
        for chain, found in chains.items()
    }


def _nft(name: str, family: str) -> object:
    listed = json.loads(run(name, "nft", "-j", "list", "ruleset", family))["nftables"]
    found: dict[str, object] = {}
    chain_rules: dict[str, list[str]] = {}
    for entry in listed:
        for kind, thing in entry.items():
            if kind == "rule":
                chain_rules.setdefault(f"{thing['table']} {thing['chain']}", []).append(json.dumps(thing["expr"]))
            elif kind in ("chain", "set", "map"):
                held = sorted(json.dumps(one) for one in thing.pop("elem", ()))
                kept = {key: value for key, value in thing.items() if key != "handle"}
                found[f"{kind} {thing['table']} {thing['name']}"] = [kept, held]
    return found, chain_rules


def fresh(variant: str, ports: dict[PortKey, ServicePort]) -> object:
    """Return the rules of a node that was given these ports at once."""
    with nodes(FRESH):
        other = proxier(variant, FRESH)
        other.sync(ports)
        found = rules(variant, FRESH)
        other.close()
        return found


def settle(one: Proxier) -> None:
    """Let work that was put off be done."""
    now = 0.0
    for _ in range(5):
        wanted = one.tick(now)
        if wanted is None:
            return
        now = wanted
    raise AssertionError("it never comes to rest")
