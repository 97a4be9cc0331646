"""Drift in words: how the kernel differs from the plan, one line per object. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from netlab.plan.diff import Action, Op
from netlab.plan.objects import (
    LINKS,
    Addr,
    ControlPlane,
    FdbEntry,
    Forwarder,
    Key,
    Neighbor,
    Netns,
    Object,
    OtherLink,
    Process,
    Route,
    Ruleset,
    Sysctl,
    Veth,
)
from netlab.plan.summary import member_of
from netlab.tunnel.routes import Peer


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One object that is not as planned. `problem` is a short phrase: "missing", "mtu is 1400, should be 1450"."""

    member: str
    thing: str
    problem: str

    def __str__(self) -> str:
        return f"{self.member}: {self.thing}: {self.problem}"


def differences(ops: Iterable[Op]) -> list[Difference]:
    """Turn the operations that would mend a lab into what is wrong with it.

    What hangs on a missing interface is missing too, and needs no line of its own; nor does what is in a missing
    namespace. An object that is deleted only to be made anew is one difference.
    """
    ops = tuple(ops)
    lost = {op.netns for op in ops if op.action is Action.ADD_NETNS}
    old = {(op.netns, op.old.key): op.old for op in ops if op.action is Action.DELETE and op.old}
    new = {place: entry for op in ops for place, entry in _made(op)}
    missing = {(netns, entry.name) for (netns, key), entry in new.items() if isinstance(entry, LINKS)}
    found = {Difference(member_of(netns), "namespace", "missing") for netns in lost}
    for op in ops:
        if op.action is Action.DELETE_NETNS:
            found.add(Difference(member_of(op.netns), "namespace", "not in the topology"))
        elif op.action is Action.CHANGE and op.old and op.new and (op.netns, op.new.key) not in new:
            found.add(Difference(member_of(op.netns), name_of(op.new), _comparison(op.old, op.new)))
    for (netns, key), entry in new.items():
        if netns in lost or (netns, getattr(entry, "dev", None)) in missing:
            continue
        before = old.get((netns, key))
        if before is None:
            found.add(Difference(member_of(netns), name_of(entry), "missing"))
        elif before != entry:
            found.add(Difference(member_of(netns), name_of(entry), _comparison(before, entry)))
    for (netns, key), entry in old.items():
        if (netns, key) not in new:
            found.add(Difference(member_of(netns), name_of(entry), "not in the topology"))
    return sorted(found)


def _made(op: Op) -> Iterator[tuple[tuple[Netns, Key], Object]]:
    """Yield what an operation makes: two ends for a cable."""
    if op.action is Action.CREATE and op.new:
        yield (op.netns, op.new.key), op.new
        if op.peer and isinstance(op.new, Veth):
            yield (op.new.peer.netns, op.peer.key), op.peer


def _comparison(old: Object, new: Object) -> str:
    if isinstance(new, Ruleset):
        return "the rules were changed"
    if type(old) is not type(new):
        return f"is of another kind: {type(old).__name__.lower()}"
    values = [(f.name, getattr(old, f.name), getattr(new, f.name)) for f in fields(new) if f.compare]
    return "; ".join(_changed(name, have, want) for name, have, want in values if have != want)


def _changed(name: str, old: object, new: object) -> str:
    if name == "up":
        return "is down" if new else "is up, should be down"
    return f"{name} is {_word(old)}, should be {_word(new)}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(_word, value)) or "none"
    if isinstance(value, Peer):
        return f"{value.address} ({' '.join(map(str, value.pod_cidrs))})"
    return "none" if value is None or value == "" else str(value)


def name_of(entry: Object) -> str:
    """Return an object as people speak of it."""
    match entry:
        case Addr():
            return f"address {entry.ip} on {entry.dev}"
        case Route():
            kind = "" if entry.kind == "unicast" else f"{entry.kind} "
            via = f" via {entry.via}" if entry.via else ""
            dev = f" dev {entry.dev}" if entry.dev else ""
            return f"route {kind}{entry.dst}{via}{dev}{' onlink' if entry.onlink else ''}"
        case Neighbor():
            return f"neighbor {entry.ip} lladdr {entry.mac} on {entry.dev}"
        case FdbEntry():
            return f"FDB entry {entry.mac} dst {entry.dst} on {entry.dev}"
        case Sysctl():
            return f"sysctl {entry.path}"
        case Ruleset():
            return f"{entry.tool} {entry.table}{' ' if entry.chain else ''}{entry.chain}"
        case Process():
            return f"{entry.name} of pod {entry.pod}"
        case Forwarder():
            return "forwarder"
        case ControlPlane():
            return "control plane"
        case OtherLink():
            return f"interface {entry.name} ({entry.kind})"
    return f"interface {entry.name}"
