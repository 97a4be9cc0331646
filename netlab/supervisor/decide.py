"""What a supervisor does next. Pure: no clock, no process, no file.

`steps` compares what is wanted with what there is and says what to do now; the loop does it and asks again until there
is nothing left to do. So a change of the spec, a death and a timer are all one case.

A pod is its pause: containers start when it runs, and when it ends by itself the pod is lost with them, as
in Kubernetes, until the client applies a spec again. A node's daemon stands alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from netlab.supervisor.spec import PAUSE, Key, Spec

BACKOFF_FIRST = 10.0  # kubelet's crash-loop backoff: 10 s, doubled each time, 300 s at most ...
BACKOFF_MOST = 300.0
BACKOFF_RESET = 600.0  # ... and forgotten when the container ran for 10 min
READY_TIMEOUT = 60.0  # seconds that a daemon has to take its configuration in: a hundred start at once
REFUSED_TIMEOUT = 1.0  # seconds that one has to end that has said that it cannot
NEVER = float("inf")


class Phase(StrEnum):
    """Where a process is in its life."""

    RUNNING = "running"
    STOPPING = "stopping"  # told to end
    WAITING = "waiting"  # ended, to be started again at `due`
    ENDED = "ended"  # for good


class Verb(StrEnum):
    """What is to be done about a process."""

    START = "start"
    RELOAD = "reload"
    TERMINATE = "terminate"
    KILL = "kill"
    END = "end"  # give up what cannot run, because its pod is lost
    FORGET = "forget"


class Step(NamedTuple):
    """One thing to do now."""

    verb: Verb
    key: Key


class Wanted(NamedTuple):
    """A process that should run, and the identity of its network namespace: a name can come to mean another one."""

    spec: Spec
    netns_inode: int


class Exit(NamedTuple):
    """How a process ended: `status` 0..255, or the `signal` that killed it."""

    status: int | None = None
    signal: int | None = None


@dataclass(slots=True)
class Task:
    """A process that there is or was. Times are the loop's clock, `since` the wall clock's."""

    wanted: Wanted
    phase: Phase
    since: float
    began: float = 0.0
    due: float = NEVER
    pid: int = 0  # in the lab's pid namespace; 0 when it does not run
    host_pid: int = 0
    started: int = 0
    streak: int = 0  # restarts since it last ran for long
    restarts: int = 0
    last_exit: Exit | None = None
    reason: str = ""
    ready: bool = True
    said: str = ""


def backoff(restarts: int, ran_for: float) -> float:
    """Return the seconds to wait before a restart, after so many restarts in a row: 0, 10, 20, 40 ... 300."""
    if restarts == 0 or ran_for >= BACKOFF_RESET:
        return 0.0
    return min(BACKOFF_FIRST * 2.0 ** min(restarts - 1, 32), BACKOFF_MOST)


def is_lost(pod: str, tasks: Mapping[Key, Task]) -> bool:
    """Say whether a pod's pause has ended by itself."""
    pause = tasks.get((pod, PAUSE))
    return pause is not None and pause.phase is Phase.ENDED


def steps(
    wanted: Mapping[Key, Wanted], tasks: Mapping[Key, Task], now: float, retired: Collection[str] = ()
) -> list[Step]:
    """Return what to do now; nothing when everything is as it should be or has to wait.

    The containers of `retired` pods are to end and to stay so, for as long as the pods are among these.
    """
    verbs = {key: _verb(task, wanted, tasks, now, retired) for key, task in tasks.items()}
    for key in wanted.keys() - tasks.keys():
        verbs[key] = None if retires(wanted[key].spec, retired) else _start(key, wanted, tasks)
    return sorted(Step(verb, key) for key, verb in verbs.items() if verb)


def retires(spec: Spec, retired: Collection[str]) -> bool:
    """Say whether it is a container of a pod that is among those."""
    return spec.pod in retired and spec.name != PAUSE and spec.config is None


def _verb(
    task: Task, wanted: Mapping[Key, Wanted], tasks: Mapping[Key, Task], now: float, retired: Collection[str]
) -> Verb | None:
    """Say what a process that there is or was needs."""
    key = task.wanted.spec.key
    keep = wanted.get(key) == task.wanted
    leaves = retires(task.wanted.spec, retired)
    match task.phase:
        case Phase.RUNNING if leaves:
            return Verb.TERMINATE
        case Phase.WAITING if leaves and keep:
            return None
        case Phase.RUNNING:
            if not keep:
                return Verb.RELOAD if _differs_in_config(task.wanted, wanted.get(key)) else Verb.TERMINATE
            return Verb.KILL if is_lost(key[0], tasks) else None
        case Phase.STOPPING:
            return Verb.KILL if now >= task.due else None
        case Phase.WAITING:
            if not keep:
                return Verb.FORGET
            start = _start(key, wanted, tasks)
            return None if start is Verb.START and now < task.due else start
        case Phase.ENDED:
            return None if keep else Verb.FORGET


def _differs_in_config(old: Wanted, new: Wanted | None) -> bool:
    """Say whether all that changed is what a daemon is told."""
    if new is None or None in (old.spec.config, new.spec.config):
        return False
    return old._replace(spec=old.spec._replace(config=new.spec.config)) == new


def _start(key: Key, wanted: Mapping[Key, Wanted], tasks: Mapping[Key, Task]) -> Verb | None:
    """Say whether a process may start: a pod's containers wait for its pause, and are given up when it is lost."""
    pod, name = key
    if name == PAUSE or (pod, PAUSE) not in wanted:
        return Verb.START
    if is_lost(pod, tasks):
        return Verb.END
    pause = tasks.get((pod, PAUSE))
    return Verb.START if pause is not None and pause.phase is Phase.RUNNING else None


def begin(task: Task, wanted: Wanted, now: float, since: float) -> None:
    """Record that a process is started, for the first time or again."""
    task.restarts += task.phase is Phase.WAITING
    task.wanted, task.phase, task.due, task.reason, task.said = wanted, Phase.RUNNING, NEVER, "", ""
    task.began, task.since = now, since


def configure(task: Task, wanted: Wanted, now: float) -> None:
    """Record that a daemon has been given its configuration and has to say that it is ready."""
    task.wanted, task.ready, task.due = wanted, False, now + READY_TIMEOUT


def confirm(task: Task, said: str) -> None:
    """Record that a daemon is ready."""
    task.ready, task.said = True, said
    if task.phase is Phase.RUNNING:
        task.due = NEVER


def refuse(task: Task, why: str, now: float) -> None:
    """Record that a daemon cannot do what its configuration says: it ends now, or goes on with what it had."""
    task.reason, task.due = why, min(task.due, now + REFUSED_TIMEOUT)


def is_settled(task: Task, now: float) -> bool:
    """Say whether nothing is on its way any more: no end, and no daemon that is getting ready."""
    if task.phase is Phase.STOPPING:
        return False
    return task.ready or task.phase is not Phase.RUNNING or now >= task.due


def end(task: Task, how: Exit, now: float, since: float) -> None:
    """Record that a process ended, and what that makes of it."""
    stopped = task.phase is Phase.STOPPING
    task.pid = task.host_pid = task.started = 0
    task.ready = True
    task.last_exit, task.since, task.due = how, since, NEVER
    if stopped:  # `steps` forgets it, or starts it at once if it is wanted after all
        task.phase, task.due = Phase.WAITING, now
    elif task.wanted.spec.name == PAUSE or not task.wanted.spec.restart:
        task.phase = Phase.ENDED
    else:
        delay = backoff(task.streak, now - task.began)
        task.phase, task.due = Phase.WAITING, now + delay
        task.streak = task.streak + 1 if delay else 1


def revive(tasks: dict[Key, Task]) -> None:
    """Forget lost pods, so that they are made anew, and let daemons start that wait after a crash."""
    for task in tasks.values():
        if task.phase is Phase.WAITING and task.wanted.spec.config is not None:
            task.due = 0.0
    lost = {pod for pod, _ in tasks if is_lost(pod, tasks)}
    for key in [key for key, task in tasks.items() if key[0] in lost and task.phase is Phase.ENDED]:
        del tasks[key]


def next_due(tasks: Iterable[Task], now: float) -> float:
    """Return when the next timer is due; NEVER when there is none. One that has passed waits for something else."""
    return min((task.due for task in tasks if task.due > now), default=NEVER)
