"""iptables mode, one port: each row of facts.md 3.3 and 3.5 to 3.7, and the worked example of 11.5."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.service.iptables import render
from netlab.service.iptables_names import Prefix, chain_name, endpoint_chain
from netlab.service.model import Endpoint, Policy, Protocol, ProxyNode, ServicePort
from tests.unit.service_ports import BALANCER, EVERYWHERE, FULL, HERE, NODE, NODE6, THERE, WEB, chains, expect, named

# --- names (3.3) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "protocol", "wanted"),
    [
        ("default/kubernetes:https", "TCP", "NPX46M4PTMTKRN6Y"),
        ("kube-system/kube-dns:dns", "UDP", "TCOU7JCQXEZGVUNU"),
        ("kube-system/kube-dns:dns-tcp", "TCP", "ERIFXISQEP7F7OF4"),
        ("kube-system/kube-dns:metrics", "TCP", "JD5MR3NA4I4DYORP"),
        ("ns1/svc1:p80", "TCP", "XPGD46QRK7WJZT7O"),
        ("ns2/svc2:p80", "TCP", "GNZBNJ2PO5MGZ6GT"),
        ("ns3/svc3:p80", "TCP", "X27LE4BHSL4DOUIK"),
        ("ns4/svc4:p80", "TCP", "4SW47YFZTEDKD3PK"),
        ("ns5/svc5:p80", "TCP", "NUKIZ6OKUXPJNT4C"),
        ("default/hello", "TCP", "STDNOFAI3EEZDIVA"),
    ],
)
def test_chain_names(name: str, protocol: str, wanted: str) -> None:
    port = called(name, protocol)
    assert [chain_name(prefix, port) for prefix in Prefix if prefix is not Prefix.ENDPOINT] == [
        f"KUBE-{kind}-{wanted}" for kind in ("EXT", "FW", "SVC", "SVL")
    ]


@pytest.mark.parametrize(
    ("name", "address", "wanted"),
    [
        ("ns1/svc1:p80", "10.180.0.1", "SXIVWICOYRO3J4NJ"),
        ("ns4/svc4:p80", "10.180.0.4", "UKSFD7AGPMPPLUHC"),
        ("ns4/svc4:p80", "10.180.0.5", "C6EBXVWJJZMIWKLZ"),
    ],
)
def test_endpoint_chain_names(name: str, address: str, wanted: str) -> None:
    assert endpoint_chain(called(name), Endpoint(IPv4Address(address), 80)) == f"KUBE-SEP-{wanted}"


def called(name: str, protocol: str = "TCP") -> ServicePort:
    namespace, _, rest = name.partition("/")
    service, _, port_name = rest.partition(":")
    return replace(WEB, namespace=namespace, name=service, port_name=port_name, protocol=Protocol(protocol))


# --- one port: nat (3.5) ---------------------------------------------------------------------------------------------


def test_cluster_ip_as_kube_proxy_writes_it() -> None:
    """Every character, comments too."""
    rules = render(WEB, NODE)
    to = "-m tcp -p tcp -d 10.96.0.50 --dport 80"
    note = "-m comment --comment default/web:http"
    assert rules.nat_services == (named(f'-m comment --comment "default/web:http cluster IP" {to} -j KUBE-SVC-H'),)
    assert [(chain.name, chain.rules) for chain in rules.chains] == [
        (
            named("KUBE-SVC-H"),
            (
                f'-m comment --comment "default/web:http cluster IP" {to} ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ',
                named(
                    '-m comment --comment "default/web:http -> 10.244.1.5:8080"'
                    " -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-E1"
                ),
                named('-m comment --comment "default/web:http -> 10.244.2.6:8080" -j KUBE-SEP-E2'),
            ),
        ),
        (
            named("KUBE-SEP-E1"),
            (
                f"{note} -s 10.244.1.5 -j KUBE-MARK-MASQ",
                f"{note} -m tcp -p tcp -j DNAT --to-destination 10.244.1.5:8080",
            ),
        ),
        (
            named("KUBE-SEP-E2"),
            (
                f"{note} -s 10.244.2.6 -j KUBE-MARK-MASQ",
                f"{note} -m tcp -p tcp -j DNAT --to-destination 10.244.2.6:8080",
            ),
        ),
    ]
    assert rules.filter_text == ""
    assert rules.nat_node_ports == ()


def test_the_worked_example() -> None:
    rules = render(FULL, NODE)
    expect(
        rules.nat_services,
        "-p tcp -d 10.96.0.50 --dport 80 -j KUBE-SVC-H",
        "-p tcp -d 203.0.113.7 --dport 80 -j KUBE-FW-H",
    )
    expect(rules.nat_node_ports, "-p tcp --dport 30080 -j KUBE-EXT-H")
    expect(rules.filter_proxy_firewall, "-p tcp -d 203.0.113.7 --dport 80 -j DROP")
    assert chains(rules) == {
        named(name): [named(rule) for rule in wanted]
        for name, wanted in {
            "KUBE-EXT-H": ["-j KUBE-MARK-MASQ", "-j KUBE-SVC-H"],
            "KUBE-FW-H": ["-s 198.51.100.0/24 -j KUBE-EXT-H", ""],
            "KUBE-SVC-H": [
                "-p tcp -d 10.96.0.50 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ",
                "-m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-E1",
                "-j KUBE-SEP-E2",
            ],
            "KUBE-SEP-E1": ["-s 10.244.1.5 -j KUBE-MARK-MASQ", "-p tcp -j DNAT --to-destination 10.244.1.5:8080"],
            "KUBE-SEP-E2": ["-s 10.244.2.6 -j KUBE-MARK-MASQ", "-p tcp -j DNAT --to-destination 10.244.2.6:8080"],
        }.items()
    }
    assert rules.filter_services == rules.filter_external_services == rules.filter_node_ports == ()


def test_comments_of_the_external_chains() -> None:
    rules = render(replace(FULL, external_ips=(IPv4Address("192.0.2.9"),), health_check_node_port=31000), NODE)
    local = render(replace(FULL, external_policy=Policy.LOCAL, endpoints=(THERE,)), NODE)
    own = [rule for found in (rules, local) for chain in found.chains[:2] for rule in chain.rules]
    shared = (*rules.nat_services, *rules.nat_node_ports, *rules.filter_node_ports, *rules.filter_proxy_firewall)
    comments = [
        re.sub(r'.*--comment (".*?"|\S+) ?.*', r"\1", line).replace("default/web:http", "S").replace('"', "")
        for line in (*own, *shared, *local.filter_external_services)
        if "comment" in line
    ]
    assert comments == [
        "masquerade traffic for S external destinations",
        "S loadbalancer IP",
        "other traffic to S will be dropped by KUBE-PROXY-FIREWALL",
        "pod traffic for S external destinations",
        "masquerade LOCAL traffic for S external destinations",
        "route LOCAL traffic for S external destinations",
        "S loadbalancer IP",
        "other traffic to S will be dropped by KUBE-PROXY-FIREWALL",
        "S cluster IP",
        "S external IP",
        "S loadbalancer IP",
        "S",
        "S health check node port",
        f"S traffic not accepted by {chain_name(Prefix.FIREWALL, WEB)}",
        "S has no local endpoints",
        "S has no local endpoints",
    ]


@pytest.mark.parametrize(
    ("node", "first"),
    [
        (NODE, ["-p tcp -d 10.96.0.50 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ"]),
        (replace(NODE, local=None), []),
        (replace(NODE, masquerade_all=True), ["-p tcp -d 10.96.0.50 --dport 80 -j KUBE-MARK-MASQ"]),
        (replace(NODE, masquerade_all=True, local=None), ["-p tcp -d 10.96.0.50 --dport 80 -j KUBE-MARK-MASQ"]),
    ],
)
@pytest.mark.parametrize(("policy", "chain"), [(Policy.CLUSTER, "KUBE-SVC-H"), (Policy.LOCAL, "KUBE-SVL-H")])
def test_what_is_masqueraded_on_its_way_to_the_cluster_ip(
    node: ProxyNode, first: list[str], policy: Policy, chain: str
) -> None:
    found = chains(render(replace(WEB, internal_policy=policy), node))
    assert [rule for rule in found[named(chain)] if "SEP" not in rule] == first


def test_only_the_chain_of_the_cluster_ip_masquerades_for_it() -> None:
    found = chains(render(replace(FULL, external_policy=Policy.LOCAL), NODE))
    assert found[named("KUBE-SVL-H")] == [named("-j KUBE-SEP-E1")]


LOCAL_EXTERNAL = [
    "-s 10.244.0.0/16 -j KUBE-SVC-H",
    "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
    "-m addrtype --src-type LOCAL -j KUBE-SVC-H",
]


@pytest.mark.parametrize(
    ("policy", "endpoints", "node", "wanted"),
    [
        (Policy.CLUSTER, (HERE, THERE), NODE, ["-j KUBE-MARK-MASQ", "-j KUBE-SVC-H"]),
        (Policy.CLUSTER, (THERE,), replace(NODE, local=None), ["-j KUBE-MARK-MASQ", "-j KUBE-SVC-H"]),
        (Policy.LOCAL, (HERE, THERE), NODE, [*LOCAL_EXTERNAL, "-j KUBE-SVL-H"]),
        (Policy.LOCAL, (HERE, THERE), replace(NODE, local=None), [*LOCAL_EXTERNAL[1:], "-j KUBE-SVL-H"]),
        (Policy.LOCAL, (THERE,), NODE, LOCAL_EXTERNAL),
    ],
)
def test_external_traffic(policy: Policy, endpoints: tuple[Endpoint, ...], node: ProxyNode, wanted: list[str]) -> None:
    found = chains(render(replace(FULL, external_policy=policy, endpoints=endpoints), node))
    assert found[named("KUBE-EXT-H")] == [named(rule) for rule in wanted]


IN, OUT = "KUBE-SVC-H", "KUBE-SVL-H"


@pytest.mark.parametrize(
    ("internal", "external", "node_port", "endpoints", "wanted"),
    [
        (Policy.CLUSTER, Policy.CLUSTER, 0, (HERE, THERE), {IN: "E1 E2"}),
        (Policy.CLUSTER, Policy.LOCAL, 0, (HERE, THERE), {IN: "E1 E2"}),  # the policy holds for no address
        (Policy.CLUSTER, Policy.LOCAL, 30080, (HERE, THERE), {IN: "E1 E2", OUT: "E1"}),
        (Policy.CLUSTER, Policy.LOCAL, 30080, (THERE,), {IN: "E2"}),
        (Policy.LOCAL, Policy.CLUSTER, 0, (HERE, THERE), {OUT: "E1"}),
        (Policy.LOCAL, Policy.CLUSTER, 0, (THERE,), {}),
        (Policy.LOCAL, Policy.CLUSTER, 30080, (HERE, THERE), {IN: "E1 E2", OUT: "E1"}),
        (Policy.LOCAL, Policy.LOCAL, 30080, (HERE, THERE), {IN: "E1 E2", OUT: "E1"}),
        (Policy.CLUSTER, Policy.CLUSTER, 30080, (), {}),
        (  # the local one serves while it ends: for policy Local it is the only choice
            Policy.CLUSTER,
            Policy.LOCAL,
            30080,
            (replace(HERE, ready=False, terminating=True), THERE),
            {IN: "E2", OUT: "E1"},
        ),
    ],
)
def test_which_chains_exist(
    internal: Policy, external: Policy, node_port: int, endpoints: tuple[Endpoint, ...], wanted: dict[str, str]
) -> None:
    port = replace(WEB, internal_policy=internal, external_policy=external, node_port=node_port, endpoints=endpoints)
    found = chains(render(port, NODE))
    reached = {f"KUBE-SEP-{end}" for ends in wanted.values() for end in ends.split()}
    outside = {"KUBE-EXT-H"} if node_port and endpoints else set()
    assert set(found) == {named(name) for name in {*wanted, *reached, *outside}}
    for chain, ends in wanted.items():
        targets = [rule.split()[-1] for rule in found[named(chain)] if "SEP" in rule]
        assert targets == [named(f"KUBE-SEP-{end}") for end in ends.split()]


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        (["198.51.100.0/24"], ["-s 198.51.100.0/24"]),
        (["198.51.100.0/24", "192.0.2.0/25"], ["-s 198.51.100.0/24", "-s 192.0.2.0/25"]),
        (["172.18.0.0/16"], ["-s 172.18.0.0/16", "-s 203.0.113.7", "-s 203.0.113.8"]),
    ],
)
def test_source_ranges(ranges: Sequence[str], wanted: list[str]) -> None:
    addresses = (BALANCER, IPv4Address("203.0.113.8"))
    port = replace(FULL, load_balancer_ips=addresses, source_ranges=tuple(map(IPv4Network, ranges)))
    rules = render(port, NODE)
    assert chains(rules)[named("KUBE-FW-H")] == [*[named(f"{source} -j KUBE-EXT-H") for source in wanted], ""]
    expect(
        rules.filter_proxy_firewall,
        "-p tcp -d 203.0.113.7 --dport 80 -j DROP",
        "-p tcp -d 203.0.113.8 --dport 80 -j DROP",
    )


def test_source_ranges_hold_for_load_balancers_only() -> None:
    port = replace(FULL, load_balancer_ips=(), external_ips=(IPv4Address("192.0.2.9"),))
    rules = render(port, NODE)
    expect(
        rules.nat_services,
        "-p tcp -d 10.96.0.50 --dport 80 -j KUBE-SVC-H",
        "-p tcp -d 192.0.2.9 --dport 80 -j KUBE-EXT-H",
    )
    assert named("KUBE-FW-H") not in chains(rules)
    assert rules.filter_proxy_firewall == ()


def test_a_load_balancer_without_ranges() -> None:
    rules = render(replace(FULL, source_ranges=()), NODE)
    expect(rules.nat_services[1:], "-p tcp -d 203.0.113.7 --dport 80 -j KUBE-EXT-H")


def test_affinity() -> None:
    found = chains(render(replace(WEB, affinity=10800), NODE))
    assert found[named("KUBE-SVC-H")][1:] == [
        named(rule)
        for rule in (
            "-m recent --name KUBE-SEP-E1 --rcheck --seconds 10800 --reap -j KUBE-SEP-E1",
            "-m recent --name KUBE-SEP-E2 --rcheck --seconds 10800 --reap -j KUBE-SEP-E2",
            "-m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-E1",
            "-j KUBE-SEP-E2",
        )
    ]
    assert found[named("KUBE-SEP-E1")] == [
        "-s 10.244.1.5 -j KUBE-MARK-MASQ",
        named("-m recent --name KUBE-SEP-E1 --set -p tcp -j DNAT --to-destination 10.244.1.5:8080"),
    ]


@pytest.mark.parametrize(("protocol", "match"), [(Protocol.UDP, "udp"), (Protocol.SCTP, "sctp")])
def test_other_protocols(protocol: Protocol, match: str) -> None:
    rules = render(replace(FULL, protocol=protocol, health_check_node_port=31000), NODE)
    lines = [*rules.nat_services, *rules.nat_node_ports, *rules.filter_proxy_firewall]
    assert all(f" -m {match} -p {match} " in line for line in lines)
    assert all(f"-m {match} -p {match} -j DNAT" in chain.rules[1] for chain in rules.chains if "SEP" in chain.name)
    expect(rules.filter_node_ports, "-p tcp --dport 31000 -j ACCEPT")  # it is HTTP always


def test_many_endpoints_go_without_their_comments() -> None:
    rules = render(replace(WEB, affinity=60), NODE, comments=False)
    assert chains(rules) == chains(render(replace(WEB, affinity=60), NODE))
    lines = [rule for chain in rules.chains for rule in chain.rules if "comment" in rule]
    assert lines == [rules.chains[0].rules[0]]
    assert '"default/web:http cluster IP"' in lines[0]


@given(st.integers(1, 150))
def test_every_endpoint_has_the_same_chance(count: int) -> None:
    endpoints = tuple(Endpoint(IPv4Address(0x0AF40000 + index), 80, "n2") for index in range(count))
    service = chains(render(replace(WEB, endpoints=endpoints), replace(NODE, local=None), comments=False))
    rules = service[named("KUBE-SVC-H")]
    left, shares = 1.0, []
    for rule in rules:
        chance = re.search(r"--probability (\d\.\d{10}) ", rule)
        shares.append(left * (float(chance[1]) if chance else 1))
        left -= shares[-1]
    assert len({rule.split()[-1] for rule in rules}) == count
    assert shares == pytest.approx([1 / count] * count, abs=1e-8)
    assert left == pytest.approx(0)


# --- one port: filter (3.6) ------------------------------------------------------------------------------------------

V = "-p tcp -d 10.96.0.50 --dport 80 -j"
OUTSIDE = (
    "-p tcp -d 192.0.2.9 --dport 80 -j",
    "-p tcp -d 203.0.113.7 --dport 80 -j",
    "-m addrtype --dst-type LOCAL -p tcp --dport 30080 -j",
)


@pytest.mark.parametrize(
    ("internal", "external", "endpoints", "at_v", "outside"),
    [
        (Policy.CLUSTER, Policy.CLUSTER, (), "REJECT", "REJECT"),
        (Policy.LOCAL, Policy.LOCAL, (), "REJECT", "REJECT"),
        (Policy.CLUSTER, Policy.CLUSTER, (replace(HERE, ready=False, serving=False),), "REJECT", "REJECT"),
        (Policy.CLUSTER, Policy.CLUSTER, (THERE,), "", ""),
        (Policy.LOCAL, Policy.CLUSTER, (THERE,), "DROP", ""),
        (Policy.CLUSTER, Policy.LOCAL, (THERE,), "", "DROP"),
        (Policy.LOCAL, Policy.LOCAL, (THERE,), "DROP", "DROP"),
        (Policy.LOCAL, Policy.LOCAL, (HERE,), "", ""),
        (Policy.CLUSTER, Policy.CLUSTER, (replace(THERE, ready=False, terminating=True),), "", ""),
    ],
)
def test_without_endpoints(
    internal: Policy, external: Policy, endpoints: tuple[Endpoint, ...], at_v: str, outside: str
) -> None:
    port = replace(EVERYWHERE, internal_policy=internal, external_policy=external, endpoints=endpoints)
    rules = render(port, NODE)
    expect(rules.filter_services, *([f"{V} {at_v}"] if at_v else []))
    expect(rules.filter_external_services, *([f"{match} {outside}" for match in OUTSIDE] if outside else []))
    comment = {"REJECT": '"default/web:http has no endpoints"', "DROP": '"default/web:http has no local endpoints"'}
    for line in (*rules.filter_services, *rules.filter_external_services):
        assert comment[line.split()[-1]] in line
    expect(rules.filter_node_ports, "-p tcp --dport 31000 -j ACCEPT")  # with and without endpoints


def test_nothing_of_a_port_without_endpoints_is_in_nat() -> None:
    rules = render(replace(EVERYWHERE, endpoints=()), NODE)
    assert (rules.chains, rules.nat_services, rules.nat_node_ports, rules.nat_text) == ((), (), (), "")
    assert rules.filter_proxy_firewall == ()


def test_clients_in_the_cluster_reach_what_is_not_local() -> None:
    """The DROP in filter sees only what nat did not translate: the entries in nat stay."""
    rules = render(replace(EVERYWHERE, external_policy=Policy.LOCAL, endpoints=(THERE,)), NODE)
    assert [line.split()[-1] for line in (*rules.nat_services[1:], *rules.nat_node_ports)] == [
        named(chain) for chain in ("KUBE-EXT-H", "KUBE-FW-H", "KUBE-EXT-H")
    ]


# --- IPv6 ------------------------------------------------------------------------------------------------------------


def test_ipv6() -> None:
    endpoint = Endpoint(IPv6Address("fd00:244:1::5"), 8080, "n1")
    port = replace(WEB, cluster_ip=IPv6Address("fd00:96::50"), endpoints=(endpoint,))
    rules = render(port, NODE6)
    expect(rules.nat_services, "-p tcp -d fd00:96::50 --dport 80 -j KUBE-SVC-H")
    assert chains(rules) == {
        named("KUBE-SVC-H"): [
            "-p tcp -d fd00:96::50 --dport 80 ! -s fd00:244::/32 -j KUBE-MARK-MASQ",
            f"-j {endpoint_chain(port, endpoint)}",
        ],
        endpoint_chain(port, endpoint): [
            "-s fd00:244:1::5 -j KUBE-MARK-MASQ",
            "-p tcp -j DNAT --to-destination [fd00:244:1::5]:8080",
        ],
    }
