"""Kubernetes' v1 Service, field by field. A topology file has the fields of `metadata` and `spec` side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from netlab.topology.fields import (
    AnyAddress,
    ClusterIp,
    Label,
    LabelKey,
    LabelValue,
    MachineAddress,
    NodePort,
    Port,
    ServiceName,
    SourceRange,
    Subdomain,
    TargetPort,
    numbers_or,
    refuse,
)
from netlab.topology.service import AFFINITY_DEFAULT
from netlab.topology.spec import Spec

AFFINITY_MAX = 86400  # seconds: pkg/apis/core/validation
PolicyName = Literal["Cluster", "Local"]
ProtocolName = Literal["TCP", "UDP", "SCTP"]


class ServicePortSpec(Spec):
    """One port of a Service. In a topology file a number alone is a port that needs no more."""

    name: Label | None = Field(None, description="Its name. Needed when there are several.")
    protocol: ProtocolName = Field("TCP", description="Layer 4 protocol.")
    port: Port = Field(description="The port of the Service's addresses.")
    target_port: TargetPort | None = Field(
        None,
        alias="targetPort",
        description="The port of its pods: a number, or the name of a container's port. Without it: `port`.",
    )
    node_port: NodePort | None = Field(
        None,
        alias="nodePort",
        description="The port of every node's address. Without it: a free one. For NodePort and LoadBalancer.",
    )


class ClientIpSpec(Spec):
    """Affinity by the client's address."""

    timeout: int = Field(
        AFFINITY_DEFAULT,
        alias="timeoutSeconds",
        ge=1,
        le=AFFINITY_MAX,
        description="Seconds after which a silent client is forgotten.",
    )


class AffinitySpec(Spec):
    """What `sessionAffinity: ClientIP` may need."""

    client_ip: ClientIpSpec | None = Field(None, alias="clientIP", description="Affinity by the client's address.")


def _no_zones(value: Any) -> Any:
    """Refuse what is about zones, in a topology file."""
    if value in ("PreferClose", "PreferSameZone"):
        refuse(f"{value} would do nothing: nodes have no zones", "PreferSameNode is offered")
    return value


class ServiceFields(Spec):
    """The `spec` of a Service."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = Field(
        "ClusterIP", description="How clients reach it."
    )
    selector: dict[LabelKey, LabelValue] = Field(
        {}, description="Labels of the pods that answer. Without it: endpoints come from EndpointSlices."
    )
    ports: list[ServicePortSpec] = Field([], description="Its ports. A headless Service may have none.")
    cluster_ip: ClusterIp | None = Field(
        None,
        alias="clusterIP",
        description="Its address, of serviceCIDR; `None` for a headless Service. Without it: a free one.",
    )
    cluster_ips: list[ClusterIp] = Field(
        [], alias="clusterIPs", max_length=2, description="The same, one of each IP version; the first is `clusterIP`."
    )
    ip_families: list[Literal["IPv4", "IPv6"]] = Field(
        [],
        alias="ipFamilies",
        max_length=2,
        description="IP versions of its addresses, in order. Without it: the first of clusterCIDR.",
    )
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = Field(
        None, alias="ipFamilyPolicy", description="Whether it has an address of each IP version."
    )
    external_name: Subdomain | None = Field(
        None, alias="externalName", description="The name that clients are sent to. For ExternalName."
    )
    external_ips: list[MachineAddress] = Field(
        [], alias="externalIPs", description="More addresses that it answers on, on every node that gets their packets."
    )
    load_balancer_ip: AnyAddress | None = Field(
        None,
        alias="loadBalancerIP",
        description="Its address outside of the cluster. Without it: a free one of loadBalancerCIDR.",
    )
    source_ranges: list[SourceRange] = Field(
        [], alias="loadBalancerSourceRanges", description="Clients that the load balancer's address serves."
    )
    session_affinity: Literal["None", "ClientIP"] | None = Field(
        None, alias="sessionAffinity", description="Whether a client stays with the endpoint that it had."
    )
    affinity_config: AffinitySpec | None = Field(
        None, alias="sessionAffinityConfig", description="Its timeout: `{clientIP: {timeoutSeconds: 10800}}`."
    )
    external_policy: PolicyName | None = Field(
        None,
        alias="externalTrafficPolicy",
        description="Endpoints that clients outside may get: `Cluster` for all, `Local` for those of the node.",
    )
    internal_policy: PolicyName | None = Field(
        None, alias="internalTrafficPolicy", description="The same for clients of the cluster."
    )
    publish_not_ready: bool = Field(
        False, alias="publishNotReadyAddresses", description="Whether pods that are not ready count as ready."
    )
    health_check_node_port: NodePort | None = Field(
        None,
        alias="healthCheckNodePort",
        description="Port where nodes say whether they have endpoints. For LoadBalancer with policy Local.",
    )
    allocates_node_ports: bool | None = Field(
        None,
        alias="allocateLoadBalancerNodePorts",
        description="Whether a LoadBalancer has node ports too; it has without it.",
    )
    traffic_distribution: Annotated[Literal["PreferSameNode"], BeforeValidator(_no_zones)] | None = Field(
        None,
        alias="trafficDistribution",
        description="`PreferSameNode`: clients get an endpoint of their own node while it has a ready one.",
    )


class ServiceSettings(ServiceFields):
    """A Service, apart from its name."""

    namespace: Label = Field("default", description="Its namespace.")
    labels: dict[LabelKey, LabelValue] = Field({}, description="Its labels.")
    ports: Annotated[
        list[ServicePortSpec],
        BeforeValidator(numbers_or("port"), json_schema_input_type=list[ServicePortSpec | Port]),
    ] = Field([], description="Its ports: numbers or mappings. A headless Service may have none.")


class ServiceSpec(ServiceSettings):
    """A stable address in front of pods: Kubernetes' Service."""

    name: ServiceName = Field(description="Its name, which is a DNS name in its namespace.")
