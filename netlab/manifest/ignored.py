"""Fields that Kubernetes has and that do nothing here: taken away before the rest is looked at, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from netlab.manifest.model import Ignored
from netlab.manifest.schema import PodBody, ServiceObject, Template
from netlab.manifest.workload_schema import DaemonSet
from netlab.topology.diagnose import find_model
from netlab.topology.spec import Spec

Found = Counter[tuple[str, str, str]]  # by kind, path and note
ECHO = "the built-in echo server stands in"


def strip(value: Any, model: type[BaseModel], kind: str, found: Found, path: str = "") -> Any:
    """Return what a file has for `model` without the fields that are ignored, which are counted in `found`."""
    if isinstance(value, list):
        return [strip(entry, model, kind, found, f"{path}[]") for entry in value]
    if not isinstance(value, dict):
        return value
    notes, parts = _shape(model)
    kept = {}
    for name, field in value.items():
        here = f"{path}.{name}" if path else name
        if name not in notes:
            kept[name] = strip(field, parts[name], kind, found, here) if name in parts else field
        elif field is not None:
            found[kind, here, notes[name]] += 1
    return kept


@cache
def _shape(model: type[BaseModel]) -> tuple[Mapping[str, str], dict[str, type[BaseModel]]]:
    """Return what a model ignores, and which of its fields are models."""
    parts = {
        field.alias or name: part
        for name, field in model.model_fields.items()
        if (part := find_model(field.annotation)) is not None
    }
    return getattr(model, "IGNORED", {}), parts


def count_images(spec: Spec, kind: str, found: Found) -> None:
    """Count the images of an object's containers, and the arguments of programs that are not there."""
    for path, body in _pod_bodies(spec):
        for container in body.containers:
            if container.image:
                found[kind, f"{path}.containers[].image", "" if container.command else ECHO] += 1
            if container.args and not container.command:
                found[kind, f"{path}.containers[].args", ECHO] += 1


def count_dns_policy(spec: Spec, kind: str, found: Found) -> None:
    """Count a dnsPolicy that would have the pod's dnsConfig, which is ignored."""
    for path, body in _pod_bodies(spec):
        if body.dns_policy == "None":
            found[kind, f"{path}.dnsPolicy", "None is taken for ClusterFirst"] += 1


def count_zones(spec: Spec, kind: str, found: Found) -> None:
    """Count a Service's wish for endpoints of the client's zone."""
    wish = spec.spec.traffic_distribution if isinstance(spec, ServiceObject) else None
    if wish in ("PreferClose", "PreferSameZone"):
        found[kind, "spec.trafficDistribution", "nodes have no zones: every endpoint is as near as another"] += 1


def count_surge(spec: Spec, kind: str, found: Found) -> None:
    """Count a DaemonSet's maxSurge, which is checked as the API server does it, and then not used."""
    rolling = spec.spec.strategy.rolling if isinstance(spec, DaemonSet) else None
    if rolling is not None and rolling.max_surge.rstrip("%") != "0":
        found[kind, "spec.updateStrategy.rollingUpdate.maxSurge", "a node's old pod ends first"] += 1


def _pod_bodies(spec: Spec) -> Iterator[tuple[str, PodBody]]:
    body = getattr(spec, "spec", None)
    if isinstance(body, PodBody):
        yield "spec", body
    elif isinstance(template := getattr(body, "template", None), Template):
        yield "spec.template.spec", template.spec


def tally(found: Found) -> tuple[Ignored, ...]:
    """Return what was counted, in order."""
    return tuple(sorted(Ignored(kind, path, count, note) for (kind, path, note), count in found.items()))
