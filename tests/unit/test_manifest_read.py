"""Kubernetes manifests: what they mean, what is ignored, and what is said of mistakes."""

from __future__ import annotations

import io
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from netlab.errors import ManifestError
from netlab.manifest.model import Ignored, Manifests
from netlab.manifest.read import SIZE_MAX, load, read
from netlab.topology.pod import (
    Container,
    ContainerPort,
    DnsPolicy,
    EnvVar,
    HttpGet,
    Pod,
    PodTemplate,
    Probe,
    Strategy,
    Workload,
)
from netlab.topology.pod import WorkloadKind as Kind
from netlab.topology.service import EndpointSlice, Namespace, Port, Protocol, Service, SliceEndpoint, SlicePort

SERVICE = "{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {ports: [{port: 80}]}}\n"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {a: b}, annotations: {c: d}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: "10%"}}
  minReadySeconds: 4
  template:
    metadata: {labels: {app: web}, annotations: {c: d}}
    spec:
      nodeSelector: {kubernetes.io/hostname: n2, kubernetes.io/os: linux}
      dnsPolicy: ClusterFirst
      volumes: [{name: v, emptyDir: {}}]
      containers:
      - name: web
        image: nginx:1.27
        resources: {limits: {cpu: 1}}
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 3}
        env:
        - {name: IP, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}}
        - {name: S, valueFrom: {secretKeyRef: {name: a, key: b}}}
      - {name: side, image: busybox, command: [sleep], args: ["9"]}
"""
TEMPLATE = (
    "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i, ports: [{containerPort: 8}]}]}}"
)


def workload(kind: str, fields: str = "", *, template: str = TEMPLATE) -> str:
    head = f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: w}}\n"
    return f"{head}spec:\n  selector: {{matchLabels: {{a: b}}}}\n  {template}\n  {fields}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ManifestError) as raised:
        read(text, "m.yaml")
    assert raised.value.exit_status == 2
    return [str(problem).partition("\n")[0] for problem in raised.value.problems]


def only(manifests: Manifests) -> object:
    (one,) = (*manifests.services, *manifests.workloads, *manifests.pods, *manifests.slices)
    return one.value


# --- what they mean --------------------------------------------------------------------------------------------------


def test_deployment() -> None:
    containers = (
        Container(
            "web",
            env=(EnvVar("IP", "", "status.podIP"),),
            ports=(ContainerPort(8080, "http"),),
            readiness=Probe(http=HttpGet("http"), period=3),
        ),
        Container("side", ("sleep", "9")),
    )
    assert only(read(DEPLOYMENT)) == Workload(
        kind=Kind.DEPLOYMENT,
        name="web",
        selector=(("app", "web"),),
        template=PodTemplate((("app", "web"),), containers, node="n2"),
        labels=(("a", "b"),),
        replicas=3,
        max_surge="1",
        max_unavailable="10%",
        min_ready=4,
    )


BASE = Workload(
    Kind.DEPLOYMENT,
    "w",
    (("a", "b"),),
    PodTemplate((("a", "b"),), (Container("c", ports=(ContainerPort(8),)),)),
)
STATEFUL = replace(BASE, kind=Kind.STATEFUL_SET, max_surge="0", max_unavailable="1")
DAEMON = replace(BASE, kind=Kind.DAEMON_SET, max_surge="0", max_unavailable="1")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (workload("Deployment"), BASE),
        (workload("Deployment", "strategy: {type: Recreate}"), replace(BASE, strategy=Strategy.RECREATE)),
        (workload("StatefulSet"), STATEFUL),
        (
            workload(
                "StatefulSet",
                "serviceName: s\n  podManagementPolicy: Parallel\n  replicas: 2\n"
                "  updateStrategy: {rollingUpdate: {partition: 1}}",
            ),
            replace(
                STATEFUL,
                service="s",
                parallel=True,
                replicas=2,
                partition=1,
                template=replace(BASE.template, subdomain="s"),
            ),
        ),
        (workload("DaemonSet"), DAEMON),
        (workload("DaemonSet", "updateStrategy: {type: OnDelete}"), replace(DAEMON, strategy=Strategy.ON_DELETE)),
        (
            workload("DaemonSet", "updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}"),
            replace(DAEMON, max_surge="1", max_unavailable="0"),
        ),
    ],
)
def test_workloads(text: str, want: Workload) -> None:
    assert only(read(text)) == want


def test_service_and_pod_and_slice() -> None:
    manifests = read("""\
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
  status: {loadBalancer: {}}
- apiVersion: v1
  kind: Pod
  metadata: {name: p}
  spec:
    {nodeName: n1, restartPolicy: Never, hostname: h, subdomain: s, terminationGracePeriodSeconds: 3,
     containers: [{name: c, command: [x]}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: s, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  endpoints:
  - {addresses: [10.1.2.3], nodeName: n1}
  - {addresses: [10.1.2.4], conditions: {ready: false}}
  - {addresses: [10.1.2.5], conditions: {ready: false, serving: true, terminating: true}, hostname: h}
  ports: [{name: http, port: 80}]
""")
    (service,), (pod,), (part,) = manifests.services, manifests.pods, manifests.slices
    assert service.value.ports == (Port(80, target="8080", node_port=30080),)
    assert (service.value.key, service.line, service.file) == (("shop", "web"), 5, "<text>")
    assert pod.value == Pod(
        "p", "n1", containers=(Container("c", ("x",), restart=False),), hostname="h", subdomain="s", grace=3,
        owner="manifest",
    )  # fmt: skip
    assert part.value == EndpointSlice(
        "s",
        "web",
        endpoints=(
            SliceEndpoint((ip_address("10.1.2.3"),), node="n1"),
            SliceEndpoint((ip_address("10.1.2.4"),), ready=False, serving=False),
            SliceEndpoint((ip_address("10.1.2.5"),), hostname="h", ready=False, serving=True, terminating=True),
        ),
        ports=(SlicePort(80, "http", Protocol.TCP),),
    )


def test_several_documents_with_empty_ones_between() -> None:
    text = f"# nothing\n---\n{SERVICE % 'a'}---\n---\n{SERVICE % 'b'}..."
    assert [(one.value, one.line) for one in read(text).services] == [
        (Service("a", ports=(Port(80),)), 3),
        (Service("b", ports=(Port(80),)), 6),
    ]


def test_anchors_end_with_their_document() -> None:
    assert problems(f"{SERVICE % '&a x'}---\n{SERVICE % '*a'}") == [
        "m.yaml:3:50: metadata.name: *a has no anchor &a before it"
    ]


def test_file_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(SERVICE % "a")
    assert load(path).services[0].file == str(path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((SERVICE % "a").encode())))
    assert load("-").services[0].file == "<stdin>"
    with pytest.raises(ManifestError, match="there is no such file"):
        load(tmp_path / "none.yaml")
    with path.open("wb") as stream:
        stream.truncate(SIZE_MAX + 1)
    with pytest.raises(ManifestError, match="larger than 32 MiB, which no manifest is"):
        load(path)


def test_namespace() -> None:
    found = read("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}, spec: {finalizers: []}}")
    assert [one.value for one in found.namespaces] == [Namespace("shop")]
    assert problems("{apiVersion: v1, kind: Namespace, metadata: {name: Shop}}")
    assert found.ignored_lines() == ["Namespace: ignored, since they do not touch the network: labels, spec"]


def test_startup_probe() -> None:
    found = read(DEPLOYMENT.replace("readinessProbe:", "startupProbe:"))
    container = found.workloads[0].value.template.containers[0]
    assert (container.readiness, container.startup) == (None, Probe(http=HttpGet("http"), period=3))
    twice = DEPLOYMENT.replace("readinessProbe: {", "startupProbe: {successThreshold: 2, ")
    assert problems(twice)[0].endswith("startupProbe.successThreshold: must be 1: it succeeds once")


@pytest.mark.parametrize("wish", ["PreferClose", "PreferSameZone", "PreferSameNode"])
def test_traffic_distribution(wish: str) -> None:
    found = read(SERVICE.replace("spec: {", f"spec: {{trafficDistribution: {wish}, ") % "web")
    assert found.services[0].value.prefers_same_node is (wish == "PreferSameNode")
    note = "Service: spec.trafficDistribution: nodes have no zones: every endpoint is as near as another"
    assert found.ignored_lines() == ([] if wish == "PreferSameNode" else [note])


def test_hints_of_a_slice() -> None:
    found = read(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{port: 80}],"
        " metadata: {name: s, labels: {kubernetes.io/service-name: web}},"
        " endpoints: [{addresses: [10.1.2.3], hints: {forNodes: [{name: n1}, {name: n2}], forZones: [{name: z}]}}]}"
    )
    assert found.slices[0].value.endpoints[0].node_hints == ("n1", "n2")
    assert found.ignored_lines() == ["EndpointSlice: endpoints[].hints.forZones: nodes have no zones"]


@pytest.mark.parametrize(
    ("written", "policy", "notes"),
    [
        ("ClusterFirst", DnsPolicy.CLUSTER_FIRST, []),
        ("ClusterFirstWithHostNet", DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET, []),
        ("Default", DnsPolicy.DEFAULT, []),
        ("None", DnsPolicy.CLUSTER_FIRST, ["Deployment: spec.template.spec.dnsPolicy: None is taken for ClusterFirst"]),
    ],
)
def test_dns_policy(written: str, policy: DnsPolicy, notes: list[str]) -> None:
    found = read(DEPLOYMENT.replace("dnsPolicy: ClusterFirst", f"dnsPolicy: {written}"))
    assert found.workloads[0].value.template.dns_policy is policy
    assert [line for line in found.ignored_lines() if "dns" in line] == notes


# --- what is ignored -------------------------------------------------------------------------------------------------


def test_ignored_fields_are_counted() -> None:
    spec = "spec.template.spec"
    echo, left_out = "the built-in echo server stands in", "the variable is left out: there are pods' fields only"
    assert read(DEPLOYMENT).ignored == (
        Ignored("Deployment", "metadata.annotations", 1),
        Ignored("Deployment", "spec.template.metadata.annotations", 1),
        Ignored("Deployment", f"{spec}.containers[].env[].valueFrom.fieldRef.apiVersion", 1),
        Ignored("Deployment", f"{spec}.containers[].env[].valueFrom.secretKeyRef", 1, left_out),
        Ignored("Deployment", f"{spec}.containers[].image", 1),
        Ignored("Deployment", f"{spec}.containers[].image", 1, echo),
        Ignored("Deployment", f"{spec}.containers[].resources", 1),
        Ignored("Deployment", f"{spec}.volumes", 1),
    )


def test_ignored_lines_are_few() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p%d, uid: x}\nspec: {containers: [{name: c, image: i}]}\n---\n"
    manifests = read("".join(pod % i for i in range(9)) + "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}")
    assert manifests.ignored_lines() == [
        "Pod: ignored, since they do not touch the network: uid",
        "Pod: spec.containers[].image: the built-in echo server stands in",
    ]


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes_of_several_documents_stand_in_file_order() -> None:
    text = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selectr: {app: web}
  ports: [{port: 80}, {prot: 81}]
---
apiVersion: extensions/v1beta1
kind: Deployment
metadata: {name: web}
---
kind: Deploymnt
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, replicas: 2}
spec:
  selector: {matchLabels: {app: web}, matchExpressions: [{key: a, operator: Exists}]}
  template:
    metadata: {labels: {app: wbe}}
    spec: {restartPolicy: Never, containers: [{name: c, image: x}, {name: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80, nodePort: 30000}]}
---
- 1
---
a: [b
"""
    assert [problem.partition("(allowed")[0].strip() for problem in problems(text)] == [
        "m.yaml:5:3: spec.selectr: unknown field; did you mean 'selector'?",
        "m.yaml:6:11: spec.ports[0]: lacks a `name`, which each of several ports needs",
        "m.yaml:6:23: spec.ports[1]: lacks a `name`, which each of several ports needs",
        "m.yaml:6:24: spec.ports[1].prot: unknown field; did you mean 'port'?",
        "m.yaml:8:13: apiVersion: 'extensions/v1beta1' has no Deployment here; it is of 'apps/v1'",
        "m.yaml:12:7: kind: netlab makes nothing of the kind 'Deploymnt'; did you mean 'Deployment'?",
        "m.yaml:16:23: metadata.replicas: unknown field here; it belongs in spec",
        "m.yaml:18:33: spec.selector.matchLabels.app: the template's pods have no label app: web, so the selector"
        " would not find them",
        "m.yaml:18:39: spec.selector.matchExpressions: unknown field",
        "m.yaml:21:27: spec.template.spec.restartPolicy: Never is for single pods: a workload's are restarted always",
        "m.yaml:21:75: spec.template.spec.containers[1].name: 'c' is given twice in this pod (line 21)",
        "m.yaml:25:18: metadata.name: Service default/web is there already (line 3)",
        "m.yaml:26:27: spec.ports[0].nodePort: belongs to NodePort and LoadBalancer, and this Service is of type"
        " ClusterIP",
        "m.yaml:28:1: expected an object: a mapping of apiVersion, kind, metadata and spec",
        "m.yaml:30:4: this [ is never closed",
    ]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", "m.yaml: holds no object"),
        ("nodes: 2", "m.yaml:1:1: lacks the field 'kind'"),
        ("kind: Service", "m.yaml:1:1: lacks the field 'apiVersion'; that of a Service is 'v1'"),
        ("kind: [Service]", "m.yaml:1:7: kind: expected the name of a kind"),
        ("apiVersion: v1\nkind: List\nitem: []", "m.yaml:1:1: a List holds objects as a list in `items`"),
        ("apiVersion: batch/v1\nkind: Job", "m.yaml:2:7: kind: netlab makes nothing of the kind 'Job'"),
        (
            SERVICE.replace("port: 80", "port: 80, targetPort: '80'") % "a",
            "m.yaml:1:92: spec.ports[0].targetPort: '80' is a text, and a port's name has a letter",
        ),
        (
            SERVICE % "{a: b}",
            "m.yaml:1:50: metadata.name: expected text, found a mapping",
        ),
        (SERVICE % "9a", "m.yaml:1:50: metadata.name: '9a' is not the name of a Service"),
        (SERVICE.replace("[{port: 80}]", "[80]") % "a", "m.yaml:1:69: spec.ports[0]: expected a mapping of fields"),
        (SERVICE.replace("{port: 80}", "{<<: 1, port: 80}") % "a", "m.yaml:1:74: spec.ports[0]: `<<` includes"),
        (SERVICE.replace("spec:", "!x spec:") % "a", "m.yaml:1:54: the YAML tag '!x' means nothing in a manifest"),
    ],
)
def test_mistakes(text: str, want: str) -> None:
    found = problems(text)
    assert any(problem.startswith(want) for problem in found), found


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (workload("Deployment", "replicas: -1"), "spec.replicas", "at least 0"),
        (workload("Deployment", "strategy: {type: Rolling}"), "spec.strategy.type", "did you mean 'RollingUpdate'"),
        (
            workload("Deployment", "strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}"),
            "spec.strategy.rollingUpdate",
            "belongs to RollingUpdate",
        ),
        (
            workload("Deployment", "strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}"),
            "spec.strategy.rollingUpdate",
            "both 0",
        ),
        (
            workload("Deployment", "strategy: {rollingUpdate: {maxSurge: some}}"),
            "spec.strategy.rollingUpdate.maxSurge",
            "a number of pods or a percentage",
        ),
        (
            workload("Deployment", "strategy: {rollingUpdate: {maxUnavailable: 101%}}"),
            "spec.strategy.rollingUpdate.maxUnavailable",
            "more than 100%",
        ),
        (workload("StatefulSet", "ordinals: {start: 1}"), "spec.ordinals", "unknown field"),
        (workload("DaemonSet", "replicas: 2"), "spec.replicas", "unknown field"),
        (
            workload("DaemonSet", "updateStrategy: {rollingUpdate: {maxSurge: 1}}"),
            "spec.updateStrategy.rollingUpdate",
            "either maxSurge or maxUnavailable",
        ),
        (
            workload("Deployment", template=TEMPLATE.replace("{containers", "{nodeSelector: {disk: ssd}, containers")),
            "spec.template.spec.nodeSelector.disk",
            "no such label",
        ),
        (
            workload("Deployment", template=TEMPLATE.replace("{containers", "{restartPolicy: OnFailure, containers")),
            "spec.template.spec.restartPolicy",
            "'OnFailure' is not allowed",
        ),
    ],
)
def test_mistakes_of_workloads(text: str, path: str, words: str) -> None:
    (found,) = problems(text)
    assert f": {path}: " in found or f": {path}." in found
    assert words in found


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("addressType: FQDN", "FQDN is not offered"),
        ("addressType: IPv6\nendpoints: [{addresses: [10.1.1.1]}]", "10.1.1.1 is IPv4, and `addressType` is IPv6"),
        ("addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]", "it is for loopback"),
        ("addressType: IPv4\nports: [{port: 80}, {port: 81}]", "a port without a name is there already"),
    ],
)
def test_mistakes_of_slices(fields: str, words: str) -> None:
    labels = "{kubernetes.io/service-name: web}"
    head = f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {labels}}}\n"
    (found,) = problems(head + fields)
    assert words in found
