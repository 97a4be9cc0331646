"""The zone of cluster DNS, kept up to date in the file that its server reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from netlab.controllers.state import Key
from netlab.dns.records import Service as Record
from netlab.dns.zone_file import Cluster, ZoneWriter
from netlab.topology.service import DEFAULT_NAMESPACE
from netlab.topology.system import NAMESPACE

ALWAYS = (DEFAULT_NAMESPACE, NAMESPACE)  # namespaces that every cluster has


class Zone:
    """What cluster DNS answers from."""

    def __init__(self, path: Path) -> None:
        self._writer = ZoneWriter(path)
        self._records: dict[Key, Record] = {}

    def publish(
        self, dirty: Iterable[Key], present: Mapping[Key, object], record: Callable[[Key], Record], more: Iterable[str]
    ) -> None:
        """Write the zone with the Services that have changed; `more` are other namespaces. Raises OSError."""
        for key in dirty:
            if key in present:
                self._records[key] = record(key)
            else:
                self._records.pop(key, None)
        namespaces = {*ALWAYS, *more, *(namespace for namespace, _ in self._records)}
        self._writer.write(Cluster(tuple(self._records.values()), sorted(namespaces)))
