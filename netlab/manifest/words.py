"""What is said of objects that are none, and the words of diagnoses in manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from netlab.manifest.schema import Container, Env, Meta, PodBody, Probe
from netlab.manifest.workload_schema import KINDS, LIST
from netlab.topology.diagnose import Dialect, find_model
from netlab.topology.findings import Finding, Loc, did_you_mean, find_similar, listed, quote

# Objects that are often in the same file and touch no packet.
SILENT = frozenset({
    "ClusterRole", "ClusterRoleBinding", "ConfigMap", "CustomResourceDefinition", "HorizontalPodAutoscaler",
    "LimitRange", "PersistentVolume", "PersistentVolumeClaim", "PodDisruptionBudget", "PriorityClass",
    "ResourceQuota", "Role", "RoleBinding", "Secret", "ServiceAccount", "StorageClass",
})  # fmt: skip
INSTEAD = {
    "ReplicaSet": "use a Deployment",
    "ReplicationController": "use a Deployment",
    "Job": "use a Pod with `restartPolicy: Never`",
    "CronJob": "use a Pod with `restartPolicy: Never`",
    "Endpoints": "use an EndpointSlice (discovery.k8s.io/v1)",
    "Ingress": "use a Service of type LoadBalancer",
}
OTHER_NAMES = {"node": "nodeName", "env_from": "envFrom", "probe": "readinessProbe", "podSelector": "selector"}
NOT_OFFERED = {
    "matchExpressions": "only matchLabels is offered: write the labels out",
    "grpc": "probe with exec, tcpSocket or httpGet",
    "ordinals": "ordinals begin at 0",
}
NOTHING_BUT = frozenset({"apiVersion", "kind", "metadata", "items"})


def dialect(kind: str, base: Loc) -> Dialect:
    """Return the words for an object that stands at `base`."""
    root = KINDS[kind][1]
    body = find_model(root.model_fields["spec"].annotation) if "spec" in root.model_fields else None
    parts: Mapping[str, type[BaseModel]] = {
        "metadata": Meta,
        **({"spec": body} if body is not None else {}),
        "the pod's spec": PodBody,
        "a container": Container,
        "env": Env,
        "a readinessProbe": Probe,
    }
    return Dialect(root, OTHER_NAMES, NOT_OFFERED, parts, base)


def unknown_object(value: Any) -> Finding | None:
    """Say what keeps a value from being an object of a kind that is known; None when nothing does."""
    if not isinstance(value, dict):
        return Finding((), "expected an object: a mapping of apiVersion, kind, metadata and spec")
    kind, version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str):
        return _no_kind(value)
    known = [*KINDS, LIST]
    if kind not in known:
        return None if kind in SILENT else _unknown_kind(kind, known)
    right = "v1" if kind == LIST else KINDS[kind][0]
    if version is None:
        return Finding((), f"lacks the field 'apiVersion'; that of a {kind} is {quote(right)}")
    if version != right:
        return Finding(("apiVersion",), f"{quote(version)} has no {kind} here; it is of {quote(right)}")
    return None


def _no_kind(value: Mapping[str, Any]) -> Finding:
    hint = f"kinds are {listed([*KINDS, LIST])}"
    if "nodes" in value or "services" in value:
        hint = "this looks like a topology file: `netlab up` takes those"
    if "kind" in value:
        return Finding(("kind",), "expected the name of a kind", hint)
    return Finding((), "lacks the field 'kind'", hint)


def _unknown_kind(kind: str, known: list[str]) -> Finding:
    message = f"netlab makes nothing of the kind {quote(kind)}{did_you_mean(kind, known)}"
    hint = INSTEAD.get(kind, f"it knows {listed(known)}" if find_similar(kind, known) is None else "")
    return Finding(("kind",), message, hint)


def list_faults(value: Mapping[str, Any]) -> Iterator[Finding]:
    """Find what is wrong with a List, apart from its objects."""
    for name in value:
        if name not in NOTHING_BUT:
            yield Finding((name,), f"unknown field{did_you_mean(name, NOTHING_BUT)}", at_key=True)
    if not isinstance(value.get("items"), list):
        yield Finding(("items",) if "items" in value else (), "a List holds objects as a list in `items`")
