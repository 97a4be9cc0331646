"""`bench datapath`: the udp backend's forwarders side by side with flannel's C proxy, kernel VXLAN and no overlay.

All labs of a topology are up at once, in one sandbox; each test goes through them in turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import flannel, machine, overlays, plot, processes, sandbox, traffic
from tests.bench.figures import COST, FLANNEL, PROCESS, SPEED, TROUBLE, Figure, Metric, Topology, figure_table, verdicts
from tests.bench.measure import BenchError
from tests.bench.overlays import Overlay, no_large_frames
from tests.bench.report import shuffled

TOPOLOGIES = {"nodes": Topology.NODES, "pods": Topology.PODS, "nic": Topology.NIC}
WARM_UP = 1  # seconds of each test, once
TRIES = 3  # of a measurement in which neighbours were busy
LEGEND = """\
middle (lowest-highest) of the rounds; ratios are taken within each round
CPU: of the whole machine, from /proc/stat; own: user and system time of the forwarders alone
RTT: a 64-byte UDP datagram to and fro, 2000 times; UDP kpps: received, while one process sends without a pause
RTT: with a half of the processors for each node, as if they were machines; all else wherever the scheduler puts it
NIC-like: node to node, the uplinks joined by a cable, their segmentation off and GRO on: no frame is longer than 1514
bytes"""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run."""

    rounds: int
    seed: int
    seconds: int
    variants: Sequence[str]
    tests: Sequence[str]
    topologies: Sequence[str]
    json_file: str | None
    plot_file: str | None


def main(options: Options) -> None:
    """Measure every topology and print its tables; the limits come last."""
    print(f"# bench datapath, {options.rounds} rounds of {options.seconds} s, seed {options.seed}")
    print(f"{machine.describe()}\n{LEGEND}", flush=True)
    variants, proxy = _present(options.variants)
    figures: list[Figure] = []
    tests = [test for test in TESTS if test in options.tests]
    for topology in map(TOPOLOGIES.__getitem__, options.topologies if tests else ()):
        print(f"\n## {topology}", flush=True)
        figures += _measured(measure, topology, variants, tests, options.rounds, options.seed, options.seconds, proxy)
        _show(figures, topology, (SPEED, COST, TROUBLE))
    if PROCESSES in options.tests:
        print("\n## the forwarders as processes", flush=True)
        figures += _measured(processes.measure, variants, options.rounds, options.seed, proxy)
        _show(figures, Topology.NONE, [PROCESS])
    print(f"\n## limits\n{verdicts(figures)}\n\nload at the end: {machine.load()}")
    if options.json_file:
        kept = {"options": asdict(options), "machine": machine.describe(), "figures": figures}
        Path(options.json_file).write_text(json.dumps(kept, indent=1))
    if options.plot_file:
        plot.draw(figures, options.plot_file)


def _present(variants: Sequence[str]) -> tuple[list[str], str]:
    """Return the variants that can take part, and flannel's proxy; say what is missing."""
    if FLANNEL not in variants:
        return list(variants), ""
    try:
        return list(variants), str(flannel.get_proxy())
    except BenchError as exc:
        print(f"{FLANNEL}: MISSING, not measured, nor any ratio to it: {exc}")
        return [variant for variant in variants if variant != FLANNEL], ""


def _measured(function: Callable[..., Any], *asked: Any) -> list[Figure]:
    """Return the figures that a function finds in a sandbox; print its notes, or that it has failed."""
    try:
        answer = sandbox.call(function, *asked)
    except BenchError as exc:
        print(f"FAILED: {exc}")
        return []
    for note in answer["notes"]:
        print(note)
    return [Figure(*row) for row in answer["figures"]]


def _show(figures: Sequence[Figure], topology: Topology, tables: Iterable[Mapping[Metric, int]]) -> None:
    for columns in tables:
        if text := figure_table(figures, topology, columns):
            print(f"\n{text}", flush=True)


# --- in the sandbox --------------------------------------------------------------------------------------------------

Test = Callable[[Overlay, int], Mapping[Metric, float]]


def measure(
    topology: str, variants: Sequence[str], tests: Sequence[str], rounds: int, seed: int, seconds: int, proxy: str
) -> dict[str, Any]:
    """Return the figures of a topology, and notes on what went wrong: to be called in a sandbox."""
    found: list[Figure] = []
    notes: list[str] = []
    with ExitStack() as stack:
        up = overlays.bring_up(stack, variants, Topology(topology), proxy, notes)
        for overlay in up.values():
            _warm_up(overlay, tests)
        disturbed = 0
        for turn, test, overlay in _order(up, tests, rounds, seed):
            try:
                values, calm = _in_calm(TESTS[test], overlay, seconds)
            except BenchError as exc:
                notes.append(f"{overlay.variant}: {test} FAILED in round {turn + 1}: {exc}")
            else:
                found += (Figure(topology, overlay.variant, metric, turn, value) for metric, value in values.items())
                disturbed += not calm
        if disturbed:
            notes.append(f"the machine was busy with something else during {disturbed} tests, {TRIES} times each")
    found.sort(key=lambda figure: variants.index(figure.variant))
    return {"figures": found, "notes": notes}


def _order(
    up: Mapping[str, Overlay], tests: Iterable[str], rounds: int, seed: int
) -> Iterator[tuple[int, str, Overlay]]:
    """Yield what is measured when: in each round each test of all, one close after another, for their ratios."""
    for turn in range(rounds):
        for test in tests:
            for variant in shuffled(up, seed, turn):
                yield turn, test, up[variant]


def _warm_up(overlay: Overlay, tests: Sequence[str]) -> None:
    """Run every test shortly, and make sure that frames are as short as they should be."""
    with no_large_frames(overlay.lab) if overlay.topology is Topology.NIC else nullcontext():
        for test in tests:
            TESTS[test](overlay, WARM_UP)


def _in_calm(test: Test, overlay: Overlay, seconds: int) -> tuple[Mapping[Metric, float], bool]:
    """Run a test, again while the machine is busy with something else at its end; say whether it was not, finally."""
    for _ in range(TRIES):
        machine.wait_for_calm()
        found = test(overlay, seconds)
        if calm := traffic.is_calm():
            break
    return found, calm


def _tcp(streams: int, gigabits: Metric, cpu: Metric, own: Metric, again: Metric) -> Test:
    def test(overlay: Overlay, seconds: int) -> Mapping[Metric, float]:
        done = traffic.transfer(overlay.way(), seconds, streams, overlay.pids)
        found = {gigabits: done.gigabits, cpu: done.cpu, again: done.retransmissions}
        return found | ({own: done.forwarders} if overlay.pids else {})

    return test


def _small(overlay: Overlay, seconds: int) -> Mapping[Metric, float]:
    return {Metric.SMALL: traffic.packets_per_second(overlay.way(), seconds / 2) / 1e3}


def _trip(overlay: Overlay, _seconds: int) -> Mapping[Metric, float]:
    middle, most = traffic.round_trips(overlay.way(), overlay.pids)
    return {Metric.TRIP: middle * 1e6, Metric.TRIP_P99: most * 1e6}


TESTS: Mapping[str, Test] = {
    "trip": _trip,
    "tcp1": _tcp(1, Metric.TCP1, Metric.CPU1, Metric.OWN1, Metric.AGAIN1),
    "tcp4": _tcp(4, Metric.TCP4, Metric.CPU4, Metric.OWN4, Metric.AGAIN4),
    "small": _small,
}
PROCESSES = "process"  # the test that has no topology
