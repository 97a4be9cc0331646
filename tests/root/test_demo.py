"""Each demo shows what it says: every step's output has the words that its file names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netlab.demo.model import Step, load, names

pytestmark = pytest.mark.root


@pytest.mark.parametrize("name", names())
def test_every_step_shows_what_it_says(name: str) -> None:
    demo = load(name)
    done = netlab("demo", name)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    for step in (step for step in demo.steps if step.run):
        _, command, shown = shown.partition(f"$ {step.run}\n")
        assert command, f"the demo did not come to {step.run}"
        output = shown.partition("\n$ ")[0]
        assert missing(step, output) == [], output
    assert "down in" in shown


def missing(step: Step, output: str) -> list[str]:
    plain = " ".join(output.split())  # lines are folded anywhere
    return [words for words in step.expect if words not in plain]


def test_without_a_name_the_demos_are_listed() -> None:
    assert [line.split()[0] for line in netlab("demo").stdout.splitlines()] == names()


def test_a_name_that_none_has() -> None:
    done = netlab("demo", "vxlna")
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["netlab: there is no demo 'vxlna'", "  hint: did you mean vxlan?"],
    )


def netlab(*words: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "netlab", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
    )
