"""What a forwarder costs as a process: memory after traffic, processor time when idle, seconds until it is ready."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from netlab.kernel import netns
from netlab.supervisor.spec import NOTIFY, READY
from netlab.tunnel.config import Config, render
from tests.bench import machine, overlays, traffic
from tests.bench.figures import FLANNEL, FORWARDERS, Figure, Metric, Topology
from tests.bench.measure import BenchError
from tests.bench.report import shuffled

IDLE_SECONDS = 1.0
PATIENCE = 10.0  # seconds until a forwarder is ready


class Ready(NamedTuple):
    """How long a forwarder took, and what it says that it is."""

    seconds: float
    said: str


def measure(variants: Sequence[str], rounds: int, seed: int, proxy: str) -> dict[str, Any]:
    """Return what the forwarders among the variants cost, and notes: to be called in a sandbox."""
    kept = [variant for variant in variants if variant in (FLANNEL, *FORWARDERS)]
    notes: list[str] = []
    with ExitStack() as stack:
        up = overlays.bring_up(stack, kept, Topology.NODES, proxy, notes)
        for overlay in up.values():
            _work(overlay)
        figures = [figure for variant, overlay in up.items() for figure in _memory(variant, overlay.pids)]
        machine.wait_for_calm()
        figures += _idle({variant: overlay.pids for variant, overlay in up.items()})
        places = {variant: overlay.stop_forwarders()[0] for variant, overlay in up.items() if variant != FLANNEL}
        for turn in range(rounds):
            for variant in shuffled(places, seed, turn):
                machine.wait_for_calm()
                netns_name, config = places[variant]
                with forwarder(netns_name, config) as ready:
                    figures.append(Figure(Topology.NONE, variant, Metric.START, turn, ready.seconds))
    return {"figures": figures, "notes": notes}


def _work(overlay: overlays.Overlay) -> None:
    """Let the forwarders see every kind of traffic."""
    way = overlay.way()
    traffic.round_trips(way, overlay.pids)  # first: the others leave full queues behind
    traffic.transfer(way, 1, 4, overlay.pids)
    traffic.packets_per_second(way, 0.5)


def _memory(variant: str, pids: Sequence[int]) -> Iterator[Figure]:
    """Yield the resident memory of each process, in MB: whole, and with shared pages by halves."""
    for number, pid in enumerate(pids):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {words[0]: int(words[1]) * 1024 / 1e6 for words in map(str.split, lines)}
        yield Figure(Topology.NONE, variant, Metric.RSS, number, sizes["Rss:"])
        yield Figure(Topology.NONE, variant, Metric.PSS, number, sizes["Pss:"])


def _idle(variants: dict[str, list[int]]) -> Iterator[Figure]:
    """Yield how often each process ran, and for how long, while there was nothing to do."""
    pids = [(variant, number, pid) for variant, found in variants.items() for number, pid in enumerate(found)]
    before = [(_switches(pid), traffic.process_seconds(pid)) for *_, pid in pids]
    time.sleep(IDLE_SECONDS)
    for (variant, number, pid), (switches, seconds) in zip(pids, before, strict=True):
        worked = traffic.process_seconds(pid) - seconds
        yield Figure(Topology.NONE, variant, Metric.SWITCHES, number, (_switches(pid) - switches) / IDLE_SECONDS)
        yield Figure(Topology.NONE, variant, Metric.IDLE, number, 100 * worked / IDLE_SECONDS)


def _switches(pid: int) -> int:
    """Return how often a process has given the processor up, or lost it: it does not run without."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


# --- by hand ---------------------------------------------------------------------------------------------------------


@contextmanager
def forwarder(netns_name: str, config: Config) -> Iterator[Ready]:
    """Run one of netlab's forwarders as the supervisor starts it, until the end of the block. Raises BenchError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, tempfile.NamedTemporaryFile("w") as file:
        file.write(render(config))
        file.flush()
        ours.settimeout(PATIENCE)
        started = time.perf_counter()
        process = netns.call(netns_name, _start, file.name, theirs)
        try:
            said = ours.recv(1000)
            seconds = time.perf_counter() - started
            if not said.startswith(READY):
                raise BenchError(f"a forwarder does not start: {said.decode()}")
            yield Ready(seconds, said.removeprefix(READY).decode())
        finally:
            process.kill()
            process.wait()


def _start(file: str, channel: socket.socket) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-P", "-m", "netlab.tunnel", file]
    return subprocess.Popen(argv, env={**os.environ, NOTIFY: str(channel.fileno())}, pass_fds=[channel.fileno()])
