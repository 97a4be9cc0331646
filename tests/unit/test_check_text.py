"""Reports as people read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from netlab.check.matrix import pairs, report, stated
from netlab.check.model import Answer, Outcome, Probe, Report
from netlab.check.text import render, to_json
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import BridgeBackend, Check, CheckProtocol, Expect, Pod, Topology
from tests.labs import topology

ANSWERED = Answer(Outcome.ANSWERED, 0.0001)
LOST = Answer(Outcome.FAILED, reason="Destination net unreachable, said 172.18.0.1")


def _report(lab: Topology, answer: Callable[[Probe], Answer] = lambda probe: ANSWERED, limit: int = 20_000) -> Report:
    snapshot = allocate(lab, Snapshot())
    selection, checks = pairs(lab, snapshot, limit), stated(lab, snapshot)
    answers = [answer(probe) for probe in (*selection.probes, *checks)]
    return report(lab, selection, checks, answers, 0.25)


def _lost_between(source: str, target: str) -> Callable[[Probe], Answer]:
    return lambda probe: LOST if (probe.source.name, probe.target.name) == (source, target) else ANSWERED


def test_a_small_lab_is_a_matrix_of_members() -> None:
    assert render(_report(topology("lab", nodes=2, pods=3), _lost_between("p-2", "p-1"))) == [
        "      p-1   p-2   p-3",
        "p-1          ok    ok",
        "p-2  FAIL          ok",
        "p-3    ok    ok",
        "n1     ok    ok    ok",
        "n2     ok    ok    ok",
        "",
        "failed:",
        "  p-2 -> p-1 (10.244.1.2): Destination net unreachable, said 172.18.0.1",
        "",
        "12 probes in 250 ms: 11 as expected, 1 failed, round trip 0.1 ms (median), 0.1 ms (longest)",
    ]


def test_what_cannot_be_by_design_is_a_dash_with_a_reason() -> None:
    lab = topology("lab", nodes=2, pods=2, backend=BridgeBackend())
    lines = render(_report(lab, lambda probe: LOST if probe.by_design else ANSWERED))
    assert lines[1].split() == ["p-1", "-"]
    assert "- by design, 4 probes: the bridge backend joins the pods of one node only" in lines
    assert lines[-1].startswith("6 probes in 250 ms: 2 as expected, 4 cannot by design, round trip")


def test_what_works_against_the_design_is_listed() -> None:
    lines = render(_report(topology("lab", nodes=2, pods=2, backend=BridgeBackend())))
    assert lines[1].split() == ["p-1", "ok!"]
    assert "reached against the design (ok!):" in lines
    assert any(line.startswith("  p-1 -> p-2 (10.244.2.2): the bridge backend") for line in lines)


def test_a_dual_stack_lab_has_a_matrix_for_each_version() -> None:
    lines = render(_report(topology("lab", nodes=1, pods=2, dual_stack=True)))
    assert [line for line in lines if line.startswith("IPv")] == ["IPv4", "IPv6"]


@pytest.mark.parametrize("pods", [2, 6, 10, 12])
@pytest.mark.parametrize("length", [3, 20, 63])
def test_a_matrix_fits_eighty_columns_whatever_the_names(pods: int, length: int) -> None:
    lab = topology("lab", nodes=3, pods=0)
    named = tuple(Pod(f"{'x' * (length - 2)}{position:02}", f"n{position % 3 + 1}") for position in range(pods))
    lines = render(_report(replace(lab, pods=named), lambda probe: ANSWERED))
    matrix = lines[: lines.index("")]
    assert max(map(len, matrix)) <= 80
    assert len(matrix) == 1 + pods + 3
    assert all("ok" in line for line in matrix[1:])


def test_long_names_are_numbered_in_rows_and_columns() -> None:
    lab = topology("lab", nodes=1, pods=0)
    pods = tuple(Pod(f"a-rather-long-name-of-a-pod-{position}", "n1") for position in range(4))
    lines = render(_report(replace(lab, pods=pods)))
    assert lines[0].split() == ["1", "2", "3", "4"]
    assert lines[2].split() == ["2", "a-rather-long-name-of-a-pod-1", "ok", "ok", "ok"]
    assert lines[5].split() == ["n1", "ok", "ok", "ok", "ok"]


def test_many_pods_are_a_matrix_of_nodes_with_counts() -> None:
    lines = render(_report(topology("lab", nodes=3, pods=30), _lost_between("p-1", "p-2")))
    assert lines[0].split() == ["n1", "n2", "n3"]
    assert lines[1].split() == ["n1", "100", "109/110", "110"]  # ten pods and the node ask ten pods
    assert lines[2].split() == ["n2", "110", "100", "110"]


def test_many_nodes_are_a_summary() -> None:
    lines = render(_report(topology("lab", nodes=20, pods=40), _lost_between("p-1", "p-2")))
    assert lines[:4] == [
        "within a node: 80 of 80 answered",
        "between nodes: 2,279 of 2,280 answered",
        "  n1: 1 failed from or to it",
        "  n2: 1 failed from or to it",
    ]


def test_at_most_twenty_failures_are_listed() -> None:
    lines = render(_report(topology("lab", nodes=2, pods=6), lambda probe: LOST))
    listed = lines[lines.index("failed:") + 1 :]
    assert sum(" -> " in line for line in listed) == 20
    assert "  and 22 more" in listed


def test_checks_have_a_line_each() -> None:
    checks = (
        Check("p-1", "p-2", size=1451, expect=Expect.TOO_BIG),
        Check("p-1", "p-2", CheckProtocol.TCP, port=80),
        Check("p-1", "192.0.2.1", expect=Expect.UNREACHABLE),
    )
    lab = replace(topology("lab", nodes=1, pods=2), checks=checks)

    def answer(probe: Probe) -> Answer:
        if probe.size:
            return Answer(Outcome.TOO_BIG, reason="message too long, mtu=1450, said its own kernel")
        return ANSWERED

    lines = render(_report(lab, answer))
    assert lines[lines.index("checks:") + 1 : -2] == [
        "  ok    p-1 -> p-2 (10.244.1.3) icmp of 1451 bytes: too-big, message too long, mtu=1450, said its own kernel",
        "  ok    p-1 -> p-2 (10.244.1.3) tcp 80: reachable, in 0.1 ms",
        "  FAIL  p-1 -> 192.0.2.1 icmp: wanted unreachable, but it was answered",
    ]


def test_a_sample_is_called_one() -> None:
    lines = render(_report(topology("lab", nodes=3, pods=30), limit=200))
    assert lines[-1].endswith("sampled 200 of 960 pairs")


def test_a_lab_without_pods_is_a_line() -> None:
    assert render(_report(topology("lab", pods=0))) == ["0 probes in 250 ms: 0 as expected"]


def test_json_holds_every_probe() -> None:
    lab = replace(topology("lab", nodes=1, pods=2), checks=(Check("p-1", "p-2", CheckProtocol.TCP, port=80),))
    found = to_json(_report(lab, _lost_between("p-1", "p-2")))
    assert json.loads(json.dumps(found)) == found
    assert (found["ok"], found["probes"], found["failed"], found["pairsTotal"]) == (False, 5, 2, 4)
    assert found["pairs"][0] == {
        "from": "p-1",
        "to": "p-2",
        "address": "10.244.1.3",
        "family": 4,
        "protocol": "icmp",
        "ok": False,
        "result": "fail",
        "seconds": None,
        "reason": "Destination net unreachable, said 172.18.0.1",
    }
    assert found["checks"][0]["port"] == 80
