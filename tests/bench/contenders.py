"""Who takes part in `bench up`, where each is found, and how one lab of it is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import ip_batch, labs
from tests.bench.measure import Cost, run, total
from tests.bench.report import Sample

NETLAB = str(Path(sys.executable).with_name("netlab"))
HERE = Path(__file__).parent
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's, which Debian's Mininet is installed for
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netlab-bench"
MUNET_PYTHON = str(CACHE / "munet/bin/python")


@dataclass(frozen=True, slots=True)
class Task:
    """How many pods, and the lab that netlab makes of them (`recipe.recipe`)."""

    pods: int
    recipe: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to make N pods on one bridge.

    measure: make and remove a lab, with files in the given folder; `check` also proves it to be netlab's own.
    find_missing: how to get what is missing, or nothing. most: the size that is sensible without --all.
    proves: whether `check` means anything.
    """

    title: str
    measure: Callable[[Task, Path, bool], Sample]
    find_missing: Callable[[], str] = lambda: ""
    most: int = 1_000
    proves: bool = False


def measure(name: str, recipe: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Measure a contender once, here: to be called in a sandbox."""
    task = Task(len(recipe["pods"]), recipe)
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        return asdict(CONTENDERS[name].measure(task, Path(folder), check))


# --- netlab ----------------------------------------------------------------------------------------------------------


def _netlab_command(task: Task, folder: Path, check: bool) -> Sample:
    file = folder / "lab.yaml"
    file.write_text(labs.one_node(task.pods))
    up = run([NETLAB, "up", str(file)])
    if check:
        run(_same_lab(task.pods))
    return _of_two(up, run([NETLAB, "down", labs.LAB]))


def _netlab_in_kernel(task: Task, folder: Path, check: bool) -> Sample:
    return _by_own_clock([sys.executable, "-m", "tests.bench.in_kernel", str(task.pods)])


# --- by hand ---------------------------------------------------------------------------------------------------------


def _raw(task: Task, folder: Path, check: bool) -> Sample:
    file = folder / "recipe.json"
    file.write_text(json.dumps(task.recipe))
    meanwhile = _same_lab(task.pods) if check else []
    return _by_own_clock([sys.executable, str(HERE / "floor.py"), "lab", str(file), *meanwhile])


def _raw_classic(task: Task, folder: Path, check: bool) -> Sample:
    return _by_own_clock([sys.executable, str(HERE / "floor.py"), "classic", str(task.pods)])


def _ip(task: Task, folder: Path, check: bool) -> Sample:
    return _by_scripts(ip_batch.lab_files(task.recipe), folder, _same_lab(task.pods) if check else [])


def _ip_classic(task: Task, folder: Path, check: bool) -> Sample:
    return _by_scripts(ip_batch.classic_files(task.pods), folder, [])


def _same_lab(pods: int) -> list[str]:
    return [sys.executable, "-m", "tests.bench.same_lab", str(pods)]


# --- others ----------------------------------------------------------------------------------------------------------


def _mininet(task: Task, folder: Path, check: bool) -> Sample:
    return _by_own_clock([SYSTEM_PYTHON, str(HERE / "mininet_lab.py"), str(task.pods)])


def _munet(task: Task, folder: Path, check: bool) -> Sample:
    return _by_own_clock([MUNET_PYTHON, str(HERE / "munet_lab.py"), str(task.pods), str(folder)])


def _mininet_missing() -> str:
    found = Path(SYSTEM_PYTHON).exists() and _imports(SYSTEM_PYTHON, "mininet.net")
    return "" if found and shutil.which("brctl") else "apt install mininet bridge-utils"


def _munet_missing() -> str:
    found = Path(MUNET_PYTHON).exists() and _imports(MUNET_PYTHON, "munet.parser")
    venv = CACHE / "munet"
    return "" if found else f"python3 -m venv {venv} && {venv}/bin/pip install munet"


def _imports(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


# --- clocks ----------------------------------------------------------------------------------------------------------


def _by_own_clock(argv: list[str]) -> Sample:
    """Run a program that times itself (without its start and imports) and prints {"up": s, "down": s} at the end."""
    cost = run(argv)
    times = json.loads(cost.output.splitlines()[-1])
    return Sample(times["up"], times["down"], cost.wall, cost.cpu, cost.peak)


def _by_scripts(files: ip_batch.Files, folder: Path, check: list[str]) -> Sample:
    """Run the shell scripts `up` and `down`, each from start to exit."""
    ip_batch.write(files, folder)
    enter = 'cd "$1" && exec sh "$2"'
    up = run(["sh", "-c", enter, "sh", str(folder), "up"])
    if check:
        run(check)
    return _of_two(up, run(["sh", "-c", enter, "sh", str(folder), "down"]))


def _of_two(up: Cost, down: Cost) -> Sample:
    both = total(up, down)
    return Sample(up.wall, down.wall, both.wall, both.cpu, both.peak)


def _program_missing(program: str, package: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(program) else f"apt install {package}"


_NO_IP = _program_missing("ip", "iproute2")
CONTENDERS = {
    "netlab": Contender("netlab up, netlab down: whole commands", _netlab_command, proves=True),
    "kernel": Contender("netlab, in the kernel only", _netlab_in_kernel),
    "raw": Contender("raw netlink, the same lab", _raw, proves=True),
    "ip": Contender("ip -batch, the same lab", _ip, _NO_IP, proves=True),
    "raw-classic": Contender("raw netlink, hosts and a bridge only", _raw_classic),
    "ip-classic": Contender("ip -batch, hosts and a bridge only", _ip_classic, _NO_IP),
    "mininet": Contender("Mininet, Linux bridge", _mininet, _mininet_missing, most=100),
    "munet": Contender("munet", _munet, _munet_missing, most=100),
}
