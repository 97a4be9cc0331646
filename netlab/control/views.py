"""What `netlab get` shows of each kind of object, in kubectl's columns, and how far a rollout is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from netlab.control.plane import Plane
from netlab.control.resources import WORKLOADS, Resource
from netlab.control.zone import ALWAYS
from netlab.controllers.backends import Backend, in_order, slice_backends
from netlab.controllers.revision import revision_of
from netlab.controllers.state import Key, PodState
from netlab.service.known import Known
from netlab.topology.pod import Pod, Workload, WorkloadKind
from netlab.topology.service import Service, ServiceType

SHOWN = 3  # endpoints in a line, as kubectl has it

Item = dict[str, Any]


def items(plane: Plane, kind: Resource) -> list[Item]:
    """Return every object of a kind by namespace and name."""
    found = list(_OF_KIND[kind](plane))
    return sorted(found, key=lambda item: (item.get("namespace", ""), item["name"]))


def _services(plane: Plane) -> Iterator[Item]:
    for key, service in plane.registry.services.items():
        given = plane.registry.allocation(key)
        outside = [*map(str, service.external_ips), *map(str, given.load_balancer_ips)]
        if service.type is ServiceType.EXTERNAL_NAME:
            outside = [service.external_name]
        pending = "<pending>" if service.type is ServiceType.LOAD_BALANCER else "<none>"
        inside = "None" if service.headless else ",".join(map(str, given.cluster_ips)) or "<none>"
        yield {
            "namespace": service.namespace,
            "name": service.name,
            "type": service.type,
            "cluster-ip": inside,
            "external-ip": ",".join(outside) or pending,
            "ports": _ports(service, given.node_ports),
            "selector": dict(service.selector or ()),
            "health-check-node-port": given.health_check_node_port,
        }


def known(plane: Plane, key: Key) -> Known:
    """Return what there is to know of a Service; only the names of all where it does not exist."""
    registry = plane.registry
    ready = [text for backend in registry.backends(key) if backend.endpoint.ready for text in _places(backend)]
    ports = tuple(replace(port, endpoints=()) for port in registry.ports(key))
    return Known(registry.services.get(key), ports, tuple(ready), tuple(registry.services))


def _ports(service: Service, node_ports: tuple[int, ...]) -> str:
    numbers = [*node_ports, *([0] * len(service.ports))]
    shown = (
        f"{port.port}{f':{number}' if number else ''}/{port.protocol}"
        for port, number in zip(service.ports, numbers, strict=False)
    )
    return ",".join(shown) or "<none>"


def _endpoints(plane: Plane) -> Iterator[Item]:
    for key, service in plane.registry.services.items():
        if service.type is ServiceType.EXTERNAL_NAME:
            continue
        backends = plane.registry.backends(key)
        ready = [text for backend in backends if backend.endpoint.ready for text in _places(backend)]
        more = f" + {len(ready) - SHOWN} more..." if len(ready) > SHOWN else ""
        yield {
            "namespace": service.namespace,
            "name": service.name,
            "endpoints": ",".join(ready[:SHOWN]) + more or "<none>",
            "subsets": [_subset(backend) for backend in backends],
        }


def _subset(backend: Backend) -> Item:
    endpoint = backend.endpoint
    return {
        "addresses": [str(address) for address in endpoint.addresses],
        "ports": [f"{port.port}/{port.protocol}" for port in backend.ports],
        "node": endpoint.node,
        "ready": endpoint.ready,
        "serving": endpoint.serving,
        "terminating": endpoint.terminating,
    }


def _places(backend: Backend) -> list[str]:
    addresses = [f"[{address}]" if address.version == 6 else str(address) for address in backend.endpoint.addresses]
    if not backend.ports:
        return addresses
    return [f"{address}:{port.port}" for address in addresses for port in backend.ports]


def _slices(plane: Plane) -> Iterator[Item]:
    """Yield one for each Service with a selector, under its name, and those that somebody wrote."""
    for key, service in plane.registry.services.items():
        if service.selector and service.type is not ServiceType.EXTERNAL_NAME:
            yield _slice(service.namespace, service.name, service.name, plane.registry.backends(key))
    for written in (*plane.registry.topology.slices, *plane.registry.journal.slices.values()):
        yield _slice(written.namespace, written.name, written.service, in_order(slice_backends(written)))


def _slice(namespace: str, name: str, service: str, backends: Sequence[Backend]) -> Item:
    ports = dict.fromkeys(str(port.port) for backend in backends for port in backend.ports)
    addresses = [str(address) for backend in backends for address in backend.endpoint.addresses]
    return {
        "namespace": namespace,
        "name": name,
        "service": service,
        "ports": ",".join(ports) or "<unset>",
        "endpoints": ",".join(addresses) or "<unset>",
    }


def _pods(plane: Plane) -> Iterator[Item]:
    for state in plane.kubelet.pods():
        pod = state.pod
        ready = sum(plane.kubelet.is_ready(pod, container) for container in pod.containers)
        yield {
            "namespace": pod.namespace,
            "name": pod.name,
            "ready": f"{ready}/{len(pod.containers)}",
            "status": _pod_status(plane, state),
            "restarts": _restarts(plane, pod),
            "ip": ",".join(map(str, state.addresses)) or "<none>",
            "node": pod.node,
            "labels": dict(pod.labels),
            "owner": pod.owner,
        }
    for pod in plane.changes.making():
        yield {
            "namespace": pod.namespace,
            "name": pod.name,
            "ready": f"0/{len(pod.containers)}",
            "status": "ContainerCreating",
            "restarts": 0,
            "ip": "<none>",
            "node": pod.node,
            "labels": dict(pod.labels),
            "owner": pod.owner,
        }


def _pod_status(plane: Plane, state: PodState) -> str:
    if state.terminating:
        return "Terminating"
    for container in state.pod.containers:
        status = plane.kubelet.status(state.pod.name, container.name)
        if status is None:
            return "ContainerCreating"
        if status.phase == "waiting":
            return "CrashLoopBackOff"
        if status.phase == "ended":
            return "Completed" if status.exit_status == 0 else "Error"
    return "Running"


def _restarts(plane: Plane, pod: Pod) -> int:
    found = (plane.kubelet.status(pod.name, container.name) for container in pod.containers)
    return sum(status.restarts for status in found if status)


def _workloads(kind: WorkloadKind) -> Callable[[Plane], Iterator[Item]]:
    def found(plane: Plane) -> Iterator[Item]:
        for workload in plane.registry.journal.workloads.values():
            if workload.kind is kind:
                yield _workload(plane, workload)

    return found


def _workload(plane: Plane, workload: Workload) -> Item:
    states = [state for state in plane.kubelet.pods() if state.pod.owner == workload.owner and not state.terminating]
    wanted = (
        len(plane.registry.topology.cluster_nodes) if workload.kind is WorkloadKind.DAEMON_SET else workload.replicas
    )
    ready = sum(state.ready for state in states)
    now = time.monotonic()
    return {
        "namespace": workload.namespace,
        "name": workload.name,
        "ready": str(ready) if workload.kind is WorkloadKind.DAEMON_SET else f"{ready}/{wanted}",
        "desired": wanted,
        "current": len(states),
        "up-to-date": sum(state.pod.revision == revision_of(workload.template) for state in states),
        "available": sum(state.unavailable_for(workload.min_ready, now) == 0 for state in states),
    }


def rollout(plane: Plane, workload: Workload) -> tuple[bool, str]:
    """Say whether all pods of a workload are new and available and none is on its way out; and in words."""
    item = _workload(plane, workload)
    wanted, new, available = item["desired"], item["up-to-date"], item["available"]
    leaving = sum(state.pod.owner == workload.owner and state.terminating for state in plane.kubelet.pods())
    done = new == available == item["current"] == wanted and not leaving
    if done:
        return True, "successfully rolled out"
    ending = f", {leaving} ending" if leaving else ""
    return False, f"{new} of {wanted} pods are new, {available} available{ending}"


def _nodes(plane: Plane) -> Iterator[Item]:
    failures = plane.proxies.failures()
    for node in plane.registry.topology.cluster_nodes:
        lease = plane.registry.snapshot.leases[node.name]
        yield {
            "name": node.name,
            "status": "Ready" if node.name not in failures else "ProxyFailed",
            "proxy": node.proxy or plane.registry.topology.proxy,
            "internal-ip": ",".join(map(str, lease.public_ips)),
            "pod-cidr": ",".join(map(str, lease.pod_cidrs)),
            "failure": failures.get(node.name, ""),
        }


def _namespaces(plane: Plane) -> Iterator[Item]:
    return ({"name": name, "status": "Active"} for name in {*ALWAYS, *plane.registry.namespace_names()})


_OF_KIND: dict[Resource, Callable[[Plane], Iterator[Item]]] = {
    Resource.SERVICES: _services,
    Resource.ENDPOINTS: _endpoints,
    Resource.ENDPOINT_SLICES: _slices,
    Resource.PODS: _pods,
    Resource.NODES: _nodes,
    Resource.NAMESPACES: _namespaces,
    **{kind: _workloads(workload) for kind, workload in WORKLOADS.items()},
}
