"""kube-proxy's nftables mode: its names, its rules, and what they do to packets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from netlab.service.model import Endpoint, Policy, Protocol, ProxyNode, ServicePort
from netlab.service.nftables import endpoint_name, render, service_name
from netlab.service.nftables_table import base, full
from tests.unit.nft_table import Packet, Table, walk

V, LB, EXTERNAL, NODE, OUTSIDE, POD = (
    "10.96.0.50",
    "203.0.113.7",
    "203.0.113.9",
    "172.18.0.2",
    "192.0.2.9",
    "10.244.1.77",
)
CIDRS = [ip_network("10.96.0.0/16")]
HERE = Endpoint(ip_address("10.244.1.5"), 8080, "n1")
THERE = Endpoint(ip_address("10.244.2.6"), 8080, "n2")
N1 = ProxyNode("n1", (ip_address(NODE), ip_address("10.244.1.1")), ip_network("10.244.0.0/16"))
WEB = ServicePort("default", "web", "http", Protocol.TCP, ip_address(V), 80, endpoints=(HERE, THERE))
RANGES = (ip_network("198.51.100.0/24"), ip_network("192.0.2.0/28"))
PUBLIC = replace(WEB, node_port=30080, external_ips=(ip_address(EXTERNAL),), load_balancer_ips=(ip_address(LB),))
LOCAL, INTERNAL = {"external_policy": Policy.LOCAL}, {"internal_policy": Policy.LOCAL}
X = service_name(WEB)
E1, E2 = endpoint_name(WEB, HERE), endpoint_name(WEB, THERE)
ONE, TWO = f"endpoint-{E1}", f"endpoint-{E2}"
BOTH = f"numgen random mod 2 vmap {{ 0 : goto {ONE}, 1 : goto {TWO} }}"
MASQUERADE = f"ip daddr {V} tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"

WEB6 = ServicePort(
    "default", "web", "", Protocol.UDP, ip_address("fd00:96::50"), 53, 30053, (ip_address("2001:db8::9"),), affinity=60
)
WEB6 = replace(WEB6, endpoints=(Endpoint(ip_address("fd00:10::5"), 53, "n1"),))
N6 = ProxyNode("n1", (ip_address("fd00:18::2"),), ip_network("fd00:10::/56"))


def made(port: ServicePort | None, node: ProxyNode = N1) -> Table:
    table = Table()
    table.run(full(base(node, CIDRS), [render(port, node)] if port else []))
    return table


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "name", "endpoint", "want"),
    [
        ("ns1", "svc1", "", "ULMVA6XW-ns1/svc1/tcp/p80"),
        ("ns1", "svc1", "10.180.0.1", "5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"),
        ("ns2", "svc2", "", "42NFTM6N-ns2/svc2/tcp/p80"),
        ("ns5", "svc5", "", "HVFWP5L3-ns5/svc5/tcp/p80"),
        ("ns5", "svc5", "10.180.0.3", "GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80"),
    ],
)
def test_names_are_those_of_a_real_cluster(namespace: str, name: str, endpoint: str, want: str) -> None:
    port = ServicePort(namespace, name, "p80", Protocol.TCP, ip_address("172.30.0.41"), 80)
    assert (endpoint_name(port, Endpoint(ip_address(endpoint), 80)) if endpoint else service_name(port)) == want


def test_an_ipv6_endpoint_has_points_for_colons_and_a_port_may_have_no_name() -> None:
    assert endpoint_name(WEB6, WEB6.endpoints[0])[8:] == "-default/web/udp/__fd00.10..5/53"
    assert service_name(WEB6)[8:] == "-default/web/udp/"


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    longs = [replace(WEB6, namespace="n" * 120, name="s" * 120, port_name=name) for name in ("a", "b")]
    names = [endpoint_name(port, WEB6.endpoints[0]) for port in longs]
    assert [len(name) for name in names] == [240, 240]
    assert all(name.endswith("sss...") for name in names)
    assert names[0] != names[1]


# --- rules (facts.md 5.4) --------------------------------------------------------------------------------------------

CHAINS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, list[str]]]] = [
    ("ClusterIP", {}, {}, {f"service-{X}": [MASQUERADE, BOTH]}),
    ("external Local, nothing external", LOCAL, {}, {f"service-{X}": [MASQUERADE, BOTH]}),
    ("no detector", {}, {"local": None}, {f"service-{X}": [BOTH]}),
    (
        "masquerade all",
        {},
        {"masquerade_all": True},
        {f"service-{X}": [f"ip daddr {V} tcp dport 80 jump mark-for-masquerade", BOTH]},
    ),
    ("internal Local", INTERNAL, {}, {f"local-{X}": [MASQUERADE, f"numgen random mod 1 vmap {{ 0 : goto {ONE} }}"]}),
    (
        "NodePort",
        {"node_port": 30080},
        {},
        {f"external-{X}": ["jump mark-for-masquerade", f"goto service-{X}"], f"service-{X}": [MASQUERADE, BOTH]},
    ),
    (
        "NodePort Local",
        {"node_port": 30080, **LOCAL},
        {},
        {
            f"external-{X}": [
                f'ip saddr 10.244.0.0/16 goto service-{X} comment "short-circuit pod traffic"',
                'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
                f'fib saddr type local goto service-{X} comment "short-circuit local traffic"',
                f"goto local-{X}",
            ],
            f"service-{X}": [MASQUERADE, BOTH],
            f"local-{X}": [f"numgen random mod 1 vmap {{ 0 : goto {ONE} }}"],
        },
    ),
    (
        "NodePort Local, no detector, none local",
        {"node_port": 30080, **LOCAL, "endpoints": (THERE,)},
        {"local": None},
        {
            f"external-{X}": [
                'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
                f'fib saddr type local goto service-{X} comment "short-circuit local traffic"',
            ],
            f"service-{X}": [f"numgen random mod 1 vmap {{ 0 : goto {TWO} }}"],
        },
    ),
    (
        "both Local",
        {"node_port": 30080, **LOCAL, **INTERNAL, "endpoints": (HERE,)},
        {"local": None},
        {
            f"external-{X}": [
                'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
                f'fib saddr type local goto service-{X} comment "short-circuit local traffic"',
                f"goto local-{X}",
            ],
            f"service-{X}": [f"numgen random mod 1 vmap {{ 0 : goto {ONE} }}"],
            f"local-{X}": [f"numgen random mod 1 vmap {{ 0 : goto {ONE} }}"],
        },
    ),
    (
        "LoadBalancer with ranges",
        {"load_balancer_ips": (ip_address(LB),), "source_ranges": RANGES},
        {},
        {
            f"firewall-{X}": ["ip saddr != { 198.51.100.0/24, 192.0.2.0/28 } drop"],
            f"external-{X}": ["jump mark-for-masquerade", f"goto service-{X}"],
            f"service-{X}": [MASQUERADE, BOTH],
        },
    ),
    (
        "LoadBalancer with the node in a range, no endpoints",
        {"load_balancer_ips": (ip_address(LB),), "source_ranges": (ip_network("172.18.0.0/16"),), "endpoints": ()},
        {},
        {f"firewall-{X}": [f"ip saddr != {{ 172.18.0.0/16, {LB} }} drop"]},
    ),
    ("ranges without a load balancer", {"source_ranges": RANGES}, {}, {f"service-{X}": [MASQUERADE, BOTH]}),
    ("no endpoints", {"endpoints": (), "node_port": 30080}, {}, {}),
    ("internal Local, none local", {**INTERNAL, "endpoints": (THERE,)}, {}, {}),
]


@pytest.mark.parametrize(("port", "node", "want"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_chains(port: dict[str, Any], node: dict[str, Any], want: dict[str, list[str]]) -> None:
    found = render(replace(WEB, **port), replace(N1, **node))
    others = {name: list(rules) for name, rules in found.chains.items() if not name.startswith("endpoint-")}
    assert others == want
    assert list(others) == list(want)
    named = {name for rules in others.values() for name in (ONE, TWO) if any(name in rule for rule in rules)}
    assert found.chains.keys() - others.keys() == named
    assert not found.sets


def test_an_endpoint_marks_what_comes_back_to_it() -> None:
    assert render(WEB, N1).chains[ONE] == (
        "ip saddr 10.244.1.5 jump mark-for-masquerade",
        "meta l4proto tcp dnat to 10.244.1.5:8080",
    )


def test_affinity_has_a_set_for_each_endpoint() -> None:
    found = render(replace(WEB, affinity=10800), N1)
    assert found.chains[f"service-{X}"] == (
        MASQUERADE,
        f"ip saddr @affinity-{E1} goto {ONE}",
        f"ip saddr @affinity-{E2} goto {TWO}",
        BOTH,
    )
    assert found.chains[ONE][1] == f"update @affinity-{E1} {{ ip saddr }}"
    assert found.sets == dict.fromkeys(
        (f"affinity-{E1}", f"affinity-{E2}"), "type ipv4_addr; flags dynamic,timeout; timeout 10800s;"
    )


SAYS = f' comment "{WEB}"'
ELEMENTS: list[tuple[str, dict[str, Any], dict[str, dict[str, str | None]]]] = [
    ("ClusterIP", {}, {"service-ips": {f"{V} . tcp . 80": f"goto service-{X}"}}),
    ("internal Local", INTERNAL, {"service-ips": {f"{V} . tcp . 80": f"goto local-{X}"}}),
    ("none local", {**INTERNAL, "endpoints": (THERE,)}, {"no-endpoint-services": {f"{V} . tcp . 80": f"drop{SAYS}"}}),
    (
        "none at all",
        {**INTERNAL, "endpoints": ()},
        {"no-endpoint-services": {f"{V} . tcp . 80": f"goto reject-chain{SAYS}"}},
    ),
    (
        "public",
        {"node_port": 30080, "external_ips": (ip_address(EXTERNAL),), "load_balancer_ips": (ip_address(LB),)},
        {
            "service-ips": {
                f"{V} . tcp . 80": f"goto service-{X}",
                f"{EXTERNAL} . tcp . 80": f"goto external-{X}",
                f"{LB} . tcp . 80": f"goto external-{X}",
            },
            "service-nodeports": {"tcp . 30080": f"goto external-{X}"},
        },
    ),
    (
        "public, Local, none local",
        {"node_port": 30080, "load_balancer_ips": (ip_address(LB),), **LOCAL, "endpoints": (THERE,)},
        {
            "service-ips": {f"{V} . tcp . 80": f"goto service-{X}", f"{LB} . tcp . 80": f"goto external-{X}"},
            "no-endpoint-services": {f"{LB} . tcp . 80": f"drop{SAYS}"},
            "service-nodeports": {"tcp . 30080": f"goto external-{X}"},
            "no-endpoint-nodeports": {"tcp . 30080": f"drop{SAYS}"},
        },
    ),
    (
        "public, no endpoints, ranges",
        {"node_port": 30080, "load_balancer_ips": (ip_address(LB),), "source_ranges": RANGES, "endpoints": ()},
        {
            "no-endpoint-services": dict.fromkeys((f"{V} . tcp . 80", f"{LB} . tcp . 80"), f"goto reject-chain{SAYS}"),
            "no-endpoint-nodeports": {"tcp . 30080": f"goto reject-chain{SAYS}"},
            "firewall-ips": {f"{LB} . tcp . 80": f"goto firewall-{X}"},
        },
    ),
]


@pytest.mark.parametrize(("port", "want"), [row[1:] for row in ELEMENTS], ids=[row[0] for row in ELEMENTS])
def test_elements(port: dict[str, Any], want: dict[str, dict[str, str | None]]) -> None:
    found = {name: dict(pairs) for name, pairs in render(replace(WEB, **port), N1).elements.items()}
    assert found == {"cluster-ips": {V: None}, **want}


GOLDEN = f"""\
add table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {{
	comment "rules for kube-proxy"
	set cluster-ips {{
		type ipv4_addr; comment "Active ClusterIPs";
	}}
	set nodeport-ips {{
		type ipv4_addr; comment "IPs that accept NodePort traffic";
	}}
	map service-ips {{
		type ipv4_addr . inet_proto . inet_service : verdict; \
comment "ClusterIP, ExternalIP and LoadBalancer IP traffic";
	}}
	map service-nodeports {{
		type inet_proto . inet_service : verdict; comment "NodePort traffic";
	}}
	map no-endpoint-services {{
		type ipv4_addr . inet_proto . inet_service : verdict; \
comment "vmap to drop or reject packets to services with no endpoints";
	}}
	map no-endpoint-nodeports {{
		type inet_proto . inet_service : verdict; \
comment "vmap to drop or reject packets to service nodeports with no endpoints";
	}}
	map firewall-ips {{
		type ipv4_addr . inet_proto . inet_service : verdict; \
comment "destinations that are subject to LoadBalancerSourceRanges";
	}}
	chain filter-prerouting {{
		type filter hook prerouting priority -110; policy accept;
		ct state new jump firewall-check
	}}
	chain filter-input {{
		type filter hook input priority -110; policy accept;
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}}
	chain filter-forward {{
		type filter hook forward priority -110; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}}
	chain filter-output {{
		type filter hook output priority -110; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump firewall-check
	}}
	chain filter-output-post-dnat {{
		type filter hook output priority -90; policy accept;
		ct state new jump cluster-ips-check
	}}
	chain nat-prerouting {{
		type nat hook prerouting priority -100; policy accept;
		jump services
	}}
	chain nat-output {{
		type nat hook output priority -100; policy accept;
		jump services
	}}
	chain nat-postrouting {{
		type nat hook postrouting priority 100; policy accept;
		jump masquerading
	}}
	chain firewall-check {{
		ip daddr . meta l4proto . th dport vmap @firewall-ips
	}}
	chain services {{
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}}
	chain service-endpoints-check {{
		ip daddr . meta l4proto . th dport vmap @no-endpoint-services
	}}
	chain nodeport-endpoints-check {{
		ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
	}}
	chain cluster-ips-check {{
		ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
		ip daddr {{ 10.96.0.0/16 }} drop comment "Drop traffic to unallocated ClusterIPs"
	}}
	chain reject-chain {{
		comment "helper for @no-endpoint-services / @no-endpoint-nodeports";
		reject
	}}
	chain mark-for-masquerade {{
		meta mark set meta mark | 0x00004000
	}}
	chain masquerading {{
		meta mark & 0x00004000 == 0x00000000 return
		meta mark set meta mark ^ 0x00004000
		masquerade fully-random
	}}
}}
add element ip kube-proxy nodeport-ips {{
	{NODE}
}}
add element ip kube-proxy cluster-ips {{
	{V}
}}
add element ip kube-proxy no-endpoint-services {{
	{V} . tcp . 80 comment "default/web:http" : goto reject-chain
}}
"""


def test_golden_of_the_table_without_endpoints() -> None:
    """Chains, hooks and priorities are those of Kubernetes 1.33, comments included (facts.md 5.2 to 5.4)."""
    assert full(base(N1, CIDRS), [render(replace(WEB, endpoints=()), N1)]) == GOLDEN


def test_node_ports_listen_on_the_primary_address_by_default() -> None:
    table = made(PUBLIC)
    assert table.elements["nodeport-ips"] == {NODE: None}
    assert table.chains["services"][1] == "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"


def test_node_ports_listen_in_the_networks_given_but_never_on_loopback() -> None:
    node = replace(N1, addresses=(*N1.addresses, ip_address("127.0.0.1")))
    networks = (ip_network("10.244.0.0/16"), ip_network("127.0.0.0/8"))
    assert made(PUBLIC, replace(node, node_port_addresses=networks)).elements["nodeport-ips"] == {"10.244.1.1": None}
    every = made(PUBLIC, replace(node, node_port_addresses=(ip_network("0.0.0.0/0"),)))
    assert "nodeport-ips" not in every.sets
    assert every.chains["services"][1].startswith("fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th")
    assert walk(every, Packet(OUTSIDE, "10.244.1.1", 30080), *map(str, N1.addresses)) == "10.244.1.5:8080 masqueraded"


# --- packets (facts.md 5.7) ------------------------------------------------------------------------------------------

NONE, REMOTE = {"endpoints": ()}, {"endpoints": (THERE,), **LOCAL}
RANGED = {"source_ranges": RANGES}
PACKETS: list[tuple[str, dict[str, Any], Packet, str]] = [
    ("pod to cluster IP", {}, Packet(POD, V, 80), "10.244.1.5:8080"),
    ("the other endpoint", {}, Packet(POD, V, 80, number=1), "10.244.2.6:8080"),
    ("hairpin", {}, Packet("10.244.1.5", V, 80), "10.244.1.5:8080 masqueraded"),
    ("node to cluster IP", {}, Packet(NODE, V, 80), "10.244.1.5:8080 masqueraded"),
    ("outside to cluster IP", {}, Packet(OUTSIDE, V, 80), "10.244.1.5:8080 masqueraded"),
    ("outside to NodePort", {}, Packet(OUTSIDE, NODE, 30080), "10.244.1.5:8080 masqueraded"),
    ("pod to NodePort", {}, Packet(POD, NODE, 30080), "10.244.1.5:8080 masqueraded"),
    ("NodePort on another address", {}, Packet(OUTSIDE, "10.244.1.1", 30080), "10.244.1.1:30080"),
    ("outside to LB IP", {}, Packet(OUTSIDE, LB, 80), "10.244.1.5:8080 masqueraded"),
    ("outside to external IP", {}, Packet(OUTSIDE, EXTERNAL, 80), "10.244.1.5:8080 masqueraded"),
    ("another protocol", {}, Packet(POD, V, 80, "udp"), "reject"),
    ("pod to LB IP, not in ranges", RANGED, Packet(POD, LB, 80), "drop"),
    ("node to LB IP, not in ranges", RANGED, Packet(NODE, LB, 80), "drop"),
    ("outside to LB IP, in ranges", RANGED, Packet(OUTSIDE, LB, 80), "10.244.1.5:8080 masqueraded"),
    ("ranges are not for NodePorts", RANGED, Packet("192.0.2.99", NODE, 30080), "10.244.1.5:8080 masqueraded"),
    ("wrong port", {}, Packet(POD, V, 81), "reject"),
    ("wrong port from the node", {}, Packet(NODE, V, 81), "reject"),
    ("unallocated", {}, Packet(POD, "10.96.0.51", 80), "drop"),
    ("unallocated from the node", {}, Packet(NODE, "10.96.0.51", 80), "drop"),
    ("none, cluster IP", NONE, Packet(POD, V, 80), "reject"),
    ("none, cluster IP, node", NONE, Packet(NODE, V, 80), "reject"),
    ("none, LB IP", NONE, Packet(OUTSIDE, LB, 80), "reject"),
    ("none, NodePort", NONE, Packet(OUTSIDE, NODE, 30080), "reject"),
    ("Local, none local, outside to LB IP", REMOTE, Packet(OUTSIDE, LB, 80), "drop"),
    ("Local, none local, outside to NodePort", REMOTE, Packet(OUTSIDE, NODE, 30080), "drop"),
    ("Local, none local, pod to LB IP", REMOTE, Packet(POD, LB, 80), "10.244.2.6:8080"),
    ("Local, none local, pod to NodePort", REMOTE, Packet(POD, NODE, 30080), "10.244.2.6:8080"),
    # facts.md 5.2: filter-output of 1.33 comes before DNAT, and so before the node's own way to every endpoint.
    ("Local, none local, node to LB IP", REMOTE, Packet(NODE, LB, 80), "drop"),
    ("Local, none local, node to NodePort", REMOTE, Packet(NODE, NODE, 30080), "10.244.2.6:8080 masqueraded"),
    ("Local, outside", LOCAL, Packet(OUTSIDE, NODE, 30080, number=1), "10.244.1.5:8080"),
    ("Local, pod", LOCAL, Packet(POD, LB, 80, number=1), "10.244.2.6:8080"),
    ("Local, node", LOCAL, Packet(NODE, LB, 80, number=1), "10.244.2.6:8080 masqueraded"),
    ("internal Local", INTERNAL, Packet(POD, V, 80, number=1), "10.244.1.5:8080"),
    ("internal Local, none local", {**INTERNAL, "endpoints": (THERE,)}, Packet(POD, V, 80), "drop"),
    ("not a Service", {}, Packet(POD, OUTSIDE, 80), f"{OUTSIDE}:80"),
]


@pytest.mark.parametrize(("port", "packet", "want"), [row[1:] for row in PACKETS], ids=[row[0] for row in PACKETS])
def test_packets(port: dict[str, Any], packet: Packet, want: str) -> None:
    assert walk(made(replace(PUBLIC, **port)), replace(packet), *map(str, N1.addresses)) == want


def test_affinity_keeps_a_client_at_its_endpoint() -> None:
    table = made(replace(PUBLIC, affinity=60))
    first = walk(table, Packet(POD, V, 80, number=1))
    assert [first, walk(table, Packet(POD, V, 80, number=0))] == ["10.244.2.6:8080"] * 2
    assert walk(table, Packet("10.244.1.78", V, 80, number=0)) == "10.244.1.5:8080"


def test_ipv6() -> None:
    table = made(WEB6, N6)
    assert walk(table, Packet("fd00:10::77", "fd00:96::50", 53, "udp")) == "[fd00:10::5]:53"
    outside = Packet("2001:db8:1::1", "2001:db8::9", 53, "udp")
    assert walk(table, outside, "fd00:18::2") == "[fd00:10::5]:53 masqueraded"
    text = full(base(N6, CIDRS), [render(WEB6, N6)])
    assert "ip kube-proxy" not in text.replace("ip6 kube-proxy", "")
    assert "ipv4_addr" not in text
    assert "10.96" not in text
    every = base(replace(N6, node_port_addresses=(ip_network("::/0"),)))
    assert "fib daddr type local ip6 daddr != ::1 " in every.chains["services"][1]
