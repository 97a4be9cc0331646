"""Which pods of a Deployment come and go now: Kubernetes' rolling update, recreate, scaling. Pure.

From the newest Kubernetes but for one thing: pods of an old template that vanish are not made again, since nothing
keeps the template; a new one takes the place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from netlab.controllers.revision import revision_of
from netlab.controllers.state import PodState
from netlab.controllers.turn import Turn, pod_of, share
from netlab.topology.pod import Strategy, Workload

HASH_LABEL = "pod-template-hash"


def roll(workload: Workload, pods: Sequence[PodState], turn: Turn) -> None:
    """Decide a turn for a Deployment, whose pods these are. Pods that are ending count only for Recreate."""
    revision = revision_of(workload.template)
    alive = [state for state in pods if not state.terminating]
    old = _in_order(workload, [state for state in alive if state.pod.revision != revision], alive, turn)
    new = _in_order(workload, [state for state in alive if state.pod.revision == revision], alive, turn)
    surplus = max(0, len(new) - workload.replicas)
    for state in new[:surplus]:
        turn.delete(state)
    new = new[surplus:]
    if workload.strategy is Strategy.RECREATE:
        for state in old:
            turn.delete(state)
        if all(state.pod.revision == revision for state in pods):
            _create(workload, revision, workload.replicas - len(new), turn)
        return
    surge, unavailable = limits(workload)
    missing = min(workload.replicas - len(new), workload.replicas + surge - len(alive))
    _create(workload, revision, missing, turn)
    _retire(workload, old, new, workload.replicas - unavailable, turn)


def limits(workload: Workload) -> tuple[int, int]:
    """Return how many pods may be too many (maxSurge, rounded up), and too few (maxUnavailable, down); not both 0."""
    surge = share(workload.max_surge, workload.replicas, rounding="up")
    unavailable = share(workload.max_unavailable, workload.replicas, rounding="down")
    if not surge and not unavailable:
        unavailable = 1
    return surge, min(unavailable, workload.replicas)


def _create(workload: Workload, revision: str, count: int, turn: Turn) -> None:
    for _ in range(count):
        node = turn.place(workload, revision, node=workload.template.node)
        if node is None:
            return
        name = turn.names.generate(workload.namespace, workload.name, revision)
        labels = ((HASH_LABEL, revision),)
        turn.create(pod_of(workload, workload.template, name=name, node=node, revision=revision, labels=labels))


def _retire(workload: Workload, old: Sequence[PodState], new: Sequence[PodState], minimum: int, turn: Turn) -> None:
    """Delete old pods: the unavailable ones first, then as many as there are available ones above the minimum.

    Unavailable new pods are not counted on (reconcileOldReplicaSets in Kubernetes' deployment/rolling.go).
    """
    new_available = sum(turn.is_available(workload, state) for state in new)
    for state in old[: max(0, len(old) + new_available - minimum)]:
        turn.delete(state)


def _in_order(workload: Workload, states: Sequence[PodState], alive: Sequence[PodState], turn: Turn) -> list[PodState]:
    """Return pods in the order in which they go: not ready, crowded on their node, newest (ActivePodsWithRanks)."""
    on_node = Counter(state.pod.node for state in alive)

    def rank(place: int) -> tuple[bool, bool, int, float, float, int]:
        state = states[place]
        since = state.ready_since if state.ready and state.ready_since is not None else 0.0
        ready = (turn.is_available(workload, state), state.ready)
        return *ready, -on_node[state.pod.node], -since, -state.created, -place

    return [states[place] for place in sorted(range(len(states)), key=rank)]
