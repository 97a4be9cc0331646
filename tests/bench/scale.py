"""`bench scale`: the largest lab, 1,000 pods on 100 nodes in one command, and how its cost grows with size."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from netlab.plan.build import counts
from tests.bench import labs, machine, sandbox
from tests.bench.contenders import NETLAB
from tests.bench.measure import run
from tests.bench.recipe import objects_of
from tests.bench.report import Sample, shuffled, spread, steepening, table


class Size(NamedTuple):
    """A lab; one without an overlay has one node."""

    pods: int
    nodes: int

    @property
    def file(self) -> str:
        """Return its topology file."""
        return labs.one_node(self.pods) if self.nodes == 1 else labs.many_nodes(self.nodes, self.pods)


# Entries for peers grow with the square of the nodes but are cheap; the first series shows what a namespace costs.
SERIES = {
    "pods on one node": [Size(2, 1), Size(125, 1), Size(250, 1), Size(500, 1), Size(1000, 1)],
    "10 pods on each node, vxlan": [Size(20, 2), Size(120, 12), Size(250, 25), Size(500, 50), Size(1000, 100)],
}


def main(rounds: int, seed: int) -> None:
    """Measure every size in turns, and print how seconds grow with objects."""
    print(f"# bench scale: whole `netlab up` and `netlab down`, {rounds} rounds, seed {seed}\n{machine.describe()}")
    sizes = [size for series in SERIES.values() for size in series]
    found: dict[Size, list[Sample]] = {size: [] for size in sizes}
    for turn in range(rounds):
        for size in shuffled(sizes, seed, turn):
            machine.wait_for_calm()
            found[size].append(Sample(**sandbox.call(measure, size.file)))
    for title, series in SERIES.items():
        print(f"\n## {title}\n{_table(series, found)}")
    print(f"\nload at the end: {machine.load()}")


def measure(text: str) -> dict[str, Any]:
    """Make and remove the lab of a topology file here: to be called in a sandbox. `cpu` and `peak` are those of up."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        file = Path(folder) / "lab.yaml"
        file.write_text(text)
        up = run([NETLAB, "up", str(file), "-o", "json"])
        assert json.loads(up.output)["changed"]
        down = run([NETLAB, "down", labs.LAB])
    return asdict(Sample(up.wall, down.wall, up.wall + down.wall, up.cpu, up.peak))


def _table(series: Sequence[Size], found: Mapping[Size, Sequence[Sample]]) -> str:
    objects = {size: sum(counts(objects_of(size.file)).values()) for size in series}
    ups = {size: spread(sample.up for sample in found[size]) for size in series}
    rows = [
        [
            f"{size.pods} pods, {size.nodes} nodes",
            f"{objects[size]}",
            ups[size].text(),
            f"{ups[size].median / objects[size] * 1e6:.0f}",
            spread(sample.down for sample in found[size]).text(),
            spread(sample.cpu for sample in found[size]).text(),
            f"{max(sample.peak for sample in found[size]) / 1e6:.0f}",
        ]
        for size in series
    ]
    header = ["", "objects", "up s", "us / object", "down s", "CPU s of up", "peak MB"]
    cpu = {size: spread(sample.cpu for sample in found[size]).median for size in series}
    seconds = steepening([(objects[size], ups[size].median) for size in series])
    work = steepening([(objects[size], cpu[size]) for size in series])
    middle = f"{series[-2].pods} pods"
    return (
        f"{table(header, rows)}\n"
        f"a further object beyond {middle} costs {seconds:.2f} times the seconds of one below, {work:.2f} times the CPU"
    )
