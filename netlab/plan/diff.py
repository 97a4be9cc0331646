"""The difference between what exists and what should: an ordered list of operations. Pure.

Order is given by `Phase`. Things are taken away from the outside in (processes, rules, routes, links, namespaces) and
made from the inside out; a route goes in after the neighbour and FDB entries that it needs, as flannel does it, so
that no packet is resolved too early (facts.md 1.10).

A link that goes takes its addresses, routes and entries with it: no operation is spent on those, and those that the
plan wants on its successor are made again. So are the routes and neighbours of an interface that loses an address:
with its last one the kernel drops them all. A forwarder holds on to a TUN device: with a new one it is started again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum, StrEnum

from netlab.plan.objects import (
    KEPT,
    LINKS,
    Addr,
    Bridge,
    ControlPlane,
    FdbEntry,
    Forwarder,
    Key,
    Link,
    Neighbor,
    Netns,
    Object,
    Objects,
    Process,
    Route,
    Ruleset,
    Sysctl,
    Tun,
    Veth,
)


class Action(StrEnum):
    """What an operation does."""

    ADD_NETNS = "add-netns"
    DELETE_NETNS = "delete-netns"
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


class Phase(IntEnum):
    """When an operation is due: all of one phase, in every namespace, before any of the next.

    From CONFIGURE to ROUTE operations stay within one namespace and may be sent as one batch for each.
    """

    STOP = 0
    UNRULE = 1
    UNROUTE = 2
    DETACH = 3
    UNLINK = 4
    UNNAME = 5
    NAME = 6
    SYSCTL = 7
    BRIDGE = 8
    CABLE = 9
    TUN = 10
    CONFIGURE = 11
    TUNNEL = 12
    ADDRESS = 13
    NEIGHBOR = 14
    FDB = 15
    ROUTE = 16
    LINK_SYSCTL = 17
    RULES = 18
    RULE_SYSCTL = 19
    PROCESS = 20


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. CREATE and CHANGE carry `new`, CHANGE and DELETE carry `old`.

    Creating a cable carries the other end as `peer`; it comes into being down and is raised by a CHANGE of its own.
    """

    phase: Phase
    action: Action
    netns: Netns
    new: Object | None = None
    old: Object | None = None
    peer: Veth | None = None


_PHASES: Mapping[type, Phase] = {
    Bridge: Phase.BRIDGE,
    Veth: Phase.CABLE,
    Addr: Phase.ADDRESS,
    Neighbor: Phase.NEIGHBOR,
    FdbEntry: Phase.FDB,
    Route: Phase.ROUTE,
    Ruleset: Phase.RULES,
    Process: Phase.PROCESS,
    Forwarder: Phase.PROCESS,
    ControlPlane: Phase.PROCESS,
    Tun: Phase.TUN,
}


def diff(state: Objects, plan: Objects) -> list[Op]:
    """Return the operations that turn `state` into `plan`, in order; none when they agree."""
    gone = _links_to_delete(state, plan)
    left = {netns: _survivors(objects, gone.get(netns, frozenset())) for netns, objects in state.items()}
    ops: list[Op] = []
    for netns in plan.keys() - state.keys():
        ops.append(Op(Phase.NAME, Action.ADD_NETNS, netns))
    for netns in state.keys() - plan.keys():
        ops.append(Op(Phase.UNNAME, Action.DELETE_NETNS, netns))
        ops += (Op(Phase.STOP, Action.DELETE, netns, old=entry) for entry in state[netns] if isinstance(entry, KEPT))
    for netns, links in gone.items():
        ops += (Op(Phase.UNLINK, Action.DELETE, netns, old=link) for link in links if netns in plan)
    for netns, wanted in plan.items():
        ops += _differences(netns, left.get(netns, frozenset()), wanted)
    ops += _cables(left, plan)
    return sorted(ops, key=lambda op: (op.phase, op.netns, (op.new or op.old).key if op.new or op.old else ()))  # type: ignore[union-attr]


def _links_to_delete(state: Objects, plan: Objects) -> dict[Netns, frozenset[Link]]:
    """Choose the links that must go: unwanted, of another make, or one end of a cable whose other end is missing."""
    present = _links_by_name(state)
    doomed: dict[Netns, frozenset[Link]] = {}
    for netns, links in present.items():
        wanted = {entry.name: entry for entry in plan.get(netns, ()) if isinstance(entry, LINKS)}
        found = frozenset(link for link in links.values() if not _may_stay(link, wanted.get(link.name), present))
        if found:
            doomed[netns] = found
    return doomed


def _links_by_name(objects: Objects) -> dict[Netns, dict[str, Link]]:
    """Return each namespace's links by name."""
    return {
        netns: {entry.name: entry for entry in entries if isinstance(entry, LINKS)}
        for netns, entries in objects.items()
    }


def _may_stay(link: Link, wanted: Link | None, present: Mapping[Netns, Mapping[str, Link]]) -> bool:
    return wanted is not None and _can_become(link, wanted) and not _is_cut(wanted, present)


def _is_cut(wanted: Link, present: Mapping[Netns, Mapping[str, Link]]) -> bool:
    """Say whether a wanted cable's other end is not there."""
    return isinstance(wanted, Veth) and wanted.peer.name not in present.get(wanted.peer.netns, {})


def _can_become(old: Object, new: Object) -> bool:
    """Say whether an object can be changed in place into another of the same key."""
    if type(old) is not type(new):
        return False
    differing = {f.name for f in fields(old) if f.compare and getattr(old, f.name) != getattr(new, f.name)}
    return differing <= new.CHANGEABLE


def _survivors(objects: Iterable[Object], gone: frozenset[Link]) -> frozenset[Object]:
    """Return what is left of a namespace when links have gone: neither they nor what hangs on them."""
    names = {link.name for link in gone}
    if not names:
        return frozenset(objects)
    return frozenset(_released(entry, names) for entry in objects if not _hangs_on(entry, names))


def _hangs_on(entry: Object, names: set[str]) -> bool:
    if isinstance(entry, LINKS):
        return entry.name in names
    return getattr(entry, "dev", None) in names and not isinstance(entry, KEPT)


def _released(entry: Object, names: set[str]) -> Object:
    """Return a port as it is once its bridge has gone: the kernel forgets its port settings with it."""
    if isinstance(entry, Veth) and entry.master in names:
        return replace(entry, master=None, hairpin=False)
    return entry


def _differences(netns: Netns, have: frozenset[Object], want: frozenset[Object]) -> Iterator[Op]:
    """Compare one namespace's surviving objects with the wanted ones, cables apart."""
    if have == want:
        return
    versions: dict[Key, list[Object]] = {}
    for entry in have - want:
        versions.setdefault(entry.key, []).append(entry)
    wanted = {entry.key: entry for entry in want} if versions else {}
    present = {entry.key for entry in have & want} if versions else set()
    for key, old in versions.items():
        keep = None if key in present or key not in wanted else old.pop()
        yield from (Op(_undo_phase(entry), Action.DELETE, netns, old=entry) for entry in old)
        if keep is None:
            continue
        new = wanted[key]
        if _can_become(keep, new):
            yield Op(_phase(new, changed=True), Action.CHANGE, netns, new=new, old=keep)
        else:
            yield Op(_undo_phase(keep), Action.DELETE, netns, old=keep)
            yield Op(_phase(new), Action.CREATE, netns, new=new)
    yield from _restarts(netns, have, want)
    lost = {entry.dev for entry in have - want if isinstance(entry, Addr)}
    for entry in want:
        again = isinstance(entry, (Route, Neighbor)) and entry.dev in lost
        if isinstance(entry, Veth) or not (again or entry not in have):
            continue
        if not versions or entry.key not in versions:
            yield Op(_phase(entry), Action.CREATE, netns, new=entry)


def _restarts(netns: Netns, have: frozenset[Object], want: frozenset[Object]) -> Iterator[Op]:
    """Stop and start forwarders that are as they should be, but hold a device that is not there any more."""
    names = {entry.name for entry in have if isinstance(entry, LINKS)}
    for entry in have & want:
        if isinstance(entry, Forwarder) and entry.dev not in names:
            yield Op(Phase.STOP, Action.DELETE, netns, old=entry)
            yield Op(Phase.PROCESS, Action.CREATE, netns, new=entry)


def _phase(entry: Object, *, changed: bool = False) -> Phase:
    if isinstance(entry, Sysctl):
        if entry.path.startswith("net/netfilter/"):  # a module's, which rules have the kernel load
            return Phase.RULE_SYSCTL
        return Phase.LINK_SYSCTL if entry.dev else Phase.SYSCTL
    if isinstance(entry, LINKS) and changed:
        return Phase.CONFIGURE
    if isinstance(entry, LINKS) and type(entry) not in _PHASES:
        return Phase.CONFIGURE if entry.name == "lo" else Phase.TUNNEL
    return _PHASES[type(entry)]


def _undo_phase(entry: Object) -> Phase:
    if isinstance(entry, KEPT):
        return Phase.STOP
    if isinstance(entry, Ruleset):
        return Phase.UNRULE
    if isinstance(entry, Route):
        return Phase.UNROUTE
    return Phase.UNLINK if isinstance(entry, LINKS) else Phase.DETACH


def _cables(left: Mapping[Netns, frozenset[Object]], plan: Objects) -> Iterator[Op]:
    """Make each missing cable once, from the end that joins a bridge, and then configure what creation cannot."""
    present, ends = _links_by_name(left), _links_by_name(plan)
    for netns, links in ends.items():
        for end in links.values():
            if not isinstance(end, Veth) or end.name in present.get(netns, {}):
                continue
            other = ends[end.peer.netns].get(end.peer.name)
            if not isinstance(other, Veth):
                raise KeyError(f"the plan holds one end of a cable only: {end}")
            if (end.master is None, netns, end.name) < (other.master is None, end.peer.netns, other.name):
                yield Op(Phase.CABLE, Action.CREATE, netns, new=end, peer=other)
                born = replace(end, hairpin=False)
            else:
                born = replace(end, hairpin=False, up=False, master=None)
            if born != end:
                yield Op(Phase.CONFIGURE, Action.CHANGE, netns, new=end, old=born)
