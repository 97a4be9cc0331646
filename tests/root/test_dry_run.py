"""The commands of `netlab up --dry-run` really work when they are run by hand."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from netlab.lab import Lab
from netlab.plan.text import commands
from netlab.topology.model import HostGwBackend, IpipBackend, Netfilter, Topology, VxlanBackend
from tests.labs import routed, topology

pytestmark = pytest.mark.root

LABS = [
    topology("hand1", backend=VxlanBackend()),
    topology("hand2", backend=HostGwBackend()),
    topology("hand3", dual_stack=True, mtu=9000),
    routed("hand4", VxlanBackend(direct_routing=True, gbp=True)),
    replace(topology("hand5"), netfilter=Netfilter.NFTABLES),
]


def run_by_hand(lab: Lab) -> None:
    """Run what `netlab up --dry-run` prints, in a shell that stops at the first failure."""
    script = "\n".join(commands(lab.up(dry_run=True).ops))
    done = subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{script}"


@pytest.mark.parametrize("wanted", LABS, ids=lambda wanted: wanted.name)
def test_a_lab_made_by_hand_is_the_lab(wanted: Topology) -> None:
    is_made_by_hand(wanted)


@pytest.mark.usefixtures("ipip")
def test_an_ipip_lab_made_by_hand_is_the_lab() -> None:
    is_made_by_hand(topology("hand8", backend=IpipBackend()))


def is_made_by_hand(wanted: Topology) -> None:
    lab = Lab(wanted)
    try:
        run_by_hand(lab)
        lab.folder.store.acquire(wanted)
        assert lab.status().drift == ()
        assert lab.exec("p-1", ["ping", "-c1", "-W2", lab.address("p-2")]).returncode == 0
    finally:
        lab.down()


def test_changes_and_deletions_work_by_hand_too() -> None:
    with Lab(topology("hand6", nodes=3, pods=6)) as lab:
        changed = replace(topology("hand6", nodes=2, pods=5, backend=VxlanBackend(vni=7)), netfilter=Netfilter.NFTABLES)
        other = Lab(changed)
        run_by_hand(other)
        other.folder.store.acquire(changed)
        assert other.status().drift == ()
        assert lab.name == other.name


def test_a_dry_run_changes_nothing() -> None:
    lab = Lab(topology("hand7"))
    outcome = lab.up(dry_run=True)
    assert outcome.ops
    assert not lab.status().state.objects
    assert not lab.folder.path.exists()
