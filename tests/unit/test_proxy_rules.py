"""What a change writes: the changed ports' own chains, and shared ones where they change (facts.md 3.8, 5.5)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from itertools import product

import pytest

from netlab.proxy import listing
from netlab.proxy.conntrack import Cleaner, _targets
from netlab.proxy.iptables_rules import LARGE_CLUSTER, Rules
from netlab.proxy.nftables_objects import TableObjects
from netlab.proxy.proxier import PortKey
from netlab.proxy.retry import PERIOD, Retry
from netlab.service import nftables_table
from netlab.service.choice import choose
from netlab.service.iptables_restore import base
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort
from netlab.service.nftables import affinity_set, endpoint_name, render
from netlab.service.nftables_table import Kept
from tests.unit.nft_table import Table
from tests.unit.service_ports import EVERYWHERE, HERE, NODE, THERE, WEB, named

OTHER = replace(WEB, name="other", cluster_ip=IPv4Address("10.96.0.51"))


def taken(rules: Rules, changes: dict[PortKey, ServicePort | None]) -> str:
    """Let a text be made and taken."""
    rules.take(changes)
    text = "".join(rules.partial() if rules.is_known else rules.full({}))
    rules.accept()
    return text


def chains(text: str) -> set[str]:
    return set(re.findall(r"^:(\S+) ", text, re.MULTILINE))


def test_an_endpoint_that_goes_writes_its_port_alone() -> None:
    rules = Rules(NODE, base(NODE))
    taken(rules, {WEB.key: WEB, OTHER.key: OTHER})
    text = taken(rules, {WEB.key: replace(WEB, endpoints=(THERE,))})
    assert chains(text) == {named("KUBE-SVC-H"), named("KUBE-SEP-E1"), named("KUBE-SEP-E2")}
    assert re.findall("^-X (.*)", text, re.MULTILINE) == [named("KUBE-SEP-E1")]
    assert "*filter" not in text
    assert taken(rules, {WEB.key: replace(WEB, endpoints=(THERE,))}).count("\n") < text.count("\n")


def test_shared_chains_come_where_they_change() -> None:
    rules = Rules(NODE, base(NODE))
    taken(rules, {WEB.key: WEB, OTHER.key: OTHER})
    text = taken(rules, {WEB.key: replace(WEB, endpoints=())})
    assert {"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"} <= chains(text)
    assert "-A KUBE-SERVICES" in text.partition("*nat")[0]
    assert 'other:http cluster IP"' in text.partition("*nat")[2]
    new = replace(WEB, name="new", cluster_ip=IPv4Address("10.96.0.52"))
    text = taken(rules, {new.key: new})
    assert "*filter" not in text
    assert "new:http" in text
    assert "-X" not in text


def test_what_failed_is_written_as_a_whole() -> None:
    rules = Rules(NODE, base(NODE))
    taken(rules, {WEB.key: WEB})
    rules.take({OTHER.key: OTHER})
    "".join(rules.partial())  # and nobody says that it was taken
    assert not rules.is_known
    assert {"KUBE-SVC-", "KUBE-PROXY-CANARY"} <= {
        name[:9] if "SVC" in name else name for name in chains(taken(rules, {}))
    }
    assert rules.is_known
    assert not rules.is_pending


def test_beyond_1000_endpoints_every_comment_of_endpoints_goes() -> None:
    rules = Rules(NODE, base(NODE))
    taken(rules, {WEB.key: WEB})
    many = tuple(replace(HERE, address=IPv4Address("10.244.8.0") + number) for number in range(LARGE_CLUSTER - 1))
    full = taken(rules, {OTHER.key: replace(OTHER, endpoints=many)})
    assert "*mangle" in full
    assert "->" not in full
    assert "->" in taken(rules, {OTHER.key: replace(OTHER, endpoints=many[1:])})


# --- listings --------------------------------------------------------------------------------------------------------

SAVED = """\
# Warning: iptables-legacy tables present, use iptables-legacy-save to see them
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment "KUBE-SERVICES is not meant" -j MINE
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A MINE -m mark --mark 0x1 -g KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -j RETURN
COMMIT
*mangle
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
"""


def test_what_is_taken_away_is_ours_alone() -> None:
    assert "".join(listing.removal(listing.parse(SAVED))) == (
        "*nat\n:KUBE-SERVICES - [0:0]\n"
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
        "-D MINE -m mark --mark 0x1 -g KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n"
    )


def test_jumps_that_are_missing() -> None:
    fixed = base(NODE)
    missing = listing.missing_jumps(listing.parse(SAVED), fixed.jumps)
    assert [jump for jump in fixed.jumps if jump not in missing] == [
        jump for jump in fixed.jumps if jump[:2] == ("nat", "PREROUTING")
    ]


SAME = [
    (
        '-m comment --comment "a b" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j X',
        '-d 10.96.0.1/32 -p tcp -m comment --comment "a b" -m tcp --dport 80 -j X',
    ),
    ("-m mark ! --mark 0x004000/0x004000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN"),
    ("-j MARK --xor-mark 0x004000", "-j MARK --set-xmark 0x4000/0x0"),
    ("-j MARK --or-mark 0x004000", "-j MARK --set-xmark 0x4000/0x4000"),
    ("--mode random --probability 0.3333333333 -j X", "--mode random --probability 0.33333333349 -j X"),
    ("-s fd00::1 -j REJECT", "-s fd00::1/128 -j REJECT --reject-with icmp6-port-unreachable"),
    ("-m recent --name X --set", "-m recent --set --name X --mask 255.255.255.255 --rsource"),
]
OTHER_RULES = [
    ("-j MARK --or-mark 0x004000", "-j RETURN"),
    ("-j MARK --or-mark 0x004000", "-j MARK --set-xmark 0x8000/0x8000"),
    ("! -s 10.0.0.0/8 -d 10.1.0.0/16 -j X", "-s 10.0.0.0/8 ! -d 10.1.0.0/16 -j X"),
    ("--probability 0.3333333333 -j X", "--probability 0.25000000000 -j X"),
    ("-d 10.96.0.1 -j X", "-d 10.96.0.1/31 -j X"),
    ("-p tcp -j DNAT --to-destination 10.0.0.1:80", "-p tcp -j DNAT --to-destination 10.0.0.1:81"),
    ("-m recent --name X --set", "-m recent --set --name X --mask 255.255.255.0 --rsource"),
    ("-j REJECT", "-j REJECT --reject-with tcp-reset"),
]


@pytest.mark.parametrize(
    ("wanted", "found", "same"), [(*pair, True) for pair in SAME] + [(*pair, False) for pair in OTHER_RULES]
)
def test_what_a_rule_means_does_not_depend_on_how_it_is_worded(wanted: str, found: str, *, same: bool) -> None:
    assert (listing.compare({"nat": {"KUBE-SVC-A": [found]}}, {"nat": {"KUBE-SVC-A": [wanted]}}) is not None) is same


def test_what_is_known_to_be_the_same_is_not_compared_again() -> None:
    found: listing.Tables = {"nat": {"A": ["-d 10.0.0.1/32"], "B": ["-j X"]}}
    wanted: listing.Tables = {"nat": {"A": ["-d 10.0.0.1"], "B": ["-j X"]}}
    known = listing.compare(found, wanted)
    assert known is not None
    assert listing.compare(found, wanted, known) == known
    assert listing.compare({"nat": {"A": ["-d 10.0.0.2/32"], "B": ["-j X"]}}, wanted, known) is None
    assert listing.compare({"nat": {"A": ["-d 10.0.0.1/32"]}}, wanted, known) is None


def test_ports_stand_in_any_order_in_chains_that_they_share_and_what_is_last_is_last() -> None:
    def has(chain: str, *targets: str) -> bool:
        found, wanted = ([f"-j {target}" for target in them] for them in (targets, "ABC"))
        return listing.compare({"nat": {chain: found}}, {"nat": {chain: wanted}}) is not None

    assert has("KUBE-SERVICES", *"BAC")
    assert not has("KUBE-SERVICES", *"ACB")
    assert not has("KUBE-SERVICES", *"BBC")
    assert not has("KUBE-SVC-A", *"BAC")


# --- nftables --------------------------------------------------------------------------------------------------------


def told(table: TableObjects, kernel: Table, changes: dict[PortKey, ServicePort | None]) -> str:
    table.take(changes)
    text = table.partial() if table.is_known else None
    if text is None:
        text = table.full()
    kernel.run(text)
    table.accept()
    return text


def test_one_transaction_for_one_service() -> None:
    table, kernel = TableObjects(NODE, nftables_table.base(NODE)), Table()
    told(table, kernel, {EVERYWHERE.key: EVERYWHERE, OTHER.key: OTHER})
    text = told(table, kernel, {OTHER.key: replace(OTHER, endpoints=(HERE,))})
    assert "default/web/" not in text
    assert "element" not in text
    assert len(table.stale) == 1
    told(table, kernel, {OTHER.key: OTHER})
    assert not table.stale


def test_any_way_of_changes_ends_at_the_same_table() -> None:
    """Also where Services claim one address, which one of them gets, and where addresses move between them."""
    order = random.Random(3)
    names = ["a", "b", "c"]
    table, kernel = TableObjects(NODE, nftables_table.base(NODE)), Table()
    wanted: dict[PortKey, ServicePort] = {}
    compared = 0
    for _ in range(300):
        changes: dict[PortKey, ServicePort | None] = {}
        for name in order.sample(names, order.choice([1, 1, 2])):
            port = replace(
                EVERYWHERE,
                name=name,
                port_name=order.choice(["x", "y"]),
                cluster_ip=IPv4Address("10.96.0.60") + names.index(name),
                node_port=30000 + order.randrange(3),
                external_ips=(IPv4Address("192.0.2.0") + order.randrange(3),),
                load_balancer_ips=(),
                endpoints=order.choice([(), (HERE,), (THERE,), (HERE, THERE)]),
                external_policy=order.choice(list(Policy)),
                affinity=order.choice([0, 60, 90]),
            )
            changes[port.key] = order.choice([port, port, None])
        told(table, kernel, changes)
        wanted = {key: port for key, port in {**wanted, **changes}.items() if port}
        if order.random() < 0.3:
            kernel.run(nftables_table.removal(table.name, table.stale))
            table.stale.clear()
        if claimed_once(wanted.values()):
            other = Table()
            other.run(nftables_table.full(nftables_table.base(NODE), [render(port, NODE) for port in wanted.values()]))
            compared += 1
            kept = {name: rules for name, rules in kernel.chains.items() if name not in table.stale}
            assert (kept, kernel.sets, kernel.elements) == (other.chains, other.sets, other.elements)
    assert compared > 30


def test_a_table_made_anew_keeps_affinity_that_is_defined_as_before() -> None:
    one, other = replace(WEB, affinity=60), replace(OTHER, affinity=90)
    table = TableObjects(NODE, nftables_table.base(NODE))
    assert not table.has_affinity
    table.take({one.key: one, other.key: other})
    assert table.has_affinity
    here, gone = (f"affinity-{endpoint_name(one, end)}" for end in (HERE, replace(THERE, port=1)))
    changed = f"affinity-{endpoint_name(other, HERE)}"
    held = (("10.0.0.1", 1500), ("10.0.0.2", 1))
    text = table.full(dict.fromkeys((here, gone, changed), Kept(affinity_set(4, 60), held)))
    (line,) = (line for line in text.splitlines() if "expires" in line)
    assert line == f"add element {table.name} {here} {{ 10.0.0.1 expires 1500ms, 10.0.0.2 expires 1ms }}"
    assert "expires" not in table.full()


def claimed_once(ports: Iterable[ServicePort]) -> bool:
    claims = [claim for port in ports for claim in ((port.external_ips, port.port), port.node_port)]
    return len(claims) == len(set(claims))


# --- what follows a sync ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_where_udp_flows_may_go(version: int) -> None:
    address, pod = ip_address("10.96.0.9" if version == 4 else "fd00::9"), "10.244.0.1" if version == 4 else "fd00::1"
    ends = tuple(Endpoint(ip_address(pod) + number, 53, ready=number != 2, serving=number != 2) for number in range(3))
    port = replace(WEB, protocol=Protocol.UDP, cluster_ip=address, port=53, node_port=30053, endpoints=ends)
    found = _targets({port.key: (frozenset({(b"gone", b"\0\7")}), port)})
    serving = {(end.address.packed, b"\0\x35") for end in ends[:2]}
    assert found == {(address.packed, b"\0\x35"): serving, (b"", b"\x75\x65"): serving, (b"gone", b"\0\7"): serving}


def test_a_flow_may_stay_with_an_endpoint_that_rules_choose_though_it_does_not_serve() -> None:
    """By publishNotReadyAddresses it is ready all the same, and what rules choose is not to be cut at each change."""
    ends = tuple(
        Endpoint(IPv4Address("10.244.0.1") + number, 53, "n1", ready=ready, serving=serving, terminating=terminating)
        for number, (ready, serving, terminating) in enumerate(product((True, False), repeat=3))
    )
    for chosen in (*((end,) for end in ends), ends):
        port = replace(WEB, protocol=Protocol.UDP, endpoints=chosen)
        (kept,) = _targets({port.key: (frozenset(), port)}).values()
        assert {(end.address.packed, b"\0\x35") for end in choose(port, "n1").cluster} <= kept
        assert kept == {(end.address.packed, b"\0\x35") for end in chosen if end.ready or end.serving}


def test_a_flow_of_any_port_may_be_stuck_where_everything_was_gone() -> None:
    """What was noted before stays: the addresses that a port had then are cleaned too."""
    udp = replace(WEB, protocol=Protocol.UDP, endpoints=(HERE,))
    moved = replace(udp, cluster_ip=OTHER.cluster_ip)
    other = replace(OTHER, protocol=Protocol.UDP, cluster_ip=IPv4Address("10.96.0.52"))
    cleaner = Cleaner("nowhere")
    cleaner.note({moved.key: moved}, {udp.key: udp})
    cleaner.note_all({port.key: port for port in (WEB, moved, other)})
    found = _targets(cleaner._changed)
    assert found.keys() == {(port.cluster_ip.packed, b"\0\x50") for port in (udp, moved, other)}


def test_what_failed_is_tried_again_after_a_while() -> None:
    retry = Retry()
    assert not retry.is_due(1.0)
    assert retry.at is None
    with pytest.raises(ValueError, match="once"), retry:
        raise ValueError("once")
    assert not retry.is_due(10.0)
    assert retry.at == 10.0 + PERIOD
    assert retry.is_due(10.0 + PERIOD)
    with retry:
        pass
    assert retry.at is None
    assert not retry.is_due(100.0)
