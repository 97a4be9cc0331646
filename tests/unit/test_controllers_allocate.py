"""Addresses and ports that nobody chose: static bands, what is held, what two may share, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.controllers.allocate import Allocation, Allocator, allocate, ip_families
from netlab.controllers.ranges import ADDRESS_BANDS, PORT_BANDS, static_band
from netlab.controllers.state import Key
from netlab.errors import PlanError
from netlab.topology.service import Policy, Port, Protocol, Service, ServiceType

V4, V6 = ip_network("10.96.0.0/24"), ip_network("fd00:96::/108")
POOL = ip_network("203.0.113.0/29")
WEB = Service("web", ports=(Port(80),))
NODE_PORT = replace(WEB, type=ServiceType.NODE_PORT)
BALANCED = replace(WEB, type=ServiceType.LOAD_BALANCER)
DNS = (Port(53, "dns", Protocol.UDP), Port(53, "dns-tcp", Protocol.TCP))


def granted(*services: Service, held: Mapping[Key, Allocation] | None = None) -> list[Allocation]:
    found = allocate(services, held or {}, (V4, V6), (POOL,))
    return [found[service.key] for service in services]


def named(service: Service, *names: str) -> list[Service]:
    return [replace(service, name=name) for name in names]


@pytest.mark.parametrize(
    ("size", "bands", "band"),
    [
        (256, ADDRESS_BANDS, 16),
        (4096, ADDRESS_BANDS, 256),
        (65536, ADDRESS_BANDS, 256),
        (16, ADDRESS_BANDS, 0),
        (2768, PORT_BANDS, 86),
    ],
)
def test_the_static_band_is_as_kubernetes_documents_it(size: int, bands: tuple[int, int, int], band: int) -> None:
    assert static_band(size, bands) == band


def test_new_addresses_and_ports_come_from_behind_the_static_band() -> None:
    first, second = granted(*named(NODE_PORT, "a", "b"))
    assert first.cluster_ips == (ip_address("10.96.0.17"),)
    assert second.cluster_ips == (ip_address("10.96.0.18"),)
    assert (first.node_ports, second.node_ports) == ((30086,), (30087,))


def test_the_static_band_is_used_last_and_never_the_kept_addresses() -> None:
    services = named(WEB, *(f"s{number}" for number in range(254 - 2)))
    found = [allocation.cluster_ips[0] for allocation in granted(*services)]
    assert found[254 - 16] == ip_address("10.96.0.2")
    assert len(set(found)) == 252
    assert not {ip_address("10.96.0.1"), ip_address("10.96.0.10")} & set(found)
    with pytest.raises(
        PlanError, match=r"Service default/more: no free clusterIP: all 254 addresses of 10\.96\.0\.0/24"
    ):
        granted(*services, replace(WEB, name="more"))


def test_the_cluster_s_own_services_have_their_addresses() -> None:
    kubernetes = replace(WEB, name="kubernetes")
    dns = replace(WEB, name="kube-dns", namespace="kube-system", dual_stack=True)
    first, second = granted(kubernetes, dns)
    assert first.cluster_ips == (ip_address("10.96.0.1"),)
    assert second.cluster_ips == (ip_address("10.96.0.10"), ip_address("fd00:96::a"))


def test_what_is_chosen_goes_before_what_is_held_before_what_is_new() -> None:
    wanted, held = ip_address("10.96.0.17"), ip_address("10.96.0.18")
    new, old, robbed, chooser = named(WEB, "new", "old", "robbed", "chooser")
    chooser = replace(chooser, cluster_ips=(wanted,))
    before = {old.key: Allocation((held,)), robbed.key: Allocation((wanted,))}
    found = [allocation.cluster_ips[0] for allocation in granted(new, old, robbed, chooser, held=before)]
    assert found == [ip_address("10.96.0.19"), held, ip_address("10.96.0.20"), wanted]


@pytest.mark.parametrize(
    ("service", "families"),
    [
        (WEB, (4,)),
        (replace(WEB, dual_stack=True), (4, 6)),
        (replace(WEB, dual_stack=True, ip_families=(6,)), (6, 4)),
        (replace(WEB, ip_families=(6,)), (6,)),
        (replace(WEB, cluster_ips=(ip_address("fd00:96::77"),)), (6,)),
        (replace(WEB, headless=True, selector=(("app", "web"),)), (4,)),
        (replace(WEB, headless=True), (4, 6)),
        (replace(WEB, type=ServiceType.EXTERNAL_NAME), ()),
    ],
)
def test_ip_families_are_those_asked_for_in_order(service: Service, families: tuple[int, ...]) -> None:
    assert ip_families(service, (4, 6)) == families
    (allocation,) = granted(service)
    assert allocation.ip_families == families
    assert tuple(address.version for address in allocation.cluster_ips) == (families if service.has_cluster_ip else ())


def test_protocols_of_one_port_share_a_node_port() -> None:
    dns = replace(NODE_PORT, ports=DNS)
    chosen = replace(dns, name="chosen", ports=(DNS[0], replace(DNS[1], node_port=30053)))
    apart = replace(NODE_PORT, name="apart", ports=(Port(1, "a"), Port(2, "b", Protocol.UDP)))
    twice = replace(dns, name="twice", ports=tuple(replace(port, node_port=30054) for port in DNS))
    assert granted(twice)[0].node_ports == (30054, 30054)
    found = granted(dns, chosen, apart)
    assert [allocation.node_ports for allocation in found] == [(30086, 30086), (30053, 30053), (30087, 30088)]
    assert granted(dns, chosen, apart, held={dns.key: found[0]})[0] == found[0]


def test_one_protocol_never_shares_a_node_port() -> None:
    twice = replace(NODE_PORT, ports=(Port(80, "a", node_port=30080), Port(81, "b", node_port=30080)))
    with pytest.raises(PlanError, match="nodePort 30080: Service default/web has it"):
        granted(twice)


def test_a_load_balancer_has_what_it_needs_only() -> None:
    local = replace(BALANCED, name="local", external_policy=Policy.LOCAL, allocates_node_ports=False)
    chosen = replace(BALANCED, name="chosen", load_balancer_ip=ip_address("203.0.113.1"))
    both = replace(BALANCED, name="both", dual_stack=True)
    found = granted(local, chosen, both)
    assert [allocation.load_balancer_ips for allocation in found] == [
        (ip_address("203.0.113.2"),),
        (ip_address("203.0.113.1"),),
        (ip_address("203.0.113.3"),),  # there is no pool of the other family
    ]
    assert found[0].node_ports == (0,)
    assert [bool(allocation.health_check_node_port) for allocation in found] == [True, False, False]
    waiting = allocate([BALANCED], {}, (V4,), ())[BALANCED.key]
    assert waiting.load_balancer_ips == ()


@pytest.mark.parametrize(
    ("service", "message"),
    [
        (replace(WEB, cluster_ips=(ip_address("10.97.0.1"),)), r"clusterIP 10.97.0.1: it is not in 10.96.0.0/24"),
        (replace(WEB, cluster_ips=(ip_address("10.96.0.255"),)), r"clusterIP 10.96.0.255: it is not in"),
        (replace(WEB, cluster_ips=(ip_address("10.96.0.10"),)), "it is kept for Service kube-system/kube-dns"),
        (replace(WEB, cluster_ips=(ip_address("10.96.0.99"),)), "clusterIP 10.96.0.99: Service other/first has it"),
        (replace(NODE_PORT, ports=(Port(80, node_port=80),)), "nodePort 80: node ports are 30000 to 32767"),
        (replace(NODE_PORT, ports=(Port(80, node_port=30001),)), "nodePort 30001: Service other/first has it"),
        (replace(BALANCED, load_balancer_ip=ip_address("203.0.113.9")), "no load balancer pool of the lab has it"),
        (replace(BALANCED, load_balancer_ip=ip_address("203.0.113.5")), "203.0.113.5: Service other/first has it"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(service: Service, message: str) -> None:
    first = replace(
        BALANCED,
        name="first",
        namespace="other",
        cluster_ips=(ip_address("10.96.0.99"),),
        ports=(Port(80, node_port=30001),),
        load_balancer_ip=ip_address("203.0.113.5"),
    )
    with pytest.raises(PlanError, match=r"^Service default/web: ") as caught:
        granted(first, service)
    assert message in str(caught.value)


def test_a_family_that_the_lab_lacks_is_refused() -> None:
    with pytest.raises(PlanError, match="it wants IPv6: the lab has no such service CIDR"):
        allocate([replace(WEB, ip_families=(6,))], {}, (V4,), ())


def test_a_change_keeps_what_it_can_and_a_refused_one_changes_nothing() -> None:
    allocator = Allocator((V4, V6), (POOL,))
    ports = (Port(80, "http"), Port(443, "https"))
    before = allocator.update(replace(NODE_PORT, ports=ports))
    turned = allocator.update(replace(NODE_PORT, ports=ports[::-1]))
    assert turned == replace(before, node_ports=before.node_ports[::-1])
    other = allocator.update(replace(WEB, name="other"))
    with pytest.raises(PlanError):
        allocator.update(replace(NODE_PORT, ports=ports, cluster_ips=other.cluster_ips))
    assert allocator.allocations[WEB.key] == turned
    third = allocator.update(replace(NODE_PORT, name="third"))
    assert not {*third.cluster_ips, *third.node_ports} & {*turned.cluster_ips, *turned.node_ports}
    assert allocator.update(replace(NODE_PORT, ports=ports)) == before
    plain = allocator.update(WEB)
    assert (plain.cluster_ips, plain.node_ports) == (before.cluster_ips, (0,))
    assert allocator.update(replace(NODE_PORT, name="fourth")).node_ports == before.node_ports[:1]
    allocator.remove(WEB.key)
    assert allocator.update(replace(WEB, name="fifth")).cluster_ips == before.cluster_ips


def test_a_refused_service_takes_nothing() -> None:
    allocator = Allocator((V4,))
    with pytest.raises(PlanError):
        allocator.update(replace(NODE_PORT, ports=(Port(80, "a", node_port=30080), Port(81, "b", node_port=1))))
    assert allocator.update(replace(NODE_PORT, ports=(Port(80, node_port=30080),))).node_ports == (30080,)


SERVICES = st.builds(
    Service,
    name=st.sampled_from("abcdefgh"),
    type=st.sampled_from(ServiceType),
    headless=st.just(False),
    ports=st.sampled_from([(Port(80),), DNS, (Port(1, "a"), Port(2, "b")), ()]),
    dual_stack=st.booleans(),
    external_policy=st.sampled_from(Policy),
    allocates_node_ports=st.booleans(),
)


@given(st.lists(st.one_of(SERVICES, st.sampled_from("abcdefgh")), max_size=40))
def test_nothing_is_ever_given_out_twice(changes: list[Service | str]) -> None:
    """Whatever comes, changes and goes; and a restart with what is held gives the same."""
    small = (ip_network("10.96.0.0/27"), V6)
    allocator, services = Allocator(small, (ip_network("203.0.113.0/28"),)), {}
    for change in changes:
        if isinstance(change, Service):
            allocator.update(change)
            services[change.key] = change
        else:
            allocator.remove(("default", change))
            services.pop(("default", change), None)
    found = allocator.allocations
    assert found.keys() == services.keys()
    addresses = [ip for one in found.values() for ip in (*one.cluster_ips, *one.load_balancer_ips)]
    assert len(set(addresses)) == len(addresses)
    ports = [port for one in found.values() for port in {*one.node_ports, one.health_check_node_port} - {0}]
    assert len(set(ports)) == len(ports)
    assert allocate(list(services.values()), found, small, (ip_network("203.0.113.0/28"),)) == found


def test_ten_thousand_services_take_little_and_one_more_next_to_nothing() -> None:
    cidr = (ip_network("10.96.0.0/12"),)
    services = [replace(WEB, name=f"s{number}") for number in range(10_000)]
    start = process_time()
    allocator = Allocator(cidr)
    allocator.add(services, {})
    everything = process_time() - start
    start = process_time()
    for number in range(100):
        allocator.update(replace(WEB, name=f"more{number}"))
    assert (process_time() - start) / 100 < everything / 100  # 1 of 10,000 would be a hundredth of this
