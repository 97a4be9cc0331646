"""Packets through a node of each variant: who answered, and which source was seen (facts.md 3.7, 5.7, 11.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from netlab.proxy.proxier import Proxier
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort
from tests.root.proxy_nodes import NAME, VARIANTS, proxier, run
from tests.root.proxy_wire import ADDRESS, CLIENT, GATEWAY, POD1, POD2, PORT, ask, ask_udp, open_udp, wired
from tests.unit.service_ports import WEB
from tests.waiting import until

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


BREAK = {  # the rest stays, or the kernel does not note what is not translated
    "iptables-legacy": "iptables-legacy -t nat -F KUBE-SERVICES",
    "iptables-nft": "iptables-nft -t nat -F KUBE-SERVICES",
    "nftables": "nft flush chain ip kube-proxy services; flush chain ip kube-proxy cluster-ips-check",
}


def test_a_udp_flow_that_began_while_rules_were_gone(node: Proxier, variant: str) -> None:
    """Its entry has no translation, and every further packet would keep it alive (facts.md 3.9)."""
    run(NAME, "ip", "route", "replace", "10.96.0.10", "via", ADDRESS[POD2])
    have(node, replace(UDP, endpoints=(ONE,)))
    with open_udp(CLIENT) as client:
        run(NAME, *BREAK[variant].split())
        assert ask_udp(client, "10.96.0.10", 53) == "lost"
        assert not node.is_intact()
        node.resync()
        assert ask_udp(client, "10.96.0.10", 53) == masqueraded(POD1)


# --- session affinity ------------------------------------------------------------------------------------------------

SOURCES = [f"172.18.0.{number}" for number in range(100, 120)]  # by chance all do as before once in a million times
EXPIRY = 2  # seconds


@pytest.fixture
def sources(node: Proxier) -> Iterator[None]:
    """Give the client many addresses."""
    change_sources("add")
    yield
    change_sources("del")


def change_sources(verb: str) -> None:
    lines = [f"address {verb} {address}/24 dev eth0\n" for address in SOURCES]
    run(CLIENT, "ip", "-batch", "-", text="".join(lines))


def endpoints_of_sources() -> list[str]:
    return [ask(CLIENT, VIP, 80, address=address).split()[0] for address in SOURCES]


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("anew", [False, True])
def test_affinity_ends_when_a_client_was_away_for_its_timeout(node: Proxier, *, anew: bool) -> None:
    """Each of 20 clients comes back to its endpoint at once, and has one of two chosen for it anew when time is over.

    A working affinity fails this once in 2**20 times: where all are given the same again.
    """
    have(node, replace(BASE, affinity=EXPIRY))
    before = []
    for address in SOURCES:
        first, again = (ask(CLIENT, VIP, 80, address=address) for _ in range(2))
        assert first == again
        before.append(first.split()[0])
    over = time.monotonic() + EXPIRY + 0.5
    if anew:
        node.resync()
    until(lambda: time.monotonic() > over)
    assert endpoints_of_sources() != before


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("how", ["repair", "restart"])
def test_affinity_outlives_that_everything_is_written_anew(node: Proxier, variant: str, how: str) -> None:
    """One that is lost passes once in 2**20 times."""
    sticky = replace(BASE, affinity=60)
    have(node, sticky)
    before = endpoints_of_sources()
    if how == "repair":
        run(NAME, *BREAK[variant].split())
        assert not node.is_intact()
        node.resync()
    else:
        other = proxier(variant)
        other.sync({sticky.key: sticky})
        other.close()
    assert endpoints_of_sources() == before
    node.resync()


def test_the_wrong_port_and_an_address_of_nobody(node: Proxier, variant: str) -> None:
    have(node, BASE)
    is_nftables = variant == "nftables"
    run(NAME, "ip", "route", "replace", "10.96.0.0/16", "via", ADDRESS[POD1])  # or else the node says unreachable
    run(POD1, "ip", "addr", "replace", "10.96.0.99/32", "dev", "lo")
    assert ask(CLIENT, VIP, 81) == ("refused" if is_nftables else "lost")
    assert ask(CLIENT, "10.96.0.99", PORT) == ("lost" if is_nftables else f"{POD1} {ADDRESS[CLIENT]}")
