"""The part of a plan that some pods have, so that a change of them need not look at all the others. Pure."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection
from dataclasses import dataclass

from netlab import names
from netlab.plan.build import build_pods
from netlab.plan.objects import Netns, Object, Objects
from netlab.store.store import Snapshot
from netlab.topology.model import Topology

Placed = tuple[Topology, Snapshot]


@dataclass(frozen=True, slots=True)
class Share:
    """What some pods are to have, `wanted`, and what there may be of theirs: whole namespaces, and objects on nodes."""

    namespaces: frozenset[Netns]
    on_nodes: Objects  # by node, as the pods were and as they will be
    wanted: Objects

    @property
    def nodes(self) -> Collection[Netns]:
        """Return the namespaces of the pods' nodes."""
        return self.on_nodes.keys()

    def of(self, state: Objects) -> Objects:
        """Return what is the pods' own of a state."""
        found = {netns: state[netns] for netns in self.namespaces & state.keys()}
        for node, entries in self.on_nodes.items():
            keys = {entry.key for entry in entries}
            found[node] = frozenset(entry for entry in state[node] if entry.key in keys)
        return found


def share_of(pods: Collection[str], before: Placed, after: Placed) -> Share:
    """Return the share of pods, by name, of which each may be there before a change, after it, or both."""
    old, new = (
        build_pods(topology, snapshot, (pod for pod in topology.pods if pod.name in pods))
        for topology, snapshot in (before, after)
    )
    namespaces = frozenset(names.netns(after[0].name, pod) for pod in pods)
    nothing: frozenset[Object] = frozenset()
    nodes = (old.keys() | new.keys()) - namespaces
    on_nodes = {node: old.get(node, nothing) | new.get(node, nothing) for node in nodes}
    return Share(namespaces, on_nodes, dict(ChainMap(dict(new), dict.fromkeys(nodes, nothing))))
