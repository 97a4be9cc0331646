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

from netlab.control.balancer import Balancer, wanted_routes
from netlab.control.health import HealthChecks
from netlab.control.kubelet import Kubelet
from netlab.control.objects import Asked
from netlab.control.pods import PodChanges
from netlab.control.prober import Prober
from netlab.control.proxies import Proxies
from netlab.control.registry import Registry
from netlab.control.zone import Zone
from netlab.controllers.state import Key, PodState
from netlab.controllers.workloads import step
from netlab.errors import NetlabError
from netlab.folder import LabFolder
from netlab.kernel.enter import Place
from netlab.proxy.proxier import PortKey
from netlab.service.model import ServicePort
from netlab.supervisor.spec import Files
from netlab.topology.addresses import Address
from netlab.topology.pod import SYSTEM, Pod
from netlab.topology.service import Policy

LOOK = 1.0  # seconds between two looks at namespaces
FIRST = 1.0  # seconds that a new node's rules wait for what starts at most, to be written once and not twice
START = 3.0  # seconds that `netlab up` waits for netlab's own servers at most
SETTLE = 10.0  # and for cluster DNS

Say = Callable[[str], None]


class Plane:
    """One lab's control plane. Made inside a running event loop."""

    def __init__(self, lab: str, say: Say) -> None:
        folder = LabFolder(lab)
        self._say = say
        self.registry = Registry(folder)
        self.kubelet = Kubelet(Files(folder.runtime), self.wake, Prober(lab, self._place, self.wake))
        self.changes = PodChanges(lab, self.wake, say)
        self.proxies = Proxies(say)
        self._zone = Zone(folder.runtime / "zone.json")
        self._health = HealthChecks(lab, lambda node: node in self.proxies.failures(), say)
        self._balancer = Balancer(lab, say)
        self._balanced: dict[Key, dict[Address, frozenset[str] | None]] = {}
        self._ports: dict[Key, dict[PortKey, ServicePort]] = {}
        self._wake = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._due: float | None = None
        self._turns = 0  # how often everything was looked at
        self._turned = asyncio.Condition()

    def wake(self) -> None:
        """Have the loop look at everything again."""
        self._wake.set()

    async def reload(self) -> None:
        """Take in what `netlab up` has recorded."""
        async with self._reloading:
            self.registry.reload()
            self._take_pods()
            await self._await(self._is_up, FIRST)
            await self.next_turn(SETTLE)
            await self.proxies.want(self.registry.targets())
        self._follow_asked()
        nodes = {node.name for node in self.registry.topology.cluster_nodes}
        self._health.want({name: inode for name, inode in self.registry.namespaces.items() if name in nodes})
        self._balance()
        self.wake()

    async def follow_namespaces(self) -> None:
        """Begin anew in namespaces that were made anew: by `netlab up` after somebody removed them."""
        while True:
            await asyncio.sleep(LOOK)
            if self.registry.find_namespaces() == self.registry.namespaces:
                continue
            try:
                await self.reload()
            except (NetlabError, OSError) as exc:
                self._say(str(exc))

    async def close(self) -> None:
        """Let go of everything; pods stay, and rules do on nodes that are to have them."""
        self.kubelet.close()
        self.changes.close()
        self._health.close()
        self._balancer.close()
        self.registry.journal.close()
        with suppress(NetlabError):  # the folder may have gone already
            self.registry.read_pods()
        await self.proxies.stop(keep=self.registry.targets().keys())

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at everything whenever something may have changed."""
        while True:
            timeout = None if self._due is None else max(0.0, self._due - time.monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout)
            self._wake.clear()
            try:
                self._turn()
            except (NetlabError, OSError) as exc:
                self._say(str(exc))
            async with self._turned:
                self._turns += 1
                self._turned.notify_all()

    def _turn(self) -> None:
        """Look at everything once. It waits for nothing: what one turn decides is whole before anybody acts on it."""
        if self.changes.take_done():
            self.registry.read_pods()
            self._take_pods()
            self._follow_asked()
        pods = self._keep_workloads(self.kubelet.pods())
        self.registry.set_pods(pods)
        applied = {name for (name,) in self.registry.journal.namespaces}
        self._publish(self.registry.take_dirty(), {*applied, *(state.pod.namespace for state in pods)})

    def _take_pods(self) -> None:
        self.kubelet.want(self.registry.topology.pods, self.registry.pod_addresses())

    def _keep_workloads(self, pods: list[PodState]) -> list[PodState]:
        """Have pods made and ended as the workloads want it, and return the pods as they are then."""
        nodes = [node.name for node in self.registry.topology.cluster_nodes]
        now = time.monotonic()
        made = [PodState(pod) for pod in self.changes.making()]
        found = step(list(self.registry.journal.workloads.values()), [*pods, *made], nodes, now)
        self._due = None if found.wait is None else now + found.wait
        for pod in found.create:
            self.changes.make(pod)
        for _, name in found.delete:
            self.end_pod(name)
        return self.kubelet.pods() if found.delete else pods

    def _publish(self, dirty: Iterable[Key], namespaces: Iterable[str]) -> None:
        """Tell everybody who carries Services out of those that have changed."""
        changes: dict[PortKey, ServicePort | None] = {}
        for key in dirty:
            changes |= self._port_changes(key)
            given, backends = self.registry.allocation(key), self.registry.backends(key)
            self._health.publish(key, given.health_check_node_port, backends)
            ready = frozenset(backend.endpoint.node for backend in backends if backend.endpoint.ready)
            service = self.registry.services.get(key)
            takes = ready if service and service.external_policy is Policy.LOCAL else None
            self._balanced[key] = dict.fromkeys(given.load_balancer_ips, takes)
        if changes:
            self.proxies.change(changes)
        if dirty:
            self._balance()
        self._zone.publish(dirty, self.registry.services, self.registry.record, namespaces)

    def _port_changes(self, key: Key) -> dict[PortKey, ServicePort | None]:
        """Return which ports of a Service are others than before."""
        before = self._ports.pop(key, {})
        now = {port.key: port for port in self.registry.ports(key)}
        if now:
            self._ports[key] = now
        gone: dict[PortKey, ServicePort | None] = dict.fromkeys(before.keys() - now.keys())
        return gone | {port: value for port, value in now.items() if before.get(port) != value}

    def _balance(self) -> None:
        """Have load balancer addresses lead to the nodes that take packets for them."""
        nodes = frozenset(node.name for node in self.registry.topology.cluster_nodes)
        self._balanced = {key: found for key, found in self._balanced.items() if found}
        uses = {
            address: nodes if takes is None else nodes & takes
            for found in self._balanced.values()
            for address, takes in found.items()
        }
        routes = wanted_routes(self.registry.topology, self.registry.snapshot, uses)
        self._balancer.want({name: (self.registry.namespaces[name], found) for name, found in routes.items()})

    # --- pods that somebody asks for ---------------------------------------------------------------------------------

    def make_pod(self, pod: Pod) -> None:
        """Have a pod made that no workload owns; without a node it goes where the fewest are."""
        topology = self.registry.topology
        load = Counter(found.node for found in (*topology.pods, *self.changes.making()))
        node = pod.node or min(topology.cluster_nodes, key=lambda found: load[found.name]).name
        self.registry.journal.put((pod.name,), Asked(replace(pod, node=node)))
        self._follow_asked()

    def find_pod(self, name: str) -> Pod | None:
        """Return a pod that is there or was asked for."""
        making = {pod.name: pod for pod in self.changes.making()}
        return self.registry.topology.find_pod(name) or making.get(name)

    def delete_pod(self, name: str) -> None:
        """Have a pod ended, or not made; also by the next control plane, should this one be killed before it is."""
        self.registry.journal.put((name,), Asked(None))
        if not self.changes.forget(name):  # whether it is made all the same shows when what is under way is done
            self.end_pod(name)

    def _follow_asked(self) -> None:
        """Carry on what was asked for and is not done yet; forget what is."""
        journal, making = self.registry.journal, {pod.name for pod in self.changes.making()}
        for (name,), asked in list(journal.asked.items()):
            is_there = self.registry.topology.find_pod(name) is not None
            if is_there == (asked.pod is not None):
                journal.delete(Asked, (name,))
            elif asked.pod is None:
                self.end_pod(name)
            elif name not in making:
                self.changes.make(asked.pod)

    def end_pod(self, name: str) -> None:
        """Take a pod out of all Services, and end it when every node knows."""
        if name in self.kubelet.terminating:
            return
        self.kubelet.terminating.add(name)
        self.changes.end(name, self.settled)
        self.wake()

    def _place(self, pod: str) -> Place:
        """Return where a command in a pod runs."""
        from netlab.lab import Lab

        return Lab(self.registry.topology).place(pod)

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until everything known by now is written on every node, and what starts has (or takes too long)."""
        await self._await(self._is_up, START)
        await self._await(self._has_dns, SETTLE)
        await self.settled()

    async def settled(self) -> None:
        """Wait until what has happened so far is written on every node."""
        await self.next_turn(SETTLE)
        await self.proxies.settled()

    async def next_turn(self, timeout: float, *, wake: bool = True) -> None:
        """Wait for one whole look at everything, at most so many seconds; `wake` asks for it now."""
        if wake:
            self.wake()
        async with self._turned:
            before = self._turns
            with suppress(TimeoutError):
                await asyncio.wait_for(self._turned.wait_for(lambda: self._turns > before), timeout)

    async def _await(self, condition: Callable[[], bool], timeout: float) -> None:
        """Wait until something has come true, at most so many seconds."""
        deadline = time.monotonic() + timeout
        while not condition() and (left := deadline - time.monotonic()) > 0:
            await self.next_turn(left, wake=False)

    def _is_up(self) -> bool:
        return self._has_dns() and not self.kubelet.is_starting()

    def _has_dns(self) -> bool:
        return all(state.ready for state in self.kubelet.pods() if state.pod.owner == SYSTEM)
