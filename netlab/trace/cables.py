"""Where a lab's cables lead, and who has an address: read from the kernel where a prediction asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from netlab.kernel import netns
from netlab.kernel.lookup import KernelTables
from netlab.topology.addresses import Address

FindTables = Callable[[str], KernelTables | None]


class Cables:
    """The cables between some namespaces. Raises OSError for a namespace that is going."""

    def __init__(self, namespaces: Sequence[str], find_tables: FindTables) -> None:
        self._namespaces = namespaces
        self._find_tables = find_tables
        self._numbers: dict[str, dict[int, str]] = {}

    def peer(self, namespace: str, device: str) -> tuple[str, str] | None:
        """Return the other end of the cable at a device; None when it leads out of the lab."""
        tables = self._find_tables(namespace)
        found = tables.peer(device) if tables else None
        if tables is None or found is None:
            return None
        index, number = found
        if namespace not in self._numbers:
            self._numbers[namespace] = self._read_numbers(tables)
        there = self._numbers[namespace].get(number, "")
        other = self._find_tables(there) if there else None
        return (there, other.name(index)) if other else None

    def _read_numbers(self, tables: KernelTables) -> dict[int, str]:
        """Return what the numbers mean that a namespace has for others."""
        found = {}
        for name in self._namespaces:
            with suppress(FileNotFoundError):
                descriptor = os.open(netns.path(name), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    found[tables.number(descriptor)] = name
                finally:
                    os.close(descriptor)
        return found

    def owner(self, address: Address) -> str:
        """Return the MAC of who has an address, who would answer when asked for it; "" when nobody does."""
        known = (self._find_tables(name) for name in self._namespaces)
        return next((mac for tables in known if tables and (mac := tables.holds(address))), "")
