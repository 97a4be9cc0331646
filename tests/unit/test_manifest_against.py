"""Manifests held against a lab: what is refused, with its place, and what is only worth a warning."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netlab.controllers.allocate import Allocation
from netlab.manifest.against import ExistingObjects, check_against
from netlab.manifest.model import merge
from netlab.manifest.read import read, read_sound
from netlab.topology.load import load_text
from netlab.topology.model import Topology
from netlab.topology.pod import Pod, PodTemplate, Workload, WorkloadKind
from netlab.topology.service import Port, Service

LAB = load_text("""
nodes: 2
external: [client]
pods: [{name: w, labels: {app: web}, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}]
services: [{name: declared, selector: {app: web}, ports: [8080], externalIPs: [192.0.2.1]}]
""")
OLD = Service("old", ports=(Port(80, node_port=30080),))
EXISTING = ExistingObjects(
    topology=LAB,
    services=(*LAB.services, OLD),
    allocations={
        OLD.key: Allocation((ip_address("10.96.0.40"),), (30080,), 30090, (ip_address("203.0.113.5"),), (4,)),
    },
)
SET = Workload(WorkloadKind.STATEFUL_SET, "set", (("a", "b"),), PodTemplate((("a", "b"),)))


def service(fields: str, name: str = "new") -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{fields}}}\n"


def pod(name: str, fields: str = "", namespace: str = "default") -> str:
    spec = f"{{{fields}containers: [{{name: c, command: [x]}}]}}"
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


def stateful_set(replicas: int, selector: str = "{a: b}") -> str:
    template = f"template: {{metadata: {{labels: {selector}}}, spec: {{containers: [{{name: c}}]}}}}"
    spec = f"{{replicas: {replicas}, selector: {{matchLabels: {selector}}}, {template}}}"
    return f"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: set}}\nspec: {spec}\n"


def problems(text: str, existing: ExistingObjects = EXISTING) -> list[str]:
    found, _ = check_against(read(text, "m.yaml"), existing)
    return [f"{problem.line}: {problem.path}: {problem.message}" for problem in found]


def unmatched(text: str, existing: ExistingObjects = EXISTING) -> list[str]:
    found, said = check_against(read(text, "m.yaml"), existing)
    assert not found
    return [f"{problem.line}: {problem.path}: {problem.message}" for problem in said]


def with_pods(*pods: Pod) -> ExistingObjects:
    topology: Topology = replace(LAB, pods=(*LAB.pods, *pods))
    return replace(EXISTING, topology=topology)


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ("clusterIP: 10.97.0.1", "spec.clusterIP: 10.97.0.1 is not in the serviceCIDR 10.96.0.0/16"),
        ("clusterIP: 10.96.0.10", "spec.clusterIP: 10.96.0.10 is kept for the Service kube-system/kube-dns"),
        ("clusterIP: 10.96.0.40", "spec.clusterIP: 10.96.0.40 is taken by Service default/old"),
        ("clusterIPs: [10.96.0.40]", "spec.clusterIPs[0]: 10.96.0.40 is taken by Service default/old"),
        ("externalIPs: [192.0.2.2, 192.0.2.1]", "spec.externalIPs[1]: 192.0.2.1 TCP 8080 is taken by Service"),
        ("externalIPs: [203.0.113.5], type: LoadBalancer", ""),
        ("type: LoadBalancer, loadBalancerIP: 203.0.113.5", "spec.loadBalancerIP: 203.0.113.5 is taken by Service"),
        ("type: LoadBalancer, loadBalancerIP: 203.0.114.5", "spec.loadBalancerIP: 203.0.114.5 is not in the loadBal"),
        ("type: NodePort, ipFamilyPolicy: RequireDualStack", "spec.ipFamilyPolicy: RequireDualStack needs two IP"),
    ],
)
def test_addresses(fields: str, want: str) -> None:
    found = problems(service(f"ports: [{{port: 8080}}], {fields}"))
    assert [one.startswith(f"4: {want}") for one in found] == ([True] if want else []), found


@pytest.mark.parametrize("port", [30080, 30090])
def test_node_port_is_taken_whatever_the_protocol(port: int) -> None:
    text = service(f"type: NodePort, ports: [{{port: 81, protocol: UDP, nodePort: {port}}}]")
    assert problems(text) == [f"4: spec.ports[0].nodePort: node port {port} is taken by Service default/old"]


def test_service_keeps_what_it_has() -> None:
    assert not problems(service("type: NodePort, clusterIP: 10.96.0.40, ports: [{port: 80, nodePort: 30080}]", "old"))


def test_cluster_ip_cannot_be_changed() -> None:
    assert problems(service("clusterIP: 10.96.0.41, ports: [{port: 80}]", "old")) == [
        "4: spec.clusterIP: 10.96.0.41 is not the address that the Service has, 10.96.0.40, which cannot be changed"
    ]


def test_two_services_of_a_file_want_one_address() -> None:
    fields = "clusterIP: 10.96.0.50, ports: [{port: 80}]"
    assert problems(service(fields, "a") + "---\n" + service(fields, "b")) == [
        "9: spec.clusterIP: 10.96.0.50 is taken by Service default/a (line 1)"
    ]


def test_service_of_the_topology_is_not_applied_over() -> None:
    (found,) = problems(service("ports: [{port: 80}]", "declared"))
    assert found == "3: metadata.name: Service default/declared is declared by the lab's topology"


@pytest.mark.parametrize(
    ("name", "namespace", "want"),
    [
        ("free", "default", ""),
        ("w", "default", "'w' is taken by pod default/w"),
        ("w", "other", "'w' is taken by pod default/w"),
        ("n1", "default", "'n1' is taken by a machine"),
        ("mine", "default", ""),
        ("mine", "other", "'mine' is taken by pod default/mine"),
        ("set-0", "default", "'set-0' is taken by pod default/set-0 of StatefulSet default/set"),
    ],
)
def test_pod_names(name: str, namespace: str, want: str) -> None:
    container = read(pod("mine")).pods[0].value
    existing = with_pods(replace(container, node="n2"), Pod("set-0", "n1", owner="StatefulSet default/set"))
    assert problems(pod(name, namespace=namespace), existing) == ([f"3: metadata.name: {want}"] if want else [])


def test_pod_cannot_be_changed() -> None:
    existing = with_pods(Pod("mine", "n1", owner="manifest"))
    assert problems(pod("mine"), existing) == [
        "3: metadata.name: pod mine is there already, and pods cannot be changed"
    ]


def test_two_pods_of_a_file_have_one_name() -> None:
    text = pod("a") + "---\n" + pod("a", namespace="other")
    assert problems(text) == ["8: metadata.name: 'a' is taken (line 1)"]


@pytest.mark.parametrize(("replicas", "owner", "clash"), [(2, "x", True), (1, "x", False), (2, SET.owner, False)])
def test_names_of_a_stateful_set(replicas: int, owner: str, clash: bool) -> None:
    want = ["3: metadata.name: its pod 'set-1' would have a name that is taken"]
    assert problems(stateful_set(replicas), with_pods(Pod("set-1", "n1", owner=owner))) == (want if clash else [])


def test_selector_of_a_workload_cannot_be_changed() -> None:
    existing = replace(EXISTING, workloads=(SET,))
    assert not problems(stateful_set(1), existing)
    assert problems(stateful_set(1, "{a: c}"), existing) == [
        "4: spec.selector: is not the selector that it has, which cannot be changed"
    ]


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (pod("a", "nodeName: n3, "), "spec.nodeName", "no node is called 'n3'"),
        (pod("a", "nodeName: client, "), "spec.nodeName", "'client' is outside of the cluster"),
        (
            pod("a", "nodeSelector: {kubernetes.io/hostname: n3}, "),
            "spec.nodeSelector.'kubernetes.io/hostname'",
            "no node is called 'n3'",
        ),
    ],
)
def test_nodes(text: str, path: str, words: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"4: {path}: {words}")
    assert not problems(pod("a", "nodeName: n2, "))


def test_service_that_selects_nothing() -> None:
    selects = service("selector: {app: wbe}, ports: [{port: 80}]")
    assert unmatched(selects) == [
        "4: spec.selector.app: no pod of namespace default has these labels; did you mean 'app: web'?"
    ]
    assert unmatched(service("selector: {app: web}, ports: [{port: 80, targetPort: htpp}]")) == [
        "4: spec.ports[0].targetPort: no pod that is selected has a TCP port that is called 'htpp'"
        "; did you mean 'http'?"
    ]
    assert not unmatched(service("selector: {app: web}, ports: [{port: 80, targetPort: http}]"))


def test_service_may_select_what_comes_with_it_or_was_applied() -> None:
    selects = service("selector: {a: b}, ports: [{port: 80}]")
    assert unmatched(selects)
    assert not unmatched(selects + "---\n" + stateful_set(0))
    assert not unmatched(selects, replace(EXISTING, workloads=(SET,)))


def test_what_cannot_be_read_may_be_what_is_selected() -> None:
    selects = service("selector: {app: wbe}, ports: [{port: 80}]")
    for other in ("apiVersion: apps/v2\nkind: Deployment\n", "kind: {\n"):
        found, faults = read_sound(selects + "---\n" + other)
        assert faults
        assert not check_against(found, EXISTING).unmatched


def test_pods_of_a_template_that_is_replaced_do_not_count() -> None:
    existing = replace(
        with_pods(Pod("set-0", "n1", labels=(("a", "b"), ("v", "1")), owner=SET.owner)), workloads=(SET,)
    )
    selects = service("selector: {v: '1'}, ports: [{port: 80}]")
    assert unmatched(selects + "---\n" + stateful_set(1), existing)


def test_several_files_are_one() -> None:
    first = read(service("selector: {a: b}, clusterIP: 10.96.0.50, ports: [{port: 80}]"), "a.yaml")
    assert check_against(merge([first, read(stateful_set(1), "b.yaml")]), EXISTING) == ([], [])
    found, _ = check_against(merge([first, read(service("ports: [{port: 80}]"), "b.yaml")]), EXISTING)
    assert [str(problem).partition("\n")[0] for problem in found] == [
        "b.yaml:3:18: metadata.name: Service default/new is there already (a.yaml:1)"
    ]
