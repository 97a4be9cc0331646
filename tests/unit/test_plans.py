"""Every topology that is shipped: loaded, planned, and compared with its golden commands.

`NETLAB_UPDATE_GOLDEN=1 scripts/test tests/unit/test_plans.py` writes the goldens anew; read the difference then.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from netlab.codec import from_json, to_json
from netlab.plan.build import counts
from netlab.plan.diff import diff
from netlab.plan.text import commands
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.load import load
from netlab.topology.model import Topology
from tests.labs import planned

TOPOLOGIES = sorted(Path("topologies").glob("*.yaml"))
GOLDEN = Path("tests/golden/plan")
MANY = 2000  # operations: beyond, the golden holds counts


@pytest.mark.parametrize("file", TOPOLOGIES, ids=lambda file: file.stem)
def test_plan_is_as_agreed(file: Path) -> None:
    plan = planned(load(file))
    ops = diff({}, plan.objects)
    numbers = [f"{number} {kind}" for kind, number in sorted(counts(plan.objects).items())]
    lines = list(commands(ops)) if len(ops) < MANY else numbers
    lines += [f"# left out in {refusal.netns}: {refusal.what}: {refusal.why}" for refusal in plan.refusals]
    golden = GOLDEN / f"{file.stem}.txt"
    if "NETLAB_UPDATE_GOLDEN" in os.environ:
        golden.write_text("\n".join([*lines, ""]))
    assert "\n".join([*lines, ""]) == golden.read_text()


@pytest.mark.parametrize("file", TOPOLOGIES, ids=lambda file: file.stem)
def test_a_recorded_topology_reads_back_the_same(file: Path) -> None:
    topology = load(file)
    assert from_json(Topology, json.loads(json.dumps(to_json(topology)))) == topology
    snapshot = allocate(topology, Snapshot())
    assert from_json(Snapshot, json.loads(json.dumps(to_json(snapshot)))) == snapshot
