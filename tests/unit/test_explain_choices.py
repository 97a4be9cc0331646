"""Which endpoints rules may give to a connection: what a prediction of its way follows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netlab.explain.choices import destinations, real_servers
from netlab.explain.model import Reading
from netlab.proxy.ipvs_netlink import Listed, Seen
from netlab.service.ipvs import Flag, RealServer, VirtualKey
from netlab.service.ipvs_change import Installed
from netlab.service.model import Protocol
from tests.unit.explained import iptables_of, nft_of_golden
from tests.unit.service_ports import WEB

HOST = str(WEB.cluster_ip)
NODE = ip_address("172.18.0.2")
POD = ip_address("10.244.1.9")


@pytest.mark.parametrize("tables", [iptables_of(WEB), nft_of_golden()], ids=["iptables", "nftables"])
def test_a_cluster_ip_has_the_endpoints_with_their_chances(tables: object) -> None:
    found = destinations(Reading((tables,), ()), (ip_address(HOST), "tcp", WEB.port), POD, [NODE])  # type: ignore[arg-type]
    assert [(f"{one.address}:{one.port}", one.chance) for one in found] == [
        (str(endpoint), "1/2 (50 %)") for endpoint in WEB.endpoints
    ]
    assert {one.masqueraded for one in found} == {False}


def test_a_node_port_is_for_the_nodes_own_addresses_and_masqueraded() -> None:
    reading = Reading((iptables_of(replace(WEB, node_port=30080)),), ())
    client = ip_address("192.0.2.7")
    found = destinations(reading, (NODE, "tcp", 30080), client, [NODE])
    assert len(found) == 2
    assert {one.masqueraded for one in found} == {True}
    assert destinations(reading, (ip_address("172.18.0.3"), "tcp", 30080), client, [NODE]) == ()


@pytest.mark.parametrize(
    "asked",
    [
        (ip_address("10.96.0.99"), "tcp", WEB.port),
        (ip_address(HOST), "udp", WEB.port),
        (ip_address(HOST), "tcp", WEB.port + 1),
        (ip_address("fd00::1"), "tcp", WEB.port),
    ],
)
def test_what_no_rule_is_about_keeps_its_destination(asked: tuple[object, str, int]) -> None:
    assert destinations(Reading((iptables_of(WEB),), ()), asked, POD, [NODE]) == ()  # type: ignore[arg-type]


def test_real_servers_have_shares_by_weight() -> None:
    servers = [
        (RealServer(ip_address(f"10.244.1.{n}"), 8080), weight, Seen(0, 0)) for n, weight in ((1, 3), (2, 1), (3, 0))
    ]
    key = VirtualKey(ip_address(HOST), Protocol.TCP, 80)
    listing = [Listed(key, Installed("wrr", Flag.NONE, 0), Seen(0, 0), tuple(servers))]
    found = real_servers(listing, (ip_address(HOST), "tcp", 80))
    assert [(str(one.address), one.chance) for one in found] == [
        ("10.244.1.1", "3/4 (75 %)"),
        ("10.244.1.2", "1/4 (25 %)"),
    ]
    assert real_servers(listing, (ip_address(HOST), "udp", 80)) == ()
