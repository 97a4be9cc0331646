"""What `services:` and containers' ports and probes in a topology file mean. Mistakes: topologies/bad/service-*."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from netlab.controllers.allocate import ip_families
from netlab.errors import TopologyError
from netlab.topology.load import load_text
from netlab.topology.model import Proxy
from netlab.topology.pod import Container, ContainerPort, EnvVar, HttpGet, Probe
from netlab.topology.service import Labels, Policy, Port, Protocol, Service, ServiceType
from netlab.topology.service_claims import service_families


def services(text: str) -> tuple[Service, ...]:
    return load_text(f"nodes: 1\n{text}").services


def container(fields: str) -> Container:
    return load_text(f"nodes: 1\npods: [{{name: a, containers: [{{name: c, {fields}}}]}}]").pods[0].containers[0]


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as raised:
        load_text(text)
    return [f"{problem.path}: {problem.message}" for problem in raised.value.problems]


def test_port_alone_is_all_defaults() -> None:
    assert services("services: [{name: web, ports: [80]}]") == (Service("web", ports=(Port(80),)),)
    assert services("services: {web: {ports: [80]}}") == (Service("web", ports=(Port(80),)),)


def test_every_field_has_its_place() -> None:
    text = """
services:
- name: web
  namespace: shop
  labels: {tier: front}
  type: LoadBalancer
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP, targetPort: dns}
  clusterIP: 10.96.7.7
  ipFamilies: [IPv4]
  ipFamilyPolicy: PreferDualStack
  externalIPs: [192.0.2.9]
  loadBalancerIP: 203.0.113.9
  loadBalancerSourceRanges: [0.0.0.0/0]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  publishNotReadyAddresses: true
  healthCheckNodePort: 31000
  allocateLoadBalancerNodePorts: false
  trafficDistribution: PreferSameNode
"""
    assert services(text) == (
        Service(
            name="web",
            namespace="shop",
            labels=(("tier", "front"),),
            type=ServiceType.LOAD_BALANCER,
            ports=(
                Port(80, "http", Protocol.TCP, "8080", 30080),
                Port(53, "dns", Protocol.UDP, "dns"),
            ),
            cluster_ips=(ip_address("10.96.7.7"),),
            ip_families=(4,),
            dual_stack=True,
            external_ips=(ip_address("192.0.2.9"),),
            load_balancer_ip=ip_address("203.0.113.9"),
            source_ranges=(ip_network("0.0.0.0/0"),),
            affinity=60,
            external_policy=Policy.LOCAL,
            internal_policy=Policy.LOCAL,
            publish_not_ready=True,
            health_check_node_port=31000,
            allocates_node_ports=False,
            prefers_same_node=True,
        ),
    )


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ("clusterIP: None", Service("a", headless=True)),
        ("clusterIPs: [None]", Service("a", headless=True)),
        ("ports: [80], clusterIP: ''", Service("a", ports=(Port(80),))),
        ("ports: [80], sessionAffinity: ClientIP", Service("a", ports=(Port(80),), affinity=10800)),
        ("ports: [80], sessionAffinity: None", Service("a", ports=(Port(80),))),
        ("ports: [80], selector: {}", Service("a", ports=(Port(80),))),
        (
            "type: ExternalName, externalName: example.org.",
            Service("a", type=ServiceType.EXTERNAL_NAME, external_name="example.org"),
        ),
    ],
)
def test_service_forms(fields: str, want: Service) -> None:
    assert services(f"services: [{{name: a, {fields}}}]") == (want,)


def test_two_addresses_need_a_policy() -> None:
    text = (
        "nodes: 1\nclusterCIDR: [10.244.0.0/16, 'fd00:10:244::/56']\n"
        "services: [{name: a, ports: [80], clusterIPs: [10.96.0.20, 'fd00:10:96::20']%s}]"
    )
    assert load_text(text % ", ipFamilyPolicy: RequireDualStack").services[0].cluster_ips == (
        ip_address("10.96.0.20"),
        ip_address("fd00:10:96::20"),
    )
    assert problems(text % "") == [
        "services[0].clusterIPs: holds two, and a Service is SingleStack without an `ipFamilyPolicy`"
    ]


@pytest.mark.parametrize("dual_stack", [False, True])
@pytest.mark.parametrize("headless", [False, True])
@pytest.mark.parametrize("selector", [None, (("a", "b"),)])
@pytest.mark.parametrize("asked", [(), (6,), (6, 4)])
@pytest.mark.parametrize("cluster", [(4,), (4, 6)])
def test_rules_and_allocation_agree_on_ip_versions(
    cluster: tuple[int, ...], asked: tuple[int, ...], selector: Labels | None, headless: bool, dual_stack: bool
) -> None:
    service = Service("a", headless=headless, selector=selector, ip_families=asked, dual_stack=dual_stack)
    assert service_families(service, cluster) == ip_families(service, cluster)


def test_proxy_and_load_balancer_range() -> None:
    topology = load_text("nodes: [{name: n1, proxy: ipvs}, n2]\nproxy: nftables\nloadBalancerCIDR: 198.51.100.0/24")
    assert topology.proxy is Proxy.NFTABLES
    assert [node.proxy for node in topology.nodes] == [Proxy.IPVS, None]
    assert topology.load_balancer_cidrs == (ip_network("198.51.100.0/24"),)


def test_load_balancer_range_has_a_default_for_each_version() -> None:
    topology = load_text("nodes: 1\nclusterCIDR: [10.244.0.0/16, 'fd00:10:244::/56']")
    assert topology.load_balancer_cidrs == (ip_network("203.0.113.0/24"), ip_network("2001:db8:113::/112"))


# --- selectors -------------------------------------------------------------------------------------------------------

PODS = "nodes: 1\npods: [{name: w, replicas: 2, labels: {app: web, v: '1'}, containers: [%s]}]\n"


@pytest.mark.parametrize(
    ("containers", "service"),
    [
        ("{name: c, ports: [80]}", "ports: [80]"),
        ("{name: c, ports: [80]}", "ports: [{port: 8, targetPort: 80}]"),
        ("{name: c, command: x}", "ports: [81]"),  # nobody said what it serves
        ("{name: c, command: x, ports: [80]}, {name: d, command: y}", "ports: [80]"),
        ("{name: c, ports: [{name: http, containerPort: 80}]}", "ports: [{port: 1, targetPort: http}]"),
        ("{name: c, ports: [80]}", "clusterIP: None"),
    ],
)
def test_service_with_its_pods_is_taken(containers: str, service: str) -> None:
    load_text(PODS % containers + f"services: [{{name: a, selector: {{app: web}}, {service}}}]")


def test_clusters_own_service_may_be_written_down() -> None:
    fields = "namespace: kube-system, selector: {k8s-app: kube-dns}, clusterIP: 10.96.0.10, ports: [53]"
    assert services(f"services: [{{name: kube-dns, {fields}}}]")  # its pod comes with the lab


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("ports: [81]", "ports[0]"),
        ("ports: [{port: 80, protocol: UDP}]", "ports[0].port"),
        ("ports: [{port: 80, targetPort: http}]", "ports[0].targetPort"),
        ("namespace: other, ports: [80]", "selector"),
        ("ports: [{port: 80, protocol: UDP, targetPort: web}]", "ports[0].targetPort"),
    ],
)
def test_service_without_its_pods_is_refused(service: str, path: str) -> None:
    text = PODS % "{name: c, ports: [{name: web, containerPort: 80}]}"
    text += f"services: [{{name: a, selector: {{app: web}}, {service}}}]"
    assert [problem.partition(": ")[0] for problem in problems(text)] == [f"services[0].{path}"]


def test_wrong_pods_hide_no_other_mistake_of_a_service_and_invent_none() -> None:
    text = (
        "nodes: 1\npods: [{nmae: a, labels: {app: web}}]\n"
        "services: [{name: a, selector: {app: web}, ports: [{port: 0}]}, b]"
    )
    found = problems(text)
    assert len(found) == 3
    assert not any("selector" in problem for problem in found)


# --- containers ------------------------------------------------------------------------------------------------------


def test_echo_server_listens_on_its_ports() -> None:
    assert container("ports: [80, {name: dns, containerPort: 53, protocol: UDP}]") == Container(
        "c", ports=(ContainerPort(80), ContainerPort(53, "dns", Protocol.UDP))
    )


def test_container_needs_something_to_do() -> None:
    assert problems("nodes: 1\npods: [{name: a, containers: [{name: c}]}]") == [
        "pods[0].containers[0]: lacks a `command`, or `ports` for the built-in echo server to answer on"
    ]


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ("exec: {command: [cat, /tmp/ready]}", Probe(command=("cat", "/tmp/ready"))),
        ("exec: {command: test -e /tmp/ready}", Probe(command=("sh", "-c", "test -e /tmp/ready"))),
        ("tcpSocket: {port: 80}", Probe(tcp_port="80")),
        ("tcpSocket: {port: web}, periodSeconds: 0, timeoutSeconds: 0", Probe(tcp_port="web")),
        (
            "httpGet: {port: web, path: /r, host: h, httpHeaders: [{name: X-A, value: b}]}, initialDelaySeconds: 1, "
            "periodSeconds: 2, timeoutSeconds: 3, successThreshold: 4, failureThreshold: 5",
            Probe(
                http=HttpGet("web", "/r", "h", (("X-A", "b"),)),
                initial_delay=1,
                period=2,
                timeout=3,
                success_threshold=4,
                failure_threshold=5,
            ),
        ),
    ],
)
def test_probe(fields: str, want: Probe) -> None:
    probe = container(f"ports: [{{name: web, containerPort: 80}}], readinessProbe: {{{fields}}}").readiness
    assert probe == want


def test_variables_from_the_pod() -> None:
    source = "{fieldRef: {fieldPath: \"metadata.labels['k']\"}}"
    fields = f"command: x, env: [{{name: A, value: b}}, {{name: L, valueFrom: {source}}}]"
    assert container(fields).env == (EnvVar("A", "b"), EnvVar("L", "", "metadata.labels['k']"))


def test_pod_names_itself() -> None:
    pod = load_text(
        "nodes: 1\npods: [{name: a, namespace: x, hostname: h, subdomain: s, terminationGracePeriodSeconds: 0}]"
    ).pods[0]
    assert (pod.namespace, pod.hostname, pod.subdomain, pod.grace) == ("x", "h", "s", 0)
