"""Packets through a node of each variant: who answered, and which source was seen (facts.md 3.7, 5.7, 11.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from netlab.proxy.proxier import Proxier
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort
from tests.root.proxy_nodes import NAME, VARIANTS, proxier, run
from tests.root.proxy_wire import ADDRESS, CLIENT, GATEWAY, POD1, POD2, PORT, ask, ask_udp, open_udp, wired
from tests.unit.service_ports import WEB

pytestmark = pytest.mark.root

VIP, BALANCER = "10.96.0.50", "203.0.113.7"
ENDS = tuple(Endpoint(IPv4Address(ADDRESS[pod]), PORT, "n1") for pod in (POD1, POD2))
ONE, TWO = ENDS
BASE = replace(WEB, endpoints=ENDS)
OUTSIDE = replace(BASE, node_port=30080, load_balancer_ips=(IPv4Address(BALANCER),))
OTHER_CLIENT = "172.18.0.10"


@pytest.fixture(params=VARIANTS, scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Proxier]:
    """A node with nothing but the base; each test brings its Service and takes it away."""
    with wired():
        one = proxier(request.param)
        one.sync({})
        yield one
        one.close()


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> str:
    found: str = request.node.callspec.params["node"]
    return found


@pytest.fixture(autouse=True)
def no_services(node: Proxier) -> Iterator[None]:
    yield
    node.sync(dict.fromkeys(port.key for port in (BASE, UDP)))


def have(node: Proxier, port: ServicePort) -> None:
    node.sync({port.key: port})


def on(*ends: Endpoint, name: str = "n2") -> tuple[Endpoint, ...]:
    return tuple(replace(end, node=name) for end in ends)


def masqueraded(pod: str) -> str:
    return f"{pod} {GATEWAY[pod]}"


@pytest.mark.parametrize("to", [(VIP, 80), (ADDRESS[NAME], 30080), (BALANCER, 80)])
def test_a_client_outside_is_masqueraded_to_every_endpoint(node: Proxier, to: tuple[str, int]) -> None:
    have(node, OUTSIDE)
    answers = {ask(CLIENT, *to) for _ in range(24)}  # one of two is missed once in 8 million times
    assert answers == {masqueraded(POD1), masqueraded(POD2)}


def test_a_pod_keeps_its_address_but_for_its_own_answers(node: Proxier) -> None:
    have(node, BASE)
    assert {ask(POD1, VIP, 80) for _ in range(24)} == {f"{POD2} {ADDRESS[POD1]}", masqueraded(POD1)}
    have(node, replace(BASE, endpoints=(ONE,)))
    assert ask(POD1, VIP, 80) == masqueraded(POD1)


def test_the_node_itself(node: Proxier) -> None:
    have(node, replace(OUTSIDE, endpoints=(TWO,)))
    assert ask(NAME, VIP, 80) == masqueraded(POD2)
    assert ask(NAME, ADDRESS[NAME], 30080) == masqueraded(POD2)


def test_node_ports_on_localhost_are_of_iptables(node: Proxier, variant: str) -> None:
    have(node, replace(OUTSIDE, endpoints=(TWO,)))
    wanted = "refused" if variant == "nftables" else masqueraded(POD2)
    assert ask(NAME, "127.0.0.1", 30080) == wanted


@pytest.mark.parametrize("to", [(VIP, 80), (ADDRESS[NAME], 30080), (BALANCER, 80)])
@pytest.mark.parametrize("source", [CLIENT, POD1, NAME])
def test_without_endpoints_it_is_refused(node: Proxier, variant: str, source: str, to: tuple[str, int]) -> None:
    """But for the node itself in mode iptables: OUTPUT does not lead to KUBE-EXTERNAL-SERVICES (facts.md 3.2)."""
    have(node, replace(OUTSIDE, endpoints=()))
    unseen = source == NAME and to[0] == BALANCER and variant != "nftables"
    assert ask(source, *to) == ("lost" if unseen else "refused")
    have(node, replace(OUTSIDE, endpoints=(TWO,)))
    assert ask(source, *to).split()[0] == POD2


@pytest.mark.parametrize("to", [(ADDRESS[NAME], 30080), (BALANCER, 80)])
def test_local_policy_keeps_the_clients_address_and_drops_elsewhere(
    node: Proxier, variant: str, to: tuple[str, int]
) -> None:
    """The node itself, too, in mode nftables: filter-output comes before its nat (facts.md 5.2, version 1.33)."""
    local = replace(OUTSIDE, external_policy=Policy.LOCAL)
    have(node, replace(local, endpoints=(ONE, *on(TWO))))
    assert {ask(CLIENT, *to) for _ in range(8)} == {f"{POD1} {ADDRESS[CLIENT]}"}
    have(node, replace(local, endpoints=on(TWO)))
    assert ask(CLIENT, *to) == "lost"
    assert ask(POD1, *to) == f"{POD2} {ADDRESS[POD1]}"
    unseen = to[0] == BALANCER and variant == "nftables"
    assert ask(NAME, *to) == ("lost" if unseen else masqueraded(POD2))
    assert ask(CLIENT, VIP, 80) == masqueraded(POD2)


def test_internal_policy_local(node: Proxier) -> None:
    local = replace(BASE, internal_policy=Policy.LOCAL)
    have(node, replace(local, endpoints=(*on(ONE), TWO)))
    assert {ask(POD1, VIP, 80) for _ in range(8)} == {f"{POD2} {ADDRESS[POD1]}"}
    have(node, replace(local, endpoints=on(ONE, TWO)))
    assert ask(POD1, VIP, 80) == "lost"


def test_source_ranges_hold_for_the_balancers_address(node: Proxier) -> None:
    have(node, replace(OUTSIDE, endpoints=(TWO,), source_ranges=(IPv4Network(f"{ADDRESS[CLIENT]}/32"),)))
    assert ask(CLIENT, BALANCER, 80) == masqueraded(POD2)
    assert ask(CLIENT, BALANCER, 80, address=OTHER_CLIENT) == "lost"
    assert ask(CLIENT, ADDRESS[NAME], 30080, address=OTHER_CLIENT) == masqueraded(POD2)
    assert ask(CLIENT, VIP, 80, address=OTHER_CLIENT) == masqueraded(POD2)


def test_affinity(node: Proxier) -> None:
    have(node, replace(OUTSIDE, affinity=60))
    for source in (CLIENT, POD1):
        assert len({ask(source, VIP, 80).split()[0] for _ in range(20)}) == 1


UDP = replace(BASE, name="dns", protocol=Protocol.UDP, port=53, cluster_ip=IPv4Address("10.96.0.10"), node_port=30053)


@pytest.mark.parametrize("to", [("10.96.0.10", 53), (ADDRESS[NAME], 30053)])
def test_a_udp_flow_leaves_an_endpoint_that_is_gone(node: Proxier, to: tuple[str, int]) -> None:
    with open_udp(CLIENT) as client:
        for ends, wanted in (((ONE,), POD1), (ENDS, POD1), ((TWO,), POD2), ((ONE,), POD1)):
            have(node, replace(UDP, endpoints=ends))
            assert ask_udp(client, *to) == masqueraded(wanted)
        have(node, replace(UDP, endpoints=()))
        client.connect(to)  # so that refusals are told
        client.send(b"who?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


def test_a_udp_flow_that_began_before_the_service(node: Proxier) -> None:
    """It was routed as any other, and its entry says so until it is deleted."""
    run(NAME, "ip", "route", "replace", "10.96.0.10", "via", ADDRESS[POD2])
    with open_udp(CLIENT) as client:
        assert ask_udp(client, "10.96.0.10", 53) == "lost"
        have(node, replace(UDP, endpoints=(ONE,)))
        assert ask_udp(client, "10.96.0.10", 53) == masqueraded(POD1)
        node.sync({UDP.key: None})
        assert ask_udp(client, "10.96.0.10", 53) == "lost"


def test_the_wrong_port_and_an_address_of_nobody(node: Proxier, variant: str) -> None:
    have(node, BASE)
    is_nftables = variant == "nftables"
    run(NAME, "ip", "route", "replace", "10.96.0.0/16", "via", ADDRESS[POD1])  # or else the node says unreachable
    run(POD1, "ip", "addr", "replace", "10.96.0.99/32", "dev", "lo")
    assert ask(CLIENT, VIP, 81) == ("refused" if is_nftables else "lost")
    assert ask(CLIENT, "10.96.0.99", PORT) == ("lost" if is_nftables else f"{POD1} {ADDRESS[CLIENT]}")
