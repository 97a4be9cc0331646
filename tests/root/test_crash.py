"""Killed at any moment, `up` and `down` can be run again; lost state is no obstacle; two at once wait or refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab import names
from netlab.errors import Busy, NetlabError
from netlab.folder import LabFolder
from netlab.found import labs
from netlab.kernel import netns
from netlab.lab import Lab, remove
from tests.labs import topology

pytestmark = pytest.mark.root

# Runs `up` or `down` and kills itself at the STEPth call of a function that changes something: between any two changes.
VICTIM = """
import os, signal, sys, threading
step, what = int(sys.argv[1]), sys.argv[2]
changing = {
    "kernel/linux.py": ("_run", "_send", "_close"),
    "kernel/netns.py": ("_make", "mount", "umount"),
    "kernel/netfilter.py": ("_start",),
    "store/local.py": ("write_json",),
    "netlab/folder.py": ("_try_lock", "forget"),
}
seen = 0
def watch(frame, event, argument):
    global seen
    code = frame.f_code
    if event == "call" and any(code.co_filename.endswith(f) and code.co_name in n for f, n in changing.items()):
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
threading.setprofile(watch)
sys.setprofile(watch)
from netlab.lab import Lab, remove
from tests.labs import topology
if what == "up":
    Lab(topology("crash", nodes=2, pods=2)).up()
else:
    remove("crash")
print(seen)
"""


def run_victim(what: str, step: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", VICTIM, str(step), what], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield Lab(topology("crash", nodes=2, pods=2))
    remove("crash")


def calls_of(what: str) -> int:
    """Count the steps of an undisturbed run."""
    done = run_victim(what, -1)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_up_killed_at_every_step_is_finished_by_the_next_up(lab: Lab) -> None:
    steps = calls_of("up")
    assert steps > 30
    lab.down()
    for step in range(1, steps + 1):
        done = run_victim("up", step)
        assert done.returncode == -signal.SIGKILL, (step, done.stdout, done.stderr)
        lab.up()
        assert lab.status().drift == (), f"after a kill at step {step}"
        assert lab.exec("p-1", ["ping", "-c1", "-W1", lab.address("p-2")]).returncode == 0
        lab.down()


def test_up_killed_at_every_step_is_taken_away_by_down(lab: Lab) -> None:
    steps = calls_of("up")
    lab.down()
    for step in range(1, steps + 1):
        run_victim("up", step)
        remove("crash")
        assert netns.names(names.PREFIX) == [], f"after a kill at step {step}"
        assert labs() == []


def test_down_killed_at_every_step_is_finished_by_the_next_down(lab: Lab) -> None:
    lab.up()
    steps = calls_of("down")
    for step in range(1, steps + 1):
        lab.up()
        assert run_victim("down", step).returncode == -signal.SIGKILL
        remove("crash")
        assert netns.names(names.PREFIX) == [], f"after a kill at step {step}"
        assert labs() == []


@pytest.mark.parametrize("damage", ["lost", "garbage", "half", "other version"])
def test_down_needs_nothing_of_the_folder(lab: Lab, damage: str) -> None:
    lab.up()
    for file in lab.folder.path.glob("*.json"):
        match damage:
            case "lost":
                file.unlink()
            case "garbage":
                file.write_bytes(os.urandom(200))
            case "half":
                file.write_text(file.read_text()[: file.stat().st_size // 2])
            case "other version":
                file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    assert labs() == ["crash"]
    assert remove("crash")
    assert labs() == []
    assert netns.names(names.PREFIX) == []


def test_up_repairs_a_lost_folder_without_touching_the_network(lab: Lab) -> None:
    lab.up()
    for file in lab.folder.path.glob("*.json"):
        file.unlink()
    assert lab.up().ops == ()


def test_two_at_once_wait_for_each_other(lab: Lab) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", VICTIM, "-1", "up"], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert lab.status().drift == ()


def test_a_lab_that_is_worked_on_is_refused_after_the_wait(lab: Lab) -> None:
    with LabFolder("crash").lock(wait=0), pytest.raises(Busy, match="another netlab is working on lab crash"):
        lab.up(wait=0.05)
    assert not lab.status().state.objects


def test_a_stranger_inside_is_named_and_not_killed(lab: Lab) -> None:
    lab.up()
    stranger = subprocess.Popen(["ip", "netns", "exec", names.netns("crash", "p-1"), "sleep", "60"])
    try:
        netns.call(names.netns("crash", "p-1"), wait_until_inside, stranger.pid)
        with pytest.raises(NetlabError, match=rf"sleep \(pid {stranger.pid}"):
            lab.down()
        assert stranger.poll() is None
        assert labs() == []
    finally:
        stranger.kill()
        stranger.wait()


def wait_until_inside(pid: int) -> None:
    """Wait until a process has entered this thread's namespace and become its program."""
    while (
        os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/thread-self/ns/net").st_ino
        or Path(f"/proc/{pid}/comm").read_text() != "sleep\n"
    ):
        pass
