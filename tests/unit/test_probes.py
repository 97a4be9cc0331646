"""Readiness as kubelet counts it, and what load balancers read of a node."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from netlab.probes.healthcheck import response
from netlab.probes.readiness import Outcome, ProbeState
from netlab.topology.pod import Probe

OK, FAILED = Outcome(True), Outcome(False, "connection refused")
probes = st.builds(
    Probe,
    initial_delay=st.integers(0, 40),
    period=st.integers(1, 20) | st.sampled_from([0.05, 0.1]),
    success_threshold=st.integers(1, 4),
    failure_threshold=st.integers(1, 4),
)
clocks = st.floats(0, 1e6)


def run(state: ProbeState, *outcomes: Outcome) -> ProbeState:
    for outcome in outcomes:
        state = state.after(outcome, state.next_due)
    return state


def test_a_container_starts_unready_and_one_success_is_enough() -> None:
    state = ProbeState.started(Probe(), 100.0)
    assert (state.is_ready, state.next_due) == (False, 100.0)
    assert run(state, FAILED).is_ready is False
    assert run(state, OK).is_ready is True


@pytest.mark.parametrize(
    ("delay", "period", "first"), [(0, 10, 0), (5, 10, 10), (10, 10, 10), (11, 10, 20), (3, 1, 3), (30, 7, 35)]
)
def test_the_first_probe_is_at_the_first_tick_after_the_delay(delay: int, period: int, first: int) -> None:
    assert ProbeState.started(Probe(initial_delay=delay, period=period), 100.0).next_due == 100.0 + first


def test_failures_count_only_one_after_the_other() -> None:
    ready = run(ProbeState.started(Probe(), 0.0), OK)
    assert run(ready, FAILED, FAILED).is_ready
    assert run(ready, FAILED, FAILED, OK, FAILED, FAILED).is_ready
    assert not run(ready, FAILED, FAILED, FAILED).is_ready


@given(probe=probes, start=clocks, outcomes=st.lists(st.sampled_from([OK, FAILED]), max_size=20))
def test_readiness_is_the_last_run_that_was_long_enough(probe: Probe, start: float, outcomes: list[Outcome]) -> None:
    want, count, last = False, 0, None
    for outcome in outcomes:
        count = count + 1 if outcome is last else 1
        last = outcome
        if count >= (probe.success_threshold if outcome.ok else probe.failure_threshold):
            want = outcome.ok
    state = run(ProbeState.started(probe, start), *outcomes)
    assert state.is_ready is want
    assert state.last is last


@given(probe=probes, start=clocks, late=st.lists(st.floats(0, 100), max_size=20))
def test_the_next_probe_is_always_later_and_within_a_period(probe: Probe, start: float, late: list[float]) -> None:
    state = ProbeState.started(probe, start)
    assert -1e-6 <= state.next_due - start - probe.initial_delay < probe.period + 1e-6
    for lateness in late:
        now = state.next_due + lateness
        assume(state.is_due(now))
        state = state.after(OK, now)
        assert now < state.next_due <= now + probe.period + 1e-6
        assert not state.is_due(now)
        ticks = (state.next_due - start) / probe.period
        assert abs(ticks - round(ticks)) < 1e-3


@pytest.mark.parametrize(
    ("local", "healthy", "status"), [(2, True, 200), (0, True, 503), (2, False, 503), (0, False, 503)]
)
def test_the_health_check_of_a_service(local: int, healthy: bool, status: int) -> None:
    head, _, body = response("default", "web", local, healthy=healthy).partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert first.startswith(f"HTTP/1.1 {status} ")
    assert f"X-Load-Balancing-Endpoint-Weight: {local}" in fields
    assert f"Content-Length: {len(body)}" in fields
    assert json.loads(body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": local,
        "serviceProxyHealthy": healthy,
    }
