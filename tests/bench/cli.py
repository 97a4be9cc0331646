"""`bench cli`: processor time of the commands that must feel instant."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench import labs, machine, sandbox
from tests.bench.contenders import NETLAB
from tests.bench.measure import run
from tests.bench.report import shuffled, spread, table, verdict

LIMIT = 0.15  # seconds, user and system
LIMITED = ("netlab --help", "netlab status")


def main(rounds: int, seed: int) -> None:
    """Measure each command in turns, with a three-node vxlan lab up."""
    print(f"# bench cli, seed {seed}\n{machine.describe()}\n")
    found: dict[str, list[list[float]]] = sandbox.call(measure, rounds, seed)
    rows = []
    for command, costs in found.items():
        wall, cpu, peak = (spread(column) for column in zip(*costs, strict=True))
        target = verdict(cpu.median, LIMIT) if command in LIMITED else ""
        rows.append([f"`{command}`", cpu.text(0, 1000), wall.text(0, 1000), f"{peak.high / 1e6:.0f}", target])
    print(table(["", "CPU ms", "wall ms", "peak MB", f"within {LIMIT} s CPU"], rows))


def measure(rounds: int, seed: int) -> dict[str, list[list[float]]]:
    """Return [wall, cpu, peak] of every command and round: to be called in a sandbox."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        file = str(Path(folder) / "lab.yaml")
        Path(file).write_text(labs.many_nodes(3, 6))
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "netlab --help": [NETLAB, "--help"],
            "netlab ls": [NETLAB, "ls"],
            "netlab status": [NETLAB, "status", labs.LAB],
            "netlab up, nothing to do": [NETLAB, "up", file],
        }
        run([NETLAB, "up", file])
        found: dict[str, list[list[float]]] = {name: [] for name in commands}
        for turn in range(rounds):
            for name in shuffled(commands, seed, turn):
                machine.wait_for_calm()
                cost = run(commands[name])
                found[name].append([cost.wall, cost.cpu, cost.peak])
        run([NETLAB, "down", labs.LAB])
    return found
