"""Where netlab keeps its files and finds its programs.

Inside the namespaces that netlab makes for a user without root (`kernel.rootless`) the process looks like root. The
answers here stay those of the user outside, so a lab's folder is the same before and after entering.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from netlab.errors import NetlabError

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def outer_uid(uid: int, uid_map: str) -> int:
    """Return the user behind a user id, given the text of /proc/self/uid_map (user_namespaces(7)).

    Only a map of one single user is looked through: that is what netlab and `unshare -r` make. A container's root,
    whose map is wide, is root.
    """
    rows = [[int(number) for number in line.split()] for line in uid_map.splitlines()]
    if len(rows) == 1 and rows[0][2] == 1 and rows[0][0] == uid:
        return rows[0][1]
    return uid


def real_uid() -> int:
    """Return the id of the user who runs netlab, also inside netlab's own user namespace."""
    try:
        uid_map = Path("/proc/self/uid_map").read_text()
    except FileNotFoundError:  # a kernel without user namespaces
        uid_map = ""
    return outer_uid(os.geteuid(), uid_map)


def state_dir() -> Path:
    """Return the folder of the labs' state: $NETLAB_STATE, or root's or the user's own. It may not exist yet."""
    return choose_state_dir(real_uid(), os.environ)


def choose_state_dir(uid: int, environ: Mapping[str, str]) -> Path:
    """Decide where the state of a user's labs is kept. Relative XDG paths are ignored (XDG Base Directory 0.8)."""
    if chosen := environ.get("NETLAB_STATE"):
        return Path(chosen).absolute()
    if uid == 0:
        return Path("/var/lib/netlab")
    xdg = environ.get("XDG_STATE_HOME", "")
    return (Path(xdg) if xdg.startswith("/") else _home(uid, environ) / ".local/state") / "netlab"


def cache_dir() -> Path:
    """Return the folder of what can be made again: $NETLAB_CACHE, or the user's own. It may not exist yet."""
    return choose_cache_dir(real_uid(), os.environ)


def choose_cache_dir(uid: int, environ: Mapping[str, str]) -> Path:
    """Decide where a user's cache is kept. Relative XDG paths are ignored (XDG Base Directory 0.8)."""
    if chosen := environ.get("NETLAB_CACHE"):
        return Path(chosen).absolute()
    xdg = environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if xdg.startswith("/") else _home(uid, environ) / ".cache") / "netlab"


def _home(uid: int, environ: Mapping[str, str]) -> Path:
    if home := environ.get("HOME"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError as exc:
        raise NetlabError(f"user {uid} has no home directory", "set HOME or NETLAB_STATE") from exc


def runtime_dir() -> Path:
    """Return the user's folder for what lives until the machine restarts. It may not exist yet.

    /run/user/UID is taken even where $XDG_RUNTIME_DIR is unset (cron, su) or names another user's: a user has one.
    """
    uid = real_uid()
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if base.startswith("/") and _is_own(Path(base)):
            return Path(base) / "netlab"
    return Path(f"/tmp/netlab-{uid}")


def _is_own(directory: Path) -> bool:
    try:
        return directory.stat().st_uid == os.geteuid()
    except OSError:
        return False


def ensure_private(directory: Path) -> None:
    """Make a directory that only its owner can read. Raises NetlabError when somebody else's is in its place."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NetlabError(f"{directory} is not a directory that only you can use", "remove it, or set XDG_RUNTIME_DIR")


def search_path() -> str:
    """Return $PATH with the system administrator's folders, which Debian leaves out for users: nft, iptables."""
    given = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*given, *(folder for folder in SBIN if folder not in given)])
