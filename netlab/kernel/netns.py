"""Network namespaces by name: the only module that calls unshare(2), setns(2) and mount(2) on them.

Names live under /run/netns exactly as `ip netns` keeps them, so `ip netns exec NAME` and every other tool finds them.
A namespace belongs to a thread: `call` starts a fresh thread, enters, runs one function and lets the thread end, so no
other code ever runs in the wrong place. Sockets opened inside may be used anywhere afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from netlab.errors import KernelError, NotSupported
from netlab.names import NETNS_DIR

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 2

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def syscall(name: str, *args: Any) -> int:
    """Call a libc function that answers -1 on failure, and return its answer. Raises OSError."""
    answer: int = getattr(_libc, name)(*args)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def unshare(flags: int) -> None:
    """Leave the given namespaces for new ones (this thread only)."""
    syscall("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace behind a file descriptor (this thread only)."""
    syscall("setns", fd, flags)


def mount(source: str, target: str, filesystem: str | None, flags: int, options: str = "") -> None:
    """Call mount(2)."""
    kind = filesystem.encode() if filesystem else None
    syscall("mount", source.encode(), target.encode(), kind, ctypes.c_ulong(flags), options.encode())


def umount(target: str) -> None:
    """Detach a mount at once; it ends when its last user does."""
    syscall("umount2", target.encode(), MNT_DETACH)


def path(name: str) -> str:
    """Return the file that names a namespace."""
    return f"{NETNS_DIR}/{name}"


def names(prefix: str) -> list[str]:
    """List the names under /run/netns that start with a prefix, sorted."""
    try:
        return sorted(entry for entry in os.listdir(NETNS_DIR) if entry.startswith(prefix))
    except FileNotFoundError:
        return []


def is_alive(name: str) -> bool:
    """Say whether a name is bound to a namespace: a crash can leave the bare file."""
    try:
        return os.stat(path(name)).st_dev != os.stat(NETNS_DIR).st_dev
    except FileNotFoundError:
        return False


def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run a function in a fresh thread and return its result or raise its exception."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(function(*args))
        except BaseException as exc:  # carried over to the caller's thread
            failure.append(exc)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def enter(name: str) -> None:
    """Move this thread into a namespace for good. Raises KernelError when there is no such namespace."""
    try:
        fd = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise KernelError(errno.ENOENT, f"namespace {name}", "it does not exist") from exc
    try:
        setns(fd, CLONE_NEWNET)
    except OSError as exc:
        raise KernelError(exc.errno, f"enter namespace {name}") from exc
    finally:
        os.close(fd)


def call(name: str, function: Callable[..., T], *args: Any) -> T:
    """Run a function inside a namespace and return its result."""

    def inside() -> T:
        enter(name)
        return function(*args)

    return run_in_thread(inside)


def call_each(names: Iterable[str], function: Callable[[str], T]) -> dict[str, T]:
    """Run `function(name)` inside each namespace in turn, in one thread."""

    def inside() -> dict[str, T]:
        results = {}
        for name in names:
            enter(name)
            results[name] = function(name)
        return results

    return run_in_thread(inside)


def call_anonymous(function: Callable[..., T], *args: Any) -> T:
    """Run a function inside a fresh namespace without a name, which ends with what the function leaves open."""

    def inside() -> T:
        try:
            unshare(CLONE_NEWNET)
        except PermissionError as exc:
            raise NotSupported("the right to make network namespaces", "netlab", "run as root") from exc
        except OSError as exc:
            raise KernelError(exc.errno, "make a network namespace", _why_not(exc.errno)) from exc
        return function(*args)

    return run_in_thread(inside)


def create(names: Iterable[str], function: Callable[[str], T]) -> dict[str, T]:
    """Make namespaces, and run `function(name)` inside each as soon as it exists. An existing name is an error."""

    def inside() -> dict[str, T]:
        results = {}
        for name in names:
            _make(name)
            results[name] = function(name)
        return results

    _prepare_directory()
    return run_in_thread(inside)


def _make(name: str) -> None:
    """Make one namespace, enter it and bind its name."""
    target = path(name)
    try:
        unshare(CLONE_NEWNET)
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        mount("/proc/thread-self/ns/net", target, None, MS_BIND)
    except PermissionError as exc:
        raise NotSupported("the right to make network namespaces", f"namespace {name}", "run as root") from exc
    except OSError as exc:
        raise KernelError(exc.errno, f"make namespace {name}", _why_not(exc.errno)) from exc


def _why_not(code: int | None) -> str:
    limit = "/proc/sys/user/max_net_namespaces"
    return f"the limit in {limit} ({Path(limit).read_text().strip()}) is reached" if code == errno.ENOSPC else ""


def _prepare_directory() -> None:
    """Make /run/netns a shared mount as `ip netns add` does, so that other mount namespaces see names come and go."""
    try:
        os.makedirs(NETNS_DIR, mode=0o755, exist_ok=True)
        if not _share():  # os.path.ismount does not see a folder that is bound to itself
            mount(NETNS_DIR, NETNS_DIR, "none", MS_BIND | MS_REC)
            _share()
    except OSError as exc:
        raise KernelError(exc.errno, f"prepare {NETNS_DIR}") from exc


def _share() -> bool:
    """Make /run/netns a shared mount; False when it is no mount point yet."""
    try:
        mount("", NETNS_DIR, "none", MS_SHARED | MS_REC)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return False
    return True


def remove(names: Iterable[str]) -> None:
    """Unbind names; a namespace ends when no process or socket holds it. Missing names are fine."""
    for name in names:
        try:
            umount(path(name))
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENOENT):  # a bare file left by a crash, or nothing at all
                raise KernelError(exc.errno, f"remove namespace {name}") from exc
        Path(path(name)).unlink(missing_ok=True)


def inode(name: str) -> int:
    """Return the namespace's inode number, which /proc/PID/ns/net also shows."""
    return os.stat(path(name)).st_ino
