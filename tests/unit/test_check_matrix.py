"""Who is asked, what is expected, what an answer means."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netlab.check.matrix import by_design, judge, members, pairs, report, stated
from netlab.check.model import Answer, Outcome, Probe, Result
from netlab.errors import StoreError, UsageError
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import (
    BridgeBackend,
    Check,
    CheckProtocol,
    Expect,
    HostGwBackend,
    Node,
    Pod,
    Role,
    Topology,
    VxlanBackend,
)
from tests.labs import routed, topology

ANSWERED = Answer(Outcome.ANSWERED, 0.001)
LOST = Answer(Outcome.FAILED, reason="no answer")
TOO_BIG = Answer(Outcome.TOO_BIG, reason="Frag needed")


def _snapshot(wanted: Topology) -> Snapshot:
    return allocate(wanted, Snapshot())


def _asked(wanted: Topology) -> set[tuple[str, str, int]]:
    found = pairs(wanted, _snapshot(wanted)).probes
    return {(probe.source.name, probe.target.name, probe.family) for probe in found}


def test_every_pod_and_node_asks_every_pod() -> None:
    lab = topology("lab", nodes=2, pods=3)
    pods = ["p-1", "p-2", "p-3"]
    wanted = {(source, target, 4) for source in [*pods, "n1", "n2"] for target in pods if source != target}
    assert _asked(lab) == wanted
    assert pairs(lab, _snapshot(lab)).total == len(wanted) == 12


def test_a_dual_stack_lab_is_asked_in_both_versions() -> None:
    lab = topology("lab", nodes=2, pods=3, dual_stack=True)
    assert len(_asked(lab)) == 24
    assert {family for _, _, family in _asked(lab)} == {4, 6}


def test_free_machines_and_routers_are_not_part_of_the_matrix() -> None:
    lab = routed("lab", VxlanBackend(), nodes=2)
    lab = replace(lab, nodes=(*lab.nodes, Node("client", "rack1", Role.EXTERNAL)))
    assert {name for pair in _asked(lab) for name in pair[:2]} == {"p-1", "p-2", "n1", "n2"}


def test_a_host_network_pod_has_its_nodes_place_and_address() -> None:
    lab = topology("lab", nodes=2, pods=2)
    lab = replace(lab, pods=(*lab.pods, Pod("agent", "n2", host_network=True)))
    everybody = members(lab, _snapshot(lab))
    assert everybody["agent"].netns == "nl-lab.n2"
    assert everybody["agent"].addresses == everybody["n2"].addresses
    assert not everybody["agent"].on_pod_network


def test_a_lab_without_pods_has_no_pairs() -> None:
    lab = topology("lab", nodes=2, pods=0)
    assert pairs(lab, _snapshot(lab), limit=1).probes == ()


def test_a_sample_is_said_to_be_one() -> None:
    lab = topology("lab", nodes=3, pods=30)
    selection = pairs(lab, _snapshot(lab), limit=100)
    assert len(selection.probes) == 100
    assert selection.total == 30 * 29 + 3 * 30
    answers = [ANSWERED] * 100
    assert report(lab, selection, (), answers, 0.1).sampled


def test_members_without_an_address_are_a_lab_that_is_not_up() -> None:
    with pytest.raises(StoreError, match="n1 has no address yet"):
        pairs(topology("lab"), Snapshot())


# --- what the backend cannot do --------------------------------------------------------------------------------------


def _gaps(lab: Topology) -> set[tuple[str, str]]:
    everybody = members(lab, _snapshot(lab))
    names = [pod.name for pod in lab.pods] + [node.name for node in lab.nodes]
    return {(a, b) for a in names for b in names if a != b and by_design(lab, everybody[a], everybody[b])}


def test_vxlan_has_no_gaps() -> None:
    assert not _gaps(routed("lab", VxlanBackend()))
    assert not _gaps(routed("lab", VxlanBackend(direct_routing=True)))
    assert not _gaps(replace(routed("lab", VxlanBackend()), ip_masq=False))


def test_bridge_stops_at_the_node() -> None:
    lab = topology("lab", nodes=2, pods=2, backend=BridgeBackend())
    assert _gaps(lab) == {("p-1", "p-2"), ("p-2", "p-1"), ("n1", "p-2"), ("n2", "p-1")}


def test_host_gw_stops_at_a_router() -> None:
    assert not _gaps(topology("lab", backend=HostGwBackend()))
    lab = routed("lab", HostGwBackend(), nodes=3)  # n1 and n3 on rack1, n2 on rack2
    assert _gaps(lab) == {(a, "p-2") for a in ("p-1", "p-3", "n1", "n3")} | {("p-2", b) for b in ("p-1", "p-3")} | {
        ("n2", "p-1"),
        ("n2", "p-3"),
    }


def test_without_masquerading_pods_do_not_reach_other_nodes_either() -> None:
    lab = replace(topology("lab", nodes=2, pods=2, backend=BridgeBackend()), ip_masq=False)
    assert {("p-1", "n2"), ("p-2", "n1")} <= _gaps(lab)
    assert ("n1", "n2") not in _gaps(lab)


# --- the checks: section ---------------------------------------------------------------------------------------------


def _with_check(check: Check, **options: bool) -> Topology:
    lab = topology("lab", nodes=2, pods=2, **options)
    return replace(lab, nodes=(*lab.nodes, Node("client", "underlay", Role.EXTERNAL)), checks=(check,))


def test_a_check_asks_what_it_says() -> None:
    lab = _with_check(Check("client", "p-1", CheckProtocol.TCP, port=80, expect=Expect.UNREACHABLE))
    (probe,) = stated(lab, _snapshot(lab))
    assert (probe.source.netns, probe.address) == ("nl-lab.client", _snapshot(lab).pods["p-1"][0])
    assert (probe.protocol, probe.port, probe.expect) == (CheckProtocol.TCP, 80, Expect.UNREACHABLE)


def test_a_check_asks_in_every_common_version() -> None:
    lab = _with_check(Check("p-1", "p-2", size=1400), dual_stack=True)
    assert [(probe.family, probe.size) for probe in stated(lab, _snapshot(lab))] == [(4, 1400), (6, 1400)]


def test_a_check_may_name_an_address_or_a_router() -> None:
    lab = _with_check(Check("p-1", "192.0.2.1"))
    (probe,) = stated(lab, _snapshot(lab))
    assert probe.address == ip_address("192.0.2.1")
    lab = replace(routed("lab", VxlanBackend()), checks=(Check("r1", "p-1"), Check("p-1", "r1")))
    there, back = stated(lab, _snapshot(lab))
    assert there.source.netns == "nl-lab.r1"
    assert back.address == ip_address("172.18.1.1")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (Check("p-1", "nobody"), "there is no nobody"),
        (Check("nobody", "p-1"), "there is no nobody"),
        (Check("p-1", "fd00::1"), "no IP version in common"),
    ],
)
def test_a_check_that_cannot_be_asked_is_an_error(check: Check, message: str) -> None:
    lab = _with_check(check)
    with pytest.raises(UsageError, match=message):
        stated(lab, _snapshot(lab))


# --- verdicts --------------------------------------------------------------------------------------------------------


def _probe(**options: object) -> Probe:
    lab = topology("lab", nodes=2, pods=2)
    return replace(pairs(lab, _snapshot(lab)).probes[0], **options)


@pytest.mark.parametrize(
    ("expect", "answer", "result"),
    [
        (Expect.REACHABLE, ANSWERED, Result.OK),
        (Expect.REACHABLE, LOST, Result.FAIL),
        (Expect.REACHABLE, TOO_BIG, Result.FAIL),
        (Expect.UNREACHABLE, ANSWERED, Result.FAIL),
        (Expect.UNREACHABLE, LOST, Result.OK),
        (Expect.UNREACHABLE, TOO_BIG, Result.FAIL),
        (Expect.TOO_BIG, ANSWERED, Result.FAIL),
        (Expect.TOO_BIG, LOST, Result.FAIL),
        (Expect.TOO_BIG, TOO_BIG, Result.OK),
    ],
)
def test_an_answer_is_judged_by_what_was_expected(expect: Expect, answer: Answer, result: Result) -> None:
    assert judge(_probe(expect=expect), answer).result is result


def test_failing_by_design_is_no_failure_and_working_against_it_neither() -> None:
    probe = _probe(by_design="the bridge ends here")
    failed, worked = judge(probe, LOST), judge(probe, ANSWERED)
    assert (failed.result, failed.ok, failed.reason) == (Result.BY_DESIGN, True, "no answer")
    assert (worked.result, worked.ok, worked.reason) == (Result.AGAINST_DESIGN, True, "the bridge ends here")


def test_a_report_keeps_pairs_and_checks_apart() -> None:
    lab = replace(topology("lab", nodes=1, pods=2), checks=(Check("p-1", "p-2"),))
    snapshot = _snapshot(lab)
    selection, checks = pairs(lab, snapshot), stated(lab, snapshot)
    found = report(lab, selection, checks, [ANSWERED] * 3 + [LOST] + [LOST], 0.5)
    assert (len(found.pairs), len(found.checks), found.probes) == (4, 1, 5)
    assert [failure.probe for failure in found.failures] == [selection.probes[3], checks[0]]
    assert not found.ok
    assert not found.sampled
