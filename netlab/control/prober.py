"""Readiness and startup probes of a lab's containers, each in a task of its own, from the node that the pod is on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from netlab import names
from netlab.errors import NetlabError
from netlab.kernel.enter import Place
from netlab.probes import ask, command
from netlab.probes.readiness import Outcome, ProbeState
from netlab.supervisor.spec import Key
from netlab.topology.addresses import Address
from netlab.topology.pod import Container, Pod, Probe
from netlab.topology.service import Protocol

START_PERIOD = 0.02  # seconds between two looks at a server that starts


@dataclass(frozen=True, slots=True)
class Target:
    """A container that runs and is to be probed. `life` tells one run of it from another."""

    pod: Pod
    container: Container
    addresses: tuple[Address, ...]
    life: tuple[int, int]

    @property
    def start(self) -> Probe | None:
        """Return the probe that a server of netlab's own passes once, before any other: it listens."""
        return until_it_listens(self.container)


class Prober:
    """The probes of a lab. `wake` is called when a container becomes ready or unready."""

    def __init__(self, lab: str, place: Callable[[str], Place], wake: Callable[[], None]) -> None:
        self._lab = lab
        self._place = place
        self._wake = wake
        self._tasks: dict[Key, tuple[Target, asyncio.Task[None]]] = {}
        self._states: dict[Key, ProbeState] = {}
        self._last: dict[Key, Outcome] = {}
        self._starting: set[Key] = set()
        self._waiting: set[Key] = set()  # for their startup probe's first success

    def want(self, targets: Mapping[Key, Target]) -> None:
        """Probe these containers, and no others; one that was started again begins anew."""
        for key in [key for key, (target, _) in self._tasks.items() if targets.get(key) != target]:
            self._tasks.pop(key)[1].cancel()
            self._states.pop(key, None)
            self._last.pop(key, None)
            self._starting.discard(key)
            self._waiting.discard(key)
        for key, target in targets.items():
            if key not in self._tasks:
                self._waiting |= {key} if target.container.startup else set()
                self._starting |= {key} if target.start else set()
                self._tasks[key] = target, asyncio.create_task(self._probe(key, target))

    def is_ready(self, key: Key) -> bool:
        """Say whether a container listens, has started, and its probe has come to ready, as far as it has these."""
        if key not in self._tasks:
            return True
        state = self._states.get(key)
        has_started = key not in self._starting and key not in self._waiting
        return state.is_ready if state else has_started and self._tasks[key][0].container.readiness is None

    def is_starting(self, key: Key) -> bool:
        """Say whether a server of netlab's own does not listen yet, or a probe that is due then has not ended."""
        return key in self._starting

    def reason(self, key: Key) -> str:
        """Return why a container's last probe failed; empty when it did not."""
        last = self._last.get(key)
        return last.reason if last and not last.ok else ""

    def close(self) -> None:
        """End every probe."""
        self.want({})

    async def _probe(self, key: Key, target: Target) -> None:
        begin = time.monotonic()
        while target.start and not (await self._outcome(key, target, target.start)).ok:
            await asyncio.sleep(START_PERIOD)
        if startup := target.container.startup:
            await self._start(key, target, startup, begin)
        if (probe := target.container.readiness) is None:
            self._end_start(key)
            return
        state = self._states[key] = ProbeState.started(probe, begin)
        if not state.is_due(time.monotonic()):
            self._end_start(key)
        while True:
            await asyncio.sleep(max(0.0, state.next_due - time.monotonic()))
            was_ready = state.is_ready
            state = self._states[key] = state.after(await self._outcome(key, target, probe), time.monotonic())
            self._end_start(key)
            if state.is_ready != was_ready:
                self._wake()

    async def _start(self, key: Key, target: Target, probe: Probe, begin: float) -> None:
        """Wait until a container's startup probe succeeds; kubelet would start one anew that takes too long."""
        self._end_start(key)  # for how long only its owner knows
        state = ProbeState.started(probe, begin)
        while not state.is_ready:
            await asyncio.sleep(max(0.0, state.next_due - time.monotonic()))
            state = state.after(await self._outcome(key, target, probe), time.monotonic())
        self._waiting.discard(key)
        self._wake()

    def _end_start(self, key: Key) -> None:
        if key in self._starting:
            self._starting.remove(key)
            self._wake()

    async def _outcome(self, key: Key, target: Target, probe: Probe) -> Outcome:
        try:
            self._last[key] = await self._ask(target, probe)
        except NetlabError as exc:  # the namespace is on its way out
            self._last[key] = Outcome(False, str(exc))
        return self._last[key]

    async def _ask(self, target: Target, probe: Probe) -> Outcome:
        if probe.command:
            return await command.command(self._place(target.pod.name), probe.command, probe.timeout)
        node = names.netns(self._lab, target.pod.node)
        if not target.addresses:
            return Outcome(False, "the pod has no address yet")
        address = target.addresses[0]
        if probe.http:
            get = replace(probe.http, port=str(port_number(target.container, probe.http.port)))
            return await ask.http_get(node, address, get, probe.timeout)
        return await ask.tcp(node, address, port_number(target.container, probe.tcp_port), probe.timeout)


def until_it_listens(container: Container) -> Probe | None:
    """Return what tells when a server of netlab's own is there; None for another program, or one without TCP."""
    is_ours = not container.command or container.command[0].startswith("netlab-")
    port = next((str(found.port) for found in container.ports if found.protocol is Protocol.TCP), "")
    return Probe(tcp_port=port) if is_ours and port else None


def port_number(container: Container, port: str) -> int:
    """Return the number of a probe's port, which may be a name of the container's own; 0 for one that it lacks."""
    if port.isdecimal():
        return int(port)
    return next((found.port for found in container.ports if found.name == port), 0)
