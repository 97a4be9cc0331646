"""Which node a new pod gets: pods of one workload are spread, then pods at all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from netlab.topology.pod import Pod


class Scheduler:
    """The cluster's nodes in file order, and how many pods each has: those that stay, and those that come."""

    def __init__(self, nodes: Sequence[str], pods: Iterable[Pod]) -> None:
        self.nodes = tuple(nodes)
        self._counts: Counter[tuple[str, ...]] = Counter()
        for pod in pods:
            self.add(pod)

    def add(self, pod: Pod) -> None:
        """Count a pod on its node."""
        self._counts.update(_keys(pod.node, pod.owner, pod.revision))

    def remove(self, pod: Pod) -> None:
        """Count a pod no longer."""
        self._counts.subtract(_keys(pod.node, pod.owner, pod.revision))

    def choose(self, owner: str, revision: str, *, node: str = "") -> str | None:
        """Return the node for a pod: `node` if it is named, else the emptiest; None if there is no such node.

        Pods of the same template count first: those of an old one will be gone when a rollout is over.
        """
        if node:
            return node if node in self.nodes else None
        return min(self.nodes, key=lambda name: self._load(name, owner, revision), default=None)

    def _load(self, node: str, owner: str, revision: str) -> tuple[int, ...]:
        return tuple(self._counts[key] for key in reversed(_keys(node, owner, revision)))


def _keys(node: str, owner: str, revision: str) -> tuple[tuple[str, ...], ...]:
    return (node,), (node, owner), (node, owner, revision)
