"""What the README tells people to type works, in the order that it is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.found import labs
from netlab.lab import Lab, remove

pytestmark = pytest.mark.root

README = Path("README.md").read_text()


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def shell(command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line as a user would who has activated the virtual environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "PATH": path}
    )


@pytest.fixture(autouse=True)
def _no_lab_stays() -> Iterator[None]:
    yield
    for name in labs():
        remove(name)


def run_section(title: str) -> dict[str, str]:
    """Run each command of a section, and return what it printed."""
    outputs = {}
    for command in re.findall(r"^    \$ (.*)$", section(title), re.MULTILINE):
        done = shell(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        outputs[command.partition(" #")[0].strip()] = done.stdout
    assert len(outputs) > 6
    assert labs() == []
    return outputs


def test_five_minutes() -> None:
    outputs = run_section("Five minutes")
    assert "VXLAN VNI 1" in outputs["netlab capture n1 -- netlab exec p-1 -- ping -c1 10.244.2.2"]
    assert "route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink: missing" in outputs["netlab status || true"]


def test_services() -> None:
    outputs = run_section("Services")
    shown = re.sub(r"^    ", "", section("Services"), flags=re.MULTILINE)
    assert outputs["netlab get svc"] in shown
    assert outputs["netlab exec p -- curl -s web/hostname"] in ("web-1", "web-2", "web-3")
    explained = outputs["netlab svc explain web --from p"].partition("To 10.96.0.80")[2]
    assert explained.strip()
    assert explained in shown
    assert "kv-1.kv.default.svc.cluster.local" in outputs["netlab exec p -- getent hosts kv-1.kv"]


@pytest.mark.skipif(not Path(".venv").exists(), reason="needs the environment that scripts/setup makes")
def test_the_demo() -> None:
    assert "    scripts/demo" in section("Start")
    done = shell("scripts/demo")
    assert done.returncode == 0, done.stdout + done.stderr
    for sign in ("vxlan-3: up (3 nodes, 6 pods, vxlan)", "53 as expected", "VXLAN VNI 1", "vxlan-3: down"):
        assert sign in done.stdout
    assert labs() == []


def test_the_file_shown_is_the_file_shipped() -> None:
    shown = section("Five minutes").partition("vxlan-3.yaml\n")[2].partition("    ...")[0]
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert set(lines) <= {line.strip() for line in Path("topologies/vxlan-3.yaml").read_text().splitlines()}


def test_the_typo_says_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("name: x\nbackend: vxlna\nnodes: 3\npods: [{name: web, node: n4}]\n")
    shown = section("The topology file").partition("$ netlab up typo.yaml\n")[2].splitlines()
    done = shell("netlab up typo.yaml", tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [line.strip() for line in shown if line.strip()]


def test_python() -> None:
    code = section("In Python and pytest").partition("\n\n    @pytest")[0]
    program = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "1 received" in done.stdout, done.stderr


@pytest.mark.netlab("topologies/vxlan-3.yaml")
def test_pytest(lab: Lab) -> None:
    assert lab.exec("p-1", ["ping", "-c1", lab.address("p-2")]).returncode == 0


def test_every_command_is_in_the_readme() -> None:
    from netlab.cli.main import COMMANDS

    assert [name for name in COMMANDS if f"`{name}" not in README] == []
