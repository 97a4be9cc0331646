"""IPVS mode, one port: the rows of facts.md 4.2, 4.4 and 11.2, and the entries' text as `ipset save` prints it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from netlab.service.ipvs import Flag, PortServers, RealServer, VirtualKey, VirtualServer, render
from netlab.service.ipvs_sets import Entry, IpSet, changed, created, networks, parsed
from netlab.service.model import Endpoint, Policy, Protocol, ProxyNode, ServicePort
from tests.unit.service_ports import BALANCER, EVERYWHERE, FULL, HERE, NODE, NODE6, RANGE, THERE, WEB

TCP = Protocol.TCP
ONE, TWO = RealServer(HERE.address, 8080), RealServer(THERE.address, 8080)
LOCAL = Policy.LOCAL
EXTERNAL = IPv4Address("192.0.2.9")


def servers(found: PortServers) -> dict[str, tuple[RealServer, ...]]:
    return {f"{server.key.address}:{server.key.port}": server.servers for server in found.virtual}


def entries(found: PortServers, ip_set: IpSet) -> list[str]:
    return [entry.text for entry in found.entries if entry.set is ip_set]


# --- virtual servers -------------------------------------------------------------------------------------------------


def test_cluster_ip_is_one_virtual_server_with_nat_to_every_endpoint() -> None:
    found = render(WEB, NODE)
    assert found.virtual == (
        VirtualServer(VirtualKey(IPv4Address("10.96.0.50"), TCP, 80), "rr", Flag.NONE, 0, (ONE, TWO)),
    )
    assert found.addresses == (IPv4Address("10.96.0.50"),)
    assert set(found.entries) == {
        Entry(IpSet.CLUSTER_IP, "10.96.0.50,tcp:80"),
        Entry(IpSet.IPVS_IPS, "10.96.0.50"),
        Entry(IpSet.LOOP_BACK, "10.244.1.5,tcp:8080,10.244.1.5"),  # only the node's own endpoint
    }
    assert found.out_filter == ()


def test_every_address_has_its_virtual_server_and_node_ports_are_not_bound() -> None:
    found = render(EVERYWHERE, replace(NODE, addresses=(*NODE.addresses, IPv4Address("192.168.1.2"))))
    assert list(servers(found)) == [
        *("10.96.0.50:80", "192.0.2.9:80", "203.0.113.7:80"),
        *("172.18.0.2:30080", "192.168.1.2:30080"),
    ]
    assert found.addresses == (IPv4Address("10.96.0.50"), EXTERNAL, BALANCER)


def test_affinity_is_persistence_with_its_timeout() -> None:
    (server,) = render(replace(WEB, affinity=300), NODE).virtual
    assert (server.flags, server.timeout) == (Flag.PERSISTENT, 300)
    (server,) = render(replace(WEB, affinity=300), NODE, scheduler="mh").virtual
    assert (server.scheduler, server.flags) == ("mh", Flag.PERSISTENT | Flag.SOURCE_HASH)


def test_without_endpoints_a_virtual_server_is_empty() -> None:
    places = ("10.96.0.50:80", "203.0.113.7:80", "172.18.0.2:30080")
    assert servers(render(replace(FULL, endpoints=()), NODE)) == dict.fromkeys(places, ())


@pytest.mark.parametrize(
    ("endpoints", "inside", "outside"),
    [
        ((HERE, THERE), (ONE, TWO), (ONE,)),
        ((THERE,), (TWO,), (TWO,)),  # unlike the other modes: facts.md 4.2, kubernetes#97081
        ((replace(HERE, ready=False, terminating=True), THERE), (TWO,), (ONE,)),
        ((replace(HERE, ready=False, serving=False), THERE), (TWO,), (TWO,)),
    ],
)
def test_local_policy_falls_back_to_cluster_endpoints(
    endpoints: tuple[Endpoint, ...], inside: tuple[RealServer, ...], outside: tuple[RealServer, ...]
) -> None:
    port = replace(WEB, node_port=30080, endpoints=endpoints, external_policy=LOCAL)
    assert servers(render(port, NODE)) == {"10.96.0.50:80": inside, "172.18.0.2:30080": outside}
    port = replace(WEB, node_port=30080, endpoints=endpoints, internal_policy=LOCAL)
    assert servers(render(port, NODE)) == {"10.96.0.50:80": outside, "172.18.0.2:30080": inside}


def test_node_port_addresses_choose_and_loopback_never_has_one() -> None:
    addresses = (*NODE.addresses, IPv4Address("192.168.1.2"), IPv4Address("127.0.0.1"))
    port = replace(WEB, node_port=30080)
    assert list(servers(render(port, replace(NODE, addresses=addresses)))) == [
        *("10.96.0.50:80", "172.18.0.2:30080", "192.168.1.2:30080")
    ]
    node = replace(NODE, addresses=addresses, node_port_addresses=(IPv4Network("192.168.0.0/16"),))
    assert list(servers(render(port, node))) == ["10.96.0.50:80", "192.168.1.2:30080"]
    node = replace(NODE, addresses=addresses, node_port_addresses=(IPv6Network("::/0"),))  # the other version's
    assert len(render(port, node).virtual) == 3


def test_an_address_of_the_node_is_not_bound() -> None:
    found = render(replace(WEB, external_ips=(NODE.addresses[0],)), NODE)
    assert "172.18.0.2:80" in servers(found)
    assert found.addresses == (WEB.cluster_ip,)
    assert entries(found, IpSet.IPVS_IPS) == ["10.96.0.50"]  # else the node would refuse its own address


# --- sets ------------------------------------------------------------------------------------------------------------


def test_external_ips_are_in_one_of_two_sets() -> None:
    found = render(EVERYWHERE, NODE)
    assert (entries(found, IpSet.EXTERNAL_IP), entries(found, IpSet.EXTERNAL_IP_LOCAL)) == (["192.0.2.9,tcp:80"], [])
    found = render(replace(EVERYWHERE, external_policy=LOCAL), NODE)
    assert (entries(found, IpSet.EXTERNAL_IP), entries(found, IpSet.EXTERNAL_IP_LOCAL)) == ([], ["192.0.2.9,tcp:80"])


def test_load_balancer_with_source_ranges() -> None:
    found, at = render(FULL, NODE), "203.0.113.7,tcp:80"
    assert entries(found, IpSet.LOAD_BALANCER) == entries(found, IpSet.LOAD_BALANCER_FW) == [at]
    assert entries(found, IpSet.LOAD_BALANCER_LOCAL) == entries(found, IpSet.SOURCE_IP) == []
    assert entries(found, IpSet.SOURCE_CIDR) == [f"{at},{RANGE}"]
    match = "--vaddr 203.0.113.7 --vproto tcp --vport 80"
    assert found.out_filter == (f"-s 203.0.113.7 -m ipvs {match} -j DROP",)
    node_is_in = replace(FULL, source_ranges=(IPv4Network("172.18.0.0/16"),), external_policy=LOCAL)
    found = render(node_is_in, NODE)
    assert entries(found, IpSet.SOURCE_IP) == [f"{at},203.0.113.7"]
    assert entries(found, IpSet.LOAD_BALANCER_LOCAL) == [at]
    assert found.out_filter == ()


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        ("0.0.0.0/0", ["0.0.0.0/1", "128.0.0.0/1"]),  # no hash:net holds /0
        ("::/0", ["::/1", "8000::/1"]),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("10.0.0.1/32", ["10.0.0.1"]),  # as ipset prints it
        ("fd00::1/128", ["fd00::1"]),
    ],
)
def test_networks_in_a_set(network: str, wanted: list[str]) -> None:
    assert list(networks(ip_network(network))) == wanted


@pytest.mark.parametrize(
    ("protocol", "policy", "wanted"),
    [
        (Protocol.TCP, Policy.CLUSTER, {IpSet.NODE_PORT_TCP: "30080"}),
        (Protocol.UDP, LOCAL, {IpSet.NODE_PORT_UDP: "30080", IpSet.NODE_PORT_LOCAL_UDP: "30080"}),
        (
            Protocol.SCTP,
            LOCAL,
            {IpSet.NODE_PORT_SCTP: "172.18.0.2,sctp:30080", IpSet.NODE_PORT_LOCAL_SCTP: "172.18.0.2,sctp:30080"},
        ),
    ],
)
def test_node_ports(protocol: Protocol, policy: Policy, wanted: dict[IpSet, str]) -> None:
    found = render(replace(WEB, protocol=protocol, node_port=30080, external_policy=policy), NODE)
    assert {entry.set: entry.text for entry in found.entries if "NODE-PORT" in entry.set} == wanted


def test_an_sctp_node_port_is_in_the_set_once_for_each_address() -> None:
    node = replace(NODE, addresses=(*NODE.addresses, IPv4Address("10.244.1.1")))
    found = render(replace(WEB, protocol=Protocol.SCTP, node_port=30080), node)
    assert entries(found, IpSet.NODE_PORT_SCTP) == ["172.18.0.2,sctp:30080", "10.244.1.1,sctp:30080"]


def test_source_ranges_have_a_node_by_its_own_address_only() -> None:
    node = replace(NODE, addresses=(*NODE.addresses, RANGE[1]))  # cni0's, say
    assert entries(render(FULL, node), IpSet.SOURCE_IP) == []
    found = render(replace(FULL, source_ranges=(IPv4Network("172.18.0.0/24"),)), node)
    assert entries(found, IpSet.SOURCE_IP) == ["203.0.113.7,tcp:80,203.0.113.7"]


def test_health_check() -> None:
    assert entries(render(EVERYWHERE, NODE), IpSet.HEALTH_CHECK) == ["31000"]


def test_ipv6() -> None:
    endpoint = Endpoint(IPv6Address("fd00:244:1::5"), 8080, "n1")
    port = ServicePort("default", "web", "", Protocol.UDP, IPv6Address("fd00:96::50"), 53, endpoints=(endpoint,))
    found = render(port, NODE6)
    assert servers(found) == {"fd00:96::50:53": (RealServer(endpoint.address, 8080),)}
    assert entries(found, IpSet.LOOP_BACK) == ["fd00:244:1::5,udp:8080,fd00:244:1::5"]


# --- the text of ipset -----------------------------------------------------------------------------------------------


def test_set_names_and_kinds() -> None:
    text = created(4)
    assert "create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536 -exist\n" in text
    assert "create KUBE-NODE-PORT-TCP bitmap:port range 0-65535 -exist\n" in text
    assert "create KUBE-LOAD-BALANCER-SOURCE-CIDR hash:ip,port,net family inet " in text
    assert "create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6 " in created(6)
    names = [line.split()[1] for line in created(6).splitlines()]
    assert len(set(names)) == len(IpSet)
    assert max(map(len, names)) == 31
    assert IpSet.SOURCE_CIDR.called(6) == "KUBE-6-LOAD-BALANCER-SOURCE-CID"


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_written_is_read_back(version: int) -> None:
    wanted = {Entry(IpSet.CLUSTER_IP, "10.96.0.50,tcp:80"), Entry(IpSet.NODE_PORT_TCP, "30080")}
    text = changed(version, wanted, [Entry(IpSet.IPVS_IPS, "10.96.0.51")])
    assert text.startswith(f"del {IpSet.IPVS_IPS.called(version)} 10.96.0.51 -exist\nadd ")
    saved = created(version) + "".join(f"{line}\n" for line in text.splitlines() if line.startswith("add"))
    saved = saved.replace(" -exist", "") + "create theirs hash:ip family inet\nadd theirs 10.0.0.1\n"
    assert parsed(saved) == {version: frozenset(wanted)}


def test_sets_that_are_not_all_there_are_left_out() -> None:
    assert parsed("".join(created(4).splitlines(keepends=True)[1:])) == {}


def test_a_node_without_cluster_cidr() -> None:
    assert render(WEB, ProxyNode("n1", NODE.addresses)) == render(WEB, NODE)  # only the fixed rules need it
