"""What all ports of a node come to in IPVS mode, kept up to date port by port. Pure: no kernel, no clock.

Ports share addresses and entries, so these are counted; two ports may claim one virtual server (an external IP written
down twice), so claims are kept and the first port by name has it. `update` costs what the changed ports cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from netlab.service.ipvs import PortServers, VirtualKey, VirtualServer
from netlab.service.ipvs_sets import Entry, IpSet
from netlab.service.model import Protocol
from netlab.topology.addresses import Address

PortKey = tuple[str, str, str, Protocol, int]  # ServicePort.key
NOTHING = PortServers()
T = TypeVar("T")


@dataclass(slots=True)
class Touched:
    """What may differ from before: to be looked up in the table."""

    virtual: set[VirtualKey] = field(default_factory=set)
    addresses: set[Address] = field(default_factory=set)
    entries: set[Entry] = field(default_factory=set)

    def add(self, servers: PortServers) -> None:
        """Take note of all that one port has."""
        self.virtual.update(server.key for server in servers.virtual)
        self.addresses.update(servers.addresses)
        self.entries.update(servers.entries)


class Table:
    """Every port of a node in one IP version, and what they come to."""

    def __init__(self) -> None:
        self.ports: dict[PortKey, PortServers] = {}
        self.addresses: Counter[Address] = Counter()
        self.entries: Counter[Entry] = Counter()
        self._claims: dict[VirtualKey, dict[PortKey, VirtualServer]] = {}
        self._sets: Counter[IpSet] = Counter()
        self._out_filter: dict[PortKey, tuple[str, ...]] = {}

    def update(self, changed: Mapping[PortKey, PortServers | None]) -> Touched:
        """Replace ports (None: it is gone) and return what may be another now."""
        touched = Touched()
        for key, new in changed.items():
            old = self.ports.pop(key, NOTHING)
            if new is not None:
                self.ports[key] = new
            if new == old:
                continue
            self._drop(key, old)
            touched.add(old)
            if new is not None:
                self._put(key, new)
                touched.add(new)
        return touched

    def _drop(self, key: PortKey, old: PortServers) -> None:
        for server in old.virtual:
            claims = self._claims[server.key]
            del claims[key]
            if not claims:
                del self._claims[server.key]
        _discount(self.addresses, old.addresses)
        gone = _discount(self.entries, old.entries)
        _discount(self._sets, (entry.set for entry in gone))
        self._out_filter.pop(key, None)

    def _put(self, key: PortKey, new: PortServers) -> None:
        for server in new.virtual:
            self._claims.setdefault(server.key, {})[key] = server
        self.addresses.update(new.addresses)
        self._sets.update(entry.set for entry in new.entries if entry not in self.entries)
        self.entries.update(new.entries)
        if new.out_filter:
            self._out_filter[key] = new.out_filter

    def find(self, key: VirtualKey) -> VirtualServer | None:
        """Return the virtual server that should be at a place, if any."""
        claims = self._claims.get(key)
        if not claims:
            return None
        return next(iter(claims.values())) if len(claims) == 1 else claims[min(claims)]

    @property
    def keys(self) -> Collection[VirtualKey]:
        """Return every place that has a virtual server."""
        return self._claims.keys()

    @property
    def filled(self) -> frozenset[IpSet]:
        """Return the sets that have entries."""
        return frozenset(self._sets)

    @property
    def out_filter(self) -> tuple[str, ...]:
        """Return the rules of KUBE-IPVS-OUT-FILTER, in order of the ports' names."""
        return tuple(rule for key in sorted(self._out_filter) for rule in self._out_filter[key])


def _discount(counts: Counter[T], values: Iterable[T]) -> list[T]:
    """Take one off each value's count; return those that have none left."""
    gone = []
    for value in values:
        counts[value] -= 1
        if not counts[value]:
            del counts[value]
            gone.append(value)
    return gone
