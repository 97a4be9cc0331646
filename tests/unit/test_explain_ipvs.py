"""IPVS mode put into words: what rules, IP sets and virtual servers say together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network

import pytest

from netlab.explain import virtual
from netlab.explain.gaps import gaps
from netlab.explain.ipsets import parse, resolved
from netlab.explain.model import VIRTUAL_SERVERS, From, InSet, Packet, Rule, Serve, Tables, Verdict
from netlab.explain.virtual_walk import explain_virtual
from netlab.explain.words import line
from netlab.service.ipvs_sets import IpSet
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort
from tests.unit.explained import PODS, ipvs_of, said_of_ipvs, shares, under
from tests.unit.service_ports import EVERYWHERE, FULL, HERE, NODE, WEB

POD, OWN, CLIENT = "10.244.1.2", "10.244.1.5", "198.51.100.9"
LOCAL = replace(EVERYWHERE, external_policy=Policy.LOCAL, affinity=10800)
EMPTY = replace(WEB, name="none", cluster_ip=IPv4Address("10.96.0.51"), node_port=30081, endpoints=())
SEES = "masqueraded (the endpoint sees the node)"
FIRST, SECOND = "10.244.1.5:8080, pod web-1 on n1", "10.244.2.6:8080, pod web-2 on n2"


def said(port: ServicePort, client: str = "", *, from_node: bool = False) -> list[str]:
    return said_of_ipvs(ipvs_of(port), port, client, from_node=from_node)


def test_a_cluster_ip() -> None:
    assert said(WEB) == [
        "To 10.96.0.50:80/tcp (cluster IP):",
        f"  not from 10.244.0.0/16: {SEES}",
        "  IPVS chooses by rr, in turn:",
        f"    with probability 1/2 (50 %): {FIRST}",
        f"    with probability 1/2 (50 %): {SECOND}",
        "  to itself (hairpin), masqueraded: 10.244.1.5:8080",
    ]


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (POD, "10.244.1.2 is in 10.244.0.0/16: not masqueraded"),
        (CLIENT, f"198.51.100.9 is not in 10.244.0.0/16: {SEES}"),
    ],
)
def test_a_client_decides_what_was_open(client: str, words: str) -> None:
    assert said(WEB, client)[1] == f"  {words}"


def test_an_endpoint_reaches_itself_by_a_set() -> None:
    assert f"    with probability 1/2 (50 %): {FIRST}; itself (hairpin): masqueraded" in said(WEB, OWN)
    tables = ipvs_of(WEB)
    emptied = {**tables.sets, IpSet.LOOP_BACK: tables.sets[IpSet.LOOP_BACK]._replace(texts=frozenset())}
    lines = said_of_ipvs(replace(tables, sets=emptied), WEB, OWN)
    assert f"    with probability 1/2 (50 %): {FIRST}; itself (hairpin): NOT masqueraded, fails" in lines


def test_a_load_balancers_ranges() -> None:
    open_way = under(said(FULL), "To 203.0.113.7:80/tcp (loadbalancer IP)")
    assert open_way[:6] == [
        "to KUBE-LOAD-BALANCER:",
        SEES,
        "to KUBE-SOURCE-RANGES-FIREWALL:",
        "from 198.51.100.0/24: out of KUBE-SOURCE-RANGES-FIREWALL again",
        "dropped: the client hears nothing",
        "what is not dropped:",
    ]
    assert "from 203.0.113.7: dropped: the client hears nothing" in open_way  # the node itself
    refused = under(said(FULL, "192.0.2.77"), "To 203.0.113.7:80/tcp")
    assert refused[-1] == "dropped: the client hears nothing"
    assert not [text for text in refused if "probability" in text]
    assert f"with probability 1/2 (50 %): {FIRST}" in under(said(FULL, CLIENT), "To 203.0.113.7:80/tcp")


def test_the_node_itself_has_the_services_address_as_source() -> None:
    within = replace(FULL, source_ranges=(IPv4Network("172.18.0.0/16"),))  # the node is in the range
    lines = under(said(within, "172.18.0.2", from_node=True), "To 203.0.113.7:80/tcp")
    assert lines[0] == "the node has 203.0.113.7 itself: its own packet has that as source, too"
    assert "203.0.113.7 is in 172.18.0.0/16, 203.0.113.7" not in " ".join(lines)
    assert f"with probability 1/2 (50 %): {FIRST}" in lines
    assert under(said(FULL, "172.18.0.2", from_node=True), "To 203.0.113.7")[-1] == "dropped: the client hears nothing"


def test_policy_local_keeps_the_source() -> None:
    for heading, chain in (("To 203.0.113.7:80/tcp", "KUBE-LOAD-BALANCER"), ("To port 30080/tcp", "KUBE-NODE-PORT")):
        lines = under(said(LOCAL, CLIENT), heading)
        assert lines[1] == f"out of {chain} again: not masqueraded"
        assert f"with probability 1 (100 %): {FIRST}" in lines
    assert "affinity: 198.51.100.9 returns to the endpoint it used within 10800 s" in under(
        said(LOCAL, CLIENT), "To 10."
    )


def test_nobody_behind_it() -> None:
    for heading in ("To 10.96.0.51:80/tcp (cluster IP)", "To port 30081/tcp of the node (NodePort)"):
        assert under(said(EMPTY), heading)[-1].startswith("rejected (no real server): the client is told at once")


def changed(tables: Tables, change: Callable[[Rule], Rule | None]) -> Tables:
    chains = {place: tuple(new for rule in rules if (new := change(rule))) for place, rules in tables.chains.items()}
    return replace(tables, chains=chains)


def test_a_virtual_server_that_somebody_deleted() -> None:
    tables = changed(ipvs_of(FULL), lambda rule: None if (rule.table, rule.chain) == VIRTUAL_SERVERS else rule)
    lines = said_of_ipvs(tables, FULL)
    assert "IPVS lets the packet go on to the node itself" in under(lines, "To 10.96.0.50")[-1]
    assert "IPVS lets the packet go on to the node itself" in under(lines, "To port 30080")[-1]


def test_weights() -> None:
    """What ends has weight 0: its connections stay, new ones go elsewhere."""

    def drain(rule: Rule) -> Rule:
        ends = rule.action == Serve("10.244.2.6:8080", 1)
        return replace(rule, action=Serve("10.244.2.6:8080", 0)) if ends else rule

    lines = said_of_ipvs(changed(ipvs_of(WEB), drain), WEB)
    assert f"    with probability 1 (100 %): {FIRST}" in lines
    assert f"    {SECOND}: weight 0, no new connections" in lines


@pytest.mark.parametrize(("scheduler", "words"), [("mh", ", by a hash of the client's address"), ("nq", "")])
def test_schedulers(scheduler: str, words: str) -> None:
    lines = said_of_ipvs(ipvs_of(WEB, scheduler=scheduler), WEB)
    assert f"  IPVS chooses by {scheduler}{words}:" in lines
    assert (f"    {FIRST}" in lines) is (scheduler == "nq")


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_shares(count: int) -> None:
    ends = tuple(Endpoint(IPv4Address("10.244.3.1") + number, 8080, "n1") for number in range(count))
    port = replace(WEB, endpoints=ends)
    (found,) = virtual.trees([port], ipvs_of(port))
    assert shares(explain_virtual(found, PODS)) == {str(one): Fraction(1, count) for one in ends}


def test_addresses_of_the_node_that_differ_are_told_apart() -> None:
    two = replace(NODE, addresses=(IPv4Address("172.18.0.2"), IPv4Address("172.19.0.2")))
    tables = ipvs_of(FULL, node=two)
    assert "To port 30080/tcp of the node (NodePort):" in said_of_ipvs(tables, FULL)
    name = "172.19.0.2:30080/tcp"
    lines = said_of_ipvs(changed(tables, lambda rule: None if rule.chain == name else rule), FULL)
    assert under(lines, f"To {name} (NodePort)")[-1].startswith("rejected (no real server)")
    assert f"with probability 1/2 (50 %): {FIRST}" in under(lines, "To 172.18.0.2:30080/tcp (NodePort)")


def test_one_services_rules_alone() -> None:
    other = replace(WEB, name="dns", protocol=Protocol.UDP, port=53, cluster_ip=IPv4Address("10.96.0.10"))
    tables = ipvs_of(FULL, other)
    (found,) = virtual.trees([other], tables)
    listed = [line(rule) for rule in found.rules]
    assert "to 10.96.0.10:53/udp -> real servers of 10.96.0.10:53/udp by rr" in listed
    assert "any packet -> new destination 10.244.1.5:8080 (weight 1)" in listed
    assert not [text for text in listed if "KUBE-LOAD-BALANCER" in text or "10.96.0.50" in text]


def test_gaps() -> None:
    assert not list(gaps(ipvs_of(FULL)))
    without = changed(ipvs_of(FULL), lambda rule: None if rule.chain == "PREROUTING" else rule)
    assert list(gaps(without)) == ["no rule leads from PREROUTING to KUBE-SERVICES: these packets meet no Service"]


# --- IP sets ---------------------------------------------------------------------------------------------------------

SAVED = """\
create PLACES hash:ip,port family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1
add PLACES 10.96.0.50,tcp:80
create PORTS bitmap:port range 0-65535
add PORTS 30080
create NETS hash:ip,port,net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x2
add NETS 203.0.113.7,tcp:80,198.51.100.0/24
add NETS 203.0.113.8,tcp:80,192.0.2.0/24
"""
TO = Packet(IPv4Address("10.96.0.50"), "tcp", 80)


@pytest.mark.parametrize(
    ("name", "directions", "packet", "met"),
    [
        ("PLACES", "dst,dst", TO, True),
        ("PLACES", "dst,dst", replace(TO, port=81), False),
        ("PLACES", "dst,dst", replace(TO, protocol="udp"), False),
        ("PORTS", "dst", replace(TO, port=30080), True),
        ("PORTS", "dst", TO, False),
        ("NETS", "dst,dst,src", TO, False),
        ("NOWHERE", "dst,dst", TO, False),
    ],
)
def test_a_set_is_asked(name: str, directions: str, packet: Packet, met: bool) -> None:
    rule = Rule("nat", "X", (InSet(name, tuple(directions.split(","))),), Verdict.ACCEPT)
    found = resolved(rule, parse(SAVED), packet)
    assert (found == replace(rule, conditions=())) is met
    negated = replace(rule, conditions=(InSet(name, tuple(directions.split(",")), negated=True),))
    assert (resolved(negated, parse(SAVED), packet) is None) is met


def test_a_set_of_sources_leaves_the_source_open() -> None:
    rule = Rule("filter", "X", (InSet("NETS", ("dst", "dst", "src")),), Verdict.RETURN)
    found = resolved(rule, parse(SAVED), replace(TO, destination=IPv4Address("203.0.113.7")))
    assert found == replace(rule, conditions=(From((IPv4Network("198.51.100.0/24"),)),))


def test_endpoints_elsewhere_are_not_said_to_fail() -> None:
    assert not [text for text in said(replace(WEB, endpoints=(HERE, replace(HERE, node="n2")))) if "fails" in text]
