"""kube-proxy's IPVS mode on one node: virtual servers, kube-ipvs0, IP sets and a few rules (facts.md 4).

Read in order: `sync`; `_Side`, one IP version: what is wanted (service/ipvs_table.py) beside what the kernel has; then
`write`, which compares the two where something was touched. Sets and rules come first, so that an address is shielded
before it is the node's. None of it is atomic, as in kube-proxy: what failed is found out by reading everything back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field

from netlab.errors import KernelError, ProgramError
from netlab.kernel import features
from netlab.proxy import listing, tools
from netlab.proxy.conntrack import Cleaner
from netlab.proxy.ipvs_device import Device, configure
from netlab.proxy.ipvs_netlink import Servers, idle
from netlab.proxy.ipvs_signs import Reader, Signs
from netlab.proxy.proxier import Changes, NodeTarget, PortKey
from netlab.proxy.watch import LOOKS
from netlab.service import ipvs_rules, ipvs_sets
from netlab.service.ipvs import PortServers, VirtualKey, render
from netlab.service.ipvs_change import WEIGHT, Command, Installed, Place, Step, after, steps
from netlab.service.ipvs_sets import Entry
from netlab.service.ipvs_table import Table, Touched
from netlab.service.model import ProxyNode, ServicePort
from netlab.topology.addresses import Address

LEAVING_PERIOD = 60.0  # seconds between looks at servers that were given time: kube-proxy's rsCheckDeleteInterval


@dataclass(slots=True)
class _Found:
    """What the kernel has of one IP version, as far as it is known. `rules` is the text that was restored last."""

    virtual: dict[VirtualKey, Installed]
    addresses: set[Address]
    entries: set[Entry]
    rules: str = ""
    listed: frozenset[tuple[str, str, tuple[str, ...]]] = frozenset()  # what iptables-save said of them then


@dataclass(slots=True)
class _Side:
    """One IP version of a node. `found` is None until it was read, and after a failure."""

    node: ProxyNode
    table: Table = field(default_factory=Table)
    found: _Found | None = None
    leaving: set[Place] = field(default_factory=set)

    @property
    def version(self) -> int:
        return self.node.addresses[0].version


class _Open:
    """What a proxier holds open in its node's namespace, and the variant of iptables that writes there."""

    def __init__(self, target: NodeTarget, versions: Iterable[int]) -> None:
        with ExitStack() as stack:
            self.servers = stack.enter_context(closing(Servers(target.netns)))  # first: says what a kernel lacks
            features.require("ipset", f"{target.netns}: proxy ipvs")
            self.variant = tools.choose_variant(target.netns, target.options.tool, versions)
            self.device = stack.enter_context(closing(Device(target.netns)))
            self.signs = stack.enter_context(closing(Reader(target.netns, self.variant, versions, self.device)))
            self._open = stack.pop_all()

    def close(self) -> None:
        """Close the sockets."""
        self._open.close()


class IpvsProxier:
    """The Proxier of mode ipvs."""

    def __init__(self, target: NodeTarget) -> None:
        self._target = target
        self._sides = {node.addresses[0].version: _Side(node) for node in target.nodes}
        self._ports: dict[PortKey, ServicePort] = {}
        self._conntrack = Cleaner(target.netns)
        self._opened: _Open | None = None
        self._due: float | None = None
        self._begun = False
        self._signs: Signs | None = None  # as they were when all was as it should be
        self._looks = 0

    # --- the protocol, in the order of proxier.py --------------------------------------------------------------------

    def sync(self, changes: Changes) -> None:
        """Write ports that changed; the first time, and after a failure, compare with all that the kernel has."""
        self._conntrack.note(changes, self._ports)
        for key, port in changes.items():
            if port:
                self._ports[key] = port
            else:
                self._ports.pop(key, None)
        self._begun = True
        with tools.collecting_later():
            rendered = {version: self._rendered(side, changes) for version, side in self._sides.items()}
            self._write({version: side.table.update(rendered[version]) for version, side in self._sides.items()})

    def resync(self) -> None:
        """Read everything back, and make it what it should be."""
        self._begun = True
        for side in self._sides.values():
            side.found = None
        self._write({})

    def is_intact(self) -> bool:
        """Say whether the kernel still has all that was written: by signs, and now and then by listing it."""
        if not self._begun:
            return True
        if self._opened is None or any(side.found is None for side in self._sides.values()):
            return False
        self._looks += 1
        signs = self._opened.signs.read()
        if signs == self._signs and self._looks % LOOKS:
            return True
        intact = all(self._is_intact(self._opened, side) for side in self._sides.values())
        self._signs = signs if intact else None
        return intact

    def fileno(self) -> int | None:
        """Return None: the kernel tells nobody of changes to virtual servers."""
        return None

    def tick(self, now: float) -> float | None:
        """Delete servers that were given time and have no connection left, once a minute; write what failed."""
        if self._begun and any(side.found is None for side in self._sides.values()):
            self._write({})
        if self._due is not None and now >= self._due:
            self._due = None
            for side in self._sides.values():
                self._look_at_leaving(side)
            self._signs = self._open().signs.read()
        if self._due is None and any(side.leaving for side in self._sides.values()):
            self._due = now + LEAVING_PERIOD
        return self._due

    def remove(self) -> None:
        """Take away virtual servers, rules, sets and kube-ipvs0 again. Sysctls stay, as with kube-proxy."""
        opened = self._open()
        opened.device.remove()
        for version in self._sides:
            tables = listing.parse(tools.save(self._target.netns, opened.variant, version))
            tools.restore(self._target.netns, opened.variant, version, listing.removal(tables))
            there = opened.servers.read_virtual(version)
            opened.servers.take([step for key, found in there.items() for step in steps(key, None, found)])
            self._ipset("restore", ipvs_sets.created(version), ipvs_sets.destroyed(version))
        self.close()

    def close(self) -> None:
        """Close the sockets; everything stays as it is."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        self._begun = False

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def _rendered(self, side: _Side, changes: Changes) -> dict[PortKey, PortServers | None]:
        scheduler = self._target.options.scheduler
        return {
            key: None if port is None else render(port, side.node, scheduler=scheduler)
            for key, port in changes.items()
            if key[-1] == side.version
        }

    # --- what there is -----------------------------------------------------------------------------------------------

    def _open(self) -> _Open:
        if self._opened is None:
            opened = _Open(self._target, self._sides)
            try:
                configure(self._target.netns, self._sides, strict_arp=self._target.options.strict_arp)
            except BaseException:
                opened.close()
                raise
            self._opened = opened
        return self._opened

    def _read(self, opened: _Open, side: _Side) -> _Found:
        """Make what every node has, and read what there is of one IP version. Servers of weight 0 were leaving."""
        opened.device.ensure()
        version = side.version
        self._ipset("restore", ipvs_sets.created(version))
        entries = ipvs_sets.parsed(self._ipset("save"))[version]
        found = _Found(opened.servers.read(version), opened.device.addresses(version), set(entries))
        side.leaving = set()
        for key, installed in found.virtual.items():
            wanted = side.table.find(key)
            kept = frozenset(wanted.servers) if wanted else frozenset()
            idlers = [server for server, weight in installed.weights.items() if not weight and server not in kept]
            side.leaving |= {Place(key, server) for server in idlers}
        return found

    def _ipset(self, verb: str, *text: str) -> str:
        return tools.run(self._target.netns, ("ipset", verb), text)

    # --- from the one to the other -----------------------------------------------------------------------------------

    def _write(self, touched: Mapping[int, Touched]) -> None:
        """Write what was touched, by IP version, and what is not known; then end flows that go astray."""
        try:
            with tools.collecting_later():
                for version, side in self._sides.items():
                    self._write_side(side, touched.get(version, Touched()))
                self._conntrack.clean()
        except BaseException:
            for side in self._sides.values():  # also those that it did not come to
                side.found = None
            raise
        self._signs = self._open().signs.read()

    def _write_side(self, side: _Side, touched: Touched) -> None:
        """Make the kernel's state what is wanted where something was touched, or everywhere if it was not read yet."""
        opened = self._open()
        if side.found is None:
            self._conntrack.note_all({key: port for key, port in self._ports.items() if key[-1] == side.version})
            found = self._read(opened, side)
            table = side.table
            touched = Touched(
                {*table.keys, *found.virtual}, {*table.addresses, *found.addresses}, {*table.entries, *found.entries}
            )
        else:
            found, side.found = side.found, None  # should this fail, it is read anew
        self._write_entries(side, found, touched.entries)
        self._write_rules(opened, side, found)
        self._write_servers(opened, side, found, touched.virtual)
        self._write_addresses(opened, side, found, touched.addresses)
        side.found = found

    def _write_entries(self, side: _Side, found: _Found, touched: Iterable[Entry]) -> None:
        wanted = side.table.entries
        added = [entry for entry in touched if entry in wanted and entry not in found.entries]
        removed = [entry for entry in touched if entry not in wanted and entry in found.entries]
        if added or removed:
            self._ipset("restore", ipvs_sets.changed(side.version, added, removed))
            found.entries.update(added)
            found.entries.difference_update(removed)

    def _write_rules(self, opened: _Open, side: _Side, found: _Found) -> None:
        text = ipvs_rules.restore_input(side.node, side.table.filled, side.table.out_filter)
        if text == found.rules:
            return
        missing = listing.missing_jumps(self._listed(opened, side.version), ipvs_rules.jumps())
        whole = ipvs_rules.restore_input(side.node, side.table.filled, side.table.out_filter, missing)
        tools.restore(self._target.netns, opened.variant, side.version, [whole])
        found.rules = text
        found.listed = _ours(self._listed(opened, side.version))

    def _write_addresses(self, opened: _Open, side: _Side, found: _Found, touched: Iterable[Address]) -> None:
        wanted = side.table.addresses
        added = [address for address in touched if address in wanted and address not in found.addresses]
        removed = [address for address in touched if address not in wanted and address in found.addresses]
        opened.device.change(added, removed)
        found.addresses.update(added)
        found.addresses.difference_update(removed)

    def _write_servers(self, opened: _Open, side: _Side, found: _Found, touched: Iterable[VirtualKey]) -> None:
        taken: list[Step] = []
        for key in touched:
            has = found.virtual.get(key)
            todo = list(steps(key, side.table.find(key), has, side.leaving))
            now = after(has, todo)
            if now is None:
                found.virtual.pop(key, None)
            else:
                found.virtual[key] = now
            taken += todo
        opened.servers.take(taken)
        if side.leaving:
            side.leaving -= {Place(step.virtual.key, step.server) for step in taken if step.server}
        stopped = {Place(step.virtual.key, step.server) for step in taken if step.server and step.weight < WEIGHT}
        side.leaving = {place for place in side.leaving | stopped if place.key in found.virtual}
        self._let_go(opened, side, found, stopped)

    def _look_at_leaving(self, side: _Side) -> None:
        found, side.found = side.found, None  # should this fail, it is read anew
        if found is not None:
            self._let_go(self._open(), side, found, side.leaving)
            side.found = found

    def _let_go(self, opened: _Open, side: _Side, found: _Found, places: Iterable[Place]) -> None:
        """Delete those servers without weight that have no connection left."""
        by_key: dict[VirtualKey, set[Place]] = {}
        for place in places:
            by_key.setdefault(place.key, set()).add(place)
        for key, group in by_key.items():
            wanted = side.table.find(key)
            if wanted is None:
                continue
            free = idle(opened.servers.read_real(key).items())
            gone = [place for place in group if place.server in free]
            opened.servers.take([Step(Command.DEL_DEST, wanted, place.server) for place in gone])
            for place in gone:
                side.leaving.discard(place)
                found.virtual[key].weights.pop(place.server, None)

    # --- looking after it --------------------------------------------------------------------------------------------

    def _listed(self, opened: _Open, version: int) -> listing.Tables:
        return listing.parse(tools.save(self._target.netns, opened.variant, version))

    def _is_intact(self, opened: _Open, side: _Side) -> bool:
        found = side.found
        if found is None or opened.servers.read(side.version) != found.virtual:
            return False
        if opened.device.addresses(side.version) != found.addresses:
            return False
        with suppress(KeyError, ProgramError, KernelError):
            if ipvs_sets.parsed(self._ipset("save"))[side.version] == found.entries:
                return _ours(self._listed(opened, side.version)) == found.listed
        return False


def _ours(tables: listing.Tables) -> frozenset[tuple[str, str, tuple[str, ...]]]:
    """Return our chains, and what leads to them from others', as a listing has them: table, chain, rules."""
    found = set()
    for table, chains in tables.items():
        for chain, rules in chains.items():
            is_own = chain.startswith(listing.OWN)
            kept = tuple(rule for rule in rules if is_own or listing.OWN in rule)
            if is_own or kept:
                found.add((table, chain, kept))
    return frozenset(found)
