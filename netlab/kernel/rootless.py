"""Running without root: one user, mount and network namespace per user, held by one tiny process, the keeper.

Inside, the user is root over everything that is made there and over nothing else. Read `ensure_privileged` first: a
command finds or makes the keeper and enters its namespaces for good. `stop_keeper` ends them when no lab is left.

Two files in `paths.runtime_dir()`: `keeper` holds its pid and start time and is locked while a keeper is made, entered
or stopped; `members` is locked (shared) by every command inside for as long as it runs, so nobody stops a keeper under
somebody's feet.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from netlab import names, paths
from netlab.errors import KernelError, NetlabError, NotSupported
from netlab.kernel import mounts, netns, proc

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # linux/capability.h
NAMESPACES = netns.CLONE_NEWUSER | netns.CLONE_NEWNS | netns.CLONE_NEWNET
MARK = "NETLAB_KEEPER"  # in the keeper's environment: the runtime directory that it belongs to
OWN_IN_RUN = ("netns", "xtables.lock")  # what the namespaces must not take from the host's /run: they are root's

USER_NAMESPACES = "user namespaces for unprivileged users"
_SETTINGS = {  # sysctl -> the value that forbids them, and a value that allows them
    "kernel.unprivileged_userns_clone": ("0", "1"),  # Debian's own
    "user.max_user_namespaces": ("0", "15000"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),  # Ubuntu 24.04
}

_membership: int | None = None  # the locked `members` file of this process once it has joined


@dataclass(frozen=True, slots=True)
class Keeper:
    """The process that holds a user's namespaces. `start_time` is field 22 of /proc/PID/stat, in clock ticks."""

    pid: int
    start_time: int


def ensure_privileged() -> None:
    """Let this process make namespaces, interfaces and rules: as root, or else inside the user's own namespaces.

    Call it before the first thread starts. The working directory stays. Also puts the sbin folders on $PATH, which
    Debian leaves out for users. Raises NotSupported where this machine forbids user namespaces.
    """
    os.environ["PATH"] = paths.search_path()
    if is_privileged():
        return
    directory = paths.runtime_dir()
    with _locked(directory) as record:
        keeper = find_keeper() or _make_keeper(record, directory)
        _join(keeper, directory)


def join_if_any() -> bool:
    """Enter the user's namespaces if a keeper holds them; False when there are none, so no labs either."""
    if not is_privileged() and find_keeper() is None:
        return False
    ensure_privileged()
    return True


def is_privileged() -> bool:
    """Say whether this process is root with the capabilities that a lab needs."""
    return os.geteuid() == 0 and {CAP_NET_ADMIN, CAP_SYS_ADMIN} <= capabilities()


def capabilities() -> frozenset[int]:
    """Return the numbers of the effective capabilities of this process (linux/capability.h)."""
    return effective_capabilities(Path("/proc/self/status").read_text())


def effective_capabilities(status: str) -> frozenset[int]:
    """Decode the CapEff line of /proc/PID/status."""
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


# --- the keeper ------------------------------------------------------------------------------------------------------


def find_keeper() -> Keeper | None:
    """Return the process that holds the user's namespaces, or None.

    When its file is gone the process is searched for: systemd empties /run/user/UID as the user logs out, and the
    labs live on.
    """
    directory = paths.runtime_dir()
    if (recorded := _read_record(directory)) and _is_keeper(recorded, directory):
        return recorded
    for pid in proc.pids():
        if proc.has_variable(pid, MARK, str(directory)) and (started := proc.find_start_time(pid)) is not None:
            return Keeper(pid, started)
    return None


def _is_keeper(keeper: Keeper, directory: Path) -> bool:
    return proc.is_running(keeper.pid, keeper.start_time) and proc.has_variable(keeper.pid, MARK, str(directory))


def _read_record(directory: Path) -> Keeper | None:
    try:
        return parse_record((directory / "keeper").read_text())
    except (OSError, UnicodeDecodeError):
        return None


def parse_record(text: str) -> Keeper | None:
    """Decode the file `keeper`: "PID START_TIME"; None when a crash left something else."""
    match text.split():
        case [pid, started] if pid.isdecimal() and started.isdecimal():
            return Keeper(int(pid), int(started))
        case _:
            return None


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the file `keeper` for oneself and yield it open for writing."""
    file = directory / "keeper"
    while True:
        paths.ensure_private(directory)
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # `stop_keeper` took the directory away just now
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_still(file, fd):
            break
        os.close(fd)  # the file was removed while we waited for it: ours locks nobody out
    try:
        yield fd
    finally:
        os.close(fd)


def _is_still(file: Path, fd: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def stop_keeper() -> bool:
    """End the user's namespaces if no lab and no other netlab process is in them; say whether they ended.

    Also right after a crash. Does nothing as root, or inside a shell that already was in the namespaces.
    """
    global _membership  # noqa: PLW0603  a process is in one user namespace
    directory = paths.runtime_dir()
    if (is_privileged() and _membership is None) or not directory.exists():
        return False
    with _locked(directory):
        members = _membership if _membership is not None else _open_members(directory)
        _membership = None
        try:
            fcntl.flock(members, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # the one that runs longest stops it: a refused lock also gives up the shared one
        finally:
            keep_open = members  # closing would drop the lock that keeps newcomers' commands honest
        stopped = _stop(find_keeper())
        os.close(keep_open)
        if stopped:
            for name in ("members", "keeper"):
                (directory / name).unlink(missing_ok=True)
            with suppress(OSError):  # somebody waits for the lock, or uses the directory otherwise
                directory.rmdir()
    return stopped
