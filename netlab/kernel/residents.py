"""Who lives in a lab's namespaces, and how processes are ended: by pid and start time, through a pidfd.

A namespace outlives its name as long as a process is in it, so `down` has to know.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netlab.errors import NetlabError
from netlab.kernel import netns, proc

MARK = "NETLAB_LAB"  # in the environment of every process that netlab starts in a lab
GRACE = 1.0  # seconds
ROUNDS = 8
SETTLING = 0.5  # seconds after which a process that shows no mark is somebody else's
DEATH_TIMEOUT = 30.0  # seconds that the kernel may need to take a killed process away


@dataclass(frozen=True, slots=True)
class Resident:
    """A process in a lab's namespace. It is `ours` when netlab started it there: a container, or a `netlab exec`."""

    pid: int
    started: int  # field 22 of /proc/PID/stat
    name: str
    netns: str
    ours: bool


def processes_in(netns_names: Iterable[str], lab: str) -> list[Resident]:
    """Return every process whose network namespace is one of these, by pid; not the caller."""
    spaces = {netns.inode(name): name for name in netns_names if netns.is_alive(name)}
    found = []
    for pid in sorted(proc.pids()):
        place = spaces.get(proc.find_namespace(pid, "net") or 0)
        started = proc.find_start_time(pid) if place else None
        if place and started is not None and pid != os.getpid():
            found.append(Resident(pid, started, proc.name_of(pid), place, proc.has_variable(pid, MARK, lab)))
    return found


def end_marked(netns_names: Iterable[str], lab: str) -> list[Resident]:
    """End the residents that are ours, gently first: a shell restores its terminal. Return the others.

    Raises NetlabError when one stays. Others are looked at twice: between fork and exec, and while it exits, a process
    that a killed netlab had started shows no mark.
    """
    netns_names = list(netns_names)
    settled = False
    for _ in range(ROUNDS):  # one that ends may have forked meanwhile
        residents = processes_in(netns_names, lab)
        if ours := [(resident.pid, resident.started) for resident in residents if resident.ours]:
            end(ours, gently=(signal.SIGHUP, signal.SIGTERM))
        elif residents and not settled:
            with _open((resident.pid, resident.started) for resident in residents) as others:
                _wait(others, SETTLING)
            settled = True
        else:
            return residents
    raise NetlabError(f"processes of lab {lab} start faster than they can be ended", "stop what starts them")


def end(processes: Iterable[tuple[int, int]], *, gently: Iterable[signal.Signals] = ()) -> None:
    """End processes (pid, start time) and wait until they are gone. Raises NetlabError when one stays.

    The signals of `gently` come first, and SIGKILL for whoever is there after the grace.
    """
    with _open(processes) as left:
        for number in gently:
            _send(left, number)
        if gently:
            _wait(left, GRACE)
        _send(left, signal.SIGKILL)
        _wait(left, DEATH_TIMEOUT)
        if left:
            pids = ", ".join(map(str, left.values()))
            raise NetlabError(f"killed, but still there: {pids}", "`ps -o pid,stat,wchan` says what they wait for")


@contextlib.contextmanager
def _open(processes: Iterable[tuple[int, int]]) -> Iterator[dict[int, int]]:
    """Yield pidfds of those that still run: descriptor -> pid. A pid alone could be somebody else's by now."""
    opened: dict[int, int] = {}
    try:
        for pid, started in processes:
            with contextlib.suppress(ProcessLookupError):
                opened[os.pidfd_open(pid)] = pid
                if not proc.is_running(pid, started):
                    os.close(opened.popitem()[0])
        yield opened
    finally:
        for pidfd in opened:
            os.close(pidfd)


def _send(pidfds: Iterable[int], number: signal.Signals) -> None:
    for pidfd in pidfds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)


def _wait(left: dict[int, int], seconds: float) -> None:
    """Wait until processes end, at most so long, and take those that have ended out of `left`."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for pidfd in left:
        poll.register(pidfd, select.POLLIN)
    while left and (remaining := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(remaining * 1000):
            poll.unregister(pidfd)
            os.close(pidfd)
            del left[pidfd]
