"""What a user namespace gives to a process without root, and what forbids it. Read user_namespaces(7) with it.

`isolate` moves the calling process into fresh user, mount and network namespaces, where its user is root. It needs
no privilege and touches nothing outside: the kernel ends the namespaces with the last process in them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from netlab.errors import KernelError, NotSupported
from netlab.kernel import mounts, netns

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # linux/capability.h
NAMESPACES = netns.CLONE_NEWUSER | netns.CLONE_NEWNS | netns.CLONE_NEWNET
ROOTS_OWN = ("netns", "xtables.lock")  # what a lab writes in /run, and a user may not

_SETTINGS = {  # sysctl -> the value that forbids user namespaces, a value that allows them
    "kernel.unprivileged_userns_clone": ("0", "1"),  # Debian's own
    "user.max_user_namespaces": ("0", "15000"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),  # Ubuntu 24.04
}


def is_privileged() -> bool:
    """Say whether this process is root with the capabilities that a lab needs."""
    return os.geteuid() == 0 and {CAP_NET_ADMIN, CAP_SYS_ADMIN} <= capabilities()


def capabilities() -> frozenset[int]:
    """Return the numbers of this process's effective capabilities (linux/capability.h)."""
    return effective_capabilities(Path("/proc/self/status").read_text())


def effective_capabilities(status: str) -> frozenset[int]:
    """Decode the CapEff line of /proc/PID/status."""
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def isolate() -> None:
    """Move this process into fresh namespaces of the user's own, for good and for itself alone.

    Call it before the first thread starts. Raises NotSupported where this machine forbids it.
    """
    try:
        try_to_isolate()
    except KernelError as exc:
        raise refusal(exc.errno, exc.operation) from exc


def try_to_isolate() -> None:
    """Do what `isolate` does. Raises KernelError with what the kernel refused."""
    uid, gid = os.geteuid(), os.getegid()
    with step("make a user namespace"):
        netns.unshare(NAMESPACES)
        Path("/proc/self/setgroups").write_text("deny")  # or an unprivileged gid_map is refused, user_namespaces(7)
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    with step("mount in a user namespace"):
        netns.mount("", "/", None, netns.MS_SLAVE | netns.MS_REC)
        _cover_run()
    mounts.show_devices()  # where the kernel refuses, as in containers, /sys stays the host's: nothing relies on it


@contextmanager
def step(operation: str) -> Iterator[None]:
    """Name what is tried: an OSError becomes a KernelError."""
    try:
        yield
    except OSError as exc:
        raise KernelError(exc.errno or errno.EIO, operation) from exc


def _cover_run() -> None:
    """Put a writable /run over the host's, with everything of the host's in it but what a lab writes itself.

    What the host has there is needed: $XDG_RUNTIME_DIR, and what /etc/resolv.conf links to.
    """
    host = os.open("/run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        netns.mount("netlab", "/run", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=0755")
        with os.scandir(host) as entries:
            for entry in entries:
                if entry.name not in ROOTS_OWN:
                    with suppress(OSError):  # gone meanwhile, or refused: one entry fewer is no obstacle
                        _show(host, entry)
    finally:
        os.close(host)


def _show(host: int, entry: os.DirEntry[str]) -> None:
    """Let an entry of the host's /run, open as `host`, appear in the /run that covers it."""
    place = f"/run/{entry.name}"
    if entry.is_symlink():
        os.symlink(os.readlink(entry.name, dir_fd=host), place)
        return
    if entry.is_dir():
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    netns.mount(f"/proc/self/fd/{host}/{entry.name}", place, None, netns.MS_BIND | netns.MS_REC)


# --- why not ---------------------------------------------------------------------------------------------------------


def refusal(code: int, tried: str) -> NotSupported:
    """Return the error for a user who cannot have namespaces: what failed, and what to do about it on this machine."""
    settings = find_forbidding()
    if code == errno.ENOSPC and "user.max_user_namespaces" not in settings:
        settings.append("user.max_user_namespaces")  # not forbidden, used up
    return NotSupported(
        "a user namespace for an unprivileged user",
        "netlab without root",
        f"{tried}: {os.strerror(code)}; {remedy(settings)}",
    )


def find_forbidding() -> list[str]:
    """Return the sysctls that forbid user namespaces on this machine."""
    settings = {}
    for name in _SETTINGS:
        with suppress(OSError):
            settings[name] = Path("/proc/sys", *name.split(".")).read_text().strip()
    return forbidding(settings)


def forbidding(settings: Mapping[str, str]) -> list[str]:
    """Return which of the sysctls that a machine has forbid user namespaces."""
    return [name for name, (forbids, _) in _SETTINGS.items() if settings.get(name) == forbids]


def remedy(settings: list[str]) -> str:
    """Say what to do about the sysctls that forbid user namespaces."""
    if not settings:
        return "run netlab with sudo (in a container: start that with --privileged)"
    changes = " and ".join(f"`sudo sysctl -w {name}={_SETTINGS[name][1]}`" for name in settings)
    return f"allow them with {changes}, or run netlab with sudo"
