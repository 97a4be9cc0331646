"""A cell: processes, mounts and (if asked) a network of their own, in which libvirt, dnsmasq, qemu and vagrant live.

The kernel takes all of it away when the cell's first process ends, and that one ends with this process, however that
ends: Ctrl-C, SIGKILL. Files go to the cell's folder; libvirt's own places are mounted there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path

from netlab.errors import NetlabError

ROOT = Path(__file__).parents[2]
# libvirt's places on a machine -> the cell's folders
PLACES = {
    Path("/etc/libvirt"): "libvirt/etc",
    Path("/var/lib/libvirt"): "libvirt/lib",
    Path("/var/cache/libvirt"): "libvirt/cache",
    Path("/var/log/libvirt"): "logs/libvirt",
}
# libvirtd wants to know its usual account, whoever qemu shall run as; Debian's libvirt-daemon-system would make it.
ACCOUNTS = {
    Path("/etc/passwd"): "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\n",
    Path("/etc/group"): "libvirt-qemu:x:64055:\n",
}
GONE = 20.0  # seconds within which the processes of a cell that was ended are gone

# The cell's first process: bash, because that one reaps the children that daemons leave. `$0` is the cell's folder.
_FIRST = """
set -e
readlink /proc/self/ns/pid /proc/self/ns/net >"$0/namespaces"
status=0
"$@" || status=$?
exit $status
"""
_OWN_NETWORK = (
    """
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
while read -r place folder; do mount --bind "$folder" "$place"; done <"$0/mounts"
ip link set lo up
"""
    + _FIRST
)


class Network(Enum):
    """Whose network a cell has."""

    HOST = "the host's"
    OWN = "its own"


class Cell:
    """One cell, with its folder. Use it in a `with`: leaving that ends the cell and removes the folder but its logs."""

    def __init__(self, folder: Path, kept_logs: Path) -> None:
        self.folder = folder
        self.kept_logs = kept_logs
        self._child: subprocess.Popen[bytes] | None = None
        self._namespaces: set[str] = set()

    def __enter__(self) -> Cell:
        (self.folder / "logs").mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._end()
        finally:
            shutil.rmtree(self.kept_logs, ignore_errors=True)
            (self.folder / "logs").rename(self.kept_logs)
            self.clear()

    def clear(self) -> None:
        """Remove the cell's files, and the places made for its mounts: its own, or those of one that was killed."""
        made = self.folder / "made"
        for place in made.read_text().splitlines() if made.exists() else ():
            with contextlib.suppress(OSError):  # somebody may have installed libvirt meanwhile
                Path(place).rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)

    def python(self, module: str, *arguments: str, network: Network) -> int:
        """Run a module of this project in the cell; return its exit status."""
        own = network is Network.OWN
        if own:
            self._prepare_places()
        namespaces = ("--pid", "--mount", "--ipc", *(["--net"] if own else []))
        outside = ("setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "--fork", "--kill-child", "--mount-proc")
        first = ("bash", "-c", _OWN_NETWORK if own else _FIRST, str(self.folder))
        self._child = subprocess.Popen(
            [*outside, *first, sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which ends the cell
        )
        status = self._child.wait()
        self._end()
        return status

    def _prepare_places(self) -> None:
        """Make what is mounted over libvirt's places and the accounts; make missing places."""
        for name in PLACES.values():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        missing = [place for place in PLACES if not place.exists()]
        (self.folder / "made").write_text("".join(f"{place}\n" for place in missing))
        for place in missing:
            place.mkdir()
        mounts = {place: self.folder / name for place, name in PLACES.items()}
        for file, line in ACCOUNTS.items():
            mounts[file] = self.folder / file.name
            text = file.read_text()
            mounts[file].write_text(text if line.partition(":")[0] in text else text + line)
        (self.folder / "mounts").write_text("".join(f"{place} {over}\n" for place, over in mounts.items()))

    def _end(self) -> None:
        """End every process of the cell; wait until they are gone, and their sockets and devices with them."""
        if self._child is None:
            return
        if self._child.poll() is None:
            first = _children(self._child.pid)
            for process in first or [self._child.pid]:  # unshare reaps its child; were it killed, init would, some day
                os.kill(process, signal.SIGKILL)
        self._child.wait()
        self._child = None
        file = self.folder / "namespaces"
        if file.exists():
            self._namespaces |= set(file.read_text().split()) - _own_namespaces()
        deadline = time.monotonic() + GONE
        while left := self.remains():
            if time.monotonic() > deadline:
                raise NetlabError(
                    f"after {GONE:g} s there are still: {', '.join(left)}", "look at them with ps and lsns"
                )
            time.sleep(0.05)  # a process that is being killed can only be watched

    def remains(self) -> list[str]:
        """List what is left of the cell: processes in its namespaces, and mounts that keep a namespace."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._namespaces & {os.readlink(process / "ns/pid"), os.readlink(process / "ns/net")}:
                    found.append(f"process {process.name} {(process / 'comm').read_text().strip()}")
            except OSError:  # it has just ended
                continue
        mounts = Path("/proc/self/mountinfo").read_text()
        return found + [f"namespace {name}" for name in sorted(self._namespaces) if name in mounts]


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _own_namespaces() -> set[str]:
    return {os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net")}
