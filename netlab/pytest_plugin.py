"""Labs in tests: a fixture brings a topology up for a test and takes it down, also when the test fails.

    @pytest.mark.netlab("topologies/vxlan-3.yaml")      # a file, from the root folder of the tests, or YAML text
    def test_pods_reach_each_other(lab):
        assert lab.exec("web-1", ["ping", "-c1", lab.address("web-2")]).returncode == 0

`lab_factory` makes any number of labs in one test. Each lab has a name of its own, so tests run in parallel (xdist).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from netlab.lab import Lab

LabFactory = Callable[[str], "Lab"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "netlab(topology): the topology (file or YAML text) of the `lab` fixture")


@pytest.fixture
def lab_factory(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LabFactory]:
    """Return a function that brings up a lab of a topology file or YAML text; all are taken down after the test."""
    from netlab.kernel.rootless import ensure_privileged
    from netlab.lab import Lab
    from netlab.names import short_hash

    monkeypatch.setenv("NETLAB_STATE", str(tmp_path / "netlab"))
    ensure_privileged()
    with ExitStack() as stack:

        def make(topology: str) -> Lab:
            name = f"t{short_hash(request.node.nodeid, str(os.getpid()), str(tmp_path), topology)}"
            lab = Lab.loads(topology, name=name) if "\n" in topology else Lab.load(_find(request, topology), name=name)
            stack.callback(lab.down)
            lab.up()
            return lab

        yield make


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_factory: LabFactory) -> Lab:
    """Return a lab that is up: the one of the test's `netlab` marker."""
    marker = request.node.get_closest_marker("netlab")
    if marker is None or len(marker.args) != 1:
        pytest.fail("the `lab` fixture needs @pytest.mark.netlab(TOPOLOGY)", pytrace=False)
    return lab_factory(marker.args[0])


def _find(request: pytest.FixtureRequest, topology: str) -> Path:
    return request.config.rootpath / topology
