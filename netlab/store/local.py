"""The embedded store: one JSON file per lab, replaced as a whole. Its caller holds the lab's lock."""

from __future__ import annotations

import json
import os
from pathlib import Path

from netlab.codec import from_json, to_json
from netlab.errors import StoreError
from netlab.store.store import Snapshot
from netlab.topology.model import Topology


class LocalStore:
    """Allocations of one lab, in `folder`/leases.json. A file that is lost or broken only means new addresses."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "leases.json"

    def read(self) -> Snapshot:
        """Return what is allocated now (empty when nothing is known)."""
        try:
            return from_json(Snapshot, json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return Snapshot()

    def acquire(self, topology: Topology) -> Snapshot:
        """Give every member of the topology what it needs, keeping what it holds; forget members that left."""
        from netlab.store.allocate import allocate  # netaddr takes its time, and `status` needs none of it

        snapshot = allocate(topology, self.read())
        write_json(self._file, to_json(snapshot))
        return snapshot


def write_json(file: Path, value: object) -> None:
    """Replace a file as a whole: a reader, or a crash, never sees half of it. Raises StoreError."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        fresh.write_text(json.dumps(value, separators=(",", ":")))
        fresh.replace(file)
    except OSError as exc:
        raise StoreError(f"cannot write {file}: {exc.strerror}", "free some space, or set NETLAB_STATE") from exc
