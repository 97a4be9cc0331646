"""`bench scale`: the largest lab, 1,000 pods on 100 nodes in one command, and how its cost grows with size."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from netlab.plan.build import counts
from tests.bench import labs, machine, sandbox
from tests.bench.contenders import NETLAB
from tests.bench.measure import run
from tests.bench.recipe import objects_of
from tests.bench.report import Sample, exponent, shuffled, spread, table

SIZES = ((125, 100), (250, 100), (500, 100), (1000, 100))  # pods, nodes: the pods grow
CLUSTERS = ((125, 12), (250, 25), (500, 50), (1000, 100))  # both grow; entries for peers grow with the square


def main(rounds: int, seed: int) -> None:
    """Measure every size in turns, and print how seconds grow with objects."""
    print(f"# bench scale: `netlab up`, vxlan, seed {seed}\n{machine.describe()}")
    sizes = sorted({*SIZES, *CLUSTERS})
    found: dict[tuple[int, int], list[Sample]] = {size: [] for size in sizes}
    for turn in range(rounds):
        for size in shuffled(sizes, seed, turn):
            machine.wait_for_calm()
            found[size].append(Sample(**sandbox.call(measure, *size)))
    for title, series in (("100 nodes", SIZES), ("10 pods on each node", CLUSTERS)):
        print(f"\n## {title}\n{_table(series, found)}")
    print(f"\nload at the end: {machine.load()}")


def measure(pods: int, nodes: int) -> dict[str, Any]:
    """Make and remove one lab here: to be called in a sandbox. `cpu` and `peak` are those of `up`."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        file = Path(folder) / "lab.yaml"
        file.write_text(labs.many_nodes(nodes, pods))
        up = run([NETLAB, "up", str(file), "-o", "json"])
        assert json.loads(up.output)["changed"]
        down = run([NETLAB, "down", labs.LAB])
    return asdict(Sample(up.wall, down.wall, up.wall + down.wall, up.cpu, up.peak))


def _table(series: tuple[tuple[int, int], ...], found: dict[tuple[int, int], list[Sample]]) -> str:
    rows, points = [], []
    for pods, nodes in series:
        objects = sum(counts(objects_of(labs.many_nodes(nodes, pods))).values())
        samples = found[pods, nodes]
        up = spread(sample.up for sample in samples)
        points.append((objects, up.median))
        rows.append(
            [
                f"{pods} pods, {nodes} nodes",
                f"{objects}",
                up.text(),
                f"{up.median / objects * 1e6:.0f}",
                spread(sample.down for sample in samples).text(),
                spread(sample.cpu for sample in samples).text(),
                f"{max(sample.peak for sample in samples) / 1e6:.0f}",
            ]
        )
    header = ["", "objects", "up s", "us / object", "down s", "CPU s of up", "peak MB"]
    return f"{table(header, rows)}\nseconds of up grow as objects ** {exponent(points):.2f}"
