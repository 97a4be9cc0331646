"""Every topology that is shipped comes up, does what it says, and goes away."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.errors import NotSupported
from netlab.kernel import features, netns
from netlab.lab import Lab

pytestmark = pytest.mark.root

TOPOLOGIES = sorted(Path("topologies").glob("*.yaml"))
IPIP = [file for file in TOPOLOGIES if file.stem.startswith("ipip")]


def has_ipip() -> bool:
    try:
        features.require("ipip", "this test")
    except NotSupported:
        return False
    return True


@pytest.mark.parametrize("file", sorted({*TOPOLOGIES} - {*IPIP}), ids=lambda file: file.stem)
def test_a_topology_works(file: Path) -> None:
    works(file)


@pytest.mark.usefixtures("ipip")
@pytest.mark.parametrize("file", IPIP, ids=lambda file: file.stem)
def test_an_ipip_topology_works(file: Path) -> None:
    works(file)


def works(file: Path) -> None:
    lab = Lab.load(file)
    try:
        outcome = lab.up()
        assert outcome.ops
        assert lab.up().ops == ()
        report = lab.check(limit=2000, wait=60.0)  # an emulated machine needs 10 s for one round of hundred-nodes
        assert report.ok, report.failures
        assert all(process.pid for process in lab.processes())
    finally:
        lab.down()


@pytest.mark.skipif(has_ipip(), reason="this kernel has ipip")
def test_ipip_is_refused_by_name_where_the_kernel_lacks_it() -> None:
    lab = Lab.load("topologies/ipip-2.yaml")
    with pytest.raises(NotSupported, match=r"ipip.* is not available here, and backend ipip needs it\n  hint: "):
        lab.up()
    assert netns.names("nl-") == []
    assert not lab.folder.path.exists()
