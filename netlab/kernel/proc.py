"""What /proc says about processes. Everything returns "nothing" for a process that is gone: they end at any moment.

A pid alone names nobody, because pids are used again; a pid with its start time does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_STATE = 0  # fields of /proc/PID/stat behind the parenthesised name; proc_pid_stat(5) counts from pid, which is 1
_START_TIME = 19
_DEAD = ("Z", "X")


def pids() -> Iterator[int]:
    """Yield every process that this /proc shows."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def find_start_time(pid: int) -> int | None:
    """Return when a living process started, in clock ticks since boot; None for a zombie or no process."""
    text = _read(pid, "stat")
    if text is None:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return None if fields[_STATE].decode() in _DEAD else int(fields[_START_TIME])


def is_running(pid: int, started: int) -> bool:
    """Say whether the process with that pid and start time still runs."""
    return find_start_time(pid) == started


def find_namespace(pid: int, kind: str) -> int | None:
    """Return the inode number of a process's namespace; `kind` is its name in /proc/PID/ns."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return None


def name_of(pid: int) -> str:
    """Return a process's name as `ps -o comm` shows it; empty when it is gone."""
    return (_read(pid, "comm") or b"").decode(errors="replace").strip()


def has_variable(pid: int, name: str, value: str) -> bool:
    """Say whether a process was started with an environment variable of that value."""
    return f"{name}={value}".encode() in (_read(pid, "environ") or b"").split(b"\0")


def find_inner_pid(pid: int) -> int | None:
    """Return a process's pid in its own, innermost pid namespace (NSpid in /proc/PID/status)."""
    for line in (_read(pid, "status") or b"").splitlines():
        if line.startswith(b"NSpid:"):
            return int(line.split()[-1])
    return None


def find_outer_pid(pidfd: int) -> int | None:
    """Return the pid that this /proc shows for a pidfd of a process in an inner pid namespace."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as fdinfo:
        for line in fdinfo:
            if line.startswith(b"Pid:"):
                pid = int(line.split()[1])
                return pid if pid > 0 else None
    return None


def _read(pid: int, name: str) -> bytes | None:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return None
