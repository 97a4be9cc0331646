"""The kernel contract on the real kernel: random paths from fixed seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.kernel.linux import LinuxKernel
from tests.contract import follow
from tests.labs import planned, random_topology

pytestmark = pytest.mark.root


@pytest.mark.parametrize("first", range(0, 60, 5))
def test_a_kernel_becomes_every_plan_of_a_path(first: int, tmp_path: Path) -> None:
    lab = f"contract{first}"
    path = [planned(random_topology(lab, seed)).objects for seed in range(first, first + 5)]
    with LinuxKernel(tmp_path) as kernel:
        try:
            follow(kernel, lab, [*path, {}])
        finally:
            kernel.remove(lab)
