"""The pytest plugin inside a guest: run one share of the tests, and say on the console which one is on.

NETLAB_SHARD=1/3       the second of three shares
NETLAB_ONLY=FILE       only the tests that the file lists, as `report.junit_key` names them
NETLAB_TIMES=FILE      how long tests took elsewhere, so that the shares end together: {junit_key: seconds}
NETLAB_CONSOLE=FILE    where to say so: when the machine ends, its console shows in which test
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tier.report import junit_key

UNKNOWN = 0.5  # seconds that a test is taken to last where nobody has measured it


def share(costs: Sequence[float], count: int) -> list[list[int]]:
    """Deal tests out, the longest first, each to whoever has least to do; return the indexes of each share."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        lightest = loads.index(min(loads))
        shares[lightest].append(index)
        loads[lightest] += costs[index]
    return shares


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep this guest's share. Every guest collects the same tests in the same order."""
    wanted = items
    if file := os.environ.get("NETLAB_ONLY"):
        only = set(Path(file).read_text().splitlines())
        wanted = [item for item in items if junit_key(item.nodeid) in only]
    number, count = (int(part) for part in os.environ.get("NETLAB_SHARD", "0/1").split("/"))
    times = json.loads(Path(file).read_text()) if (file := os.environ.get("NETLAB_TIMES")) else {}
    shares = share([times.get(junit_key(item.nodeid), UNKNOWN) for item in wanted], count)
    mine = {wanted[index] for index in shares[number]}
    config.hook.pytest_deselected(items=[item for item in items if item not in mine])
    items[:] = [item for item in items if item in mine]


def pytest_runtest_logstart(nodeid: str) -> None:
    """Say which test begins."""
    if console := os.environ.get("NETLAB_CONSOLE"):
        with open(console, "w") as stream:
            stream.write(f"\ntest: {nodeid}\n")  # a line of its own, whatever else the console shows
