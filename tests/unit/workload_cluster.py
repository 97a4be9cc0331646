"""A cluster that does what steps of the workloads say, for tests: pods get ready and go when the test wants it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from netlab.controllers.state import PodState
from netlab.controllers.turn import Step
from netlab.controllers.workloads import step
from netlab.topology.pod import Container, PodTemplate, Workload, WorkloadKind

APP = (("app", "web"),)
FOREVER = 10_000  # turns


def template(version: int = 1) -> PodTemplate:
    return PodTemplate(APP, (Container("main", (f"serve-{version}",)),))


def workload(kind: WorkloadKind, replicas: int = 3, *, unavailable: str = "1", surge: str = "1") -> Workload:
    return Workload(
        kind, "web", APP, template(), replicas=replicas, max_surge=surge, max_unavailable=unavailable, service="web"
    )


class Cluster:
    """Pods by name in one namespace, a clock in seconds, and the workloads."""

    def __init__(self, *workloads: Workload, nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
        self.workloads, self.nodes = workloads, nodes
        self.pods: dict[str, PodState] = {}
        self.now = 100.0
        self.created: list[str] = []
        self.deleted: list[str] = []

    def turn(self) -> Step:
        """Take one step and do what it says, short of readiness and of ending."""
        decided = step(self.workloads, list(self.pods.values()), self.nodes, self.now)
        for pod in decided.create:
            assert pod.name not in self.pods, "a name in use was given again"
            self.pods[pod.name] = PodState(pod, created=self.now)
            self.created.append(pod.name)
        for _, name in decided.delete:
            assert not self.pods[name].terminating, "deleted twice"
            self.pods[name] = replace(self.pods[name], terminating=True)
            self.deleted.append(name)
        return decided

    def ready(self, *names: str) -> None:
        for name in names:
            self.pods[name] = replace(self.pods[name], ready=True, ready_since=self.now)

    def fail(self, name: str) -> None:
        self.pods[name] = replace(self.pods[name], ready=False, ready_since=None)

    def finish(self, *names: str) -> None:
        for name in names:
            del self.pods[name]

    @property
    def alive(self) -> list[PodState]:
        return [state for state in self.pods.values() if not state.terminating]

    @property
    def names(self) -> list[str]:
        return sorted(state.pod.name for state in self.alive)

    def available(self) -> int:
        return sum(state.unavailable_for(self.workloads[0].min_ready, self.now) == 0 for state in self.alive)

    def revisions(self) -> set[str]:
        return {state.pod.revision for state in self.alive}

    def settle(self, random: Random | None = None, check: Callable[[], None] = lambda: None) -> None:
        """Go on until nothing changes: pods get ready and go, one at a time, in random order or the first first."""
        for _ in range(FOREVER):
            declared = self.workloads
            decided = self.turn()
            check()
            starting = [state.pod.name for state in self.alive if not state.ready]
            ending = [state.pod.name for state in self.pods.values() if state.terminating]
            if starting or ending:
                name = random.choice(starting + ending) if random else (starting + ending)[0]
                (self.ready if name in starting else self.finish)(name)
                check()
            elif decided.wait is not None:
                self.now += decided.wait
            elif not decided.create and not decided.delete and self.workloads is declared:
                return
        raise AssertionError("it does not come to rest")
