"""Who answers a packet to a Service, and which client it sees: one table for every mode of kube-proxy.

Three nodes; web-1 on n1 and web-2 on n2 serve, n3 has no endpoint; ext1 is outside. Where a packet is masqueraded it
has the address of the interface that its node sends it out of: cni0's to a pod of the node itself, else flannel.1's
(facts.md 3.7, 11.2 and 11.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netlab.topology.pod import Container, ContainerPort, Pod, Probe
from netlab.topology.service import EndpointSlice, Policy, Port, Service, ServiceType, SliceEndpoint, SlicePort
from tests.root.service_lab import DROPPED, REFUSED, SILENCE, TCP, UDP, Reply, ServiceLab, running

pytestmark = pytest.mark.root

TOPOLOGY = """
proxy: {mode}
nodes: 3
external: 1
pods:
  near: {{node: n1}}
  second: {{node: n2}}
  far: {{node: n3}}
"""
WEB = (("app", "web"),)
PORTS = (Port(80, "http", TCP), Port(80, "udp", UDP))
SERVER = Container("echo", ports=(ContainerPort(80, protocol=TCP), ContainerPort(80, protocol=UDP)))
WEB_1 = Pod("web-1", "n1", WEB, (SERVER,), owner="manifest")
WEB_2 = Pod("web-2", "n2", WEB, (SERVER,), owner="manifest")
PLAIN = Service("plain", selector=WEB, ports=PORTS)
NODE_PORT = replace(
    PLAIN,
    name="node-port",
    type=ServiceType.NODE_PORT,
    ports=(Port(80, "http", TCP, node_port=30080), Port(80, "udp", UDP, node_port=30080)),
)
LOCAL_PORT = replace(NODE_PORT, name="local-port", ports=(Port(80, node_port=30081),), external_policy=Policy.LOCAL)
INSIDE = replace(PLAIN, name="inside", internal_policy=Policy.LOCAL)
NOBODY = replace(NODE_PORT, name="nobody", selector=(("app", "nobody"),), ports=(Port(80, node_port=30082),))
STICKY = replace(PLAIN, name="sticky", ports=(Port(80),), affinity=60)
BALANCED = replace(
    PLAIN,
    name="balanced",
    type=ServiceType.LOAD_BALANCER,
    ports=(Port(80),),
    load_balancer_ip=ip_address("203.0.113.7"),
    source_ranges=(ip_network("172.18.0.0/24"),),
)
EXTERNAL = replace(PLAIN, name="external", ports=(Port(80),), external_ips=(ip_address("198.51.100.9"),))
LOCAL = replace(BALANCED, name="local", load_balancer_ip=ip_address("203.0.113.8"), external_policy=Policy.LOCAL)
OPEN = replace(BALANCED, name="open", load_balancer_ip=ip_address("203.0.113.9"), source_ranges=())
EMPTY = replace(
    OPEN,
    name="empty",
    selector=(("app", "nobody"),),
    load_balancer_ip=ip_address("203.0.113.10"),
    external_ips=(ip_address("198.51.100.12"),),
)
STICKY_PORT = replace(STICKY, name="sticky-port", type=ServiceType.NODE_PORT, ports=(Port(80, node_port=30083),))
STICKY_UDP = replace(STICKY, name="sticky-udp", ports=(Port(80, "udp", UDP),))
EXTERNAL_LOCAL = replace(
    EXTERNAL,
    name="external-local",
    external_policy=Policy.LOCAL,
    external_ips=(ip_address("198.51.100.10"), ip_address("198.51.100.11")),
)
BY_HAND = Service("by-hand", ports=(Port(80),))
SICK = replace(WEB_1, name="sick", labels=(("app", "sick"),))
UNREADY = replace(PLAIN, name="unready", selector=SICK.labels, ports=(Port(80),))
ANYBODY = replace(UNREADY, name="anybody", publish_not_ready=True)
SERVICES = (PLAIN, LOCAL, NODE_PORT, LOCAL_PORT, INSIDE, NOBODY, STICKY, BALANCED, EXTERNAL)
SERVICES += (OPEN, EMPTY, STICKY_PORT, STICKY_UDP, EXTERNAL_LOCAL, BY_HAND, UNREADY, ANYBODY)
WAY_OUT = "ip link add out0 type bridge; ip link set out0 up; ip route add 198.51.100.0/24 dev out0"
ROUTES = {  # of the machine outside
    "198.51.100.9": "n3",
    "198.51.100.10": "n1",
    "198.51.100.11": "n3",
    "198.51.100.12": "n3",
    "10.96.0.0/16": "n3",
}
BRIDGE = {"n1": "10.244.1.1", "n2": "10.244.2.1"}  # cni0
TUNNEL = {"n1": "10.244.1.0", "n2": "10.244.2.0", "n3": "10.244.3.0"}  # flannel.1
HOME = {"web-1": "n1", "web-2": "n2"}


@pytest.fixture(scope="module", params=["iptables", "nftables", "ipvs"])
def services(request: pytest.FixtureRequest) -> Iterator[ServiceLab]:
    mode: str = request.param
    if mode == "ipvs":
        request.getfixturevalue("ipvs")
    with running(TOPOLOGY.format(mode=mode), f"svc-{mode}", mode) as found:
        sick = replace(SERVER, readiness=Probe(command=("false",)))
        found.apply(WEB_1, WEB_2, replace(SICK, containers=(sick,)), *SERVICES)
        found.wait_for_endpoints("plain", 2)
        found.apply(slice_of(found, "web-2"))
        found.wait_for_endpoints("by-hand", 1)
        for network, node in ROUTES.items():
            route = ["ip", "route", "add", network, "via", found.lab.address(node)]
            assert found.lab.exec("ext1", route).returncode == 0
        for node in ("n1", "n2", "n3"):  # elsewhere they have a default route, by another device
            assert found.lab.exec(node, ["sh", "-ec", WAY_OUT]).returncode == 0
        yield found


def slice_of(services: ServiceLab, pod: str) -> EndpointSlice:
    """Return endpoints as somebody would write them down for a Service without selector."""
    address = ip_address(services.lab.address(pod))
    return EndpointSlice("by-hand-1", "by-hand", endpoints=(SliceEndpoint((address,)),), ports=(SlicePort(80),))


def masqueraded(node: str) -> set[Reply | str]:
    """Return what both servers see of a packet that a node masquerades."""
    return {Reply(pod, BRIDGE[node] if HOME[pod] == node else TUNNEL[node]) for pod in HOME}


def unchanged(services: ServiceLab, member: str, *pods: str) -> set[Reply | str]:
    """Return what servers see of a packet that keeps its source."""
    return {Reply(pod, services.lab.address(member)) for pod in pods or HOME}


# --- cluster IP ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["near", "second", "far"])
@pytest.mark.parametrize("name", ["plain", "node-port", "local-port", "balanced", "external"])
def test_a_pod_reaches_a_cluster_ip_as_itself(services: ServiceLab, client: str, name: str) -> None:
    assert services.ask_often(client, services.cluster_ip(name)) == unchanged(services, client)


def test_a_pod_that_is_answered_by_itself_sees_its_node(services: ServiceLab) -> None:
    expected = {Reply("web-1", BRIDGE["n1"]), Reply("web-2", services.lab.address("web-1"))}
    assert services.ask_often("web-1", services.cluster_ip("plain")) == expected


@pytest.mark.parametrize(("client", "node"), [("n1", "n1"), ("n3", "n3"), ("ext1", "n3")])
def test_what_is_no_pod_is_masqueraded_to_a_cluster_ip(services: ServiceLab, client: str, node: str) -> None:
    assert services.ask_often(client, services.cluster_ip("plain")) == masqueraded(node)


@pytest.mark.parametrize("client", ["near", "n1"])
def test_internal_policy_local_stays_on_the_node(services: ServiceLab, client: str) -> None:
    expected = unchanged(services, client, "web-1") if client == "near" else {Reply("web-1", BRIDGE["n1"])}
    assert services.ask_often(client, services.cluster_ip("inside")) == expected


@pytest.mark.parametrize("client", ["far", "n3"])
def test_internal_policy_local_drops_where_there_is_none(services: ServiceLab, client: str) -> None:
    found = services.ask(client, services.cluster_ip("inside"), patience=SILENCE)
    if services.mode == "ipvs":  # it takes any endpoint then (facts.md 4.2)
        assert found in (unchanged(services, client) if client == "far" else masqueraded("n3"))
    else:
        assert found == DROPPED


@pytest.mark.parametrize("client", ["near", "n3"])
def test_nobody_behind_a_cluster_ip_refuses(services: ServiceLab, client: str) -> None:
    assert services.ask(client, services.cluster_ip("nobody")) == REFUSED


@pytest.mark.parametrize("client", ["near", "far"])
def test_affinity_stays_with_one_pod(services: ServiceLab, client: str) -> None:
    assert len(services.ask_often(client, services.cluster_ip("sticky"))) == 1


def test_affinity_of_datagrams(services: ServiceLab) -> None:
    assert len(services.ask_often("far", services.cluster_ip("sticky-udp"), 80, UDP)) == 1


@pytest.mark.parametrize("client", ["near", "n3", "ext1"])
def test_a_service_without_selector_goes_where_its_slice_says(services: ServiceLab, client: str) -> None:
    expected = unchanged(services, client, "web-2") if client == "near" else {Reply("web-2", TUNNEL["n3"])}
    assert services.ask_often(client, services.cluster_ip("by-hand")) == expected


def test_a_pod_that_is_not_ready_is_nobodys_endpoint_but_where_that_does_not_count(services: ServiceLab) -> None:
    assert services.ask("far", services.cluster_ip("unready")) == REFUSED
    assert services.ask_often("far", services.cluster_ip("anybody")) == unchanged(services, "far", "sick")


def test_udp_goes_the_same_ways(services: ServiceLab) -> None:
    assert services.ask("near", services.cluster_ip("plain"), 80, UDP) in unchanged(services, "near")
    assert services.ask("ext1", services.lab.address("n3"), 30080, UDP) in masqueraded("n3")


@pytest.mark.parametrize("mode", ["wrong port", "no such service"])
def test_what_a_cluster_ip_does_not_serve(services: ServiceLab, mode: str) -> None:
    address, port = (services.cluster_ip("plain"), 81) if mode == "wrong port" else ("10.96.200.200", 80)
    refused = {"iptables": (), "nftables": ("wrong port",), "ipvs": ("wrong port",)}[services.mode]
    found = services.ask("near", address, port, patience=SILENCE)
    assert found == (REFUSED if mode in refused else DROPPED)


# --- node port -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["ext1", "far", "n2"])
@pytest.mark.parametrize("node", ["n1", "n3"])
def test_a_node_port_of_policy_cluster_is_masqueraded(services: ServiceLab, client: str, node: str) -> None:
    assert services.ask_often(client, services.lab.address(node), 30080) == masqueraded(node)


def test_a_node_port_of_policy_local_keeps_the_source(services: ServiceLab) -> None:
    assert services.ask_often("ext1", services.lab.address("n1"), 30081) == unchanged(services, "ext1", "web-1")


def test_a_node_port_of_policy_local_drops_where_there_is_none(services: ServiceLab) -> None:
    found = services.ask("ext1", services.lab.address("n3"), 30081, patience=SILENCE)
    if services.mode == "ipvs":  # it takes any endpoint then; only flannel's masquerade brings the answer back
        assert found in masqueraded("n3")
    else:
        assert found == DROPPED


def test_a_pod_of_the_node_reaches_a_local_node_port_as_itself(services: ServiceLab) -> None:
    """By kube-proxy's rule for them; by IPVS because it takes any endpoint where there is no local one."""
    assert services.ask_often("far", services.lab.address("n3"), 30081) == unchanged(services, "far")


def test_a_pod_that_is_answered_by_itself_through_a_node_port_sees_its_node(services: ServiceLab) -> None:
    assert services.ask_often("web-1", services.lab.address("n1"), 30080) == masqueraded("n1")


def test_affinity_of_a_node_port(services: ServiceLab) -> None:
    assert len(services.ask_often("ext1", services.lab.address("n3"), 30083)) == 1


def test_nobody_behind_a_node_port_refuses(services: ServiceLab) -> None:
    assert services.ask("ext1", services.lab.address("n1"), 30082) == REFUSED


def test_a_node_port_on_loopback_is_of_iptables_only(services: ServiceLab) -> None:
    found = services.ask("n1", "127.0.0.1", 30080)
    assert found in (masqueraded("n1") if services.mode == "iptables" else {REFUSED})


# --- addresses from outside ------------------------------------------------------------------------------------------


def test_a_load_balancers_address_is_masqueraded(services: ServiceLab) -> None:
    found = services.ask_often("ext1", "203.0.113.7")
    assert any(found == masqueraded(node) for node in ("n1", "n2", "n3"))  # the route has all three as next hops


def test_a_load_balancer_of_policy_local_goes_to_nodes_with_endpoints(services: ServiceLab) -> None:
    assert services.ask_often("ext1", "203.0.113.8") <= unchanged(services, "ext1")
    routes = services.lab.exec("ext1", ["ip", "route", "show", "203.0.113.8"]).stdout
    assert services.lab.address("n1") in routes
    assert services.lab.address("n3") not in routes


def test_source_ranges_keep_others_out(services: ServiceLab) -> None:
    assert services.ask("near", "203.0.113.7", patience=SILENCE) == DROPPED  # a pod's address is in none


def test_source_ranges_do_not_hold_for_the_node_port(services: ServiceLab) -> None:
    port = int(services.get("services", "balanced")["ports"].partition(":")[2].partition("/")[0])
    assert services.ask_often("far", services.lab.address("n1"), port) == masqueraded("n1")


def test_a_pod_that_is_answered_by_itself_through_a_load_balancers_address(services: ServiceLab) -> None:
    assert services.ask_often("web-1", "203.0.113.9") == masqueraded("n1")


@pytest.mark.parametrize(
    ("client", "address"), [("ext1", "203.0.113.10"), ("ext1", "198.51.100.12"), ("near", "198.51.100.12")]
)
def test_nobody_behind_an_address_from_outside_refuses(services: ServiceLab, client: str, address: str) -> None:
    assert services.ask(client, address) == REFUSED


def test_an_external_ip_of_policy_local(services: ServiceLab) -> None:
    assert services.ask_often("ext1", "198.51.100.10") == unchanged(services, "ext1", "web-1")
    found = services.ask("ext1", "198.51.100.11", patience=SILENCE)
    if services.mode == "ipvs":  # it takes any endpoint then
        assert found in masqueraded("n3")
    else:
        assert found == DROPPED
    # A pod's packets are the cluster's own, and go anywhere; IPVS does not tell them apart.
    pods = ("web-1",) if services.mode == "ipvs" else tuple(HOME)
    assert services.ask_often("near", "198.51.100.10") == unchanged(services, "near", *pods)


@pytest.mark.parametrize(("client", "node"), [("ext1", "n3"), ("near", "n1")])
def test_an_external_ip_is_masqueraded(services: ServiceLab, client: str, node: str) -> None:
    assert services.ask_often(client, "198.51.100.9") == masqueraded(node)
