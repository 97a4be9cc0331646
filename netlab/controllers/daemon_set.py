"""Which pods of a DaemonSet come and go now: one on each node of the cluster. Pure.

An update is rollingUpdate in Kubernetes' daemon/update.go with maxSurge 0: a node's old pod ends before its new one
starts, and while one is ending its node waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netlab.controllers.revision import revision_of
from netlab.controllers.state import PodState
from netlab.controllers.turn import Turn, pod_of, share
from netlab.topology.pod import Strategy, Workload

HASH_LABEL = "controller-revision-hash"


def roll(workload: Workload, pods: Sequence[PodState], turn: Turn) -> None:
    """Decide a turn for a DaemonSet, whose pods these are."""
    only = workload.template.node
    places: dict[str, list[PodState]] = {node: [] for node in turn.nodes if not only or node == only}
    for state in pods:
        if state.pod.node in places:
            places[state.pod.node].append(state)
        else:
            turn.delete(state)
    kept: dict[str, PodState | None] = {}
    for node, states in places.items():
        if not states:
            _create(workload, node, turn)
        alive = sorted((state for state in states if not state.terminating), key=lambda state: state.created)
        for state in alive[1:]:
            turn.delete(state)
        kept[node] = alive[0] if alive else None
    if workload.strategy is not Strategy.ON_DELETE:
        _update(workload, kept, turn)


def _update(workload: Workload, kept: Mapping[str, PodState | None], turn: Turn) -> None:
    """Delete old pods: all that are unavailable, and of the others as many as may be missing."""
    revision = revision_of(workload.template)
    budget = max(1, share(workload.max_unavailable, len(kept), rounding="up"))
    candidates = []
    for state in kept.values():
        available = state is not None and turn.is_available(workload, state)
        budget -= not available
        if state and state.pod.revision != revision:
            if available:
                candidates.append(state)
            else:
                turn.delete(state)
    for state in candidates[: max(0, budget)]:
        turn.delete(state)


def _create(workload: Workload, node: str, turn: Turn) -> None:
    revision = revision_of(workload.template)
    name = turn.names.generate(workload.namespace, workload.name)
    labels = ((HASH_LABEL, revision),)
    turn.create(pod_of(workload, workload.template, name=name, node=node, revision=revision, labels=labels))
