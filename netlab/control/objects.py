"""What was applied to a lab and asked of it, kept across restarts in a journal: one JSON line for each change.

A change costs one line however many objects there are. The journal is written anew, without what is past, when it is
opened. What the topology file declares is not in here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, get_args

from netlab.codec import from_json, to_json
from netlab.controllers.allocate import Allocation
from netlab.topology.pod import Pod, Workload
from netlab.topology.service import EndpointSlice, Namespace, Service


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants of a pod of its name and is not done yet: to be made, or to end (None)."""

    pod: Pod | None


Applied = Namespace | Service | Workload | EndpointSlice | Allocation | Asked
KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Applied)}
Key = tuple[str, ...]


class Journal:
    """Objects by kind and key. An Allocation is kept under its Service's key."""

    def __init__(self, path: Path) -> None:
        """Read what was kept. A line that a crash has cut off counts for nothing. Raises OSError."""
        self._path = path
        self.namespaces: dict[tuple[str], Namespace] = {}
        self.services: dict[tuple[str, str], Service] = {}
        self.workloads: dict[tuple[str, str, str], Workload] = {}
        self.slices: dict[tuple[str, str], EndpointSlice] = {}
        self.allocations: dict[tuple[str, str], Allocation] = {}
        self.asked: dict[tuple[str], Asked] = {}
        self._objects: dict[str, dict[Any, Any]] = {
            "Namespace": self.namespaces,
            "Service": self.services,
            "Workload": self.workloads,
            "EndpointSlice": self.slices,
            "Allocation": self.allocations,
            "Asked": self.asked,
        }
        for kind, key, value in _read(path):
            self._take(kind, key, value)
        self._file = self._rewrite()

    def put(self, key: Key, value: Applied) -> None:
        """Keep an object in place of the one that had its key."""
        self._write(type(value).__name__, key, value)

    def delete(self, kind: type[Applied], key: Key) -> None:
        """Forget an object."""
        self._write(kind.__name__, key, None)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, kind: str, key: Key, value: Applied | None) -> None:
        self._take(kind, key, value)
        self._file.write(_line(kind, key, value))
        self._file.flush()

    def _take(self, kind: str, key: Key, value: Applied | None) -> None:
        if value is None:
            self._objects[kind].pop(key, None)
        else:
            self._objects[kind][key] = value

    def _rewrite(self) -> TextIO:
        """Write the journal without what is past, and return it for more."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        with draft.open("w") as file:
            for kind, objects in self._objects.items():
                file.writelines(_line(kind, key, value) for key, value in objects.items())
        os.replace(draft, self._path)
        return self._path.open("a")


def _line(kind: str, key: Key, value: Applied | None) -> str:
    entry = {"kind": kind, "key": key, "value": None if value is None else to_json(value)}
    return json.dumps(entry, separators=(",", ":")) + "\n"


def _read(path: Path) -> Iterator[tuple[str, Key, Applied | None]]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
            value = entry["value"] and from_json(KINDS[entry["kind"]], entry["value"])
            yield entry["kind"], tuple(entry["key"]), value
        except (ValueError, KeyError, TypeError):
            continue
