"""The control plane's loop: what is declared and what there is, again and again, become pods, rules and DNS records.

Level-triggered: whatever happens only wakes the loop, which then looks at everything that may have changed. Where to
look is bounded: a pod's change touches the Services that select it, and a Service's change its own ports.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from netlab import names
from netlab.control.balancer import Balancer, wanted_routes
from netlab.control.health import HealthChecks
from netlab.control.kubelet import Kubelet
from netlab.control.objects import Journal
from netlab.control.pods import PodChanges
from netlab.control.prober import Prober
from netlab.control.proxies import Proxies
from netlab.control.zone import Zone
from netlab.controllers.allocate import NOTHING, Allocation, Allocator
from netlab.controllers.backends import Backend, dns_service, service_ports
from netlab.controllers.endpoints import Endpoints
from netlab.controllers.state import Key, PodState
from netlab.controllers.workloads import step
from netlab.dns.records import Service as Record
from netlab.errors import NetlabError
from netlab.folder import LabFolder
from netlab.kernel.enter import Place
from netlab.lab import Lab
from netlab.proxy.proxier import NodeTarget, Options, PortKey
from netlab.service.model import ProxyNode, ServicePort
from netlab.store.store import Snapshot
from netlab.supervisor.spec import Files
from netlab.topology.addresses import Address
from netlab.topology.model import Node, Proxy, Topology
from netlab.topology.pod import SYSTEM, Pod
from netlab.topology.service import Policy, Service

SETTLE = 10.0  # seconds that `netlab up` waits for cluster DNS at most

Say = Callable[[str], None]


class Plane:
    """Everything that one lab's control plane knows. Made inside a running event loop."""

    def __init__(self, lab: str, say: Say) -> None:
        self._say = say
        self.folder = LabFolder(lab)
        files = Files(self.folder.runtime)
        self.journal = Journal(self.folder.path / "objects.jsonl")
        self.topology, self.snapshot = self._read()
        self.allocator = Allocator(self.topology.service_cidrs, self.topology.load_balancer_cidrs)
        self.endpoints = Endpoints()
        self._wake = asyncio.Event()
        self.kubelet = Kubelet(files, self.wake, Prober(lab, self._place, self.wake))
        self.changes = PodChanges(lab, self.wake, say)
        self.proxies = Proxies(say)
        self._zone = Zone(self.folder.runtime / "zone.json")
        self._health = HealthChecks(lab, lambda node: node in self.proxies.failures(), say)
        self._balancer = Balancer(lab, say)
        self._uses: dict[Key, list[tuple[Address, frozenset[str] | None]]] = {}
        self._services: dict[Key, Service] = {}
        self._ports: dict[Key, dict[PortKey, ServicePort]] = {}
        self._dirty: set[Key] = set()
        self._due: float | None = None
        self.turns = 0  # how often everything was looked at
        self.turned = asyncio.Condition()

    # --- what is declared --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the loop look at everything again."""
        self._wake.set()

    async def reload(self) -> None:
        """Take in the topology that `netlab up` has recorded, or the pods that were changed."""
        cidrs = self.topology.service_cidrs, self.topology.load_balancer_cidrs
        self.topology, self.snapshot = self._read()
        if cidrs != (self.topology.service_cidrs, self.topology.load_balancer_cidrs):
            self.allocator = Allocator(self.topology.service_cidrs, self.topology.load_balancer_cidrs)
            self._services.clear()
        self._take_services()
        self._take_slices()
        self._take_pods()
        await self.proxies.want(self._targets())
        self._health.want([node.name for node in self.topology.cluster_nodes])
        self._balance()
        self.wake()

    def _read(self) -> tuple[Topology, Snapshot]:
        record = self.folder.find_record()
        if record is None:
            raise NetlabError(f"the folder of lab {self.folder.lab} is lost", "`netlab up FILE` puts it back")
        return record.topology, self.folder.store.read()

    def _take_services(self) -> None:
        """Compare the declared Services with those that are known."""
        declared = {service.key: service for service in self.topology.services}
        declared |= {service.key: service for key, service in self.journal.services.items() if key not in declared}
        for key in [key for key in self._services if key not in declared]:
            self.forget_service(key)
        fresh = [service for key, service in declared.items() if key not in self._services]
        held = self.journal.allocations
        self.allocator.add(fresh, held)
        for service in fresh:
            self._know(service)
        for key, service in declared.items():
            if self._services[key] != service:
                self.set_service(service)

    def set_service(self, service: Service) -> Allocation:
        """Take a new or changed Service and return what it has. Raises PlanError; then nothing has changed."""
        allocation = self.allocator.update(service)
        self._know(service)
        return allocation

    def _know(self, service: Service) -> None:
        allocation = self.allocator.allocations[service.key]
        if self.journal.allocations.get(service.key) != allocation:
            self.journal.put(service.key, allocation)
        self._services[service.key] = service
        self.endpoints.set_service(service)
        self._dirty.add(service.key)

    def forget_service(self, key: Key) -> None:
        """Take a Service away."""
        self._services.pop(key, None)
        self.allocator.remove(key)
        self.journal.delete(Allocation, key)
        self.endpoints.remove_service(key)
        self._dirty.add(key)

    def _take_slices(self) -> None:
        for written in (*self.topology.slices, *self.journal.slices.values()):
            self._dirty |= self.endpoints.set_slice(written)

    def _take_pods(self) -> None:
        self.kubelet.want(self.topology.pods, {pod.name: self._addresses(pod.name) for pod in self.topology.pods})

    def _addresses(self, name: str) -> tuple[Address, ...]:
        pod = self.topology.find_pod(name)
        if pod is not None and pod.host_network:
            return self.snapshot.leases[pod.node].public_ips
        return self.snapshot.pods.get(name, ())

    def _targets(self) -> dict[str, tuple[NodeTarget, Proxy]]:
        return {
            node.name: (self._target(node), node.proxy or self.topology.proxy)
            for node in self.topology.cluster_nodes
            if (node.proxy or self.topology.proxy) is not Proxy.NONE
        }

    def _target(self, node: Node) -> NodeTarget:
        """Return what a node's proxier works for: an address of the node in each IP version of the pod network."""
        lease = self.snapshot.leases[node.name]
        local = {cidr.version: cidr for cidr in self.topology.cluster_cidrs}
        versions = [cidr.version for cidr in self.topology.cluster_cidrs if lease.public_ip(cidr.version)]
        nodes = tuple(
            ProxyNode(node.name, tuple(ip for ip in lease.public_ips if ip.version == version), local[version])
            for version in versions
        )
        options = Options(service_cidrs=self.topology.service_cidrs)
        return NodeTarget(names.netns(self.topology.name, node.name), node.name, nodes, options)

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at everything whenever something may have changed."""
        while True:
            timeout = None if self._due is None else max(0.0, self._due - time.monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout)
            self._wake.clear()
            try:
                await self._turn()
            except NetlabError as exc:
                self._say(str(exc))

    async def _turn(self) -> None:
        if self.changes.take_done():
            self.topology, self.snapshot = self._read()
            self._take_pods()
        pods = self.kubelet.pods()
        pods = self._keep_workloads(pods)
        self._dirty |= self.endpoints.sync(pods)
        self._publish(pods)
        async with self.turned:
            self.turns += 1
            self.turned.notify_all()

    def _keep_workloads(self, pods: list[PodState]) -> list[PodState]:
        """Have pods made and ended as the workloads want it, and return the pods as they are then."""
        nodes = [node.name for node in self.topology.cluster_nodes]
        now = time.monotonic()
        made = [PodState(pod) for pod in self.changes.making()]
        found = step(list(self.journal.workloads.values()), [*pods, *made], nodes, now)
        self._due = None if found.wait is None else now + found.wait
        for pod in found.create:
            self.changes.make(pod)
        for _, name in found.delete:
            self.end_pod(name)
        return self.kubelet.pods() if found.delete else pods

    def touch(self, keys: set[Key]) -> None:
        """Look at these Services again."""
        self._dirty |= keys
        self.wake()

    def make_pod(self, pod: Pod) -> None:
        """Have a pod made that no workload owns; without a node it goes where the fewest are."""
        load = Counter(found.node for found in (*self.topology.pods, *self.changes.making()))
        node = pod.node or min(self.topology.cluster_nodes, key=lambda found: load[found.name]).name
        self.changes.make(replace(pod, node=node))

    def end_pod(self, name: str) -> None:
        """Take a pod out of all Services, and end it when every node knows."""
        if name in self.kubelet.terminating:
            return
        self.kubelet.terminating.add(name)
        self.changes.end(name, self.settled)
        self.wake()

    def _publish(self, pods: Iterable[PodState]) -> None:
        """Tell proxiers, health checks and DNS of the Services that have changed."""
        dirty, self._dirty = self._dirty, set()
        changes: dict[PortKey, ServicePort | None] = {}
        for key in dirty:
            changes |= self._port_changes(key)
        if changes:
            self.proxies.change(changes)
        for key in dirty:
            self._uses.pop(key, None)
            if self.allocation(key).load_balancer_ips:
                self._uses[key] = self._balanced(key)
        if dirty:
            self._balance()
        for key in dirty:
            self._health.publish(key, self.allocation(key).health_check_node_port, self.backends(key))
        self._zone.publish(dirty, self._services, self._dns_record, (state.pod.namespace for state in pods))

    def _balance(self) -> None:
        """Have load balancer addresses lead to the nodes that take packets for them."""
        nodes = frozenset(node.name for node in self.topology.cluster_nodes)
        uses = {address: nodes if takes is None else takes for found in self._uses.values() for address, takes in found}
        self._balancer.want(wanted_routes(self.topology, self.snapshot, uses))

    def _balanced(self, key: Key) -> list[tuple[Address, frozenset[str] | None]]:
        """Return a Service's load balancer addresses, each with the nodes that take packets for it, None for any."""
        is_local = self._services[key].external_policy is Policy.LOCAL
        ready = frozenset(each.endpoint.node for each in self.backends(key) if each.endpoint.ready)
        return [(address, ready if is_local else None) for address in self.allocation(key).load_balancer_ips]

    def _port_changes(self, key: Key) -> dict[PortKey, ServicePort | None]:
        """Return which ports of a Service are others than before."""
        before = self._ports.pop(key, {})
        service = self._services.get(key)
        now: dict[PortKey, ServicePort] = {}
        if service:
            ports = service_ports(service, self.allocation(key), self.backends(key))
            now = self._ports[key] = {port.key: port for port in ports}
        gone: dict[PortKey, ServicePort | None] = dict.fromkeys(before.keys() - now.keys())
        return gone | {key: port for key, port in now.items() if before.get(key) != port}

    def _dns_record(self, key: Key) -> Record:
        return dns_service(self._services[key], self.allocation(key), self.backends(key))

    def allocation(self, key: Key) -> Allocation:
        """Return what a Service has; nothing for one that is not there."""
        return self.allocator.allocations.get(key, NOTHING)

    def backends(self, key: Key) -> tuple[Backend, ...]:
        """Return what is behind a Service."""
        return self.endpoints.of(key)

    @property
    def services(self) -> dict[Key, Service]:
        """Return every Service by its key."""
        return self._services

    def _place(self, pod: str) -> Place:
        """Return where a command in a pod runs."""
        return Lab(self.topology).place(pod)

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until everything known by now is written on every node, and cluster DNS is ready (or takes too long)."""
        deadline = time.monotonic() + SETTLE
        await self.settled()
        while not self._has_dns() and (left := deadline - time.monotonic()) > 0:
            await self.next_turn(left, wake=False)
            await self.proxies.settled()

    async def settled(self) -> None:
        """Wait until what has happened so far is written on every node."""
        await self.next_turn(SETTLE)
        await self.proxies.settled()

    def _has_dns(self) -> bool:
        return all(state.ready for state in self.kubelet.pods() if state.pod.owner == SYSTEM)

    async def next_turn(self, timeout: float, *, wake: bool = True) -> None:
        """Wait for one whole look at everything, at most so many seconds; `wake` asks for it now."""
        if wake:
            self.wake()
        async with self.turned:
            before = self.turns
            with suppress(TimeoutError):
                await asyncio.wait_for(self.turned.wait_for(lambda: self.turns > before), timeout)

    async def close(self) -> None:
        """Let go of everything; rules and pods stay."""
        self.kubelet.close()
        self.changes.close()
        self._health.close()
        self._balancer.close()
        self.journal.close()
        await self.proxies.stop()
