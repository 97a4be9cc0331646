"""The file system as one process of a lab sees it: its own /etc/hosts, /etc/resolv.conf, /sys and /proc.

All of it happens in a mount namespace of the process's own and ends with its last process: nothing is left behind,
and the host's files stay what they are. Start with `unshare`, or the mounts would be the host's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from netlab.kernel import netns
from netlab.names import NETNS_DIR

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
_PSEUDO = MS_NOSUID | MS_NODEV | MS_NOEXEC
_STAGE = "/sys"  # a folder that always exists, and that `show_devices` covers next


def unshare() -> None:
    """Give this thread a mount namespace of its own: it follows the host's mounts, the host does not follow it."""
    netns.unshare(netns.CLONE_NEWNS)
    netns.mount("", "/", None, netns.MS_SLAVE | netns.MS_REC)


def bind_texts(texts: Mapping[str, str]) -> list[str]:
    """Put texts in place of files (path -> content) and return what could not be done.

    The texts live in a tmpfs that has no place of its own: it is hidden as soon as its files are bound, and goes when
    the mount namespace does. Works in a user namespace too.
    """
    try:
        netns.mount("netlab", _STAGE, "tmpfs", _PSEUDO, "size=1m,mode=0755")
    except OSError as exc:
        return [f"cannot mount a tmpfs for {', '.join(texts)}: {exc.strerror}"]
    problems = []
    for index, (target, text) in enumerate(texts.items()):
        source = f"{_STAGE}/{index}"
        with open(source, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        problems += bind_file(source, target)
    netns.umount(_STAGE)
    return problems


def bind_file(source: str, target: str) -> list[str]:
    """Put one file in place of another, wherever symbolic links lead it, and return what could not be done."""
    place = os.path.realpath(target)  # /etc/resolv.conf is often a link into /run
    try:
        netns.mount(source, place, None, netns.MS_BIND)
    except FileNotFoundError:
        return [f"{target} is left out: this machine has no such file to put it on"]
    except OSError as exc:
        return [f"{target} is this machine's own: cannot bind over {place}: {exc.strerror}"]
    return []


def show_devices() -> list[str]:
    """Mount /sys anew, so that /sys/class/net shows this network namespace; return what could not be done."""
    read_only = os.statvfs("/sys").f_flag & os.ST_RDONLY  # a user namespace may not make it writable
    return _cover("/sys", "sysfs", MS_RDONLY if read_only else 0)


def show_processes() -> list[str]:
    """Mount /proc anew, so that it shows this pid namespace; return what could not be done."""
    return _cover("/proc", "proc", 0)


def hide_namespaces() -> None:
    """Let go of /run/netns: a mount namespace that lives long would keep a copy of every name of every lab."""
    with contextlib.suppress(OSError):  # no mount point any more
        while True:
            netns.umount(NETNS_DIR)


def _cover(place: str, filesystem: str, flags: int) -> list[str]:
    try:
        netns.mount(filesystem, place, filesystem, _PSEUDO | flags)
    except OSError as exc:
        return [f"{place} is this machine's own: cannot mount {filesystem}: {exc.strerror}"]
    return []
