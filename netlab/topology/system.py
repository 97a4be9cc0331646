"""What every cluster has without being asked: the Services `kubernetes` and `kube-dns`, and cluster DNS's pod. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count

from netlab.topology.addresses import Address, Network
from netlab.topology.model import Proxy, Topology
from netlab.topology.pod import SYSTEM, Container, ContainerPort, Pod
from netlab.topology.service import DEFAULT_NAMESPACE, Port, Protocol, Service

NAMESPACE = "kube-system"
DNS_POD = "coredns"
DNS_LABELS = (("k8s-app", "kube-dns"),)
API_SERVER, DNS_SERVER = 1, 10  # which addresses of serviceCIDR they have (facts.md 7.3)
SERVICES = {(DEFAULT_NAMESPACE, "kubernetes"): API_SERVER, (NAMESPACE, "kube-dns"): DNS_SERVER}


def with_system(topology: Topology) -> Topology:
    """Return the topology with what every cluster has; as it is where it wants no Services."""
    nodes = topology.cluster_nodes
    if topology.proxy is Proxy.NONE or not nodes or any(pod.owner == SYSTEM for pod in topology.pods):
        return topology
    ours = tuple(service for service in services(topology.service_cidrs) if not _has(topology, service))
    pod = dns_pod(_free_name(topology), nodes[0].name)
    return replace(topology, pods=(*topology.pods, pod), services=(*ours, *topology.services))


def _free_name(topology: Topology) -> str:
    taken = set(topology.members())
    names = (f"{DNS_POD}-{number}" for number in count(1))
    return next(name for name in chain((DNS_POD,), names) if name not in taken)


def _has(topology: Topology, service: Service) -> bool:
    return any(other.key == service.key for other in topology.services)


def dns_addresses(service_cidrs: tuple[Network, ...]) -> tuple[Address, ...]:
    """Return the addresses of cluster DNS, one for each IP version."""
    return tuple(cidr[DNS_SERVER] for cidr in service_cidrs)


def dns_pod(name: str, node: str) -> Pod:
    """Return the pod that answers, on a node."""
    ports = (
        ContainerPort(53, "dns", Protocol.UDP),
        ContainerPort(53, "dns-tcp", Protocol.TCP),
    )
    server = Container(DNS_POD, ("netlab-dns", "$(NETLAB_RUNTIME)/zone.json"), ports=ports)
    return Pod(name, node, DNS_LABELS, (server,), namespace=NAMESPACE, owner=SYSTEM)


def services(service_cidrs: tuple[Network, ...]) -> tuple[Service, ...]:
    """Return both Services. Nobody is behind `kubernetes`: a lab has no API server."""
    families = tuple(cidr.version for cidr in service_cidrs)
    dns_ports = (Port(53, "dns", Protocol.UDP), Port(53, "dns-tcp", Protocol.TCP))
    return (
        Service(
            "kubernetes",
            ports=(Port(443, "https", target="6443"),),
            cluster_ips=(service_cidrs[0][API_SERVER],),
            ip_families=families[:1],
            selector=None,
        ),
        Service(
            "kube-dns",
            NAMESPACE,
            labels=DNS_LABELS,
            selector=DNS_LABELS,
            ports=dns_ports,
            cluster_ips=dns_addresses(service_cidrs),
            ip_families=families,
            dual_stack=len(families) > 1,
        ),
    )


def keep_owned_pods(topology: Topology, running: Topology) -> Topology:
    """Return a topology with those pods of a running lab that no topology file names: workloads' and `apply`'s.

    A pod whose node has gone goes with it; its controller makes another.
    """
    nodes = {node.name for node in topology.cluster_nodes}
    named = {pod.name for pod in topology.pods}
    owned = (pod for pod in running.pods if pod.owner not in ("", SYSTEM))
    kept = tuple(pod for pod in owned if pod.node in nodes and pod.name not in named)
    return replace(topology, pods=(*topology.pods, *kept)) if kept else topology
