"""Which pods of a StatefulSet come and go now: one name each, in order. Pure.

The order of the decisions is that of updateStatefulSet in Kubernetes' stateful_set_control.go: fill, shrink, update.
Unlike there, the template before the last is known only from pods that still are of it (partition).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netlab.controllers.revision import revision_of
from netlab.controllers.state import PodState
from netlab.controllers.turn import Turn, pod_of, share
from netlab.errors import PlanError
from netlab.topology.pod import Pod, PodTemplate, Strategy, Workload

LONGEST_NAME = 52  # the label controller-revision-hash is the name, a hyphen and ten characters: 63 at most
HASH_LABEL = "controller-revision-hash"
NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"
ADDED = {HASH_LABEL, NAME_LABEL, INDEX_LABEL}

Members = Mapping[int, PodState]  # by ordinal


def check(workload: Workload) -> None:
    """Raise PlanError for a StatefulSet whose pods could not carry their names."""
    if len(workload.name) > LONGEST_NAME:
        message = f"{workload.owner}: its name has {len(workload.name)} characters, and its pods' labels take it to 63"
        raise PlanError(message, f"give it a name of at most {LONGEST_NAME} characters")


def roll(workload: Workload, pods: Sequence[PodState], turn: Turn) -> None:
    """Decide a turn for a StatefulSet, whose pods these are. Only without Parallel does one wait for another."""
    members = {ordinal: state for state in pods if (ordinal := _ordinal(workload, state.pod)) is not None}
    whole = _fill(workload, members, turn) and _shrink(workload, members, turn)
    if whole and workload.strategy is not Strategy.ON_DELETE:
        _update(workload, members, turn)


def _fill(workload: Workload, members: Members, turn: Turn) -> bool:
    """Create what is missing from the lowest up; say whether to go on."""
    for ordinal in range(workload.replicas):
        state = members.get(ordinal)
        if state is None:
            _create(workload, ordinal, members, turn)
        if not workload.parallel and (state is None or not turn.is_available(workload, state)):
            return False
    return True


def _shrink(workload: Workload, members: Members, turn: Turn) -> bool:
    """Delete what is too much from the highest down; say whether to go on."""
    condemned = sorted((ordinal for ordinal in members if ordinal >= workload.replicas), reverse=True)
    unhealthy = [ordinal for ordinal in condemned if not turn.is_available(workload, members[ordinal])]
    for ordinal in condemned:
        state = members[ordinal]
        if workload.parallel:
            turn.delete(state)
        elif state.terminating or (ordinal in unhealthy and ordinal != unhealthy[-1]):
            return False  # one that is not ready goes only when all below it are
        else:
            turn.delete(state)
            return False
    return True


def _update(workload: Workload, members: Members, turn: Turn) -> None:
    """Delete pods of an old template from the highest down to the partition, while few enough are unavailable."""
    revision = revision_of(workload.template)
    budget = max(1, share(workload.max_unavailable, workload.replicas, rounding="down"))
    for ordinal in range(workload.replicas - 1, workload.partition - 1, -1):
        state = members.get(ordinal)
        old = state is not None and state.pod.revision != revision and not state.terminating
        if state and old:
            turn.delete(state)
        if old or state is None or not turn.is_available(workload, state):
            budget -= 1
        if not budget:
            return


def _create(workload: Workload, ordinal: int, members: Members, turn: Turn) -> None:
    template, revision = _template(workload, ordinal, members)
    node = turn.place(workload, revision, node=template.node)
    name = f"{workload.name}-{ordinal}"
    if node is None or not turn.names.take(workload.namespace, name):
        return
    labels = ((HASH_LABEL, f"{workload.name}-{revision}"), (NAME_LABEL, name), (INDEX_LABEL, str(ordinal)))
    pod = pod_of(workload, template, name=name, node=node, revision=revision, labels=labels, identity="name")
    turn.create(pod)


def _template(workload: Workload, ordinal: int, members: Members) -> tuple[PodTemplate, str]:
    """Return what a pod is made of, with its hash: below the partition the old template, if a pod of it is left."""
    revision = revision_of(workload.template)
    if workload.strategy is Strategy.ROLLING_UPDATE and ordinal < workload.partition:
        for _, state in sorted(members.items()):
            if state.pod.revision != revision:
                return _template_of(state.pod), state.pod.revision
    return workload.template, revision


def _template_of(pod: Pod) -> PodTemplate:
    return PodTemplate(
        labels=tuple((key, value) for key, value in pod.labels if key not in ADDED),
        containers=pod.containers,
        host_network=pod.host_network,
        host_aliases=pod.host_aliases,
        grace=pod.grace,
        dns_policy=pod.dns_policy,
    )


def _ordinal(workload: Workload, pod: Pod) -> int | None:
    text = pod.name.removeprefix(f"{workload.name}-")
    return int(text) if text.isascii() and text.isdecimal() else None
