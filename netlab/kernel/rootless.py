"""Running without root: one user, mount and network namespace per user, held by one tiny process, the keeper.

Inside, the user is root over everything that is made there and over nothing else. Read `ensure_privileged` first: a
command finds or makes the keeper and enters its namespaces for good. `stop_keeper` ends them when no lab is left.

Two files in `paths.runtime_dir()`: `keeper` holds its pid and start time, and is locked while a keeper is made,
entered or stopped; `members` is locked (shared) by every command inside for as long as it runs, so that nobody stops
the keeper between a command's entering and the first namespace of its lab.
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
from netlab.errors import KernelError, NetlabError
from netlab.kernel import netns, proc, userns

MARK = "NETLAB_KEEPER"  # in the keeper's environment: the runtime directory that it belongs to

_joined: list[int] = []  # the `members` file, open and locked, once this process is inside


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
    if userns.is_privileged():
        return
    if len(os.listdir("/proc/self/task")) > 1:
        raise NetlabError("a process with several threads cannot enter a user namespace", "enter before they start")
    directory = paths.runtime_dir()
    with _locked(directory) as record:
        keeper = find_keeper() or _make_keeper(directory)
        os.ftruncate(record, 0)
        os.pwrite(record, f"{keeper.pid} {keeper.start_time}\n".encode(), 0)
        _join(keeper, directory)


def join_if_kept() -> bool:
    """Get the rights of `ensure_privileged` if that takes no new keeper; False means that the user has no labs."""
    if not userns.is_privileged() and find_keeper() is None:
        return False
    ensure_privileged()
    return True


# --- finding, entering, stopping -------------------------------------------------------------------------------------


def find_keeper() -> Keeper | None:
    """Return the process that holds the user's namespaces, or None.

    When its file is gone the process is searched for: systemd empties /run/user/UID as the user logs out, and labs
    live on.
    """
    directory = paths.runtime_dir()
    recorded = _read_record(directory)
    if recorded and proc.is_running(recorded.pid, recorded.start_time) and _is_marked(recorded.pid, directory):
        return recorded
    for pid in proc.pids():
        if _is_marked(pid, directory) and (started := proc.find_start_time(pid)) is not None:
            return Keeper(pid, started)
    return None


def _is_marked(pid: int, directory: Path) -> bool:
    return proc.has_variable(pid, MARK, str(directory))


def _read_record(directory: Path) -> Keeper | None:
    try:
        return parse_record((directory / "keeper").read_bytes())
    except OSError:
        return None


def parse_record(content: bytes) -> Keeper | None:
    """Decode the file `keeper`: "PID START_TIME"; None when a crash left something else."""
    match content.split():
        case [pid, started] if pid.isdigit() and started.isdigit():
            return Keeper(int(pid), int(started))
        case _:
            return None


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the file `keeper` for this process alone, and yield it open for writing."""
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
        os.close(fd)  # removed while we waited: whoever opens the file now would not see our lock
    try:
        yield fd
    finally:
        os.close(fd)


def _is_still(file: Path, fd: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _open_members(directory: Path) -> int:
    return os.open(directory / "members", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _join(keeper: Keeper, directory: Path) -> None:
    """Enter the keeper's namespaces for good, and stay in the working directory."""
    members = _open_members(directory)
    fcntl.flock(members, fcntl.LOCK_SH)
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = os.readlink(f"/proc/self/fd/{folder}")
        pidfd = os.pidfd_open(keeper.pid)
        try:
            netns.setns(pidfd, userns.NAMESPACES)  # moves to the root directory
        finally:
            os.close(pidfd)
        _return_to(place, folder)
    except OSError as exc:
        os.close(members)
        raise KernelError(exc.errno, f"enter the namespaces that process {keeper.pid} keeps") from exc
    finally:
        os.close(folder)
    _joined.append(members)


def _return_to(place: str, folder: int) -> None:
    try:
        os.chdir(place)
    except OSError:  # hidden by the namespaces' own mounts, or deleted: relative names still work
        os.fchdir(folder)


def stop_keeper() -> bool:
    """End the user's namespaces if no lab and no other command is inside; say whether they ended.

    Call it last: this process makes no lab afterwards. Nothing happens for root, and in a shell that a command
    inside has opened.
    """
    directory = paths.runtime_dir()
    if (userns.is_privileged() and not _joined) or not directory.exists():
        return False
    with _locked(directory):
        keeper = find_keeper()
        if _is_in_use(directory) or (keeper and _has_labs(keeper)):
            return False
        if keeper:
            _kill(keeper)
        for name in ("members", "keeper"):
            (directory / name).unlink(missing_ok=True)
        with suppress(OSError):  # something else is kept there
            directory.rmdir()
    return keeper is not None


def _is_in_use(directory: Path) -> bool:
    """Say whether other commands are inside. Gives up this one's share, so that of two the later one gets False."""
    members = _joined.pop() if _joined else _open_members(directory)
    try:
        fcntl.flock(members, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(members)
    return False


def _has_labs(keeper: Keeper) -> bool:
    try:
        entries = os.listdir(f"/proc/{keeper.pid}/root{names.NETNS_DIR}")
    except FileNotFoundError:
        return False
    return any(names.find_owner(entry) for entry in entries)


def _kill(keeper: Keeper) -> None:
    """Kill the keeper and wait until it is dead."""
    try:
        pidfd = os.pidfd_open(keeper.pid)
    except ProcessLookupError:
        return
    try:
        if proc.is_running(keeper.pid, keeper.start_time):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            dead = select.poll()
            dead.register(pidfd, select.POLLIN)
            dead.poll()
    finally:
        os.close(pidfd)


# --- making ----------------------------------------------------------------------------------------------------------


def _make_keeper(directory: Path) -> Keeper:
    """Start the keeper and wait until its namespaces are ready."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _become_keeper(writing, directory)
    os.close(writing)
    with open(reading, encoding="utf-8") as reports:  # ends when the keeper becomes `sleep`, or fails
        pid, *failure = reports.read().splitlines() or ["0"]
    os.waitpid(child, 0)
    if failure:
        raise userns.refusal(int(failure[0]), failure[1])
    started = proc.find_start_time(int(pid))
    if started is None:
        raise NetlabError("the process that keeps the namespaces ended at once", "run it again, or use sudo")
    return Keeper(int(pid), started)


def _become_keeper(reports: int, directory: Path) -> NoReturn:
    """Turn this child into the keeper: nobody's child, in its own session, in fresh namespaces, asleep.

    Reports its pid, then only what failed: errno and what was tried.
    """
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(reports, f"{os.getpid()}\n".encode())
        userns.try_to_isolate()
        with userns.step("start the process that keeps them"):
            _close_all_but(reports)
            os.chdir("/")
            sleep = shutil.which("sleep") or "/bin/sleep"
            name = f"netlab-keeper:{directory}/sleep"  # ends in `sleep`: busybox and uutils go by the last part
            os.execve(sleep, [name, "infinity"], {MARK: str(directory)})
    except KernelError as exc:
        os.write(reports, f"{exc.errno}\n{exc.operation}\n".encode())
    finally:
        os._exit(1)


def _close_all_but(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
