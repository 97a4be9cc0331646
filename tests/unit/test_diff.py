"""The difference between two states: order, what hangs together, and what is never touched. And its words."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from netlab import names
from netlab.plan.diff import Action, Phase, diff
from netlab.plan.drift import differences
from netlab.plan.objects import Addr, Bridge, FdbEntry, Neighbor, Objects, Route, Veth, Vxlan
from netlab.plan.summary import summarize
from netlab.plan.text import commands
from tests.labs import planned, topology

PLAN = planned(topology("t")).objects
N1 = names.netns("t", "n1")
P1 = names.netns("t", "p-1")


def without(state: Objects, netns: str, *kinds: type) -> Objects:
    return {**state, netns: frozenset(entry for entry in state[netns] if not isinstance(entry, kinds))}


def swapped(state: Objects, netns: str, old: object, new: object) -> Objects:
    return {**state, netns: (state[netns] - {old}) | {new}}  # type: ignore[dict-item]


def find(netns: str, kind: type, **fields: object) -> object:
    return next(e for e in PLAN[netns] if isinstance(e, kind) and all(getattr(e, n) == v for n, v in fields.items()))


def test_nothing_to_do_is_nothing() -> None:
    assert diff(PLAN, PLAN) == []
    assert differences([]) == []


def test_a_route_goes_in_after_what_it_needs() -> None:
    order = [op.new for op in diff({}, PLAN) if op.netns == N1]
    kinds = [type(entry) for entry in order]
    last = {kind: max(i for i, k in enumerate(kinds) if k is kind) for kind in (Vxlan, Addr, Neighbor, FdbEntry)}
    assert max(last.values()) < kinds.index(Route)
    assert last[Vxlan] < kinds.index(Addr)


def test_phases_come_in_order() -> None:
    phases = [op.phase for op in diff(PLAN, planned(topology("t", nodes=2, pods=3)).objects)]
    assert phases == sorted(phases)


def test_a_cable_is_made_once_and_its_far_end_raised() -> None:
    ops = diff({**PLAN, P1: frozenset()}, PLAN)
    made = [op for op in ops if op.action is Action.CREATE and isinstance(op.new, Veth)]
    assert [(op.netns, op.peer and op.peer.name) for op in made] == [(N1, "eth0")]
    raised = [op for op in ops if op.netns == P1 and op.phase is Phase.CONFIGURE and isinstance(op.new, Veth)]
    assert [op.new.up for op in raised if isinstance(op.new, Veth)] == [True]


def test_what_hangs_on_a_lost_link_costs_no_deletion() -> None:
    ops = diff(without(PLAN, N1, Vxlan), PLAN)
    assert not [op for op in ops if op.action is Action.DELETE]
    dependents = [op.new for op in ops if getattr(op.new, "dev", None) == "flannel.1"]
    assert len(dependents) == 0  # the state still had them: a kernel would not
    kernel_like = without(PLAN, N1, Vxlan)
    kernel_like = {**kernel_like, N1: frozenset(e for e in kernel_like[N1] if getattr(e, "dev", "") != "flannel.1")}
    assert len(diff(kernel_like, PLAN)) == 1 + 1 + 2 * 3  # device, its address, three entries for each of two peers
    assert [str(d) for d in differences(diff(kernel_like, PLAN))] == ["n1: interface flannel.1: missing"]


def test_a_device_of_another_make_is_replaced_with_all_that_hangs_on_it() -> None:
    device = find(N1, Vxlan)
    assert isinstance(device, Vxlan)
    ops = diff(swapped(PLAN, N1, device, replace(device, vni=9)), PLAN)
    assert [op.action for op in ops if isinstance(op.new or op.old, Vxlan)] == [Action.DELETE, Action.CREATE]
    assert sum(isinstance(op.new, Route) for op in ops) == 2
    assert [str(d) for d in differences(ops)] == ["n1: interface flannel.1: vni is 9, should be 1"]


def test_an_mtu_is_changed_in_place() -> None:
    bridge = find(N1, Bridge)
    assert isinstance(bridge, Bridge)
    ops = diff(swapped(PLAN, N1, bridge, replace(bridge, mtu=1400)), PLAN)
    assert [(op.action, op.new) for op in ops] == [(Action.CHANGE, bridge)]
    assert list(commands(ops)) == [f"ip -n {N1} link set cni0 mtu 1450"]
    assert summarize(ops) == [f"ip -n {N1} link set cni0 mtu 1450"]


def test_a_second_entry_for_a_mac_is_removed() -> None:
    entry = find(N1, FdbEntry)
    assert isinstance(entry, FdbEntry)
    state = {**PLAN, N1: PLAN[N1] | {replace(entry, dst=ip_interface("172.18.0.9").ip)}}
    ops = diff(state, PLAN)
    assert [op.action for op in ops] == [Action.DELETE]


def test_an_address_that_goes_has_its_routes_made_again() -> None:
    """With the last address of an interface the kernel drops its routes and neighbours."""
    state = swapped(PLAN, P1, Addr("eth0", ip_interface("10.244.1.2/24")), Addr("eth0", ip_interface("10.244.1.9/24")))
    ops = diff(state, PLAN)
    assert [op.phase for op in ops] == [Phase.DETACH, Phase.ADDRESS, Phase.ROUTE, Phase.ROUTE]


@pytest.mark.parametrize("end", [(N1, names.pod_port("p-1", "n1")), (P1, "eth0")])
def test_half_a_cable_is_replaced(end: tuple[str, str]) -> None:
    netns, name = end
    state = {**PLAN, netns: frozenset(e for e in PLAN[netns] if getattr(e, "name", "") != name)}
    ops = diff(state, PLAN)
    assert sum(op.action is Action.DELETE and isinstance(op.old, Veth) for op in ops) == 1
    assert sum(op.peer is not None for op in ops) == 1


def test_many_operations_are_counted_and_few_are_listed() -> None:
    assert summarize(diff({}, PLAN)) == [
        "make: 10 namespaces, 6 FDB entries, 3 VXLAN devices, 15 addresses, 4 bridges, 9 cables, 10 loopbacks, "
        "6 neighbors, 18 routes, 6 rulesets, 16 settings"
    ]
