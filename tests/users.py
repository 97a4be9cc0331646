"""Unprivileged users for tests that run as root.

A `User` has nothing but a home and a runtime directory, and runs this very interpreter and this very source tree:
folders on the way to them that only root may enter (a clone or a Python under /root) are opened up in a mount
namespace of the user's processes. So nothing is copied, and it works wherever root keeps them.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import netlab
from netlab.kernel import netns, proc, rootless

NOBODY = 65534
SOURCE = Path(netlab.__file__).parent.parent


def can_play_users() -> bool:
    """Say whether this process may become another user: not as root of a user namespace with one single user."""
    rows = [[int(number) for number in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return os.geteuid() == 0 and any(inside <= NOBODY < inside + count for inside, _, count in rows)


@dataclass(frozen=True)
class User:
    """An unprivileged user and the folder that is all they own."""

    home: Path

    @property
    def runtime(self) -> Path:
        """Where netlab keeps the user's keeper file."""
        return self.home / "run" / "netlab"

    @property
    def environ(self) -> dict[str, str]:
        """The user's environment; $PATH is what Debian gives to users, without sbin."""
        return {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *arguments: str, namespaces_forbidden: bool = False) -> subprocess.Popen[str]:
        """Start this interpreter as the user, in their home."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=self.environ,
            cwd=self.home,
            preexec_fn=_become_confined if namespaces_forbidden else _become,  # noqa: PLW1509  the tests fork alone
        )

    def keeper(self) -> rootless.Keeper:
        """Return what the keeper file says."""
        record = rootless.parse_record((self.runtime / "keeper").read_bytes())
        assert record is not None
        return record


@contextmanager
def new_user() -> Iterator[User]:
    """Make a user, and leave neither their files nor their keeper behind."""
    home = Path(tempfile.mkdtemp(prefix="nl-tr-", dir="/tmp"))
    (home / "run").mkdir(mode=0o700)
    for folder in (home, home / "run"):
        os.chown(folder, NOBODY, NOBODY)
    user = User(home)
    try:
        yield user
    finally:
        for pid in proc.pids():  # not by the record: a test may have broken it
            if proc.has_variable(pid, rootless.MARK, str(user.runtime)):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(home)


def _become() -> None:
    _open_ways()
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _become_confined() -> None:
    """Become the user inside a user namespace that allows no further ones; the machine's own setting stays."""
    os.setgroups([])
    _open_ways()
    ready, go = os.pipe()
    child = os.getpid()
    mapper = os.fork()  # stays outside: only there it may map all users
    if mapper == 0:
        os.close(go)
        os.read(ready, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text("0 0 65535")
        os._exit(0)
    netns.unshare(netns.CLONE_NEWUSER)
    os.close(go)
    os.waitpid(mapper, 0)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _open_ways() -> None:
    """Let everybody reach this interpreter and the source, in this process's own mount namespace."""
    closed: dict[Path, list[Path]] = {}
    for path in {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, SOURCE)}:
        folders = reversed([path, *path.parents])
        first = next((folder for folder in folders if not folder.stat().st_mode & stat.S_IXOTH), None)
        if first:
            closed.setdefault(first, []).append(path)
    netns.unshare(netns.CLONE_NEWNS)
    netns.mount("", "/", None, netns.MS_PRIVATE | netns.MS_REC)
    for folder, inside in closed.items():
        handles = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in inside}
        netns.mount("opened", str(folder), "tmpfs", 0, "mode=0755")
        for path, handle in handles.items():
            path.mkdir(parents=True, exist_ok=True)
            netns.mount(f"/proc/self/fd/{handle}", str(path), None, netns.MS_BIND | netns.MS_REC)
            os.close(handle)
