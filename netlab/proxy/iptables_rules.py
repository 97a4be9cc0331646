"""One IP version of a node in iptables mode: what is wanted, what was written, and the text between. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netlab.proxy import listing
from netlab.proxy.listing import Tables
from netlab.proxy.proxier import Changes, PortKey
from netlab.service.iptables import PortRules, render
from netlab.service.iptables_restore import Base, dropped_chains, full_input, partial_input
from netlab.service.model import ProxyNode, ServicePort

LARGE_CLUSTER = 1000  # endpoints, beyond which rules of endpoints have no comments (facts.md 3.1)


class Rules:
    """The rules of a node in one IP version. Until `accept` says that a text was taken, what was written is unknown."""

    def __init__(self, node: ProxyNode, base: Base) -> None:
        self.base = base
        self.wanted: dict[PortKey, ServicePort] = {}
        self._node = node
        self._written: dict[PortKey, PortRules] | None = None
        self._pending: dict[PortKey, PortRules] | None = None
        self._changed: dict[PortKey, None] = {}
        self._compared: frozenset[int] = frozenset()
        self._endpoints = 0

    @property
    def is_known(self) -> bool:
        """Whether the kernel has what was written, so that a change of it is enough."""
        return self._written is not None

    @property
    def is_pending(self) -> bool:
        """Whether something is to be written."""
        return bool(self._changed) or not self.is_known

    def forget(self) -> None:
        """Hold that nobody knows what the kernel has."""
        self._written = None

    def take(self, changes: Changes) -> None:
        """Learn what is wanted from now on. Comments come or go everywhere at once."""
        was_large = self._is_large
        for key, port in changes.items():
            before = self.wanted.get(key)
            self._endpoints += (len(port.endpoints) if port else 0) - (len(before.endpoints) if before else 0)
            if port:
                self.wanted[key] = port
            else:
                self.wanted.pop(key, None)
        self._changed |= dict.fromkeys(changes)
        if was_large != self._is_large:
            self.forget()

    def full(self, tables: Tables) -> Iterator[str]:
        """Return the text that writes everything over what the kernel has."""
        self._written = None
        self._pending = {key: self._render(port) for key, port in self.wanted.items()}
        jumps = listing.missing_jumps(tables, self.base.jumps)
        return full_input(self.base, self._pending.values(), existing=tables.get("nat", ()), jumps=jumps)

    def partial(self) -> Iterator[str]:
        """Return the text that writes what changed since the last one."""
        assert self._written is not None
        ports, self._written = self._written, None
        before = {key: ports.pop(key) for key in self._changed if key in ports}
        after = {key: self._render(self.wanted[key]) for key in self._changed if key in self.wanted}
        ports.update(after)
        self._pending = ports
        return partial_input(
            self.base,
            ports.values(),
            after.values(),
            stale=dropped_chains(before.values(), after.values()),
            shared=_differing(before, after),
        )

    def accept(self) -> None:
        """Hold that the kernel took the last text."""
        self._written, self._pending = self._pending, None
        self._changed = {}

    def is_complete(self, tables: Tables) -> bool:
        """Say whether a listing has every jump, chain and canary, and in each chain the rules that were written."""
        if self._written is None:
            return False
        expected = listing.parse("".join(full_input(self.base, self._written.values())))
        found = listing.compare(tables, expected, self._compared)
        self._compared = found or frozenset()
        return found is not None and not listing.missing_jumps(tables, self.base.jumps)

    @property
    def _is_large(self) -> bool:
        return self._endpoints > LARGE_CLUSTER

    def _render(self, port: ServicePort) -> PortRules:
        return render(port, self._node, comments=not self._is_large)


def _differing(before: dict[PortKey, PortRules], after: dict[PortKey, PortRules]) -> list[str]:
    """Return the tables whose shared chains a change touches."""

    def text(table: str, port: PortRules | None) -> str:
        return "" if port is None else port.filter_text if table == "filter" else port.nat_text

    keys: Iterable[PortKey] = before.keys() | after.keys()
    return [
        table
        for table in ("filter", "nat")
        if any(text(table, before.get(key)) != text(table, after.get(key)) for key in keys)
    ]
