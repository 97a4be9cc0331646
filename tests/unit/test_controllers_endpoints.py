"""Which pods are behind which Service, and what proxiers and DNS are told of it (facts.md 7.1, 8.1)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.controllers.allocate import Allocation
from netlab.controllers.backends import dns_service, service_ports
from netlab.controllers.endpoints import Endpoints
from netlab.controllers.state import PodState
from netlab.dns import records as dns
from netlab.service.model import Endpoint
from netlab.topology.pod import Container, ContainerPort, Pod
from netlab.topology.service import (
    EndpointSlice,
    Port,
    Protocol,
    Service,
    ServiceType,
    SliceEndpoint,
    SlicePort,
)

APP = (("app", "web"),)
CLUSTER_IP, CLUSTER_IP6 = ip_address("10.96.0.50"), ip_address("fd00:96::50")
ONE, ONE6, TWO = ip_address("10.244.1.5"), ip_address("fd00:244:1::5"), ip_address("10.244.2.6")
WEB = Service("web", selector=APP, ports=(Port(80, "http", target="8080"),))
GIVEN = Allocation((CLUSTER_IP,), (0,), ip_families=(4,))
DUAL = Allocation((CLUSTER_IP, CLUSTER_IP6), (0,), ip_families=(4, 6))
POD = PodState(Pod("web-1", "n1", APP), (ONE, ONE6), ready=True)
OTHER = PodState(Pod("web-2", "n2", APP), (TWO,), ready=True)


def behind(service: Service, *pods: PodState, slices: tuple[EndpointSlice, ...] = ()) -> Endpoints:
    endpoints = Endpoints()
    endpoints.set_service(service)
    for written in slices:
        endpoints.set_slice(written)
    endpoints.sync(pods)
    return endpoints


def proxied(service: Service, *pods: PodState, given: Allocation = GIVEN) -> list[tuple[Endpoint, ...]]:
    return [port.endpoints for port in service_ports(service, given, behind(service, *pods).of(service.key))]


def listening(state: PodState, *ports: ContainerPort) -> PodState:
    return replace(state, pod=replace(state.pod, containers=(Container("side"), Container("main", ports=ports))))


def test_a_port_of_each_family_has_its_endpoints_in_order_of_address() -> None:
    four, six = proxied(WEB, OTHER, POD, given=DUAL)
    assert four == (Endpoint(ONE, 8080, "n1"), Endpoint(TWO, 8080, "n2"))
    assert six == (Endpoint(ONE6, 8080, "n1"),)


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "conditions"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, False, False)),
        (True, True, True, (True, True, True)),
    ],
)
def test_conditions_follow_readiness(
    ready: bool, terminating: bool, publish: bool, conditions: tuple[bool, bool, bool]
) -> None:
    service = replace(WEB, publish_not_ready=publish)
    ((found,),) = proxied(service, replace(POD, ready=ready, terminating=terminating))
    assert (found.ready, found.serving, found.terminating) == conditions


def test_ready_pods_are_meant_for_their_own_node_if_the_service_prefers_it() -> None:
    service = replace(WEB, prefers_same_node=True)
    (found,) = service_ports(
        service, replace(GIVEN, cluster_ips=GIVEN.cluster_ips[:1]), behind(service, POD).of(service.key)
    )
    assert [endpoint.node_hints for endpoint in found.endpoints] == [("n1",)]
    leaving = behind(service, replace(POD, terminating=True)).of(service.key)
    assert [backend.endpoint.node_hints for backend in leaving] == [()]
    assert [backend.endpoint.node_hints for backend in behind(WEB, POD).of(WEB.key)] == [()]


def test_a_named_target_port_is_each_pod_s_own_and_of_the_port_s_protocol() -> None:
    service = replace(WEB, ports=(Port(53, "dns", Protocol.UDP, "dns"),))
    first = listening(POD, ContainerPort(5300, "dns"), ContainerPort(5301, "dns", Protocol.UDP))
    second = listening(OTHER, ContainerPort(5302, "dns", Protocol.UDP))
    without = listening(replace(OTHER, pod=replace(OTHER.pod, name="web-3")), ContainerPort(53, "other", Protocol.UDP))
    (found,) = proxied(service, first, second, without)
    assert [(endpoint.address, endpoint.port) for endpoint in found] == [(ONE, 5301), (TWO, 5302)]


def test_without_a_target_a_pod_is_asked_on_the_service_s_own_port() -> None:
    assert proxied(replace(WEB, ports=(Port(80),)), POD) == [(Endpoint(ONE, 80, "n1"),)]


def test_only_pods_of_the_namespace_with_every_label_and_an_address_count() -> None:
    service = replace(WEB, selector=(*APP, ("tier", "front")))
    both = replace(POD, pod=replace(POD.pod, labels=(("tier", "front"), ("more", "yes"), *APP)))
    elsewhere = replace(both, pod=replace(both.pod, namespace="other"))
    waiting = replace(both, pod=replace(both.pod, name="waiting"), addresses=())
    assert proxied(service, both, OTHER, elsewhere, waiting) == [(Endpoint(ONE, 8080, "n1"),)]


def test_headless_and_external_names_give_proxiers_nothing() -> None:
    headless = replace(WEB, headless=True)
    external = replace(WEB, type=ServiceType.EXTERNAL_NAME, external_name="example.com")
    assert proxied(headless, POD, given=Allocation(ip_families=(4,))) == []
    assert proxied(external, POD, given=Allocation()) == []
    found = dns_service(external, Allocation(), behind(external, POD).of(external.key))
    assert found == dns.Service("default", "web", dns.Kind.EXTERNAL_NAME, (), "example.com", found.ports)


def test_what_a_service_has_for_clients_outside_is_told_by_family() -> None:
    addresses = (ip_address("192.0.2.9"), ip_address("2001:db8::9"))
    service = replace(WEB, type=ServiceType.LOAD_BALANCER, external_ips=addresses, affinity=90)
    allocation = replace(DUAL, node_ports=(30080,), load_balancer_ips=addresses, health_check_node_port=31000)
    four, six = service_ports(service, allocation, ())
    assert (four.external_ips, six.external_ips) == (addresses[:1], addresses[1:])
    assert (four.load_balancer_ips, six.load_balancer_ips) == (addresses[:1], addresses[1:])
    assert {(port.node_port, port.health_check_node_port, port.affinity) for port in (four, six)} == {
        (30080, 31000, 90)
    }


def test_dns_lists_a_headless_service_s_pods_in_its_families_with_their_own_ports() -> None:
    service = replace(WEB, headless=True, ports=(Port(80, "http", target="http"),))
    member = listening(POD, ContainerPort(8080, "http"))
    member = replace(member, pod=replace(member.pod, hostname="web-0", subdomain="web"))
    stranger = replace(OTHER, pod=replace(OTHER.pod, hostname="db-0", subdomain="db"), ready=False)
    found = dns_service(service, Allocation(ip_families=(4,)), behind(service, member, stranger).of(service.key))
    assert found.kind is dns.Kind.HEADLESS
    assert found.endpoints == (
        dns.Endpoint((ONE,), "web-0", True, (dns.Port("http", Protocol.TCP, 8080),)),
        dns.Endpoint((TWO,), "", False, ()),
    )


def test_written_endpoints_find_their_ports_by_name_and_protocol() -> None:
    service = replace(WEB, selector=None, ports=(Port(80, "http"), Port(53, "dns", Protocol.UDP)))
    ports = (SlicePort(1, "http", Protocol.UDP), SlicePort(8080, "http"), SlicePort(5353, "dns", Protocol.UDP))
    away = SliceEndpoint((TWO, ONE), node="n2", ready=False, serving=True, terminating=True)
    written = EndpointSlice("web-x", "web", endpoints=(away, SliceEndpoint((ONE,))), ports=ports)
    endpoints = behind(service, POD, slices=(written,))
    http, udp = service_ports(service, GIVEN, endpoints.of(service.key))
    assert http.endpoints == (
        Endpoint(ONE, 8080),
        Endpoint(TWO, 8080, "n2", ready=False, serving=True, terminating=True),
    )
    assert [endpoint.port for endpoint in udp.endpoints] == [5353, 5353]
    assert endpoints.remove_slice(written.key) == {service.key}
    assert endpoints.of(service.key) == ()
    assert endpoints.set_slice(replace(written, service="nobody")) == set()


def test_only_services_that_see_a_difference_are_touched() -> None:
    endpoints = behind(WEB, POD, OTHER)
    endpoints.set_service(replace(WEB, name="all", publish_not_ready=True))
    endpoints.set_service(replace(WEB, name="else", selector=(("app", "else"),)))
    endpoints.set_service(replace(WEB, name="far", namespace="other"))
    assert endpoints.sync([POD, OTHER]) == set()
    assert endpoints.sync([replace(POD, ready_since=7.0), OTHER]) == set()
    both, key = {("default", "web"), ("default", "all")}, ("default", "web")
    assert endpoints.changed([POD], [replace(POD, ready=False)]) == both
    assert endpoints.changed([OTHER], []) == both
    moved = replace(POD, ready=False, pod=replace(POD.pod, labels=(("app", "else"),)))
    assert endpoints.changed([POD], [moved]) == both | {("default", "else")}
    assert endpoints.of(key) == ()
    assert len(endpoints.of(("default", "else"))) == 1
    endpoints.remove_service(("default", "else"))
    assert endpoints.sync([]) == set()


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3).map(lambda d: tuple(d.items()))
PODS = st.builds(
    lambda name, labels, ready, namespace: PodState(Pod(name, "n1", labels, namespace=namespace), (ONE,), ready),
    st.sampled_from("pqrs"),
    LABELS,
    st.booleans(),
    st.sampled_from(["default", "other"]),
)
CHOSEN = st.builds(Service, name=st.sampled_from("uvw"), selector=st.none() | LABELS, ports=st.just((Port(80),)))


@given(st.lists(st.lists(PODS, max_size=6) | CHOSEN | st.sampled_from("uvw"), max_size=20))
def test_the_index_is_what_a_look_at_everything_gives(changes: list[list[PodState] | Service | str]) -> None:
    endpoints, services = Endpoints(), {}
    pods: dict[tuple[str, str], PodState] = {}
    for change in changes:
        before = {key: endpoints.of(key) for key in services}
        if isinstance(change, list):
            pods = {state.key: state for state in change}
            touched = endpoints.sync(pods.values())
            assert touched >= {key for key in services if endpoints.of(key) != before[key]}
        elif isinstance(change, str):
            endpoints.remove_service(("default", change))
            services.pop(("default", change), None)
        else:
            endpoints.set_service(change)
            services[change.key] = change
        for key, service in services.items():
            wanted = set(service.selector or ())
            found = [p for p in pods.values() if wanted and wanted <= set(p.pod.labels) and p.key[0] == "default"]
            fresh = behind(service, *found).of(key) if found else ()
            assert endpoints.of(key) == fresh


def test_one_pod_among_ten_thousand_services_costs_no_look_at_all_of_them() -> None:
    endpoints, shared = Endpoints(), ("app.kubernetes.io/instance", "prod")
    states = []
    for number in range(10_000):
        labels = (shared, ("app.kubernetes.io/name", f"s{number}"))
        endpoints.set_service(Service(f"s{number}", selector=labels, ports=(Port(80),)))
        states.append(PodState(Pod(f"p{number}", "n1", labels), (ONE,), ready=True))
    start = process_time()
    assert len(endpoints.sync(states)) == 10_000
    everything = process_time() - start
    start = process_time()
    for state in states[:100]:
        assert len(endpoints.changed([state], [replace(state, ready=False)])) == 1
    assert process_time() - start < everything / 10
