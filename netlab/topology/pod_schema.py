"""Pods and their containers in a topology file, field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from netlab.topology.fields import (
    PODS_MAX,
    AbsolutePath,
    Addresses,
    AnyAddress,
    EnvName,
    HeaderName,
    Hostname,
    Label,
    LabelKey,
    LabelValue,
    Port,
    PortName,
    TargetPort,
    command_line,
    env_entries,
    numbers_or,
    one_handler,
    refuse,
    shell_or_argv,
)
from netlab.topology.findings import quote, suggest
from netlab.topology.pod import GRACE
from netlab.topology.service_schema import ProtocolName
from netlab.topology.spec import Spec

FIELD_PATHS = (  # what fieldRef.fieldPath may name; labels by key as well
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.podIP",
    "status.podIPs",
    "status.hostIP",
)
LABEL_PATH = ("metadata.labels['", "']")
Command = Annotated[
    list[str],
    BeforeValidator(shell_or_argv, json_schema_input_type=str | list[str]),
    AfterValidator(command_line),
    Field(min_length=1),
]
Seconds = Annotated[int, Field(ge=0)]


def _field_path(value: str) -> str:
    """Refuse a field that netlab does not know of a pod."""
    begin, end = LABEL_PATH
    if value in FIELD_PATHS or (value.startswith(begin) and value.endswith(end) and len(value) > len(begin + end)):
        return value
    if value.startswith("metadata.annotations"):
        refuse("pods have no annotations here", "use a label: metadata.labels['KEY']")
    return refuse(f"{quote(value)} is not offered{suggest(value, (*FIELD_PATHS, 'metadata.labels[KEY]'))}")


class FieldRefSpec(Spec):
    """A field of the pod."""

    field_path: Annotated[str, AfterValidator(_field_path)] = Field(
        alias="fieldPath", description="`metadata.name`, `status.podIP`, `metadata.labels['KEY']` and so on."
    )


class ValueFromSpec(Spec):
    """Where a variable's value comes from."""

    field_ref: FieldRefSpec = Field(alias="fieldRef", description="The field.")


class EnvSpec(Spec):
    """One environment variable."""

    name: EnvName = Field(description="Its name.")
    value: str = Field("", description="Its value.")
    value_from: ValueFromSpec | None = Field(
        None, alias="valueFrom", description="In place of `value`: `{fieldRef: {fieldPath: status.podIP}}`."
    )


class ContainerPortSpec(Spec):
    """A port that a container serves. In a topology file a number alone will do."""

    name: PortName | None = Field(None, description="Its name, for a Service's `targetPort`.")
    port: Port = Field(alias="containerPort", description="The port.")
    protocol: ProtocolName = Field("TCP", description="Layer 4 protocol.")


class ExecSpec(Spec):
    """A program in the pod; status 0 is a success."""

    command: Command = Field(description="Program and arguments.")


class TcpSocketSpec(Spec):
    """A TCP connection; it is a success when it is made."""

    port: TargetPort = Field(description="A number, or the name of a port of the container.")


class HeaderSpec(Spec):
    """One header of an HTTP request."""

    name: HeaderName = Field(description="Its name.")
    value: str = Field("", description="Its value.")


def _plain_http(value: Any) -> Any:
    """Refuse HTTPS, which the prober does not speak."""
    return refuse("HTTPS is not offered", "probe by HTTP, or with tcpSocket") if value == "HTTPS" else value


class HttpGetSpec(Spec):
    """An HTTP request; a status from 200 to 399 is a success."""

    path: str = Field("/", description="Path of the request.")
    port: TargetPort = Field(description="A number, or the name of a port of the container.")
    host: str = Field("", description="Address or name that it goes to. Without it: the pod's address.")
    scheme: Annotated[Literal["HTTP"], BeforeValidator(_plain_http)] = Field("HTTP", description="HTTP.")
    headers: list[HeaderSpec] = Field([], alias="httpHeaders", description="More headers: `{name, value}` each.")


class ProbeSpec(Spec):
    """How it is found out whether a pod is ready to answer."""

    exec: ExecSpec | None = Field(None, description="Run a program in the pod.")
    tcp_socket: TcpSocketSpec | None = Field(None, alias="tcpSocket", description="Connect to a port.")
    http_get: HttpGetSpec | None = Field(None, alias="httpGet", description="Ask by HTTP.")
    initial_delay: Seconds = Field(0, alias="initialDelaySeconds", description="Seconds before the first attempt.")
    period: Seconds = Field(10, alias="periodSeconds", description="Seconds between attempts.")
    timeout: Seconds = Field(1, alias="timeoutSeconds", description="Seconds that an attempt may take.")
    success_threshold: Seconds = Field(
        1, alias="successThreshold", description="Successes in a row that make a pod ready."
    )
    failure_threshold: Seconds = Field(
        3, alias="failureThreshold", description="Failures in a row that end being ready."
    )

    @model_validator(mode="after")
    def _one_handler(self) -> ProbeSpec:
        ways = {"exec": self.exec, "tcpSocket": self.tcp_socket, "httpGet": self.http_get}
        one_handler([name for name, way in ways.items() if way is not None])
        return self


class ContainerSpec(Spec):
    """A process in the pod's network namespace: a program of this machine, not an image."""

    name: Label = Field(description="Its name within the pod.")
    command: Command | None = Field(
        None,
        description="Program and arguments. A text is a command line for `sh -c`."
        " Without it: netlab's echo server, which answers on `ports`.",
    )
    args: list[str] = Field([], description="More arguments.")
    env: Annotated[
        list[EnvSpec], BeforeValidator(env_entries, json_schema_input_type=dict[str, str] | list[EnvSpec])
    ] = Field([], description="Environment variables: a mapping, or a list of `{name, value}`.")
    working_dir: AbsolutePath = Field("/", alias="workingDir", description="Folder that it starts in.")
    restart_policy: Literal["Always", "Never"] = Field(
        "Always", alias="restartPolicy", description="Whether it is started again when it ends."
    )
    ports: Annotated[
        list[ContainerPortSpec],
        BeforeValidator(numbers_or("containerPort"), json_schema_input_type=list[ContainerPortSpec | Port]),
    ] = Field([], description="The ports that it serves: numbers or mappings.")
    readiness_probe: ProbeSpec | None = Field(
        None, alias="readinessProbe", description="How it is found out whether it is ready. Without it: it is."
    )
    startup_probe: ProbeSpec | None = Field(
        None,
        alias="startupProbe",
        description="What must succeed once before it can be ready. Nothing is restarted where that takes too long.",
    )


class HostAliasSpec(Spec):
    """A line of the pod's /etc/hosts."""

    ip: AnyAddress = Field(description="The address.")
    hostnames: list[Hostname] = Field(description="The names that stand for it.", min_length=1)


class PodSettings(Spec):
    """One pod or several alike, apart from the name."""

    namespace: Label = Field("default", description="Its namespace. Names are unique across all of them.")
    node: Label | None = Field(None, description="The node it runs on. Without it: the nodes take turns.")
    replicas: int | None = Field(None, ge=0, le=PODS_MAX, description="How many of it.")
    per_node: int | None = Field(
        None,
        alias="perNode",
        ge=0,
        le=PODS_MAX,
        description="How many of it on every node. Not with `replicas` or `node`.",
    )
    labels: dict[LabelKey, LabelValue] = Field({}, description="Labels, which Services select by.")
    hostname: Label | None = Field(None, description="Its host name. Without it: its name.")
    subdomain: Label | None = Field(None, description="The headless Service under which DNS knows its `hostname`.")
    host_network: bool = Field(
        False, alias="hostNetwork", description="Use the node's network instead of one of its own."
    )
    host_aliases: list[HostAliasSpec] = Field([], alias="hostAliases", description="Lines for its /etc/hosts.")
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default"] = Field(
        "ClusterFirst",
        alias="dnsPolicy",
        description="Whether it asks cluster DNS; with `hostNetwork` it does by `ClusterFirstWithHostNet` only.",
    )
    ip: Addresses = Field(
        [], description="Its address, or one per IP version. Without it: the next free one of its node's podCIDR."
    )
    grace: int = Field(
        GRACE, alias="terminationGracePeriodSeconds", ge=0, description="Seconds between its SIGTERM and its SIGKILL."
    )
    containers: list[ContainerSpec] = Field([], description="Its processes. Without any: only the pause process.")


class PodSpec(PodSettings):
    """One pod, or several alike. Written as a name alone when it needs no more."""

    name: Label = Field(description="Its name; with `replicas` or `perNode`: followed by `-1`, `-2` and so on.")
