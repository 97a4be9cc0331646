"""A lab's folder: what was asked for, who holds which addresses, and the lock that only one netlab holds at a time.

    <state>/<lab>/lab.json      the topology as loaded, and the file that it came from
    <state>/<lab>/leases.json   allocations (`store.local`)
    <state>/<lab>/run/          the processes' files (`supervisor.client`)

Nothing in it is needed to take a lab down.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netlab import names, paths
from netlab.codec import from_json, to_json
from netlab.errors import Busy, NetlabError, StoreError
from netlab.store.local import LocalStore, write_json
from netlab.topology.model import Topology

FORMAT = 1  # of lab.json; another number is read as "not known here"


@dataclass(frozen=True, slots=True)
class Record:
    """What lab.json says: the topology that was last brought up, and its file."""

    topology: Topology
    source: str


class LabFolder:
    """The folder of one lab."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.path = paths.state_dir() / lab
        self.store = LocalStore(self.path)

    @property
    def runtime(self) -> Path:
        """Return the folder for processes' files."""
        return self.path / "run"

    def find_record(self) -> Record | None:
        """Return what is recorded; None when it is lost, broken, or of another version of netlab."""
        try:
            found = json.loads((self.path / "lab.json").read_text())
            if found["format"] != FORMAT:
                return None
            return Record(from_json(Topology, found["topology"]), found["source"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def read_record(self) -> Record:
        """Return what is recorded. Raises NetlabError where `find_record` has nothing."""
        record = self.find_record()
        if record is None:
            raise self._lost()
        return record

    def require(self) -> None:
        """Raise NetlabError when there is no folder; `lock` would make it."""
        if not self.path.exists():
            raise self._lost()

    def _lost(self) -> NetlabError:
        return NetlabError(f"the folder of lab {self.lab} is lost", "`netlab up FILE` puts it back")

    def write_record(self, record: Record) -> None:
        """Record what is about to be brought up."""
        value = {"format": FORMAT, "source": record.source, "topology": to_json(record.topology)}
        write_json(self.path / "lab.json", value)

    def forget(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def lock(self, wait: float) -> Iterator[None]:
        """Hold the lab for this process, after at most `wait` seconds. Raises Busy.

        The lock is on the folder itself, so that nothing is left of it; it ends with the process, however that ends.
        """
        deadline = time.monotonic() + wait
        while (fd := self._try_lock()) is None:
            if time.monotonic() > deadline:
                raise Busy(f"another netlab is working on lab {self.lab}", "wait for it, or end it, and try again")
            time.sleep(0.02)  # flock(2) has no time limit of its own
        try:
            yield
        finally:
            os.close(fd)

    def _try_lock(self) -> int | None:
        """Return a locked descriptor of the folder; None when another process holds it or has just removed it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StoreError(f"cannot use {self.path}: {exc.strerror}", "set NETLAB_STATE to another folder") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None


def known_labs() -> list[str]:
    """List the labs that have a folder, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(paths.state_dir()) if names.LABEL.match(entry.name))
    except FileNotFoundError:
        return []
