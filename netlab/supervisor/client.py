"""A lab's processes, seen from outside: what should run, what does, and the end of it all.

The supervisor (`netlab.supervisor`) is started when the first process is wanted and ended when the last one is not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import netlab
from netlab import names
from netlab.errors import NetlabError, ProgramError
from netlab.kernel import netns, proc
from netlab.kernel.residents import MARK, end
from netlab.plan.etc import EtcFiles
from netlab.plan.objects import PAUSE, ControlPlane, Forwarder, Kept, Netns, Process
from netlab.plan.text import config_of
from netlab.supervisor.spec import (
    APPLY,
    CONTROL,
    INHERITED,
    REPORT,
    SUPERVISOR_MARK,
    Files,
    Key,
    Report,
    Spec,
    Status,
    read_report,
    write_specs,
)
from netlab.tunnel.config import parse, render

ANSWER_TIMEOUT = 120.0  # seconds, beside the grace of what is stopped: a thousand containers are started
_PACKAGES = Path(netlab.__file__).parents[1]

FORWARDER, FORWARDER_MODULE = "forwarder", "netlab.tunnel"  # a node's daemon
CONTROL_PLANE, CONTROL_PLANE_MODULE = "control-plane", "netlab.control"  # the lab's, in its fabric

Placed = tuple[Netns, Kept]


class Life(StrEnum):
    """Where a process is in its life."""

    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"  # ended, and started again after the crash-loop backoff
    ENDED = "ended"
    LOST = "lost"  # nobody keeps it: the supervisor was killed


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What became of a process. `since` is in seconds since the epoch; `exit_status` and `signal` tell its last end.

    `owner` is its pod or node, `name` its name there. `said` is what a node's daemon says that it does.
    """

    netns: Netns
    process: Kept
    owner: str
    name: str
    life: Life
    since: float
    pid: int | None
    restarts: int
    exit_status: int | None
    signal: int | None
    reason: str
    said: str
    log: Path


class Supervisor:
    """The supervisor of one lab and the processes that it keeps."""

    def __init__(self, lab: str, runtime_dir: Path) -> None:
        self._lab = lab
        self._files = Files(runtime_dir)

    def observe(self) -> dict[Netns, frozenset[Kept]]:
        """Return the processes that are as they should be: running, waiting to be restarted, or ended for good.

        A node's daemon that waits is not as it should be: `change` starts it at once. Observe namespaces afterwards,
        not before: a pod whose pause has ended loses its namespace here at the latest.
        """
        found: dict[Netns, set[Kept]] = {}
        for status in self._present():
            if status.spec.config is None or status.phase == Life.RUNNING:
                found.setdefault(status.spec.netns, set()).add(_process(status.spec))
        return {name: frozenset(processes) for name, processes in found.items()}

    def change(self, *, stop: Iterable[Placed] = (), start: Iterable[Placed] = ()) -> None:
        """Stop and start processes, and return when that is done; all others run on undisturbed.

        A container that cannot start is waiting or ended, as `states` says. Raises NetlabError when a pause or a
        node's daemon cannot.
        """
        present = self._present()
        wanted = {status.spec.key: status.spec for status in present}
        for _, process in stop:
            wanted.pop(_key(process), None)
        new = [_spec(name, process) for name, process in start]
        wanted |= {spec.key: spec for spec in new}
        if not wanted:
            if present:
                self._apply({})  # gently: a control plane takes its rules away
            self.stop()
            return
        self._apply(wanted)
        self._require_pauses({spec.pod for spec in new})
        self._require_ready({spec.key for spec in new if spec.config is not None})

    def states(self) -> list[ProcessState]:
        """Return what became of every process, by pod and name, also after the supervisor's own end."""
        report = self._ask(REPORT)
        alive = report is not None
        report = report or self._find_report()
        return [self._state(status, alive=alive) for status in report.processes] if report else []

    def log(self, pod: str, container: str) -> Path:
        """Return the file that a container's output goes to; with `.1` behind it, the older output."""
        return self._files.log(pod, container)

    def counters(self, node: str) -> Path:
        """Return the file that a node's forwarder counts in."""
        return self._files.counters(node, FORWARDER)

    def stop(self) -> None:
        """End every process of the lab at once. Finds the supervisor also when its files are lost."""
        self._end_supervisor()
        for path in (self._files.spec, self._files.status):
            path.unlink(missing_ok=True)

    # --- asking ------------------------------------------------------------------------------------------------------

    def _present(self) -> list[Status]:
        """Return what is as it should be, in the namespace that its name means now."""
        report = self._ask(REPORT)
        if report is None:
            return []
        lost = {status.spec.pod for status in report.processes if _is_lost(status)}
        return [status for status in report.processes if status.spec.pod not in lost and _is_in_place(status)]

    def _apply(self, wanted: Mapping[Key, Spec]) -> None:
        """Tell the supervisor what should run. One that cannot be reached is replaced."""
        last = self._find_report()
        generation = last.generation + 1 if last else 1
        grace = max((status.spec.grace for status in last.processes), default=0.0) if last else 0.0
        write_specs(self._files.spec, generation, wanted.values())
        report = self._ask(APPLY, grace)
        if report is None or report.generation != generation:  # gone, out of reach, or reading another folder
            self._end_supervisor()
            self._start_supervisor()
            report = self._ask(APPLY)
        if report is None:
            raise NetlabError(f"the supervisor of lab {self._lab} has ended", f"see {self._files.events}")

    def _require_pauses(self, pods: set[str]) -> None:
        report = self._find_report()
        for status in report.processes if report else ():
            if status.spec.pod in pods and _is_lost(status):
                raise NetlabError(f"pod {status.spec.pod} does not start: {status.reason}", f"see {self._files.events}")

    def _require_ready(self, daemons: set[Key]) -> None:
        report = self._find_report()
        for status in report.processes if report else ():
            spec = status.spec
            if spec.key in daemons and not (status.ready and status.phase == Life.RUNNING):
                why = status.reason or self._last_words(spec) or "it has not become ready"
                whose = f"node {spec.pod}" if spec.name == FORWARDER else f"lab {self._lab}"
                raise NetlabError(f"the {spec.name} of {whose} does not start: {why}", f"`netlab logs {spec.pod}`")

    def _last_words(self, spec: Spec) -> str:
        """Return the last line of a process's log."""
        try:
            lines = self._files.log(*spec.key).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line for line in reversed(lines) if line.strip()), "")

    def _ask(self, request: bytes, grace: float = 0.0) -> Report | None:
        """Send one request, wait until everything has settled and return the outcome; None when nobody answers."""
        import socket

        fabric = names.fabric(self._lab)
        if not netns.is_alive(fabric):
            return None
        try:  # the socket belongs to the namespace that it is opened in, and may be used from everywhere
            with netns.call(fabric, socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.settimeout(ANSWER_TIMEOUT + grace)
                connection.connect(CONTROL)
                connection.send(request)
                answer = json.loads(connection.recv(65536) or b"null")
        except ConnectionError:
            return None
        except TimeoutError as exc:
            raise NetlabError(
                f"the supervisor of lab {self._lab} does not answer", f"see {self._files.events}"
            ) from exc
        if answer is None:
            return None
        if "error" in answer:
            raise NetlabError(f"the supervisor of lab {self._lab}: {answer['error']}", f"see {self._files.events}")
        return self._find_report()

    def _find_report(self) -> Report | None:
        try:
            return read_report(self._files.status)
        except (OSError, ValueError):
            return None

    # --- the supervisor itself ---------------------------------------------------------------------------------------

    def _start_supervisor(self) -> None:
        import subprocess

        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {MARK: self._lab, SUPERVISOR_MARK: self._lab, "PYTHONPATH": str(_PACKAGES)}
        environment.setdefault("PATH", os.defpath)
        # -S: it needs nothing of site-packages, and starts in half the time; -P: no module of the working directory.
        argv = [sys.executable, "-S", "-P", "-m", "netlab.supervisor", self._lab, str(self._files.root)]
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode:
            raise ProgramError(argv, done.returncode, done.stderr, subject=f"lab {self._lab}")

    def _end_supervisor(self) -> None:
        report = self._find_report()
        if report and proc.is_running(report.pid, report.started) and self._is_marked(report.pid):
            end([(report.pid, report.started)])
        else:  # its file is lost or stale
            end((pid, proc.find_start_time(pid) or 0) for pid in proc.pids() if self._is_marked(pid))

    def _is_marked(self, pid: int) -> bool:
        """Say whether a process is the lab's supervisor. Another user namespace may have a lab of the same name."""
        here, there = (proc.find_namespace(process, "user") for process in (os.getpid(), pid))
        return here == there and proc.has_variable(pid, SUPERVISOR_MARK, self._lab)

    def _state(self, status: Status, *, alive: bool) -> ProcessState:
        life = Life(status.phase)
        return ProcessState(
            netns=status.spec.netns,
            process=_process(status.spec),
            owner=status.spec.pod,
            name=status.spec.name,
            life=life if alive or life is Life.ENDED else Life.LOST,
            since=status.since,
            pid=status.pid if alive and status.pid else None,
            restarts=status.restarts,
            exit_status=status.exit_status,
            signal=status.signal,
            reason=status.reason if alive else "the supervisor has ended",
            said=status.said,
            log=self._files.log(status.spec.pod, status.spec.name),
        )


# --- files ---------------------------------------------------------------------------------------------------------


def write_etc(runtime_dir: Path, wanted: Mapping[str, EtcFiles]) -> None:
    """Give pods (by name) their /etc/hosts and /etc/resolv.conf, in place: containers that run see it at once."""
    files = Files(runtime_dir)
    texts: dict[Path, str] = {}
    for pod, etc in wanted.items():
        texts |= {files.hosts(pod): etc.hosts, files.resolv_conf(pod): etc.resolv_conf}
    if texts:
        files.etc.mkdir(parents=True, exist_ok=True)
    for path in files.etc.glob("*"):
        if path not in texts:
            path.unlink()
    for path, text in texts.items():
        if not (path.exists() and path.read_text() == text):
            path.write_text(text)


def _spec(netns_name: Netns, process: Kept) -> Spec:
    owner, name = _key(process)
    match process:
        case Forwarder():
            return _daemon(owner, name, netns_name, FORWARDER_MODULE, render(config_of(process)))
        case ControlPlane():
            return _daemon(owner, name, netns_name, CONTROL_PLANE_MODULE, process.version)
    told = process.argv, process.env, process.working_dir, process.restart
    return Spec(owner, name, netns_name, *told, grace=process.grace)


def _daemon(owner: str, name: str, netns_name: Netns, module: str, config: str) -> Spec:
    return Spec(owner, name, netns_name, (module,), (), "/", restart=True, config=config)


def _process(spec: Spec) -> Kept:
    if spec.config is None:
        return Process(spec.pod, spec.name, spec.argv, spec.env, spec.working_dir, spec.restart, spec.grace)
    if spec.name == CONTROL_PLANE:
        return ControlPlane(spec.config)
    told = parse(spec.config)
    return Forwarder(
        node=spec.pod,
        dev=told.device,
        mtu=told.mtu,
        local=told.local,
        port=told.port,
        uplink=told.uplink,
        bridge=told.bridge,
        source=told.source,
        kind=told.forwarder,
        peers=told.peers,
    )


def _key(process: Kept) -> Key:
    match process:
        case Forwarder():
            return process.node, FORWARDER
        case ControlPlane():
            return CONTROL_PLANE, CONTROL_PLANE
    return process.pod, process.name


def _is_lost(status: Status) -> bool:
    """Say whether it is the pause of a pod that has ended with it."""
    return status.spec.name == PAUSE and status.phase == Life.ENDED


def _is_in_place(status: Status) -> bool:
    name = status.spec.netns
    return netns.is_alive(name) and netns.inode(name) == status.netns_inode
