"""The two files between the supervisor and its client: what should run (spec.json) and what does (status.json).

Both are written whole and renamed into place, so a reader never sees half of one. The client writes the spec and then
sends APPLY over the control socket; the answer comes when the status file shows the outcome. REPORT asks for a status
file that is up to date.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

GRACE = 3.0
PAUSE = "pause"  # as plan.objects.PAUSE, which would cost the supervisor an import of the whole model
CONTROL = b"\0netlab-supervisor"  # abstract: known in the lab's fabric namespace only, and no file is left of it
APPLY = b"apply"
RETIRE = b"retire "  # and a pod's name: its containers end, and do not start again while the connection is open
REPORT = b"report"
SUPERVISOR_MARK = "NETLAB_SUPERVISOR"  # in the supervisor's own environment only
INHERITED = ("PATH", "HOME", "LANG", "TZ")  # what a container has of the environment of `netlab up`

# A daemon finds the number of a socket in this variable and says there, one message each, that it READY or FAILED to
# do what its configuration says, and then in words what it does or why it cannot (as sd_notify(3)).
NOTIFY = "NETLAB_NOTIFY_FD"
READY, FAILED = b"ready ", b"failed "

Key = tuple[str, str]


class Files(NamedTuple):
    """Where things are in a lab's runtime folder."""

    root: Path

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def events(self) -> Path:
        """Return the supervisor's own log."""
        return self.root / "supervisor.log"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    def hosts(self, pod: str) -> Path:
        return self.etc / f"{pod}.hosts"

    def resolv_conf(self, pod: str) -> Path:
        return self.etc / f"{pod}.resolv.conf"

    def log(self, pod: str, container: str) -> Path:
        return self.root / "logs" / f"{pod}_{container}.log"

    @property
    def daemons(self) -> Path:
        """Return the folder of what daemons are told and tell; they read it without privileges."""
        return self.root / "daemons"

    def config(self, node: str, daemon: str) -> Path:
        return self.daemons / f"{node}_{daemon}.json"

    def counters(self, node: str, daemon: str) -> Path:
        return self.daemons / f"{node}_{daemon}.counters"


class Spec(NamedTuple):
    """One process that should run, in a network namespace: a pod's pause or container, or a node's daemon.

    A daemon is a Python module, the only word of `argv`, for which `pod` is the node. It is given a file with the text
    `config`, and a SIGHUP when nothing but that text has changed.
    """

    pod: str
    name: str
    netns: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    working_dir: str
    restart: bool
    config: str | None = None  # of a daemon
    grace: float = GRACE  # seconds between SIGTERM and SIGKILL

    @property
    def key(self) -> Key:
        return (self.pod, self.name)


class Status(NamedTuple):
    """What became of one process. `exit_status` and `signal` are of its last end."""

    spec: Spec
    netns_inode: int  # which namespace it is in: a name can come to mean another one
    phase: str  # of decide.Phase
    since: float  # seconds since the epoch
    pid: int  # as the host sees it; 0 when it does not run
    started: int  # field 22 of /proc/PID/stat
    restarts: int
    exit_status: int | None
    signal: int | None
    reason: str
    ready: bool = True  # False for a daemon that has not taken its configuration in yet
    said: str = ""  # by a daemon that is ready: what it does


class Report(NamedTuple):
    """The whole status file. `pid` and `started` are the supervisor's own."""

    pid: int
    started: int
    generation: int
    processes: tuple[Status, ...]


def write_specs(path: Path, generation: int, specs: Iterable[Spec]) -> None:
    """Write the spec file."""
    _write(path, {"generation": generation, "processes": [spec._asdict() for spec in specs]})


def read_specs(path: Path) -> tuple[int, list[Spec]]:
    """Return the generation and the specs. Raises OSError, or ValueError for a file that is not a spec."""
    try:
        tree = json.loads(path.read_bytes())
        return tree["generation"], [_spec(entry) for entry in tree["processes"]]
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{path} is not a spec file: {exc}") from exc


def write_report(path: Path, report: Report) -> None:
    """Write the status file."""
    entries = [status._asdict() | {"spec": status.spec._asdict()} for status in report.processes]
    _write(path, report._asdict() | {"processes": entries})


def read_report(path: Path) -> Report:
    """Return what the supervisor last published. Raises OSError, or ValueError for a file that is not a report."""
    try:
        tree = json.loads(path.read_bytes())
        processes = tuple(Status(**entry | {"spec": _spec(entry["spec"])}) for entry in tree["processes"])
        return Report(**tree | {"processes": processes})
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{path} is not a status file: {exc}") from exc


def _spec(entry: dict[str, Any]) -> Spec:
    argv, env = tuple(entry["argv"]), tuple((name, value) for name, value in entry["env"])
    return Spec(**entry | {"argv": argv, "env": env})


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(tree))
    os.replace(draft, path)
