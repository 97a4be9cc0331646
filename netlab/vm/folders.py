"""Where a network of VMs keeps its files while it lives: <runtime>/vm/NAME, locked for as long as its keeper runs.

    network.json   what to run (`qemu.Network`)      control        the keeper's socket
    initramfs      source.squashfs                   keeper.log     what the keeper itself says
    VM.console     what a guest's console showed     VM.*           sockets of one VM

A folder that nobody has locked is the remains of a killed keeper.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

from netlab import paths
from netlab.errors import NetlabError

LONGEST_SOCKET = 100  # bytes: unix(7) has 107, and a VM's sockets have longer names than the keeper's
GLANCE = 0.3  # seconds for which somebody who only looks may hold a lock


def base() -> Path:
    """Return the folder of all networks of this user. It may not exist yet."""
    return paths.runtime_dir() / "vm"


def control(folder: Path) -> Path:
    """Return the socket where a network's keeper listens."""
    return folder / "control"


def description(folder: Path) -> Path:
    """Return the file that says what a network is."""
    return folder / "network.json"


def keeper_log(folder: Path) -> Path:
    """Return the file of what the keeper itself says."""
    return folder / "keeper.log"


def kept_log(network: str, vm: str) -> Path:
    """Return where the console of a VM that ended by itself is kept."""
    kept = paths.cache_dir() / "vm-logs"
    kept.mkdir(parents=True, exist_ok=True)
    return kept / f"{network}-{vm}.console"


def claim(name: str) -> tuple[Path, int] | None:
    """Make the folder of a network; return it with its lock, or None when a network of that name lives.

    The lock lasts as long as any process has the descriptor.
    """
    paths.ensure_private(_ensure(base().parent))
    _ensure(base())
    sweep()
    folder = base() / name
    if len(str(control(folder))) > LONGEST_SOCKET:
        raise NetlabError(f"the path of {folder} is too long for sockets in it", "set XDG_RUNTIME_DIR to a shorter one")
    deadline = time.monotonic() + GLANCE
    while time.monotonic() < deadline:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = _try_lock(folder)
        if lock is not None:
            return folder, lock
        time.sleep(0.01)  # flock(2) has no time limit of its own
    return None


def names() -> list[str]:
    """List the networks that live, sorted."""
    if not base().is_dir():
        return []
    return sorted(entry.name for entry in base().iterdir() if is_alive(entry))


def is_alive(folder: Path) -> bool:
    """Say whether a keeper, or whoever starts one, holds a folder."""
    lock = _try_lock(folder) if folder.is_dir() else None
    if lock is not None:
        os.close(lock)
    return folder.is_dir() and lock is None


def sweep() -> None:
    """Remove the folders that killed keepers have left."""
    for entry in base().iterdir():
        lock = _try_lock(entry)
        if lock is not None:
            shutil.rmtree(entry, ignore_errors=True)
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """Return a locked descriptor of a folder; None when somebody holds it, or it has just gone."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(folder)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
    return None


def _ensure(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise NetlabError(f"cannot make {folder}: {exc.strerror}", "set XDG_RUNTIME_DIR to another folder") from exc
    return folder
