"""Rules as their renderers write them, turned into what the explanation reads; and how tests look at what it says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fractions import Fraction
from ipaddress import IPv4Network
from pathlib import Path

from netlab.explain import ipsets, nft, saved, virtual
from netlab.explain.explain import Client, explain
from netlab.explain.lines import Line, without_repeats
from netlab.explain.model import Source, Tables
from netlab.explain.tree import PortTree, tree
from netlab.explain.virtual_walk import explain_virtual
from netlab.proxy.ipvs_netlink import Listed, Seen
from netlab.service import iptables, ipvs, ipvs_rules, ipvs_sets, nftables
from netlab.service.iptables_restore import base, full_input
from netlab.service.ipvs import VirtualServer
from netlab.service.ipvs_change import Installed
from netlab.service.ipvs_table import Table
from netlab.service.model import ProxyNode, ServicePort
from netlab.service.nftables_table import base as nft_base
from netlab.service.nftables_table import full
from tests.unit.service_ports import NODE

SERVICES = IPv4Network("10.96.0.0/12")
PODS = {"10.244.1.5": "pod web-1 on n1", "10.244.2.6": "pod web-2 on n2"}
GOLDEN = Path("tests/golden/explain/kube-proxy.json")


def restore_text(ports: Iterable[ServicePort], node: ProxyNode = NODE) -> str:
    """Return what a full sync of these ports gives to iptables-restore."""
    fixed = base(node)
    return "".join(full_input(fixed, [iptables.render(port, node) for port in ports], jumps=fixed.jumps))


def nft_text(ports: Iterable[ServicePort], node: ProxyNode = NODE) -> str:
    """Return what a full sync of these ports gives to nft."""
    return full(nft_base(node, [SERVICES]), [nftables.render(port, node) for port in ports])


def as_saved(text: str) -> str:
    """Return a restore input in the form that iptables-save gives it: rules in front are rules as well."""
    return "\n".join(line.replace("-I ", "-A ", 1) if line.startswith("-I ") else line for line in text.splitlines())


def iptables_of(*ports: ServicePort, node: ProxyNode = NODE, change: tuple[str, str] = ("", "")) -> Tables:
    """Return the rules of these ports; `change` replaces a text that must be there."""
    text = as_saved(restore_text(ports, node))
    assert change[0] in text
    return Tables(Source.LEGACY, node.addresses[0].version, saved.parse(text.replace(*change) if change[0] else text))


def ipvs_of(*ports: ServicePort, node: ProxyNode = NODE, scheduler: str = "rr") -> Tables:
    """Return what a node in IPVS mode has of these ports: rules, IP sets and virtual servers."""
    version = node.addresses[0].version
    table = Table()
    table.update({port.key: ipvs.render(port, node, scheduler=scheduler) for port in ports})
    rules = as_saved(ipvs_rules.restore_input(node, table.filled, table.out_filter, ipvs_rules.jumps()))
    entries = ipvs_sets.created(version) + ipvs_sets.changed(version, table.entries, ())
    listed = [_listed(found) for key in sorted(table.keys) if (found := table.find(key))]
    chains = {**saved.parse(rules), **virtual.chains(listed)}
    return Tables(Source.NFT_BACKED, version, chains, ipsets.parse(entries))


def _listed(server: VirtualServer) -> Listed:
    installed = Installed(server.scheduler, server.flags, server.timeout)
    return Listed(server.key, installed, Seen(0, 0), tuple((real, 1, Seen(0, 0)) for real in server.servers))


def said_of_ipvs(
    tables: Tables, port: ServicePort, client: str = "", *, from_node: bool = False, pods: Mapping[str, str] = PODS
) -> list[str]:
    """Return the lines on a port in IPVS mode, each after two spaces for each step in."""
    (found,) = virtual.trees([port], tables)
    lines = explain_virtual(found, pods, Client(client, from_node) if client else None)
    return [f"{'  ' * line.depth}{line.text}" for line in without_repeats(lines)]


def nft_of_golden(*changes: tuple[str, str]) -> Tables:
    """Return what nft listed of BALANCED and EMPTY (test_explain.py); `changes` replace texts that must be there."""
    text = json.dumps(json.loads(GOLDEN.read_text()))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return Tables(Source.NFTABLES, 4, nft.parse(text))


def only(tables: Tables, name: str = "web") -> PortTree:
    """Return the one port that a Service has."""
    (found,) = tree("default", name, tables)
    return found


def said(tables: Tables, client: str = "", *, from_node: bool = False, name: str = "web") -> list[str]:
    """Return the lines of an explanation, each after two spaces for each step in."""
    lines = without_repeats(spoken(tables, client, from_node=from_node, name=name))
    return [f"{'  ' * line.depth}{line.text}" for line in lines]


def spoken(tables: Tables, client: str = "", *, from_node: bool = False, name: str = "web") -> list[Line]:
    """Return an explanation. `client` is the address that packets come from, "" for any."""
    who = Client(client, from_node) if client else None
    return explain(only(tables, name), PODS, who)


def shares(lines: Iterable[Line]) -> dict[str, Fraction]:
    """Return the probability of each endpoint under the first address that packets go to."""
    found: dict[str, Fraction] = {}
    for line in list(lines)[1:]:
        if line.depth == 0:
            break
        if line.probability is not None:
            found[line.endpoint] = found.get(line.endpoint, Fraction(0)) + line.probability
    return found


def under(lines: list[str], heading: str) -> list[str]:
    """Return what stands under one heading, without the steps in."""
    start = next(number for number, line in enumerate(lines) if line.startswith(heading))
    found = []
    for line in lines[start + 1 :]:
        if not line.startswith(" "):
            break
        found.append(line.strip())
    return found
