"""What kubelets know: which pods there are, which run, and which are ready.

Phases come from the supervisor's status file, which is looked at when it has changed; readiness from probes, one task
for each container that has one. Every change wakes the control plane.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from netlab.control.prober import Prober, Target, until_it_listens
from netlab.controllers.state import PodState
from netlab.supervisor.decide import Phase
from netlab.supervisor.spec import Files, Key, Status, read_report
from netlab.topology.addresses import Address
from netlab.topology.pod import Container, Pod

LOOK = 0.05  # seconds between two looks at the status file
ALIVE = (Phase.RUNNING, Phase.STOPPING)  # what was told to end serves on, and is probed, until it has ended


class Kubelet:
    """The pods of a lab as they are."""

    def __init__(self, files: Files, wake: Callable[[], None], prober: Prober) -> None:
        self._status = files.status
        self._wake = wake
        self._prober = prober
        self._pods: dict[str, Pod] = {}
        self._addresses: Mapping[str, tuple[Address, ...]] = {}
        self._statuses: dict[Key, Status] = {}
        self._stamp = (0, 0)
        self._since: dict[str, float] = {}  # when a pod became ready
        self._created: dict[str, float] = {}
        self.terminating: set[str] = set()
        self._task = asyncio.create_task(self._look())

    def want(self, pods: Iterable[Pod], addresses: Mapping[str, tuple[Address, ...]]) -> None:
        """Take the pods that there are now, with the addresses of each."""
        self._pods = {pod.name: pod for pod in pods}
        self._addresses = addresses
        now = time.monotonic()
        self._created = {name: self._created.get(name, now) for name in self._pods}
        self.terminating &= self._pods.keys()
        self._read()
        self._probe()

    def pods(self) -> list[PodState]:
        """Return every pod as it is."""
        now = time.monotonic()
        found = []
        for name, pod in self._pods.items():
            ready = all(self.is_ready(pod, container) for container in pod.containers)
            if ready:
                self._since.setdefault(name, now)
            else:
                self._since.pop(name, None)
            found.append(
                PodState(
                    pod,
                    self._addresses.get(name, ()),
                    ready,
                    name in self.terminating,
                    self._since.get(name),
                    self._created[name],
                )
            )
        return found

    def status(self, pod: str, container: str) -> Status | None:
        """Return what the supervisor says of a container; None before it knows of it."""
        return self._statuses.get((pod, container))

    def close(self) -> None:
        """End every task."""
        self._task.cancel()
        self._prober.close()

    def is_ready(self, pod: Pod, container: Container) -> bool:
        """Say whether a container runs and its probe, if it has one, succeeds."""
        status = self._statuses.get((pod.name, container.name))
        if status is None or status.phase not in ALIVE:
            return False
        return self._prober.is_ready((pod.name, container.name))

    def is_starting(self) -> bool:
        """Say whether a server of netlab's own is about to be ready for the first time, or not to be."""
        return any(self._is_starting(pod, container) for pod in self._pods.values() for container in pod.containers)

    def _is_starting(self, pod: Pod, container: Container) -> bool:
        status = self._statuses.get((pod.name, container.name))
        if status is None:
            return until_it_listens(container) is not None
        return status.phase == Phase.RUNNING and self._prober.is_starting(status.spec.key)

    async def _look(self) -> None:
        """Read the status file whenever it has changed."""
        while True:
            await asyncio.sleep(LOOK)
            if self._read():
                self._probe()
                self._wake()

    def _read(self) -> bool:
        """Take in the status file if it is another one; say whether it was."""
        try:
            found = self._status.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp == self._stamp:
                return False
            report = read_report(self._status)
        except (OSError, ValueError):
            return False
        self._stamp = stamp
        self._statuses = {status.spec.key: status for status in report.processes}
        return True

    def _probe(self) -> None:
        """Have every container probed that runs and has a probe, from the moment when it started."""
        wanted = {}
        for pod in self._pods.values():
            for container in pod.containers:
                status = self._statuses.get((pod.name, container.name))
                if status is None or status.phase not in ALIVE:
                    continue
                addresses = self._addresses.get(pod.name, ())
                target = Target(pod, container, addresses, (status.pid, status.started))
                if target.start or container.readiness or container.startup:
                    wanted[pod.name, container.name] = target
        self._prober.want(wanted)
