"""What a lab's cluster is to be: its topology, what was applied, what Services were given, who is behind them.

Everything that changes says which Services it touches; whoever carries them out takes these with `take_dirty`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from netlab import names
from netlab.control.objects import Journal
from netlab.controllers.allocate import NOTHING, Allocation, Allocator
from netlab.controllers.backends import Backend, dns_service, service_ports
from netlab.controllers.endpoints import Endpoints
from netlab.controllers.state import Key, PodState
from netlab.dns.records import Service as Record
from netlab.errors import PlanError
from netlab.folder import LabFolder
from netlab.kernel import netns
from netlab.proxy.proxier import NodeTarget, Options
from netlab.service.model import ProxyNode, ServicePort
from netlab.store.store import Lease, Snapshot
from netlab.topology.addresses import Address, Network
from netlab.topology.model import Node, NodePortAddresses, Proxy, Topology
from netlab.topology.service import EndpointSlice, Service

ANYWHERE: Mapping[int, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


class Registry:
    """The objects of one lab's cluster."""

    def __init__(self, folder: LabFolder) -> None:
        self._folder = folder
        self.journal = Journal(folder.path / "objects.jsonl")
        self.topology, self.snapshot = self._read()
        self.allocator = Allocator(self.topology.service_cidrs, self.topology.load_balancer_cidrs)
        self.services: dict[Key, Service] = {}
        self.namespaces: dict[str, int] = {}  # as they were at the last reload
        self._endpoints = Endpoints()
        self._dirty: set[Key] = set()

    # --- what is declared --------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Take in the topology that is recorded. Raises PlanError where a Service cannot have what it asks for."""
        cidrs = self.topology.service_cidrs, self.topology.load_balancer_cidrs
        self.read_pods()
        self.namespaces = self.find_namespaces()
        declared = {**self.journal.services, **{service.key: service for service in self.topology.services}}
        for key in self.services.keys() - declared.keys():
            self.forget_service(key)
        if cidrs != (self.topology.service_cidrs, self.topology.load_balancer_cidrs):
            self.allocator = Allocator(self.topology.service_cidrs, self.topology.load_balancer_cidrs)
            self.services.clear()
        self._take_services(declared)
        for written in (*self.topology.slices, *self.journal.slices.values()):
            self.set_slice(written)

    def read_pods(self) -> None:
        """Take in the pods that are recorded."""
        self.topology, self.snapshot = self._read()

    def find_namespaces(self) -> dict[str, int]:
        """Return the identity of each machine's and router's namespace as it is now, 0 where there is none."""
        members = (*(node.name for node in self.topology.nodes), *(router.name for router in self.topology.routers))
        return {member: _inode(names.netns(self.topology.name, member)) for member in members}

    def _read(self) -> tuple[Topology, Snapshot]:
        return self._folder.read_record().topology, self._folder.store.read()

    def _take_services(self, declared: Mapping[Key, Service]) -> None:
        """Take in Services that are new or have changed."""
        fresh = [service for key, service in declared.items() if key not in self.services]
        self.allocator.add(fresh, self.journal.allocations)
        for service in fresh:
            self._know(service)
        for key, service in declared.items():
            if self.services[key] != service:
                self.set_service(service)

    def set_service(self, service: Service) -> Allocation:
        """Take a new or changed Service and return what it has. Raises PlanError; then nothing has changed."""
        allocation = self.allocator.update(service)
        self._know(service)
        return allocation

    def set_services(self, services: Iterable[Service]) -> None:
        """Take new or changed Services, all or none. Raises PlanError; then everything is what it was."""
        done: list[tuple[Key, Service | None, Allocation]] = []
        try:
            for service in services:
                before = self.services.get(service.key), self.allocation(service.key)
                if before[0] != service:
                    self.set_service(service)
                    done.append((service.key, *before))
        except PlanError:
            for key, value, allocation in reversed(done):  # so each finds free what it had
                self._put_back(key, value, allocation)
            raise

    def _put_back(self, key: Key, service: Service | None, allocation: Allocation) -> None:
        if service is None:
            self.forget_service(key)
        else:
            self.allocator.reinstate(service, allocation)
            self._know(service)

    def _know(self, service: Service) -> None:
        allocation = self.allocator.allocations[service.key]
        if self.journal.allocations.get(service.key) != allocation:
            self.journal.put(service.key, allocation)
        self.services[service.key] = service
        self._endpoints.set_service(service)
        self._dirty.add(service.key)

    def forget_service(self, key: Key) -> None:
        """Take a Service away."""
        self.services.pop(key, None)
        self.allocator.remove(key)
        self.journal.delete(Allocation, key)
        self._endpoints.remove_service(key)
        self._dirty.add(key)

    def set_slice(self, written: EndpointSlice) -> None:
        """Take a new or changed EndpointSlice."""
        self._dirty |= self._endpoints.set_slice(written)

    def forget_slice(self, key: Key) -> None:
        """Take an EndpointSlice away."""
        self._dirty |= self._endpoints.remove_slice(key)

    def set_pods(self, pods: Iterable[PodState]) -> None:
        """Take all pods as they are."""
        self._dirty |= self._endpoints.sync(pods)

    def take_dirty(self) -> set[Key]:
        """Return the Services that may be others than when this was asked last."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    # --- what follows from it ----------------------------------------------------------------------------------------

    def allocation(self, key: Key) -> Allocation:
        """Return what a Service has; nothing for one that is not there."""
        return self.allocator.allocations.get(key, NOTHING)

    def backends(self, key: Key) -> tuple[Backend, ...]:
        """Return what is behind a Service."""
        return self._endpoints.of(key)

    def ports(self, key: Key) -> tuple[ServicePort, ...]:
        """Return a Service for proxiers; nothing for one that is not there."""
        service = self.services.get(key)
        return service_ports(service, self.allocation(key), self.backends(key)) if service else ()

    def namespace_names(self) -> set[str]:
        """Return the Kubernetes namespaces that were applied, or have a pod, Service or workload."""
        journal = self.journal
        of_workloads = (workload.namespace for workload in journal.workloads.values())
        of_pods = (pod.namespace for pod in self.topology.pods)
        return {
            *(name for (name,) in journal.namespaces),
            *(name for name, _ in self.services),
            *of_workloads,
            *of_pods,
        }

    def record(self, key: Key) -> Record:
        """Return a Service for DNS."""
        return dns_service(self.services[key], self.allocation(key), self.backends(key))

    def pod_addresses(self) -> dict[str, tuple[Address, ...]]:
        """Return every pod's addresses: with hostNetwork its node's."""
        pods, leases = self.snapshot.pods, self.snapshot.leases
        return {
            pod.name: leases[pod.node].public_ips if pod.host_network else pods.get(pod.name, ())
            for pod in self.topology.pods
        }

    def targets(self) -> dict[str, tuple[NodeTarget, Proxy]]:
        """Return what proxiers work for, by the nodes' names, and in which mode."""
        modes = {node: node.proxy or self.topology.proxy for node in self.topology.cluster_nodes}
        return {node.name: (self._target(node, mode), mode) for node, mode in modes.items() if mode is not Proxy.NONE}

    def _target(self, node: Node, mode: Proxy) -> NodeTarget:
        """Return what a node's proxier works for: its addresses in each IP version of the pod network."""
        lease, own, chosen = self.snapshot.leases[node.name], self._addresses(node, mode), self.topology.kube_proxy
        masquerades = chosen.nftables_masquerade_all if mode is Proxy.NFTABLES else chosen.masquerade_all
        nodes = tuple(
            ProxyNode(
                node.name,
                tuple(ip for ip in own if ip.version == cidr.version),
                local=cidr,
                masquerade_all=masquerades,
                node_port_addresses=_listening(chosen.node_port_addresses, lease, cidr.version),
            )
            for cidr in self.topology.cluster_cidrs
            if lease.public_ip(cidr.version)
        )
        options = Options(
            service_cidrs=self.topology.service_cidrs,
            localhost_node_ports=chosen.localhost_node_ports,
            tcp_be_liberal=chosen.tcp_be_liberal,
            scheduler=self.topology.ipvs.scheduler,
            strict_arp=self.topology.ipvs.strict_arp,
        )
        namespace, inode = names.netns(self.topology.name, node.name), self.namespaces[node.name]
        return NodeTarget(namespace, node.name, nodes, options, inode)

    def _addresses(self, node: Node, mode: Proxy) -> tuple[Address, ...]:
        """Return a node's addresses as far as its proxier asks for them: with ipvs NodePorts are at each of them."""
        if mode is not Proxy.IPVS and not self.topology.kube_proxy.node_port_addresses.networks:
            return self.snapshot.leases[node.name].public_ips
        from netlab.plan.build import node_addresses  # without it a control plane starts sooner

        return node_addresses(self.topology, self.snapshot, node)


def _listening(chosen: NodePortAddresses, lease: Lease, version: int) -> tuple[Network, ...]:
    """Return the networks of a node's addresses with NodePorts, none for the mode's default.

    Networks of the other IP version alone leave all addresses of this one, as in kube-proxy.
    """
    own = lease.public_ip(version)
    if chosen.primary and own:
        return (ip_network(own),)
    of_version = tuple(network for network in chosen.networks if network.version == version)
    return of_version or ((ANYWHERE[version],) if chosen.networks else ())


def _inode(namespace: str) -> int:
    try:
        return netns.inode(namespace)
    except FileNotFoundError:
        return 0
