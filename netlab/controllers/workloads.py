"""Which pods there should be: Deployments, StatefulSets and DaemonSets in one step. Pure.

Level-triggered: a step follows from what is, not from what happened. It is taken again after each change of the
workloads, the nodes, a pod or a pod's readiness, and after `Step.wait` seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netlab.controllers import daemon_set, deployment, stateful_set
from netlab.controllers.state import PodState
from netlab.controllers.turn import Step, Turn
from netlab.topology.pod import Workload, WorkloadKind

ROLL = {
    WorkloadKind.DEPLOYMENT: deployment.roll,
    WorkloadKind.STATEFUL_SET: stateful_set.roll,
    WorkloadKind.DAEMON_SET: daemon_set.roll,
}
_OWNERS = tuple(f"{kind} " for kind in WorkloadKind)


def check(workload: Workload) -> None:
    """Raise PlanError for a workload whose pods could not be made. Steps trust that this was asked."""
    if workload.kind is WorkloadKind.STATEFUL_SET:
        stateful_set.check(workload)


def step(workloads: Sequence[Workload], pods: Sequence[PodState], nodes: Sequence[str], now: float) -> Step:
    """Return what is to be done with the pods of workloads; other pods only take up names and places.

    `nodes` are the names of the cluster's nodes in file order. Pods of a workload or a node that is no more go.
    """
    turn = Turn(nodes, pods, now)
    owned: dict[str, list[PodState]] = {workload.owner: [] for workload in workloads}
    present = frozenset(nodes)
    for state in pods:
        if not state.pod.owner.startswith(_OWNERS):
            continue
        lost = state.pod.node not in present or state.pod.owner not in owned
        if lost:
            turn.delete(state)
        if state.pod.owner in owned:
            owned[state.pod.owner].append(replace(state, terminating=True) if lost else state)
    for workload in workloads:
        ROLL[workload.kind](workload, owned[workload.owner], turn)
    return turn.step()
