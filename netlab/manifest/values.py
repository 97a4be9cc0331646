"""Objects as a manifest has them become the model's values, with every default filled in."""

from __future__ import annotations

from netlab.manifest.schema import (
    HOSTNAME_LABEL,
    Container,
    NamespaceObject,
    PodBody,
    PodObject,
    ServiceObject,
    SliceObject,
    Template,
)
from netlab.manifest.workload_schema import AnyObject, DaemonSet, Deployment, StatefulSet
from netlab.topology import pod, service
from netlab.topology.pod import DnsPolicy, Pod, PodTemplate, Strategy, Workload, WorkloadKind
from netlab.topology.values import container_ports, env, host_aliases, labels, probe, service_value

SERVICE_LABEL = "kubernetes.io/service-name"
MANIFEST = "manifest"  # the owner of a pod that somebody applied
Value = service.Namespace | service.Service | Workload | Pod | service.EndpointSlice


def value_of(spec: AnyObject) -> Value:
    """Return what an object declares."""
    match spec:
        case NamespaceObject():
            return service.Namespace(spec.metadata.name)
        case ServiceObject():
            meta = spec.metadata
            return service_value(spec.spec, meta.name, namespace=meta.namespace, own_labels=meta.labels)
        case PodObject():
            return _pod(spec)
        case Deployment():
            return _deployment(spec)
        case StatefulSet():
            return _stateful_set(spec)
        case DaemonSet():
            return _daemon_set(spec)
        case SliceObject():
            return _slice(spec)


def node_of(body: PodBody) -> str:
    """Return the node that a pod asks for; empty when the scheduler chooses."""
    return body.node_name or body.node_selector.get(HOSTNAME_LABEL, "")


def _pod(spec: PodObject) -> Pod:
    body, meta = spec.spec, spec.metadata
    return Pod(
        name=meta.name,
        node=node_of(body),
        labels=labels(meta.labels),
        containers=_containers(body),
        host_network=body.host_network,
        host_aliases=host_aliases(body.host_aliases),
        namespace=meta.namespace,
        hostname=body.hostname or "",
        subdomain=body.subdomain or "",
        grace=body.grace,
        owner=MANIFEST,
        dns_policy=_dns_policy(body),
    )


def _template(spec: Template, *, subdomain: str = "") -> PodTemplate:
    body = spec.spec
    return PodTemplate(
        labels=labels(spec.metadata.labels),
        containers=_containers(body),
        host_network=body.host_network,
        host_aliases=host_aliases(body.host_aliases),
        hostname=body.hostname or "",
        subdomain=subdomain or body.subdomain or "",
        node=node_of(body),
        grace=body.grace,
        dns_policy=_dns_policy(body),
    )


def _dns_policy(body: PodBody) -> DnsPolicy:
    """Return whose resolv.conf a pod has. None would have dnsConfig's, which nobody reads, so it is as unsaid."""
    return DnsPolicy.CLUSTER_FIRST if body.dns_policy == "None" else DnsPolicy(body.dns_policy)


def _containers(body: PodBody) -> tuple[pod.Container, ...]:
    return tuple(_container(container, restart=body.restart_policy == "Always") for container in body.containers)


def _container(spec: Container, *, restart: bool) -> pod.Container:
    """Return a container. A variable whose source netlab does not have is left out."""
    known = [one for one in spec.env if one.value_from is None or one.value_from.field_ref is not None]
    return pod.Container(
        name=spec.name,
        command=(*spec.command, *spec.args) if spec.command else (),
        env=env(known),
        working_dir=spec.working_dir,
        restart=restart,
        ports=container_ports(spec.ports),
        readiness=probe(spec.readiness_probe),
        startup=probe(spec.startup_probe),
    )


def _deployment(spec: Deployment) -> Workload:
    body = spec.spec
    rolling = body.strategy.rolling
    return Workload(
        kind=WorkloadKind.DEPLOYMENT,
        name=spec.metadata.name,
        selector=labels(body.selector.match_labels),
        template=_template(body.template),
        namespace=spec.metadata.namespace,
        labels=labels(spec.metadata.labels),
        replicas=body.replicas,
        strategy=Strategy(body.strategy.type),
        max_surge=rolling.max_surge if rolling is not None else "25%",
        max_unavailable=rolling.max_unavailable if rolling is not None else "25%",
        min_ready=body.min_ready,
    )


def _stateful_set(spec: StatefulSet) -> Workload:
    body = spec.spec
    rolling = body.strategy.rolling
    return Workload(
        kind=WorkloadKind.STATEFUL_SET,
        name=spec.metadata.name,
        selector=labels(body.selector.match_labels),
        template=_template(body.template, subdomain=body.service or ""),
        namespace=spec.metadata.namespace,
        labels=labels(spec.metadata.labels),
        replicas=body.replicas,
        strategy=Strategy(body.strategy.type),
        max_surge="0",
        max_unavailable=rolling.max_unavailable if rolling is not None else "1",
        min_ready=body.min_ready,
        service=body.service or "",
        partition=rolling.partition if rolling is not None else 0,
        parallel=body.management == "Parallel",
    )


def _daemon_set(spec: DaemonSet) -> Workload:
    body = spec.spec
    rolling = body.strategy.rolling
    return Workload(
        kind=WorkloadKind.DAEMON_SET,
        name=spec.metadata.name,
        selector=labels(body.selector.match_labels),
        template=_template(body.template),
        namespace=spec.metadata.namespace,
        labels=labels(spec.metadata.labels),
        strategy=Strategy(body.strategy.type),
        max_surge=rolling.max_surge if rolling is not None else "0",
        max_unavailable=rolling.max_unavailable if rolling is not None else "1",
        min_ready=body.min_ready,
    )


def _slice(spec: SliceObject) -> service.EndpointSlice:
    """Return an EndpointSlice; absent conditions are filled in as facts.md 8.1 says."""
    endpoints = []
    for one in spec.endpoints:
        ready = one.conditions.ready is not False
        serving = ready if one.conditions.serving is None else one.conditions.serving
        terminating = one.conditions.terminating is True
        hints = tuple(hint.name for hint in one.hints.for_nodes)
        endpoints.append(
            service.SliceEndpoint(
                tuple(one.addresses), one.hostname or "", one.node_name or "", ready, serving, terminating, hints
            )
        )
    return service.EndpointSlice(
        name=spec.metadata.name,
        service=spec.metadata.labels.get(SERVICE_LABEL, ""),
        namespace=spec.metadata.namespace,
        endpoints=tuple(endpoints),
        ports=tuple(service.SlicePort(port.port, port.name, service.Protocol(port.protocol)) for port in spec.ports),
    )
