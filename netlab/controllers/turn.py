"""One turn of the workloads: what it looks at, and what is to be done after it. Pure.

A deleted pod counts no more for the scheduler, but its name is in use until it is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from netlab.controllers.revision import Names
from netlab.controllers.schedule import Scheduler
from netlab.controllers.state import Key, PodState
from netlab.topology.pod import Pod, PodTemplate, Workload
from netlab.topology.service import Labels


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now. `wait`: look again after so many seconds even if nothing changes; None for no need."""

    create: tuple[Pod, ...] = ()
    delete: tuple[Key, ...] = ()
    wait: float | None = None


class Turn:
    """A step in the making."""

    def __init__(self, nodes: Sequence[str], pods: Sequence[PodState], now: float) -> None:
        self.names = Names(state.key for state in pods)
        self._scheduler = Scheduler(nodes, (state.pod for state in pods if not state.terminating))
        self._now = now
        self._create: list[Pod] = []
        self._delete: dict[Key, None] = {}
        self._wait: float | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the names of the cluster's nodes in file order."""
        return self._scheduler.nodes

    def step(self) -> Step:
        """Return what was decided."""
        return Step(tuple(self._create), tuple(self._delete), self._wait)

    def is_available(self, workload: Workload, state: PodState) -> bool:
        """Say whether a pod counts as available; if it only takes time, the step will say how much."""
        left = state.unavailable_for(workload.min_ready, self._now)
        if left:
            self._wait = left if self._wait is None else min(self._wait, left)
        return left == 0

    def delete(self, state: PodState) -> None:
        """Have a pod ended, unless it is ending."""
        if not state.terminating and state.key not in self._delete:
            self._delete[state.key] = None
            self._scheduler.remove(state.pod)

    def place(self, workload: Workload, revision: str, *, node: str) -> str | None:
        """Return the node for a pod of a workload; None if there is none, and then the pod has to wait."""
        return self._scheduler.choose(workload.owner, revision, node=node)

    def create(self, pod: Pod) -> None:
        """Have a pod made. Its name must have been taken."""
        self._create.append(pod)
        self._scheduler.add(pod)


def pod_of(
    workload: Workload,
    template: PodTemplate,
    *,
    name: str,
    node: str,
    revision: str,
    labels: Labels,
    identity: Literal["template", "name"] = "template",
) -> Pod:
    """Return a pod of a template with these labels besides. With `identity` "name" it is a StatefulSet's member."""
    own = identity == "name"
    return Pod(
        name=name,
        node=node,
        labels=tuple({**dict(template.labels), **dict(labels)}.items()),
        containers=template.containers,
        host_network=template.host_network,
        host_aliases=template.host_aliases,
        namespace=workload.namespace,
        hostname=name if own else template.hostname,
        subdomain=workload.service if own else template.subdomain,
        grace=template.grace,
        dns_policy=template.dns_policy,
        owner=workload.owner,
        revision=revision,
    )


def share(text: str, total: int, *, rounding: Literal["up", "down"]) -> int:
    """Return a number of pods: "2", or "25%" of `total`."""
    if not text.endswith("%"):
        return int(text)
    hundredths = int(text[:-1]) * total
    return -(-hundredths // 100) if rounding == "up" else hundredths // 100
