"""`bench path`: iperf3 from pod to pod across two nodes: netlab's path against the same made by hand.

Every hand-made path exists twice: the ratio of the two copies is 1 by nature and shows the noise of this run.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from typing import NamedTuple

from tests.bench import by_hand, labs, machine, sandbox
from tests.bench.contenders import NETLAB
from tests.bench.measure import BenchError, run
from tests.bench.report import ratio, shuffled, spread, table

BACKENDS = ("vxlan", "host-gw")
MAKERS = ("netlab", "hand", "copy")
SERVER_PATIENCE = 5.0  # seconds until iperf3 listens


class Way(NamedTuple):
    """Where the traffic goes: two pods' namespaces and the second one's address."""

    client: str
    server: str
    address: str


def main(rounds: int, seed: int, seconds: int) -> None:
    """Measure all paths in turns and print the ratios."""
    print(f"# bench path: iperf3, one TCP flow, {seconds} s x {rounds} rounds, seed {seed}\n{machine.describe()}")
    print("the same rules for masquerading and forwarding on both; copy: the hand-made path, made a second time\n")
    found: dict[str, list[float]] = sandbox.call(measure, rounds, seed, seconds)
    rows = []
    for backend in BACKENDS:
        by_hand_rounds = dict(enumerate(found[f"{backend} hand"]))
        for maker in MAKERS:
            ours = found[f"{backend} {maker}"]
            against = ratio(dict(enumerate(ours)), by_hand_rounds).text() if maker != "hand" else "1"
            rows.append([f"{backend}, {maker}", spread(ours).text(2, 1e-9), against])
    print(table(["", "Gbit/s", "/ by hand"], rows))
    print(f"\nload at the end: {machine.load()}")


def measure(rounds: int, seed: int, seconds: int) -> dict[str, list[float]]:
    """Return bits per second by path and round: to be called in a sandbox."""
    ways = {f"{backend} {maker}": _make(backend, maker) for backend in BACKENDS for maker in MAKERS}
    for way in ways.values():
        _serve(way)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in shuffled(ways, seed, turn):
            machine.wait_for_calm()
            found[name].append(_send(ways[name], seconds))
    return found


def _make(backend: str, maker: str) -> Way:
    """Make one path; it ends with the sandbox."""
    lab = f"{maker}-{backend}"
    if maker != "netlab":
        run(["sh", "-c", by_hand.script(lab, backend)])
        return Way(by_hand.pod_netns(lab, 1), by_hand.pod_netns(lab, 2), by_hand.pod_address(2))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir="/run") as file:
        file.write(labs.many_nodes(2, 2, backend))
        file.flush()
        run([NETLAB, "up", file.name, "--name", lab])
    address = run([NETLAB, "address", "--lab", lab, "p-2"]).output.strip()
    return Way(f"nl-{lab}.p-1", f"nl-{lab}.p-2", address)


def _serve(way: Way) -> None:
    """Start a server at the far end and wait until it listens."""
    run(["ip", "netns", "exec", way.server, "iperf3", "--server", "--daemon"])
    deadline = time.monotonic() + SERVER_PATIENCE
    while not run(["ip", "netns", "exec", way.server, "ss", "-Hltn", "sport", "=", ":5201"]).output:
        if time.monotonic() > deadline:
            raise BenchError(f"iperf3 does not listen in {way.server}")


def _send(way: Way, seconds: int) -> float:
    """Send for some seconds and return the bits per second that arrived."""
    argv = ["ip", "netns", "exec", way.client, "iperf3", "--client", way.address, "--time", str(seconds), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    if done.returncode or "error" in result:
        raise BenchError(f"iperf3 in {way.client}: {result.get('error', done.stderr)}")
    received: float = result["end"]["sum_received"]["bits_per_second"]
    return received
