"""Drift in words: how the kernel differs from the plan, one line per object. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from netlab.plan.diff import Action, Op
from netlab.plan.objects import LINKS, Addr, FdbEntry, Neighbor, Object, OtherLink, Process, Route, Ruleset, Sysctl
from netlab.plan.summary import member_of


@dataclass(frozen=True, slots=True)
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
    namespace.
    """
    ops = tuple(ops)
    lost = {op.netns for op in ops if op.action is Action.ADD_NETNS}
    missing_links = {
        (op.netns, entry.name)
        for op in ops
        for entry in (op.new,)
        if op.action is Action.CREATE and isinstance(entry, LINKS)
    } | {(op.new.peer.netns, op.peer.name) for op in ops if op.peer and hasattr(op.new, "peer")}
    found = [Difference(member_of(netns), "namespace", "missing") for netns in sorted(lost)]
    for op in ops:
        entry = op.new or op.old
        if entry is None:
            if op.action is Action.DELETE_NETNS:
                found.append(Difference(member_of(op.netns), "namespace", "not in the topology any more"))
            continue
        if op.netns in lost or (op.netns, getattr(entry, "dev", None)) in missing_links:
            continue
        if op.action is Action.CHANGE and (op.netns, getattr(entry, "name", None)) in missing_links:
            continue
        found.append(Difference(member_of(op.netns), name_of(entry), "; ".join(_problems(op))))
    return found


def _problems(op: Op) -> Iterator[str]:
    if op.action is Action.CREATE:
        yield "missing"
    elif op.action is Action.DELETE:
        yield "not in the topology"
    elif isinstance(op.new, Ruleset):
        yield "the rules were changed"
    elif op.old is not None and op.new is not None:
        for field in fields(op.new):
            old, new = getattr(op.old, field.name), getattr(op.new, field.name)
            if field.compare and old != new:
                yield _changed(field.name, old, new)


def _changed(name: str, old: object, new: object) -> str:
    if name == "up":
        return "is down" if new else "is up, should be down"
    return f"{name} is {_word(old)}, should be {_word(new)}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
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
        case OtherLink():
            return f"interface {entry.name} ({entry.kind})"
    return f"interface {entry.name}"
