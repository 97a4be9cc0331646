"""The processes of a lab: starts, signals, reaps and logs them as `decide` says.

The supervisor stays in the host's mount namespace, because it removes the namespace of a pod whose pause has ended;
only containers get file systems of their own. Daemons say over a channel what becomes of them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import FileIO

from netlab import names
from netlab.errors import NetlabError
from netlab.kernel import netns, proc
from netlab.kernel.start import NOT_FOUND
from netlab.supervisor import decide, log, spawn
from netlab.supervisor.decide import Exit, Phase, Step, Task, Verb, Wanted
from netlab.supervisor.poll import Poll
from netlab.supervisor.spec import FAILED, INHERITED, PAUSE, READY, Files, Key, Spec, Status

_CHUNK = 65536  # bytes; what a pipe holds
_NOTE_MAX = 4096  # bytes of a daemon's message


@dataclass(slots=True)
class Life:
    """What is held for a process while it runs. `mount_namespace` is a descriptor: its inode number stays taken."""

    task: Task
    mount_namespace: int = -1
    output: FileIO | None = None
    channel: socket.socket | None = None


class Processes:
    """Every process that the supervisor keeps."""

    def __init__(self, lab: str, files: Files, poll: Poll) -> None:
        self.changed = True
        self._lab = lab
        self._files = files
        self._poll = poll
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._open_files = _raise_open_files()
        self._wanted: dict[Key, Wanted] = {}
        self._tasks: dict[Key, Task] = {}
        self._lives: dict[int, Life] = {}  # by pid
        self._retired: Counter[str] = Counter()  # pods, by how many have asked for it

    def want(self, specs: Iterable[Spec]) -> None:
        """Take note of what should run from now on; `converge` acts on it."""
        specs = list(specs)
        inodes = {name: _inode(name) for name in {spec.netns for spec in specs}}
        self._wanted = {spec.key: Wanted(spec, inodes[spec.netns]) for spec in specs}
        self.changed = True
        decide.revive(self._tasks)

    def retire(self, pod: str) -> None:
        """Have a pod's containers end, and not start again until `restore`."""
        self._retired[pod] += 1

    def restore(self, pod: str) -> None:
        """Take one `retire` back."""
        self._retired -= Counter([pod])

    def is_settled(self, now: float) -> bool:
        """Say whether nothing is on its way any more but the ends of retired pods."""
        return all(
            decide.is_settled(task, now) or decide.retires(task.wanted.spec, self._retired)
            for task in self._tasks.values()
        )

    def has_ended(self, pod: str) -> bool:
        """Say whether no container of a retired pod runs any more."""
        tasks = (task for task in self._tasks.values() if decide.retires(task.wanted.spec, {pod}))
        return not any(task.pid for task in tasks)

    def next_due(self, now: float) -> float:
        """Return when the next timer is due, on the monotonic clock."""
        return decide.next_due(self._tasks.values(), now)

    def statuses(self) -> tuple[Status, ...]:
        """Say what became of every process."""
        return tuple(_status(task) for _, task in sorted(self._tasks.items()))

    # --- deaths ------------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Bury every process that has ended, the lab's orphans too."""
        ended: list[tuple[Life, Exit]] = []
        with contextlib.suppress(ChildProcessError):  # nothing runs at all
            while (result := os.waitpid(-1, os.WNOHANG))[0]:
                pid, wait_status = result
                if pid in self._lives:
                    ended.append((self._lives.pop(pid), _exit(wait_status)))
        self._end_stragglers([life.mount_namespace for life, _ in ended if life.mount_namespace >= 0])
        for life, how in ended:
            self._bury(life, how)

    def _end_stragglers(self, mount_namespaces: list[int]) -> None:
        """Kill what containers that have ended left running: whatever shares their mount namespaces."""
        spaces = {os.fstat(descriptor).st_ino for descriptor in mount_namespaces}
        seen: set[int] = set()
        while spaces:  # look again after each kill: the killed one may have forked meanwhile
            found = {pid for pid in proc.pids() if pid not in seen and proc.find_namespace(pid, "mnt") in spaces}
            if not found:
                break
            seen |= found
            for inner in filter(None, map(proc.find_inner_pid, found)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(inner, signal.SIGKILL)
        for descriptor in mount_namespaces:
            os.close(descriptor)

    def _bury(self, life: Life, how: Exit) -> None:
        task, spec = life.task, life.task.wanted.spec
        if life.output:  # all of it is in the log before anybody hears of the end
            self._copy_output(life.output, spec, at_most=16)
        by_itself = task.phase is Phase.RUNNING
        self._listen(life)
        self._let_go(life)
        decide.end(task, how, time.monotonic(), since=time.time())
        self.changed = True
        if by_itself:
            self.say(f"{spec.pod}/{spec.name} ended: {_sentence(how)}")
        if by_itself and spec.name == PAUSE:
            self._lose_pod(task)

    def _lose_pod(self, task: Task) -> None:
        """Remove the namespace of a pod whose pause has ended. A hostNetwork pod has none: the node's stays."""
        spec = task.wanted.spec
        task.reason = "the pod ended with its pause"
        if spec.netns == names.netns(self._lab, spec.pod) and _inode(spec.netns) == task.wanted.netns_inode:
            try:
                netns.remove([spec.netns])
            except NetlabError as exc:
                self.say(str(exc))

    def _let_go(self, life: Life) -> None:
        """Close a daemon's channel."""
        if life.channel:
            self._poll.unwatch(life.channel.fileno())
            life.channel.close()
            life.channel = None

    # --- what decide says --------------------------------------------------------------------------------------------

    def converge(self) -> None:
        """Do what is to be done now."""
        while steps := decide.steps(self._wanted, self._tasks, time.monotonic(), self._retired):
            self.changed = True
            self._start([self._wanted[step.key] for step in steps if step.verb is Verb.START])
            for step in steps:
                self._do(step)

    def _do(self, step: Step) -> None:
        """Do anything but a start."""
        match step.verb:
            case Verb.TERMINATE:
                grace = self._tasks[step.key].wanted.spec.grace
                self._signal(step.key, signal.SIGTERM, due=time.monotonic() + grace)
            case Verb.KILL:
                self._signal(step.key, signal.SIGKILL, due=decide.NEVER)
            case Verb.RELOAD:
                self._reload(self._tasks[step.key], self._wanted[step.key])
            case Verb.END:
                task = self._tasks.setdefault(step.key, Task(self._wanted[step.key], Phase.ENDED, time.time()))
                task.phase, task.due, task.reason = Phase.ENDED, decide.NEVER, "its pod's pause does not run"
            case Verb.FORGET:
                del self._tasks[step.key]

    def _reload(self, task: Task, wanted: Wanted) -> None:
        """Tell a daemon what it should do from now on."""
        try:
            spawn.write_config(wanted.spec, self._files)
        except OSError as exc:
            self.say(f"{wanted.spec.pod}/{wanted.spec.name}: {exc}")
        decide.configure(task, wanted, time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            os.kill(task.pid, signal.SIGHUP)

    def _signal(self, key: Key, number: signal.Signals, *, due: float) -> None:
        task = self._tasks[key]
        task.phase, task.due = Phase.STOPPING, due
        with contextlib.suppress(ProcessLookupError):
            os.killpg(task.pid, number)  # a session of its own: its jobs get the signal too

    def _start(self, starts: list[Wanted]) -> None:
        """Start processes, each pod's pause before its containers; containers are set up side by side."""
        births: list[tuple[Life, spawn.Birth]] = []
        containers = []
        try:
            for wanted in starts:
                if wanted.spec.name == PAUSE:
                    self._begin(wanted, self._spawn_pause)
                elif wanted.spec.config is not None:
                    self._begin(wanted, self._spawn_daemon)
                else:
                    containers.append(wanted)
        finally:
            netns.setns(self._home, netns.CLONE_NEWNET)
        for wanted in containers:
            self._begin(wanted, lambda task: births.append(self._fork(task)))
        for life, birth in births:
            self._welcome(life, spawn.await_exec(birth))

    def _begin(self, wanted: Wanted, start: Callable[[Task], None]) -> None:
        """Start one process; a failure counts as its end."""
        task = self._tasks.setdefault(wanted.spec.key, Task(wanted, Phase.ENDED, 0.0))
        decide.begin(task, wanted, time.monotonic(), since=time.time())
        try:
            start(task)
        except (NetlabError, OSError) as exc:
            self._fail(task, str(exc), NOT_FOUND)

    def _spawn_pause(self, task: Task) -> None:
        spec = task.wanted.spec
        self._enroll(task, spawn.spawn_pause(spec, spawn.environment_of(spec, self._environment, self._lab)))

    def _spawn_daemon(self, task: Task) -> None:
        """Start a daemon, which says later whether it is ready."""
        spec = task.wanted.spec
        environment = spawn.environment_of(spec, self._environment, self._lab)
        birth = spawn.spawn_daemon(spec, self._files, environment)
        life = self._enroll(task, birth.pid)
        life.output, life.channel = birth.output, birth.channel
        decide.configure(task, task.wanted, time.monotonic())
        self._poll.watch(birth.output.fileno(), partial(self._copy_output, birth.output, spec))
        self._poll.watch(birth.channel.fileno(), partial(self._listen, life))

    def _listen(self, life: Life) -> None:
        """Take in what a daemon says: that it is ready, or why it cannot be."""
        while life.channel:
            try:
                words = life.channel.recv(_NOTE_MAX)
            except BlockingIOError:
                return
            self.changed = True
            if words.startswith(READY):
                decide.confirm(life.task, words.removeprefix(READY).decode(errors="replace"))
            elif words.startswith(FAILED):
                decide.refuse(life.task, words.removeprefix(FAILED).decode(errors="replace"), time.monotonic())
            elif not words:  # it has ended, or says nothing any more
                self._let_go(life)

    def _fork(self, task: Task) -> tuple[Life, spawn.Birth]:
        spec = task.wanted.spec
        environment = spawn.environment_of(spec, self._environment, self._lab)
        birth = spawn.fork_container(spec, self._files, environment, self._open_files)
        life = self._enroll(task, birth.pid)
        life.output = birth.output
        self._poll.watch(birth.output.fileno(), partial(self._copy_output, birth.output, spec))
        return life, birth

    def _enroll(self, task: Task, pid: int) -> Life:
        """Keep account of a process that has just been made."""
        pidfd = os.pidfd_open(pid)
        task.pid, task.host_pid = pid, proc.find_outer_pid(pidfd) or 0
        os.close(pidfd)
        task.started = proc.find_start_time(task.host_pid) or 0
        life = self._lives[pid] = Life(task)
        return life

    def _welcome(self, life: Life, arrival: spawn.Arrival) -> None:
        """Take in how a container's start went. One that failed has ended, whether it is reaped already or not."""
        task, spec = life.task, life.task.wanted.spec
        life.mount_namespace = arrival.mount_namespace
        for note in arrival.notes:
            self.say(f"{spec.pod}/{spec.name}: {note}")
        if arrival.failure:
            del self._lives[task.pid]
            os.kill(task.pid, signal.SIGKILL)  # it ends by itself, unless it hangs
            if arrival.mount_namespace >= 0:
                os.close(arrival.mount_namespace)
            self._fail(task, arrival.failure, arrival.status)

    # --- output ------------------------------------------------------------------------------------------------------

    def say(self, message: str) -> None:
        """Add a line to the supervisor's own log."""
        log.append(self._files.events, f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {message}\n".encode())

    def _fail(self, task: Task, reason: str, status: int) -> None:
        spec = task.wanted.spec
        decide.end(task, Exit(status=status), time.monotonic(), since=time.time())
        task.reason = reason
        self.say(f"{spec.pod}/{spec.name} did not start: {reason}")
        if spec.name != PAUSE:
            log.append(self._files.log(*spec.key), f"netlab: {reason}\n".encode())

    def _copy_output(self, output: FileIO, spec: Spec, at_most: int = 1) -> None:
        """Move what a container has written into its log, in so many pieces; one at a time is fair to the others."""
        for _ in range(at_most):
            text = None if output.closed else output.read(_CHUNK)
            if text is None:  # nothing now
                return
            if not text:  # its last writer has gone
                self._poll.unwatch(output.fileno())
                output.close()
                return
            log.append(self._files.log(*spec.key), text)


def _inode(netns_name: str) -> int:
    """Return the identity of a network namespace; 0 when there is none of that name."""
    try:
        return netns.inode(netns_name) if netns.is_alive(netns_name) else 0
    except FileNotFoundError:
        return 0


def _raise_open_files() -> tuple[int, int]:
    """Allow this process all the open files it may have, a few for each container, and return the old limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def _exit(wait_status: int) -> Exit:
    code = os.waitstatus_to_exitcode(wait_status)
    return Exit(status=code) if code >= 0 else Exit(signal=-code)


def _sentence(how: Exit) -> str:
    return f"status {how.status}" if how.signal is None else f"killed by {signal.Signals(how.signal).name}"


def _status(task: Task) -> Status:
    how = task.last_exit or Exit()
    return Status(
        spec=task.wanted.spec,
        netns_inode=task.wanted.netns_inode,
        phase=task.phase.value,
        since=task.since,
        pid=task.host_pid,
        started=task.started,
        restarts=task.restarts,
        exit_status=how.status,
        signal=how.signal,
        reason=task.reason,
        ready=task.ready,
        said=task.said,
    )
