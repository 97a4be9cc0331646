"""IPVS mode's fixed rules, in the order of facts.md 4.5."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from netlab.service.ipvs_rules import filter_chains, jumps, nat_chains, restore_input
from netlab.service.ipvs_sets import IpSet
from netlab.service.model import ProxyNode
from tests.unit.service_ports import NODE, NODE6, bare

ALL = frozenset(IpSet)


def nat(node: ProxyNode, filled: frozenset[IpSet] = ALL) -> dict[str, list[str]]:
    return {name: [_short(rule) for rule in rules] for name, rules in nat_chains(node, filled)}


def packets(node: ProxyNode, filled: frozenset[IpSet] = ALL, out: tuple[str, ...] = ()) -> dict[str, list[str]]:
    return {name: [_short(rule) for rule in rules] for name, rules in filter_chains(node, filled, out)}


def _short(rule: str) -> str:
    return re.sub(r"-m set --match-set KUBE-(\S+) (\S+)", r"<\1 \2>", bare(rule))


OUTSIDE = "-m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT"


def test_nat_with_every_set_filled() -> None:
    assert nat(NODE) == {
        "KUBE-SERVICES": [
            "-s 127.0.0.0/8 -j RETURN",
            "<LOAD-BALANCER dst,dst> -j KUBE-LOAD-BALANCER",
            "<CLUSTER-IP dst,dst> ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ",
            "<EXTERNAL-IP dst,dst> -j KUBE-MARK-MASQ",
            f"<EXTERNAL-IP dst,dst> {OUTSIDE}",
            "<EXTERNAL-IP dst,dst> -m addrtype --dst-type LOCAL -j ACCEPT",
            f"<EXTERNAL-IP-LOCAL dst,dst> {OUTSIDE}",
            "<EXTERNAL-IP-LOCAL dst,dst> -m addrtype --dst-type LOCAL -j ACCEPT",
            "-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
            "<CLUSTER-IP dst,dst> -j ACCEPT",
            "<LOAD-BALANCER dst,dst> -j ACCEPT",
        ],
        "KUBE-LOAD-BALANCER": ["<LOAD-BALANCER-LOCAL dst,dst> -j RETURN", "-j KUBE-MARK-MASQ"],
        "KUBE-NODE-PORT": [
            "-p tcp <NODE-PORT-LOCAL-TCP dst> -j RETURN",
            "-p tcp <NODE-PORT-TCP dst> -j KUBE-MARK-MASQ",
            "-p udp <NODE-PORT-LOCAL-UDP dst> -j RETURN",
            "-p udp <NODE-PORT-UDP dst> -j KUBE-MARK-MASQ",
            "-p sctp <NODE-PORT-LOCAL-SCTP-HASH dst,dst> -j RETURN",
            "-p sctp <NODE-PORT-SCTP-HASH dst,dst> -j KUBE-MARK-MASQ",
        ],
        "KUBE-POSTROUTING": [
            "<LOOP-BACK dst,dst,src> -j MASQUERADE",
            "-m mark ! --mark 0x004000/0x004000 -j RETURN",
            "-j MARK --xor-mark 0x004000",
            "-j MASQUERADE --random-fully",
        ],
        "KUBE-MARK-MASQ": ["-j MARK --or-mark 0x004000"],
    }


@pytest.mark.parametrize(
    ("node", "wanted"),
    [
        (replace(NODE, masquerade_all=True), "<CLUSTER-IP dst,dst> -j KUBE-MARK-MASQ"),
        (replace(NODE, local=None), "<CLUSTER-IP src,dst> -j KUBE-MARK-MASQ"),
        (NODE, "<CLUSTER-IP dst,dst> ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ"),
    ],
)
def test_who_is_masqueraded_at_a_cluster_ip(node: ProxyNode, wanted: str) -> None:
    assert nat(node, frozenset({IpSet.CLUSTER_IP}))["KUBE-SERVICES"][1] == wanted


def test_a_set_without_entries_has_no_rule() -> None:
    assert nat(NODE, frozenset())["KUBE-SERVICES"] == [
        "-s 127.0.0.0/8 -j RETURN",
        "-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
    ]
    assert nat(NODE, frozenset())["KUBE-NODE-PORT"] == []
    assert nat(NODE, frozenset())["KUBE-POSTROUTING"][0].startswith("-m mark")
    assert packets(NODE, frozenset())["KUBE-PROXY-FIREWALL"] == []


def test_filter_with_every_set_filled() -> None:
    assert packets(NODE, out=("-s 203.0.113.7 -j DROP",)) == {
        "KUBE-NODE-PORT": ["<HEALTH-CHECK-NODE-PORT dst> -j ACCEPT"],
        "KUBE-PROXY-FIREWALL": ["<LOAD-BALANCER-FW dst,dst> -j KUBE-SOURCE-RANGES-FIREWALL"],
        "KUBE-SOURCE-RANGES-FIREWALL": [
            "<LOAD-BALANCER-SOURCE-CIDR dst,dst,src> -j RETURN",
            "<LOAD-BALANCER-SOURCE-IP dst,dst,src> -j RETURN",
            "-j DROP",
        ],
        "KUBE-IPVS-FILTER": [
            "<LOAD-BALANCER dst,dst> -j RETURN",
            "<CLUSTER-IP dst,dst> -j RETURN",
            "<EXTERNAL-IP dst,dst> -j RETURN",
            "<EXTERNAL-IP-LOCAL dst,dst> -j RETURN",
            "<HEALTH-CHECK-NODE-PORT dst> -j RETURN",
            "-m conntrack --ctstate NEW <IPVS-IPS dst> -j REJECT",
        ],
        "KUBE-FORWARD": [
            "-m mark --mark 0x004000/0x004000 -j ACCEPT",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",  # INVALID ones are not dropped in this mode
        ],
        "KUBE-IPVS-OUT-FILTER": ["-s 203.0.113.7 -j DROP"],
    }


def test_ipv6_names() -> None:
    assert nat(NODE6)["KUBE-SERVICES"][:2] == [
        "-s ::1/128 -j RETURN",
        "<6-LOAD-BALANCER dst,dst> -j KUBE-LOAD-BALANCER",
    ]
    assert packets(NODE6)["KUBE-IPVS-FILTER"][-1] == "-m conntrack --ctstate NEW <6-IPVS-IPS dst> -j REJECT"


def test_restore_input() -> None:
    text = restore_input(NODE, ALL, jumps=jumps()).splitlines()
    assert [line for line in text if line[0] in "*C"] == ["*nat", "COMMIT", "*filter", "COMMIT"]
    made = {(line.split()[1], line.split()[-1]) for line in text if line.startswith("-I ")}
    assert made == {
        ("OUTPUT", "KUBE-SERVICES"),
        ("PREROUTING", "KUBE-SERVICES"),
        ("POSTROUTING", "KUBE-POSTROUTING"),
        ("FORWARD", "KUBE-FORWARD"),
        ("INPUT", "KUBE-NODE-PORT"),
        ("INPUT", "KUBE-PROXY-FIREWALL"),
        ("FORWARD", "KUBE-PROXY-FIREWALL"),
        ("INPUT", "KUBE-IPVS-FILTER"),
        ("OUTPUT", "KUBE-IPVS-OUT-FILTER"),
    }
    assert not any(line.startswith("-I ") for line in restore_input(NODE, ALL).splitlines())
    for line in text:  # every chain that a rule speaks of is declared in the same table
        if line.startswith("*"):
            declared = {"OUTPUT", "PREROUTING", "POSTROUTING", "FORWARD", "INPUT"}
        elif line.startswith(":"):
            declared.add(line[1:].split()[0])
        elif line.startswith("-"):
            assert line.split()[1] in declared
            assert not (target := line.split("-j ")[1].split()[0]).startswith("KUBE") or target in declared
