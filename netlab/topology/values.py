"""Services and containers as a file has them become the model's values, with every default filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netlab.topology import pod, service
from netlab.topology.addresses import Address
from netlab.topology.pod_schema import ContainerPortSpec, EnvSpec, HostAliasSpec, ProbeSpec
from netlab.topology.service_schema import ServiceFields

DUAL_STACK = frozenset({"PreferDualStack", "RequireDualStack"})
HEADLESS = "None"


def labels(spec: Mapping[str, str]) -> service.Labels:
    """Return labels as the model has them, in the order of the file."""
    return tuple(spec.items())


def service_value(spec: ServiceFields, name: str, *, namespace: str, own_labels: Mapping[str, str]) -> service.Service:
    """Return the Service that a `spec` declares."""
    timeout = 0
    if spec.session_affinity == "ClientIP":
        client_ip = spec.affinity_config.client_ip if spec.affinity_config is not None else None
        timeout = service.AFFINITY_DEFAULT if client_ip is None else client_ip.timeout
    return service.Service(
        name=name,
        namespace=namespace,
        labels=labels(own_labels),
        type=service.ServiceType(spec.type),
        headless=HEADLESS in (spec.cluster_ip, *spec.cluster_ips),
        selector=labels(spec.selector) or None,
        ports=tuple(
            service.Port(
                port=port.port,
                name=port.name or "",
                protocol=service.Protocol(port.protocol),
                target=port.target_port or "",
                node_port=port.node_port or 0,
            )
            for port in spec.ports
        ),
        cluster_ips=cluster_ips(spec),
        ip_families=tuple(int(family.removeprefix("IPv")) for family in spec.ip_families),
        dual_stack=spec.ip_family_policy in DUAL_STACK,
        external_name=(spec.external_name or "").removesuffix("."),
        external_ips=tuple(spec.external_ips),
        load_balancer_ip=spec.load_balancer_ip,
        source_ranges=tuple(spec.source_ranges),
        affinity=timeout,
        external_policy=service.Policy(spec.external_policy or "Cluster"),
        internal_policy=service.Policy(spec.internal_policy or "Cluster"),
        publish_not_ready=spec.publish_not_ready,
        health_check_node_port=spec.health_check_node_port or 0,
        allocates_node_ports=spec.allocates_node_ports is not False,
        prefers_same_node=spec.traffic_distribution == "PreferSameNode",
    )


def cluster_ips(spec: ServiceFields) -> tuple[Address, ...]:
    """Return the addresses that a Service asks for."""
    asked: list[Address | str | None] = [*spec.cluster_ips] or [spec.cluster_ip]
    return tuple(address for address in asked if address is not None and not isinstance(address, str))


def env(specs: Iterable[EnvSpec]) -> tuple[pod.EnvVar, ...]:
    """Return a container's environment."""
    return tuple(
        pod.EnvVar(spec.name, spec.value, spec.value_from.field_ref.field_path if spec.value_from is not None else "")
        for spec in specs
    )


def container_ports(specs: Iterable[ContainerPortSpec]) -> tuple[pod.ContainerPort, ...]:
    """Return the ports that a container serves."""
    return tuple(pod.ContainerPort(spec.port, spec.name or "", service.Protocol(spec.protocol)) for spec in specs)


def host_aliases(specs: Iterable[HostAliasSpec]) -> tuple[pod.HostAlias, ...]:
    """Return the lines of a pod's /etc/hosts."""
    return tuple(pod.HostAlias(spec.ip, tuple(spec.hostnames)) for spec in specs)


def probe(spec: ProbeSpec | None) -> pod.Probe | None:
    """Return a probe. A time or threshold of 0 stands for the default, as in Kubernetes."""
    if spec is None:
        return None
    http = None
    if spec.http_get is not None:
        headers = tuple((header.name, header.value) for header in spec.http_get.headers)
        http = pod.HttpGet(spec.http_get.port, spec.http_get.path or "/", spec.http_get.host, headers)
    return pod.Probe(
        command=tuple(spec.exec.command) if spec.exec is not None else (),
        tcp_port=spec.tcp_socket.port if spec.tcp_socket is not None else "",
        http=http,
        initial_delay=spec.initial_delay,
        period=spec.period or 10,
        timeout=spec.timeout or 1,
        success_threshold=spec.success_threshold or 1,
        failure_threshold=spec.failure_threshold or 3,
    )
