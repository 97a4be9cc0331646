"""`netlab bench`: what rounds come to, and the labs that it compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.bench.compare import VARIANTS, topology
from netlab.bench.figures import Round, Row, cells, draw, rows
from netlab.topology.load import load_text

ROUNDS = [
    [Round("simple", 1.0, 90e-6), Round("ebpf", 12.0, 60e-6)],
    [Round("simple", 2.0, 80e-6), Round("ebpf", 20.0, 70e-6)],
    [Round("simple", 1.5, 100e-6), Round("ebpf", 30.0, 50e-6)],
]


def test_a_ratio_is_taken_within_a_round() -> None:
    assert rows(ROUNDS) == [Row("simple", 1.5, 1.0, 90e-6), Row("ebpf", 20.0, 12.0, 60e-6)]


def test_the_longest_bar_is_the_fastest() -> None:
    simple, ebpf = cells(rows(ROUNDS))
    assert simple[:4] == ("simple", "1.50", "1.0", "90")
    assert (len(simple[4]), len(ebpf[4])) == (2, 24)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_the_backend_only(variant: str) -> None:
    found = load_text(topology(variant))
    assert (len(found.nodes), [pod.node for pod in found.pods]) == (2, ["n1", "n2"])
    assert variant in (found.backend.type, getattr(found.backend, "forwarder", ""))


def test_the_picture_is_one(tmp_path: Path) -> None:
    file = tmp_path / "bench.svg"
    draw(rows(ROUNDS), str(file))
    assert "<svg" in file.read_text()
