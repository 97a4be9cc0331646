"""Services with addresses of both IP versions, and of IPv6 alone, as pods, nodes and machines outside see them.

web-1 is on n1 and web-2 on n2. Where an IPv6 packet is masqueraded it has the address of the interface that its node
sends it out of: cni0's to a pod of the node itself, else flannel-v6.1's (facts.md 3.7, 11.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netlab.topology.pod import Container, ContainerPort, Pod
from netlab.topology.service import Policy, Port, Service, ServiceType
from tests.root.ready import wait_until_ready
from tests.root.service_lab import DROPPED, REFUSED, SILENCE, TCP, UDP, Reply, ServiceLab, running

pytestmark = pytest.mark.root

TOPOLOGY = """
proxy: {mode}
clusterCIDR: [10.244.0.0/16, "fd00:10:244::/56"]
serviceCIDR: [10.96.0.0/16, "fd00:10:96::/112"]
underlay: {{cidr: [172.18.0.0/16, "fd00:172:18::/64"]}}
nodes: 2
external: 1
pods: {{near: {{node: n1}}}}
"""
WEB = (("app", "web"),)
SERVER = Container("echo", ports=(ContainerPort(80, protocol=TCP), ContainerPort(80, protocol=UDP)))
PODS = tuple(Pod(f"web-{i}", f"n{i}", WEB, (SERVER,), owner="manifest") for i in (1, 2))
PORTS = (Port(80, "http", TCP, node_port=30080), Port(80, "udp", UDP, node_port=30080))
DUAL = Service("dual", type=ServiceType.NODE_PORT, selector=WEB, ports=PORTS, dual_stack=True)
SIX = Service("six", selector=WEB, ports=(Port(80),), ip_families=(6,))
NOBODY = Service("nobody", selector=(("app", "nobody"),), ports=(Port(80),), dual_stack=True)
HEADLESS = replace(SIX, name="headless", headless=True, ip_families=(), dual_stack=True)
LOCAL = replace(DUAL, name="local", ports=(Port(80, node_port=30081),), external_policy=Policy.LOCAL)
BALANCED = replace(
    DUAL,
    name="balanced",
    type=ServiceType.LOAD_BALANCER,
    ports=(Port(80),),
    ip_families=(6,),
    dual_stack=False,
    load_balancer_ip=ip_address("2001:db8:113::7"),
    source_ranges=(ip_network("fd00:172:18::/64"),),
)
BRIDGE = {4: "10.244.1.1", 6: "fd00:10:244:1::1"}  # cni0 of n1
TUNNEL = {4: "10.244.1.0", 6: "fd00:10:244:1::"}  # flannel.1 and flannel-v6.1 of n1


@pytest.fixture(scope="module", params=["iptables", "nftables", "ipvs"])
def lab(request: pytest.FixtureRequest) -> Iterator[ServiceLab]:
    mode: str = request.param
    if mode == "ipvs":
        request.getfixturevalue("ipvs")
    with running(TOPOLOGY.format(mode=mode), f"dual-{mode}", mode) as found:
        found.apply(*PODS, DUAL, SIX, NOBODY, HEADLESS, LOCAL, BALANCED)
        found.wait_for_endpoints("dual", 2)
        wait_until_ready(found.lab.netns(member) for member in ("n1", "n2", "near", "web-1", "web-2", "ext1"))
        yield found


def address(lab: ServiceLab, member: str, version: int) -> str:
    """Return a member's address of an IP version."""
    return next(str(found) for found in lab.lab.addresses(member) if found.version == version)


def masqueraded(version: int) -> set[Reply | str]:
    """Return what both servers see of a packet that n1 masquerades."""
    return {Reply("web-1", BRIDGE[version]), Reply("web-2", TUNNEL[version])}


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_reaches_both_pods_as_itself(lab: ServiceLab, version: int) -> None:
    own = address(lab, "near", version)
    assert lab.ask_often("near", lab.cluster_ip("dual", version)) == {Reply("web-1", own), Reply("web-2", own)}


def test_a_service_of_one_version_has_one_address(lab: ServiceLab) -> None:
    assert ":" in lab.get("services", "six")["cluster-ip"]
    assert "," not in lab.get("services", "six")["cluster-ip"]
    own = address(lab, "near", 6)
    assert lab.ask_often("near", lab.cluster_ip("six", 6)) == {Reply("web-1", own), Reply("web-2", own)}


@pytest.mark.parametrize("version", [4, 6])
def test_a_node_is_masqueraded(lab: ServiceLab, version: int) -> None:
    assert lab.ask_often("n1", lab.cluster_ip("dual", version)) == masqueraded(version)


@pytest.mark.parametrize("version", [4, 6])
def test_a_node_port_is_open_in_both_versions(lab: ServiceLab, version: int) -> None:
    assert lab.ask_often("ext1", address(lab, "n1", version), 30080) == masqueraded(version)
    assert lab.ask("ext1", address(lab, "n1", version), 30080, UDP) in masqueraded(version)


@pytest.mark.parametrize(("at", "version"), [(BRIDGE[4], 4), (TUNNEL[4], 4), (BRIDGE[6], 6)])
def test_a_node_port_is_at_all_of_a_nodes_addresses(lab: ServiceLab, at: str, version: int) -> None:
    """In nftables mode it is at the node's first one only (facts.md 11.2)."""
    found = lab.ask_often("near", at, 30080)
    assert found == ({REFUSED} if lab.mode == "nftables" else masqueraded(version))


@pytest.mark.parametrize("version", [4, 6])
def test_a_local_node_port_keeps_the_source(lab: ServiceLab, version: int) -> None:
    own = address(lab, "ext1", version)
    assert lab.ask_often("ext1", address(lab, "n1", version), 30081) == {Reply("web-1", own)}


def test_source_ranges_of_ipv6(lab: ServiceLab) -> None:
    """Machines of the underlay are in the range, pods are not."""
    found = lab.ask_often("ext1", "2001:db8:113::7")
    assert {answer.pod for answer in found if isinstance(answer, Reply)} == {"web-1", "web-2"}
    assert lab.ask("near", "2001:db8:113::7", patience=SILENCE) == DROPPED


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_that_is_answered_by_itself_sees_its_node(lab: ServiceLab, version: int) -> None:
    expected = {Reply("web-1", BRIDGE[version]), Reply("web-2", address(lab, "web-1", version))}
    assert lab.ask_often("web-1", lab.cluster_ip("dual", version)) == expected


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("client", ["near", "n1"])
def test_nobody_behind_an_address_refuses(lab: ServiceLab, client: str, version: int) -> None:
    assert lab.ask(client, lab.cluster_ip("nobody", version)) == REFUSED


@pytest.mark.parametrize("version", [4, 6])
def test_udp_goes_the_same_ways(lab: ServiceLab, version: int) -> None:
    own = address(lab, "near", version)
    answer = lab.ask("near", lab.cluster_ip("dual", version), 80, UDP)
    assert answer in (Reply("web-1", own), Reply("web-2", own))


@pytest.mark.parametrize(("name", "versions"), [("dual", (4, 6)), ("six", (6,))])
def test_dns_knows_every_address_of_a_service(lab: ServiceLab, name: str, versions: tuple[int, ...]) -> None:
    assert resolved(lab, name) == {lab.cluster_ip(name, version) for version in versions}


def test_dns_knows_every_address_behind_a_headless_service(lab: ServiceLab) -> None:
    assert resolved(lab, "headless") == {address(lab, pod.name, version) for pod in PODS for version in (4, 6)}


def resolved(lab: ServiceLab, name: str) -> set[str]:
    code = "import socket, sys; print(*{found[4][0] for found in socket.getaddrinfo(sys.argv[1], 80)})"
    done = lab.lab.exec("near", ["python3", "-c", code, f"{name}.default.svc.cluster.local"])
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
