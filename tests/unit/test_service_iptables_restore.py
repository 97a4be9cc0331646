"""iptables mode, whole tables: the fixed chains of facts.md 3.2 and 3.4, and what a sync writes (3.8)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from netlab.service.iptables import PortRules, render
from netlab.service.iptables_names import Prefix
from netlab.service.iptables_restore import Base, base, dropped_chains, full_input, partial_input
from netlab.service.model import Endpoint, Policy, Protocol, ProxyNode, ServicePort
from tests.unit.service_ports import EVERYWHERE, FULL, HERE, NODE, NODE6, THERE, WEB, bare, expect, named

# --- fixed chains (3.2, 3.4) -----------------------------------------------------------------------------------------


def fixed(found: Base) -> dict[str, list[str]]:
    return {
        f"{table} {chain.name}": [bare(rule) for rule in chain.rules]
        for table, of_table in (("filter", found.filter), ("nat", found.nat))
        for chain in of_table
    }


FIXED = {
    "filter KUBE-SERVICES": [],
    "filter KUBE-EXTERNAL-SERVICES": [],
    "filter KUBE-FORWARD": [
        "-m conntrack --ctstate INVALID -j DROP",
        "-m mark --mark 0x004000/0x004000 -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ],
    "filter KUBE-NODEPORTS": [],
    "filter KUBE-PROXY-FIREWALL": [],
    "nat KUBE-SERVICES": [],
    "nat KUBE-NODEPORTS": [],
    "nat KUBE-POSTROUTING": [
        "-m mark ! --mark 0x004000/0x004000 -j RETURN",
        "-j MARK --xor-mark 0x004000",
        "-j MASQUERADE --random-fully",
    ],
    "nat KUBE-MARK-MASQ": ["-j MARK --or-mark 0x004000"],
}
GUARD = "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"


def test_fixed_chains() -> None:
    assert fixed(base(NODE)) == FIXED | {"filter KUBE-FIREWALL": [GUARD]}
    assert fixed(base(NODE6)) == FIXED
    assert fixed(base(NODE, localhost_node_ports=False)) == FIXED
    other = fixed(base(NODE6, tcp_be_liberal=True, random_fully=False))
    assert other["filter KUBE-FORWARD"] == FIXED["filter KUBE-FORWARD"][1:]
    assert other["nat KUBE-POSTROUTING"] == [*FIXED["nat KUBE-POSTROUTING"][:2], "-j MASQUERADE"]


JUMPS = [
    "filter INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES",
    "filter FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES",
    "filter INPUT -j KUBE-NODEPORTS",
    "filter FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES",
    "filter OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES",
    "filter FORWARD -j KUBE-FORWARD",
    "filter INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
    "filter OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
    "filter FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
    "nat OUTPUT -j KUBE-SERVICES",
    "nat PREROUTING -j KUBE-SERVICES",
    "nat POSTROUTING -j KUBE-POSTROUTING",
]


def test_jumps() -> None:
    assert [bare(" ".join(jump)) for jump in base(NODE6).jumps] == JUMPS
    guarded = [*JUMPS, "filter INPUT -j KUBE-FIREWALL", "filter OUTPUT -j KUBE-FIREWALL"]
    assert [bare(" ".join(jump)) for jump in base(NODE).jumps] == guarded


LOCAL_ADDRESSES = "-m addrtype --dst-type LOCAL"


@pytest.mark.parametrize(
    ("addresses", "listening", "localhost", "wanted", "on_localhost"),
    [
        (["172.18.0.2"], [], True, [LOCAL_ADDRESSES], True),
        (["172.18.0.2"], [], False, [f"{LOCAL_ADDRESSES} ! -d 127.0.0.0/8"], False),
        (["172.18.0.2"], ["0.0.0.0/0"], True, [LOCAL_ADDRESSES], True),
        (["172.18.0.2"], ["fd00::/8"], True, [LOCAL_ADDRESSES], True),  # nothing for this IP version
        (["172.18.0.2", "10.0.0.2"], ["172.18.0.0/16"], True, ["-d 172.18.0.2"], False),
        (["172.18.0.2"], ["172.18.0.0/16", "127.0.0.0/8"], True, ["-d 172.18.0.2", "-d 127.0.0.1"], True),
        (["172.18.0.2"], ["172.18.0.0/16", "127.0.0.0/8"], False, ["-d 172.18.0.2"], False),
        (["172.18.0.2"], ["10.0.0.0/8"], True, [], False),
        (["fd01::2"], [], True, [f"{LOCAL_ADDRESSES} ! -d ::1/128"], False),
        (["fd01::2", "::1"], ["fd01::/64", "::1/128"], True, ["-d fd01::2"], False),
    ],
)
def test_where_node_ports_listen(
    addresses: list[str], listening: list[str], localhost: bool, wanted: list[str], on_localhost: bool
) -> None:
    node = replace(
        NODE,
        addresses=tuple(map(ip_address, addresses)),
        node_port_addresses=tuple(map(ip_network, listening)),
    )
    found = base(node, localhost_node_ports=localhost)
    expect(found.last, *[f"{match} -j KUBE-NODEPORTS" for match in wanted])
    assert all(
        '"kubernetes service nodeports; NOTE: this must be the last rule in this chain"' in x for x in found.last
    )
    assert found.localhost_node_ports is on_localhost


# --- a sync (3.8) ----------------------------------------------------------------------------------------------------

DNS = ServicePort(
    "kube-system",
    "kube-dns",
    "dns",
    Protocol.UDP,
    IPv4Address("10.96.0.10"),
    53,
    endpoints=(Endpoint(IPv4Address("10.244.1.2"), 53, "n1"),),
)
HELLO = ServicePort("default", "hello", "", Protocol.TCP, IPv4Address("10.96.0.7"), 80, node_port=30007)
GOLDEN = """\
*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x004000/0x004000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED \
-j ACCEPT
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-SERVICES -m comment --comment "default/hello has no endpoints" -m tcp -p tcp -d 10.96.0.7 --dport 80 -j REJECT
-A KUBE-EXTERNAL-SERVICES -m comment --comment "default/hello has no endpoints" -m addrtype --dst-type LOCAL \
-m tcp -p tcp --dport 30007 -j REJECT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-A KUBE-POSTROUTING -m mark ! --mark 0x004000/0x004000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x004000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x004000
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SEP-Z6M7ZHWCTBNMPLD7 - [0:0]
-A KUBE-SERVICES -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp -p udp -d 10.96.0.10 --dport 53 \
-j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp -p udp -d 10.96.0.10 \
--dport 53 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "kube-system/kube-dns:dns -> 10.244.1.2:53" \
-j KUBE-SEP-Z6M7ZHWCTBNMPLD7
-A KUBE-SEP-Z6M7ZHWCTBNMPLD7 -m comment --comment kube-system/kube-dns:dns -s 10.244.1.2 -j KUBE-MARK-MASQ
-A KUBE-SEP-Z6M7ZHWCTBNMPLD7 -m comment --comment kube-system/kube-dns:dns -m udp -p udp -j DNAT \
--to-destination 10.244.1.2:53
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" \
-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
:KUBE-SVC-GONE - [0:0]
-X KUBE-SVC-GONE
COMMIT
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
"""


def whole(fixed: Base, ports: Iterable[PortRules], **options: Any) -> str:
    return "".join(full_input(fixed, list(ports), **options))


def part(changed: Iterable[PortRules], ports: Iterable[PortRules] = (), **options: Any) -> str:
    return "".join(partial_input(base(NODE), list(ports), changed, **options))


def test_golden_of_a_full_sync() -> None:
    foreign = ["PREROUTING", "KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-KUBELET-CANARY", "FLANNEL-POSTRTG", "DOCKER"]
    existing = ["KUBE-SVC-GONE", *foreign, *(chain.name for chain in render(DNS, NODE).chains)]
    assert whole(base(NODE), [render(port, NODE) for port in (HELLO, DNS)], existing=existing) == GOLDEN


def test_chains_of_every_kind_that_no_port_has_are_deleted() -> None:
    gone = [f"KUBE-{kind}-OLD" for kind in ("EXT", "FW", "SEP", "SVC", "SVL")]
    text = whole(base(NODE), PORTS.values(), existing=gone[::-1])
    assert re.findall("^-X (.*)", text, re.MULTILINE) == gone
    assert set(gone) <= declared(text)


PORTS = {port.key: render(port, NODE) for port in (FULL, DNS, HELLO)}


def declared(text: str) -> set[str]:
    return set(re.findall(r"^:(\S+) ", text, re.MULTILINE))


def test_a_partial_sync_writes_the_chains_of_what_changed_only() -> None:
    full = whole(base(NODE), PORTS.values())
    text = part([PORTS[DNS.key]], PORTS.values())
    dns = {chain.name for chain in PORTS[DNS.key].chains}
    shared = {chain.name for chain in (*base(NODE).filter, *base(NODE).nat)}
    assert declared(text) == dns | shared
    skipped = declared(full) - declared(text)
    assert skipped == {chain.name for chain in PORTS[FULL.key].chains} | {"KUBE-PROXY-CANARY"}
    wanted = [line for line in full.splitlines() if line.split()[:1] == ["-A"] and line.split()[1] not in skipped]
    assert sorted(line for line in text.splitlines() if line.startswith("-")) == sorted(wanted)
    in_services = [line for line in text.splitlines() if line.startswith("-A KUBE-SERVICES")]
    assert "must be the last rule" in in_services[-1]


def test_shared_chains_are_written_where_they_change_only() -> None:
    dns = {chain.name for chain in PORTS[DNS.key].chains}
    assert declared(part([PORTS[DNS.key]], PORTS.values(), shared=())) == dns
    assert declared(part([], PORTS.values(), shared=["filter"])) == {chain.name for chain in base(NODE).filter}
    assert declared(part([], PORTS.values(), shared=["nat"])) == {chain.name for chain in base(NODE).nat}
    assert part([], PORTS.values(), shared=()) == ""


def test_a_port_that_is_gone() -> None:
    left = [rules for key, rules in PORTS.items() if key != DNS.key]
    stale = dropped_chains([PORTS[DNS.key]], [])
    assert stale == {chain.name for chain in PORTS[DNS.key].chains}
    text = part([], left, stale=stale)
    deleted = [line for line in text.splitlines() if line.startswith("-X")]
    assert deleted == [f"-X {name}" for name in sorted(stale)]
    assert text.splitlines()[-1 - len(deleted) : -1] == deleted
    assert stale <= declared(text)
    assert "kube-dns" not in text


def test_an_endpoint_that_is_gone() -> None:
    before, after = render(WEB, NODE), render(replace(WEB, endpoints=(THERE,)), NODE)
    assert dropped_chains([before], [after]) == {named("KUBE-SEP-E1")}
    assert dropped_chains([after], [before]) == dropped_chains([], [after]) == set()
    text = part([after], [after], stale=dropped_chains([before], [after]))
    assert [line for line in text.splitlines() if named("KUBE-SEP-E1") in line] == [
        named(":KUBE-SEP-E1 - [0:0]"),
        named("-X KUBE-SEP-E1"),
    ]


def test_missing_jumps_go_in_front_within_the_same_restore() -> None:
    found = base(NODE)
    text = whole(found, [], jumps=found.jumps)
    tables = re.split(r"^\*", text, flags=re.MULTILINE)
    for table in tables[1:]:
        name = table.split("\n", 1)[0]
        inserted = [line for line in table.splitlines() if line.startswith("-I")]
        assert inserted == [f"-I {jump.chain} {jump.rule}" for jump in found.jumps if jump.table == name]
        targets = {line.split()[-1] for line in inserted}
        assert targets <= declared(table)
    assert "-I" not in whole(found, [])


@pytest.mark.parametrize("node", [NODE, replace(NODE, local=None), replace(NODE, masquerade_all=True)])
def test_every_chain_that_a_rule_goes_to_is_declared(node: ProxyNode) -> None:
    """For every mix of policies, addresses and endpoints: iptables-restore would refuse the text otherwise."""
    for internal in Policy:
        for external in Policy:
            for ends in ((), (HERE,), (THERE,), (HERE, THERE)):
                for port in (WEB, HELLO, FULL, EVERYWHERE, replace(FULL, source_ranges=())):
                    changed = replace(port, internal_policy=internal, external_policy=external, endpoints=ends)
                    text = whole(base(node), [render(changed, node)])
                    nat = text.partition("*nat\n")[2].partition("COMMIT")[0]
                    targets = set(re.findall(r"-j (KUBE-\S+)", nat))
                    owned = {chain for chain in declared(nat) if chain.startswith(tuple(Prefix))}
                    assert targets <= declared(nat)
                    assert owned <= targets  # and none is there for nothing
