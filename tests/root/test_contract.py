"""The kernel contract on the real kernel: random paths from fixed seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyroute2 import IPRoute

from netlab import names
from netlab.kernel import netns
from netlab.kernel.linux import LinuxKernel
from netlab.plan.diff import Phase, diff
from netlab.supervisor.client import Supervisor
from tests.contract import follow
from tests.labs import planned, random_topology

pytestmark = pytest.mark.root


@pytest.mark.parametrize("first", range(0, 60, 5))
def test_a_kernel_becomes_every_plan_of_a_path(first: int, tmp_path: Path) -> None:
    lab = f"contract{first}"
    path = [planned(random_topology(lab, seed)).objects for seed in range(first, first + 5)]
    with LinuxKernel(Supervisor(lab, tmp_path)) as kernel:
        try:
            follow(kernel, lab, [*path, {}])
        finally:
            kernel.remove(lab)


def test_a_kernel_makes_room_for_interfaces_that_appear_meanwhile(tmp_path: Path) -> None:
    """As when the first ipip device loads its module, which adds tunl0 to every namespace."""
    wanted = planned(random_topology("contractx", 1)).objects
    ops = diff({}, wanted)
    with LinuxKernel(Supervisor("contractx", tmp_path)) as kernel:
        try:
            kernel.apply([op for op in ops if op.phase <= Phase.NAME])
            netns.call(names.netns("contractx", "n1"), _add_cable)
            kernel.apply([op for op in ops if op.phase > Phase.NAME])
            assert diff(kernel.observe("contractx", wanted).objects, wanted) == []
        finally:
            kernel.remove("contractx")


def _add_cable() -> None:
    with IPRoute() as ipr:
        ipr.link("add", ifname="stray0", kind="veth", peer={"ifname": "stray1"})
