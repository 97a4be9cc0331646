"""Kubernetes' apps/v1, as far as networking goes, and which fields every kind has."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from netlab.manifest.schema import (
    STATUS,
    Labels,
    Meta,
    NamespaceObject,
    Notes,
    PodObject,
    ServiceObject,
    SliceObject,
    Template,
    plain,
)
from netlab.topology.fields import PODS_MAX, Label, not_a, refuse
from netlab.topology.spec import Spec


class Selector(Spec):
    """Which pods are a workload's."""

    match_labels: Labels = Field(alias="matchLabels", min_length=1)


def _amount(value: Any) -> Any:
    """Make a text of a number of pods or a percentage."""
    if type(value) is int and value >= 0:
        return str(value)
    if isinstance(value, str) and value.endswith("%") and value[:-1].isascii() and value[:-1].isdigit():
        return value
    return refuse(f"{value} is less than 0") if type(value) is int else not_a("a number of pods or a percentage")


Amount = Annotated[str, BeforeValidator(_amount), Field(max_length=10)]


class DeploymentStep(Spec):
    """How many pods a rolling update may have too many or too few."""

    max_surge: Amount = Field("25%", alias="maxSurge")
    max_unavailable: Amount = Field("25%", alias="maxUnavailable")


class DeploymentStrategy(Spec):
    """How pods of an old template are replaced."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling: DeploymentStep | None = Field(None, alias="rollingUpdate")


class WorkloadBody(Spec):
    """What the `spec` of every workload has."""

    selector: Selector
    template: Template
    min_ready: int = Field(0, alias="minReadySeconds", ge=0)


class DeploymentBody(WorkloadBody):
    """`spec` of a Deployment."""

    IGNORED: ClassVar[Notes] = {
        **plain("revisionHistoryLimit", "progressDeadlineSeconds"),
        "paused": "rollouts go on",
    }
    replicas: int = Field(1, ge=0, le=PODS_MAX)
    strategy: DeploymentStrategy = Field({}, validate_default=True)


class Deployment(Spec):
    """An apps/v1 Deployment."""

    IGNORED: ClassVar[Notes] = STATUS
    metadata: Meta
    spec: DeploymentBody


class StatefulSetStep(Spec):
    """Which pods a rolling update replaces, and how many at once."""

    partition: int = Field(0, ge=0)
    max_unavailable: Amount = Field("1", alias="maxUnavailable")


class StatefulSetStrategy(Spec):
    """How pods of an old template are replaced."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling: StatefulSetStep | None = Field(None, alias="rollingUpdate")


class StatefulSetBody(WorkloadBody):
    """`spec` of a StatefulSet."""

    IGNORED: ClassVar[Notes] = plain(
        "volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy", "revisionHistoryLimit"
    )
    replicas: int = Field(1, ge=0, le=PODS_MAX)
    service: Label | None = Field(None, alias="serviceName")
    management: Literal["OrderedReady", "Parallel"] = Field("OrderedReady", alias="podManagementPolicy")
    strategy: StatefulSetStrategy = Field({}, validate_default=True, alias="updateStrategy")


class StatefulSet(Spec):
    """An apps/v1 StatefulSet."""

    IGNORED: ClassVar[Notes] = STATUS
    metadata: Meta
    spec: StatefulSetBody


class DaemonSetStep(Spec):
    """How many nodes may have two pods or none during a rolling update."""

    max_surge: Amount = Field("0", alias="maxSurge")
    max_unavailable: Amount = Field("1", alias="maxUnavailable")


class DaemonSetStrategy(Spec):
    """How pods of an old template are replaced."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling: DaemonSetStep | None = Field(None, alias="rollingUpdate")


class DaemonSetBody(WorkloadBody):
    """`spec` of a DaemonSet."""

    IGNORED: ClassVar[Notes] = plain("revisionHistoryLimit")
    strategy: DaemonSetStrategy = Field({}, validate_default=True, alias="updateStrategy")


class DaemonSet(Spec):
    """An apps/v1 DaemonSet."""

    IGNORED: ClassVar[Notes] = STATUS
    metadata: Meta
    spec: DaemonSetBody


AnyObject = NamespaceObject | ServiceObject | PodObject | Deployment | StatefulSet | DaemonSet | SliceObject
KINDS: dict[str, tuple[str, type[AnyObject]]] = {  # kind: its apiVersion and fields
    "Namespace": ("v1", NamespaceObject),
    "Service": ("v1", ServiceObject),
    "Pod": ("v1", PodObject),
    "Deployment": ("apps/v1", Deployment),
    "StatefulSet": ("apps/v1", StatefulSet),
    "DaemonSet": ("apps/v1", DaemonSet),
    "EndpointSlice": ("discovery.k8s.io/v1", SliceObject),
}
LIST = "List"
