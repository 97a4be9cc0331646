"""The Service ports and nodes that the proxiers' tests speak of, and how they read a rule's text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netlab.service.iptables import PortRules
from netlab.service.iptables_names import Prefix, chain_name, endpoint_chain
from netlab.service.model import Endpoint, Protocol, ProxyNode, ServicePort

NODE = ProxyNode("n1", (IPv4Address("172.18.0.2"),), IPv4Network("10.244.0.0/16"))
NODE6 = ProxyNode("n1", (IPv6Address("fd01::2"),), IPv6Network("fd00:244::/32"))
HERE = Endpoint(IPv4Address("10.244.1.5"), 8080, "n1")
THERE = Endpoint(IPv4Address("10.244.2.6"), 8080, "n2")
WEB = ServicePort(
    "default", "web", "http", Protocol.TCP, IPv4Address("10.96.0.50"), 80, endpoints=(HERE, THERE), node_port=0
)
BALANCER = IPv4Address("203.0.113.7")
RANGE = IPv4Network("198.51.100.0/24")
FULL = replace(WEB, node_port=30080, load_balancer_ips=(BALANCER,), source_ranges=(RANGE,))  # facts.md 11.5
EVERYWHERE = replace(FULL, external_ips=(IPv4Address("192.0.2.9"),), health_check_node_port=31000)


def named(text: str) -> str:
    """Spell out the ids of WEB's chains: H, E1 and E2 as in facts.md 11.5."""
    ids = {
        "KUBE-SEP-E1": endpoint_chain(WEB, HERE),
        "KUBE-SEP-E2": endpoint_chain(WEB, THERE),
        "-H": chain_name(Prefix.CLUSTER, WEB).removeprefix("KUBE-SVC"),
    }
    return re.sub(r"KUBE-SEP-E[12]|(?<=KUBE-...)-H|(?<=KUBE-FW)-H", lambda match: ids[match[0]], text)


def bare(line: str) -> str:
    """Leave comments and "-m tcp" out of a rule."""
    return re.sub(r'-m comment --comment (".*?"|\S+) ?|-m tcp ', "", line).strip()


def chains(rules: PortRules) -> dict[str, list[str]]:
    return {chain.name: [bare(rule) for rule in chain.rules] for chain in rules.chains}


def expect(found: Iterable[str], *wanted: str) -> None:
    assert [bare(line) for line in found] == [named(line) for line in wanted]
