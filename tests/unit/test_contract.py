"""The kernel contract on the fake kernel, along random paths."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.kernel.fake import FakeKernel
from tests.contract import follow
from tests.labs import planned, random_topology


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_a_kernel_becomes_every_plan_of_a_path(seeds: list[int]) -> None:
    path = [planned(random_topology("fake", seed)).objects for seed in seeds]
    follow(FakeKernel(), "fake", [*path, {}])
