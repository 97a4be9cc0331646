"""A change of some pods is told from their own share of the plan: the same operations as from the whole of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netlab import names
from netlab.plan.build import build
from netlab.plan.diff import diff
from netlab.plan.objects import Objects
from netlab.plan.share import Share, share_of
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import Backend, BridgeBackend, HostGwBackend, Pod, Topology, UdpBackend, VxlanBackend
from netlab.topology.pod import Container
from tests.labs import topology

SERVER = (Container("c", ("sleep", "9")), Container("d", ("sleep", "9")))
NEW, ON_NODE = Pod("new", "n2", containers=SERVER), Pod("on-node", "n1", containers=SERVER, host_network=True)
CHANGES: dict[str, tuple[tuple[Pod, ...], tuple[str, ...]]] = {  # pods that are added, and names of those that go
    "add": ((NEW,), ()),
    "add on the node's network": ((ON_NODE,), ()),
    "remove": ((), ("p-1", "web")),
    "remove from the node's network": ((), ("agent",)),
    "replace": ((Pod("web", "n1", containers=SERVER[:1]),), ("web",)),
    "move": ((Pod("web", "n3", containers=SERVER),), ("web",)),
    "many": ((NEW, ON_NODE), ("p-2", "p-3", "agent")),
    "nothing": ((), ()),
}
BACKENDS: tuple[Backend, ...] = (VxlanBackend(), HostGwBackend(), BridgeBackend(), UdpBackend())


def lab(backend: Backend = BACKENDS[0]) -> Topology:
    made = topology("t", backend=backend, dual_stack=True)
    web, agent = Pod("web", "n1", containers=SERVER), Pod("agent", "n1", containers=SERVER, host_network=True)
    return replace(made, pods=(*made.pods, web, agent))


def changed(before: Topology, add: tuple[Pod, ...], remove: tuple[str, ...]) -> tuple[Objects, Objects, Share]:
    """Return the plan before a change, the one after it, and the share of the pods that change."""
    names_changed = {*remove, *(pod.name for pod in add)}
    after = replace(before, pods=(*(pod for pod in before.pods if pod.name not in names_changed), *add))
    held = allocate(before, Snapshot())
    given = allocate(after, held)
    share = share_of(names_changed, (before, held), (after, given))
    return build(before, held).objects, build(after, given).objects, share


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.type)
@pytest.mark.parametrize(("add", "remove"), CHANGES.values(), ids=CHANGES)
def test_a_share_leads_to_what_the_whole_plan_does(
    backend: Backend, add: tuple[Pod, ...], remove: tuple[str, ...]
) -> None:
    before, after, share = changed(lab(backend), add, remove)
    assert diff(share.of(before), share.wanted) == diff(before, after)
    assert diff(share.of(after), share.wanted) == []


def test_a_pod_that_is_lost_is_made_again() -> None:
    before = lab()
    plan, _, _ = changed(before, (), ())
    held = allocate(before, Snapshot())
    share = share_of({"web"}, (before, held), (before, held))
    pod, node = names.netns("t", "web"), names.netns("t", "n1")
    left = {netns: entries for netns, entries in plan.items() if netns != pod}
    left[node] -= {entry for entry in left[node] if entry in share.wanted[node]}
    assert diff(share.of(left), share.wanted) == diff(left, plan) != []


def test_a_share_names_no_namespace_but_the_pods_and_their_nodes() -> None:
    _, _, share = changed(lab(), *CHANGES["move"])
    assert share.namespaces == {names.netns("t", "web")}
    assert set(share.nodes) == {names.netns("t", "n1"), names.netns("t", "n3")}
