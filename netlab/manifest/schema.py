"""Kubernetes' objects as far as networking goes, field by field: v1, apps/v1 and discovery.k8s.io/v1.

`IGNORED` names the fields that Kubernetes has beside these, with what it means that they are left out; an empty note
for those that do not touch the network. `ignored.strip` takes them away before pydantic looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from netlab.topology.fields import (
    AbsolutePath,
    EnvName,
    Label,
    LabelKey,
    LabelValue,
    MachineAddress,
    Port,
    ServiceName,
    command_line,
    refuse,
)
from netlab.topology.pod import GRACE
from netlab.topology.pod_schema import (
    ContainerPortSpec,
    EnvSpec,
    ExecSpec,
    FieldRefSpec,
    HostAliasSpec,
    ProbeSpec,
    ValueFromSpec,
)
from netlab.topology.service_schema import ProtocolName, ServiceFields, ServicePortSpec
from netlab.topology.spec import Spec

Notes = Mapping[str, str]


def plain(*names: str) -> dict[str, str]:
    """Return fields that do not touch the network."""
    return dict.fromkeys(names, "")


NOT_READ = plain(
    "annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName",
    "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
)  # fmt: skip
STATUS = plain("status")
NOT_A_SOURCE = "the variable is left out: there are pods' fields only"
HOST_PORT = "no port of the node leads to the container; a Service of type NodePort does"
Labels = dict[LabelKey, LabelValue]


class Meta(Spec):
    """`metadata` of an object."""

    IGNORED: ClassVar[Notes] = NOT_READ
    name: Label
    namespace: Label = "default"
    labels: Labels = Field({})


class ServiceMeta(Meta):
    """`metadata` of a Service, whose name is a DNS name."""

    name: ServiceName


class NamespaceMeta(Spec):
    """`metadata` of a Namespace, which is in none."""

    IGNORED: ClassVar[Notes] = {**NOT_READ, **plain("labels")}
    name: Label


class NamespaceObject(Spec):
    """A v1 Namespace."""

    IGNORED: ClassVar[Notes] = {**STATUS, **plain("spec")}
    metadata: NamespaceMeta


class TemplateMeta(Spec):
    """`metadata` of a pod template."""

    IGNORED: ClassVar[Notes] = {**NOT_READ, **plain("name", "namespace")}
    labels: Labels = Field({})


class PortSpec(ServicePortSpec):
    """A port of a Service."""

    IGNORED: ClassVar[Notes] = plain("appProtocol")


class ServiceBody(ServiceFields):
    """`spec` of a Service."""

    IGNORED: ClassVar[Notes] = {
        "loadBalancerClass": "there is one load balancer",
    }
    ports: list[PortSpec] = Field([])  # type: ignore[assignment]
    traffic_distribution: Literal["PreferClose", "PreferSameZone", "PreferSameNode"] | None = Field(  # type: ignore[assignment]
        None, alias="trafficDistribution"
    )


class ServiceObject(Spec):
    """A v1 Service."""

    IGNORED: ClassVar[Notes] = STATUS
    metadata: ServiceMeta
    spec: ServiceBody


class FieldRef(FieldRefSpec):
    """A field of the pod."""

    IGNORED: ClassVar[Notes] = plain("apiVersion")


class ValueFrom(ValueFromSpec):
    """Where a variable's value comes from."""

    IGNORED: ClassVar[Notes] = dict.fromkeys(("configMapKeyRef", "secretKeyRef", "resourceFieldRef"), NOT_A_SOURCE)
    field_ref: FieldRef | None = Field(None, alias="fieldRef")  # type: ignore[assignment]


class Env(EnvSpec):
    """One environment variable."""

    name: EnvName
    value_from: ValueFrom | None = Field(None, alias="valueFrom")


class ContainerPort(ContainerPortSpec):
    """A port that a container serves."""

    IGNORED: ClassVar[Notes] = {"hostPort": HOST_PORT, "hostIP": HOST_PORT}


class Exec(ExecSpec):
    """A program in the pod."""

    command: Annotated[list[str], AfterValidator(command_line), Field(min_length=1)]


class Probe(ProbeSpec):
    """A readiness or startup probe."""

    IGNORED: ClassVar[Notes] = plain("terminationGracePeriodSeconds")
    exec: Exec | None = None


class Container(Spec):
    """A container: its command as a program of this machine, or the built-in echo server."""

    IGNORED: ClassVar[Notes] = {
        **plain(
            "imagePullPolicy", "lifecycle", "livenessProbe", "resizePolicy", "resources", "restartPolicy",
            "securityContext", "stdin", "stdinOnce", "terminationMessagePath",
            "terminationMessagePolicy", "tty", "volumeDevices", "volumeMounts",
        ),
        "envFrom": "its variables are left out",
    }  # fmt: skip
    name: Label
    image: str = ""
    command: Annotated[list[str], AfterValidator(command_line)] = Field([])
    args: list[str] = Field([])
    env: list[Env] = Field([])
    working_dir: AbsolutePath = Field("/", alias="workingDir")
    ports: list[ContainerPort] = Field([])
    readiness_probe: Probe | None = Field(None, alias="readinessProbe")
    startup_probe: Probe | None = Field(None, alias="startupProbe")


HOSTNAME_LABEL = "kubernetes.io/hostname"
NOT_CHOSEN = frozenset({"kubernetes.io/os", "kubernetes.io/arch"})  # every node has what it asks for


def _node_selector(value: dict[str, str]) -> dict[str, str]:
    """Refuse labels that no node of a lab has."""
    for key in value:
        if key != HOSTNAME_LABEL and key not in NOT_CHOSEN:
            refuse("nodes of a lab have no such label", f"choose a node by {HOSTNAME_LABEL}", field=key)
    return value


class PodBody(Spec):
    """`spec` of a pod."""

    IGNORED: ClassVar[Notes] = {
        **plain(
            "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "enableServiceLinks",
            "ephemeralContainers", "hostIPC", "hostPID", "hostUsers", "imagePullSecrets", "os", "overhead",
            "preemptionPolicy", "priority", "priorityClassName", "resourceClaims", "resources", "runtimeClassName",
            "schedulerName", "schedulingGates", "securityContext", "serviceAccount", "serviceAccountName",
            "shareProcessNamespace", "tolerations", "topologySpreadConstraints", "volumes",
        ),
        "initContainers": "they are not run",
        "readinessGates": "nobody sets such conditions: the probes alone decide",
        "setHostnameAsFQDN": "the host name stays short",
        "dnsConfig": "pods ask the cluster's DNS, or nobody",
    }  # fmt: skip
    containers: list[Container] = Field(min_length=1)
    node_name: Label | None = Field(None, alias="nodeName")
    node_selector: Annotated[dict[str, str], AfterValidator(_node_selector)] = Field({}, alias="nodeSelector")
    host_network: bool = Field(False, alias="hostNetwork")
    host_aliases: list[HostAliasSpec] = Field([], alias="hostAliases")
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] = Field(
        "ClusterFirst", alias="dnsPolicy"
    )
    hostname: Label | None = None
    subdomain: Label | None = None
    grace: int = Field(GRACE, alias="terminationGracePeriodSeconds", ge=0)
    restart_policy: Literal["Always", "Never"] = Field("Always", alias="restartPolicy")


class PodObject(Spec):
    """A v1 Pod."""

    IGNORED: ClassVar[Notes] = STATUS
    metadata: Meta
    spec: PodBody


class Template(Spec):
    """What a workload makes pods of."""

    metadata: TemplateMeta = Field({}, validate_default=True)
    spec: PodBody


class Conditions(Spec):
    """What is known of an endpoint."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class NodeHint(Spec):
    """A node whose clients an endpoint is meant for."""

    name: Label


class Hints(Spec):
    """Whose clients an endpoint is meant for."""

    IGNORED: ClassVar[Notes] = {"forZones": "nodes have no zones"}
    for_nodes: list[NodeHint] = Field([], alias="forNodes", max_length=8)


class EndpointFields(Spec):
    """One endpoint of an EndpointSlice."""

    IGNORED: ClassVar[Notes] = {
        **plain("targetRef", "deprecatedTopology"),
        "zone": "nodes have no zones",
    }
    addresses: list[MachineAddress] = Field(min_length=1, max_length=100)
    conditions: Conditions = Field({}, validate_default=True)
    hostname: Label | None = None
    node_name: Label | None = Field(None, alias="nodeName")
    hints: Hints = Field({}, validate_default=True)


class SlicePortFields(Spec):
    """One port of an EndpointSlice."""

    IGNORED: ClassVar[Notes] = plain("appProtocol")
    name: str = ""
    protocol: ProtocolName = "TCP"
    port: Port


def _address_type(value: Any) -> Any:
    return refuse("FQDN is not offered: kube-proxy leaves such slices alone too") if value == "FQDN" else value


class SliceObject(Spec):
    """A discovery.k8s.io/v1 EndpointSlice."""

    metadata: Meta
    address_type: Annotated[Literal["IPv4", "IPv6"], BeforeValidator(_address_type)] = Field(alias="addressType")
    endpoints: list[EndpointFields] = Field([], max_length=1000)
    ports: list[SlicePortFields] = Field([], max_length=100)
