"""`netlab check` on real labs: what the matrix expects is what the kernel does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netlab import names
from netlab.check.model import Report, Result
from netlab.check.text import render
from netlab.kernel import probe
from netlab.kernel.linux import LinuxKernel
from netlab.plan.build import build
from netlab.plan.diff import diff
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import (
    Backend,
    BridgeBackend,
    Check,
    Expect,
    HostGwBackend,
    Netfilter,
    Node,
    Pod,
    Role,
    Topology,
    VxlanBackend,
)
from tests.labs import routed, topology
from tests.root.ready import wait_until_ready

pytestmark = pytest.mark.root

LAB = "tqcheck"
BACKENDS = [BridgeBackend(), HostGwBackend(), VxlanBackend(), VxlanBackend(direct_routing=True)]
IDS = ["bridge", "host-gw", "vxlan", "vxlan-direct"]

Checker = Callable[[Topology], Report]


@pytest.fixture
def check(tmp_path: Path) -> Iterator[Checker]:
    """Bring a lab up (or change it) and check it."""
    kernel = LinuxKernel()

    def up_and_check(wanted: Topology) -> Report:
        snapshot = allocate(wanted, Snapshot())
        plan = build(wanted, snapshot)
        kernel.apply(diff(kernel.observe(LAB, plan.objects).objects, plan.objects))
        wait_until_ready(plan.objects)
        return probe.check(wanted, snapshot)

    try:
        yield up_and_check
    finally:
        kernel.remove(LAB)


def _ip(member: str, line: str) -> None:
    subprocess.run(["ip", "-n", names.netns(LAB, member), *line.split()], check=True)


def _with_host_pods(lab: Topology) -> Topology:
    """Return a lab with a hostNetwork pod on its first and last node."""
    agents = (Pod(f"agent-{node.name}", node.name, host_network=True) for node in (lab.nodes[0], lab.nodes[-1]))
    return replace(lab, pods=(*lab.pods, *agents))


def _assert_as_designed(found: Report) -> None:
    assert not found.failures, "\n".join(render(found))
    assert not [pair for pair in found.pairs if pair.verdict.result is Result.AGAINST_DESIGN], "\n".join(render(found))


@pytest.mark.parametrize("ip_masq", [True, False], ids=["masq", "no-masq"])
@pytest.mark.parametrize("backend", BACKENDS, ids=IDS)
def test_what_is_said_to_be_impossible_is_just_that(check: Checker, backend: Backend, ip_masq: bool) -> None:
    """Behind a router every rule of `by_design` counts; not one pair may be better or worse than it says."""
    lab = replace(_with_host_pods(routed(LAB, backend)), ip_masq=ip_masq)
    _assert_as_designed(check(lab))


@pytest.mark.parametrize("netfilter", list(Netfilter))
@pytest.mark.parametrize("backend", BACKENDS, ids=IDS)
def test_a_dual_stack_lab_is_as_designed(check: Checker, backend: Backend, netfilter: Netfilter) -> None:
    lab = _with_host_pods(topology(LAB, nodes=2, pods=4, backend=backend, dual_stack=True))
    found = check(replace(lab, netfilter=netfilter))
    _assert_as_designed(found)
    assert {pair.probe.family for pair in found.pairs} == {4, 6}


def test_a_way_built_by_hand_is_seen(check: Checker) -> None:
    lab = topology(LAB, nodes=2, pods=2, backend=BridgeBackend())
    check(lab)
    for node, cidr, via in (("n1", "10.244.2.0/24", "172.18.0.3"), ("n2", "10.244.1.0/24", "172.18.0.2")):
        _ip(node, f"route add {cidr} via {via}")
    found = probe.check(lab, allocate(lab, Snapshot()))
    results = {(pair.probe.source.name, pair.probe.target.name): pair.verdict.result for pair in found.pairs}
    assert results["p-1", "p-2"] is results["p-2", "p-1"] is Result.AGAINST_DESIGN
    assert found.ok


def test_a_fault_is_found_and_named(check: Checker) -> None:
    lab = topology(LAB, nodes=3, pods=3)
    assert check(lab).ok
    _ip("n1", "route del 10.244.3.0/24")
    _ip("p-2", "link set eth0 down")
    found = probe.check(lab, allocate(lab, Snapshot()))
    failed = {(pair.probe.source.name, pair.probe.target.name): pair.verdict.reason for pair in found.failures}
    assert set(failed) == {
        *(("p-2", target) for target in ("p-1", "p-3")),
        *((source, "p-2") for source in ("p-1", "p-3", "n1", "n2", "n3")),
        *(("p-1", "p-3"), ("p-3", "p-1"), ("n1", "p-3"), ("n3", "p-1")),
    }
    assert "Network is unreachable (no route), said its own kernel" in {failed["p-2", "p-1"], failed["n1", "p-3"]}


def test_a_labs_own_checks_are_carried_out(check: Checker) -> None:
    lab = topology(LAB, nodes=2, pods=2, dual_stack=True)
    lab = replace(
        lab,
        nodes=(*lab.nodes, Node("client", "underlay", Role.EXTERNAL)),
        checks=(
            Check("p-1", "p-2", size=1430),  # IPv6 has the larger outer header
            Check("p-1", "p-2", size=1451, expect=Expect.TOO_BIG),
            Check("p-1", "client"),  # masqueraded
            Check("client", "p-1", expect=Expect.UNREACHABLE),  # the underlay knows no podCIDR
            Check("p-1", "192.0.2.1", expect=Expect.UNREACHABLE),
        ),
    )
    found = check(lab)
    assert not found.failures, "\n".join(render(found))
    assert len(found.checks) == 9
