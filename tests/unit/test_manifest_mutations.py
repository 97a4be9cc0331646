"""Whatever becomes of manifests, reading them gives values or a ManifestError; and values can be held against a lab."""

from __future__ import annotations

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netlab.codec import from_json, to_json
from netlab.errors import ManifestError
from netlab.manifest.against import ExistingObjects, check_against
from netlab.manifest.read import read
from netlab.manifest.workload_schema import KINDS
from netlab.topology.load import load_text
from netlab.topology.pod import Workload
from netlab.topology.service import Service
from tests.unit.test_manifest_read import DEPLOYMENT, workload
from tests.unit.test_topology_mutations import VALUES, assert_says_something, places

OTHERS = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web, labels: {a: b}}
  spec:
    type: LoadBalancer
    selector: {app: web}
    ports: [{name: a, port: 80, targetPort: http, nodePort: 30080}, {name: b, port: 53, protocol: UDP}]
    clusterIP: 10.96.0.7
    externalIPs: [192.0.2.9]
    sessionAffinity: ClientIP
    sessionAffinityConfig: {clientIP: {timeoutSeconds: 9}}
    loadBalancerSourceRanges: [10.0.0.0/8]
- apiVersion: v1
  kind: Pod
  metadata: {name: p}
  spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: s, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  endpoints: [{addresses: [10.1.2.3], conditions: {ready: false}, nodeName: n1}]
  ports: [{name: http, port: 80}]
"""
TEXTS = [
    DEPLOYMENT,
    OTHERS,
    workload("StatefulSet", "updateStrategy: {rollingUpdate: {partition: 1}}"),
    workload("DaemonSet"),
]
TOKENS = (
    *("", " ", "\n", "---\n", "...\n", "- ", ": ", "[", "]", "{", "}", "&a ", "*a", "!x ", "<<: *a", "'", "\0", "#"),
    *("null", "None", "true", "0", "-1", "80", "30080", "70000", "10%", "1.5", "10.96.0.10", "fd00::1", "::/0"),
    *(
        "spec",
        "metadata",
        "name",
        "kind",
        "apiVersion",
        "items",
        "v1",
        "apps/v1",
        *KINDS,
        "List",
        "Job",
        "ExternalName",
    ),
)
LAB = ExistingObjects(load_text("nodes: 2\npods: [{name: p-1, labels: {app: web}}]"))
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def read_or_refuse(text: str) -> None:
    """Read; hold what is read against a lab. Anything but a ManifestError is a failure."""
    try:
        manifests = read(text, "m.yaml")
    except ManifestError as refusal:
        assert_says_something(refusal)
        return
    for problem in (part for parts in check_against(manifests, LAB) for part in parts):
        assert problem.line > 0
    for service in manifests.services:
        assert from_json(Service, to_json(service.value)) == service.value
    for one in manifests.workloads:
        assert from_json(Workload, to_json(one.value)) == one.value
    manifests.ignored_lines()


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """Draw some manifests with a few pieces cut out, doubled or replaced."""
    text = "---\n".join(draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
        text = text[:start] + draw(st.sampled_from(TOKENS) | st.just(text[start:end] * 2)) + text[end:]
    return text


@st.composite
def mutated_values(draw: st.DrawFn) -> str:
    """Draw manifests with a few values or keys replaced by others, in valid YAML."""
    value = yaml.safe_load(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(value))))
        match draw(st.sampled_from(["value", "value", "key", "delete", "copy"])):
            case "value":
                container[key] = draw(VALUES)
            case "key" if isinstance(container, dict):
                container[draw(st.sampled_from(TOKENS))] = container.pop(key)
            case "delete" if len(container) > 1:
                del container[key]
            case "copy" if isinstance(container, list):
                container.append(container[key])
    return yaml.dump(value, sort_keys=False)


@relaxed
@given(mutated_texts())
def test_mutated_text_is_read_or_refused(text: str) -> None:
    read_or_refuse(text)


@relaxed
@given(mutated_values())
def test_mutated_values_are_read_or_refused(text: str) -> None:
    read_or_refuse(text)


def test_nothing_is_wrong_with_what_is_mutated() -> None:
    for text in TEXTS:
        read(text)
