"""What is behind a Service, and what proxiers and DNS make of it. Pure: one Service at a time.

A backend is a pod that the selector finds, or an endpoint of an EndpointSlice that somebody wrote (facts.md 8.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from netlab.controllers.allocate import Allocation
from netlab.controllers.state import PodState
from netlab.dns import records as dns
from netlab.service.model import Endpoint, ServicePort
from netlab.topology.addresses import Address, Network
from netlab.topology.pod import Pod
from netlab.topology.service import EndpointSlice, Port, Service, ServiceType, SliceEndpoint, SlicePort


class Backend(NamedTuple):
    """An endpoint with its own numbers of the Service's ports: those of them that it has."""

    endpoint: SliceEndpoint
    ports: tuple[SlicePort, ...]


def pod_backend(service: Service, state: PodState) -> Backend | None:
    """Return a selected pod as the Service sees it; None while it has no address."""
    if not state.addresses:
        return None
    named = state.pod.hostname if state.pod.subdomain == service.name else ""
    ready = service.publish_not_ready or (state.ready and not state.terminating)
    node = state.pod.node
    hints = (node,) if service.prefers_same_node and ready else ()  # as the EndpointSlice controller has it
    endpoint = SliceEndpoint(state.addresses, named, node, ready, state.ready, state.terminating, hints)
    numbers = ((port, target_port(port, state.pod)) for port in service.ports)
    return Backend(endpoint, tuple(SlicePort(number, port.name, port.protocol) for port, number in numbers if number))


def slice_backends(written: EndpointSlice) -> Iterator[Backend]:
    """Yield the endpoints of an EndpointSlice."""
    return (Backend(endpoint, written.ports) for endpoint in written.endpoints)


def target_port(port: Port, pod: Pod) -> int:
    """Return the number that a Service's port has on a pod: 0 if it names a port that the pod does not have."""
    if not port.target:
        return port.port
    if port.target.isascii() and port.target.isdecimal():
        return int(port.target)
    served = (found for container in pod.containers for found in container.ports)
    return next((p.port for p in served if p.name == port.target and p.protocol is port.protocol), 0)


def in_order(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Return backends by their addresses, each once."""
    return tuple(sorted(dict.fromkeys(backends), key=_place))


def service_ports(service: Service, allocation: Allocation, backends: Sequence[Backend]) -> tuple[ServicePort, ...]:
    """Return what proxiers work on: one for each cluster IP and port, none without a cluster IP."""
    return tuple(
        _service_port(service, allocation, cluster_ip, index, backends)
        for cluster_ip in (allocation.cluster_ips if service.has_cluster_ip else ())
        for index in range(len(service.ports))
    )


def _service_port(
    service: Service, allocation: Allocation, cluster_ip: Address, index: int, backends: Sequence[Backend]
) -> ServicePort:
    port, version = service.ports[index], cluster_ip.version
    node_port = allocation.node_ports[index] if index < len(allocation.node_ports) else 0
    return ServicePort(
        namespace=service.namespace,
        name=service.name,
        port_name=port.name,
        protocol=port.protocol,
        cluster_ip=cluster_ip,
        port=port.port,
        node_port=node_port,
        external_ips=_of(version, service.external_ips),
        load_balancer_ips=_of(version, allocation.load_balancer_ips),
        source_ranges=_networks_of(version, service.source_ranges),
        affinity=service.affinity,
        external_policy=service.external_policy,
        internal_policy=service.internal_policy,
        health_check_node_port=allocation.health_check_node_port,
        endpoints=tuple(
            sorted(_endpoints(port, version, backends), key=lambda found: (int(found.address), found.port))
        ),
    )


def _endpoints(port: Port, version: int, backends: Sequence[Backend]) -> Iterator[Endpoint]:
    """Yield the first address of each backend in this IP version: proxiers look at no other."""
    for endpoint, numbers in backends:
        address = next((found for found in endpoint.addresses if found.version == version), None)
        number = next((n.port for n in numbers if (n.name, n.protocol) == (port.name, port.protocol)), 0)
        if address and number:
            yield Endpoint(
                address,
                number,
                endpoint.node,
                endpoint.ready,
                endpoint.serving,
                endpoint.terminating,
                endpoint.node_hints,
            )


def dns_service(service: Service, allocation: Allocation, backends: Sequence[Backend]) -> dns.Service:
    """Return a Service as DNS sees it. Pods' addresses count in the Service's IP versions only."""
    kind = dns.Kind.HEADLESS if service.headless else dns.Kind.CLUSTER_IP
    if service.type is ServiceType.EXTERNAL_NAME:
        kind = dns.Kind.EXTERNAL_NAME
    return dns.Service(
        namespace=service.namespace,
        name=service.name,
        kind=kind,
        cluster_ips=allocation.cluster_ips if service.has_cluster_ip else (),
        external_name=service.external_name,
        ports=tuple(dns.Port(port.name, port.protocol, port.port) for port in service.ports),
        endpoints=tuple(_dns_endpoints(service, allocation.ip_families, backends)),
    )


def _dns_endpoints(service: Service, families: tuple[int, ...], backends: Sequence[Backend]) -> Iterator[dns.Endpoint]:
    for endpoint, numbers in backends:
        found = tuple(a for a in endpoint.addresses if not service.selector or a.version in families)
        ports = tuple(dns.Port(port.name, port.protocol, port.port) for port in numbers)
        if found:
            yield dns.Endpoint(found, endpoint.hostname, endpoint.ready, ports)


def _of(version: int, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    return tuple(address for address in addresses if address.version == version)


def _networks_of(version: int, networks: tuple[Network, ...]) -> tuple[Network, ...]:
    return tuple(network for network in networks if network.version == version)


def _place(backend: Backend) -> tuple[object, ...]:
    endpoint, ports = backend
    addresses = tuple((address.version, int(address)) for address in endpoint.addresses)
    return addresses, tuple((p.port, p.name, p.protocol) for p in ports), endpoint.hostname, endpoint.node
