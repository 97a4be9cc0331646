"""Pods come and go in a lab that is up: nothing else is looked at, and what a crash has left is put right."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netlab import names
from netlab.control.change import change_pods
from netlab.errors import NetlabError
from netlab.folder import Record
from netlab.kernel import netns
from netlab.lab import Lab
from netlab.plan.drift import differences
from netlab.topology.model import Pod
from netlab.topology.pod import Container
from tests.labs import topology

pytestmark = pytest.mark.root

NAME = "pods"
SERVER = (Container("c", ("sleep", "1000")),)
WEB = Pod("web", "n1", containers=SERVER)
AGENT = Pod("agent", "n2", containers=SERVER, host_network=True)
BARE = Pod("bare", "n2")


@pytest.fixture(autouse=True)
def lab() -> Iterator[None]:
    with Lab(topology(NAME, nodes=2, pods=2)):
        yield


def now() -> Lab:
    """Return the lab as it is recorded."""
    lab = Lab.find(NAME)
    assert lab is not None
    return lab


def drift() -> list[str]:
    return [str(entry) for entry in differences(now().status().drift)]


def running() -> set[str]:
    return {state.owner for state in now().processes() if state.pid}


def test_pods_come_and_go() -> None:
    change_pods(NAME, [WEB, AGENT, BARE])
    assert (drift(), running()) == ([], {"web", "agent"})
    assert now().exec("web", ["ping", "-c1", "-W1", now().address("bare")]).returncode == 0
    change_pods(NAME, [replace(WEB, node="n2")], ["agent", "p-1"])
    assert (drift(), running()) == ([], {"web"})
    change_pods(NAME, (), ["web", "bare"])
    assert (drift(), running()) == ([], set())
    assert not netns.is_alive(names.netns(NAME, "p-1"))


def test_a_change_leaves_everything_else_alone() -> None:
    subprocess.run(["ip", "-n", names.netns(NAME, "n1"), "route", "del", "10.244.2.0/24"], check=True)
    wrong = drift()
    change_pods(NAME, [WEB])
    change_pods(NAME, (), ["web"])
    assert drift() == wrong != []


def test_a_pod_that_is_lost_is_made_again() -> None:
    change_pods(NAME, [WEB])
    subprocess.run(["ip", "netns", "del", names.netns(NAME, "p-1")], check=True)  # it ends in the background
    pause = next(state for state in now().processes() if state.name == "pause")
    subprocess.run(["kill", "-9", str(pause.pid)], check=True)
    change_pods(NAME, [BARE])
    assert (drift(), running()) == ([], {"web"})


def test_what_is_left_of_pods_that_nobody_knows_goes() -> None:
    """A control plane was killed after it had recorded that these pods go."""
    change_pods(NAME, [WEB, AGENT])
    lab = now()
    kept = tuple(pod for pod in lab.topology.pods if pod not in (WEB, AGENT))
    lab.folder.write_record(Record(replace(lab.topology, pods=kept), lab.source))
    change_pods(NAME, [BARE])
    assert (drift(), running()) == ([], set())
    assert not netns.is_alive(names.netns(NAME, "web"))


def test_a_node_that_is_lost_is_made_again() -> None:
    subprocess.run(["ip", "netns", "del", names.netns(NAME, "n1")], check=True)
    change_pods(NAME, [WEB])
    assert (drift(), running()) == ([], {"web"})


def test_a_lab_that_is_not_there_is_not_made() -> None:
    with pytest.raises(NetlabError, match="the folder of lab nobody is lost"):
        change_pods("nobody", [WEB])
    assert "nobody" not in {path.name for path in now().folder.path.parent.iterdir()}
