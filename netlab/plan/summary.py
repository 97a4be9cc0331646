"""Operations in a few words, grouped: what `netlab up` says it did. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from netlab import names
from netlab.plan.diff import Action, Op
from netlab.plan.objects import Veth
from netlab.plan.text import command

FEW = 12  # up to so many operations are listed one by one
WORDS = {
    "Loopback": "loopback",
    "Veth": "cable",
    "Bridge": "bridge",
    "Vxlan": "VXLAN device",
    "Ipip": "IPIP device",
    "Tun": "TUN device",
    "Addr": "address",
    "Route": "route",
    "Neighbor": "neighbor",
    "FdbEntry": "FDB entry",
    "Sysctl": "setting",
    "Ruleset": "ruleset",
    "Process": "process",
    "Forwarder": "forwarder",
    "ControlPlane": "control plane",
}
VERBS = {Action.CREATE: "make", Action.CHANGE: "change", Action.DELETE: "delete"}


def summarize(ops: Iterable[Op]) -> list[str]:
    """Return lines that say what operations do: each one where they are few, counts by kind where they are many."""
    ops = tuple(ops)
    if len(ops) <= FEW:
        return [describe(op) for op in ops]
    return list(_counts(ops))


def describe(op: Op) -> str:
    """Return one operation as the first line of the command that does it by hand."""
    return next(command(op), op.action.value).splitlines()[0]


def _counts(ops: tuple[Op, ...]) -> Iterator[str]:
    spaces: Counter[str] = Counter(op.action for op in ops if op.new is None and op.old is None)
    kinds: Counter[tuple[str, str]] = Counter()
    created = {(op.netns, op.new.key) for op in ops if op.action is Action.CREATE and op.new}
    created |= {(op.new.peer.netns, op.peer.key) for op in ops if op.peer and isinstance(op.new, Veth)}
    for op in ops:
        entry = op.new or op.old
        finishing = op.action is Action.CHANGE and entry is not None and (op.netns, entry.key) in created
        if entry is not None and not finishing:
            kinds[VERBS[op.action], WORDS.get(type(entry).__name__, type(entry).__name__)] += 1
    made, gone = spaces[Action.ADD_NETNS], spaces[Action.DELETE_NETNS]
    for verb in ("delete", "change", "make"):
        found = [numbered(count, kind) for (v, kind), count in sorted(kinds.items()) if v == verb]
        if verb == "delete" and gone:
            found.insert(0, numbered(gone, "namespace"))
        if verb == "make" and made:
            found.insert(0, numbered(made, "namespace"))
        if found:
            yield f"{verb}: {', '.join(found)}"


def numbered(count: int, word: str) -> str:
    """Return a count with its word in the right number: 1 bridge, 2 bridges, 2 addresses, 2 entries."""
    if count == 1:
        return f"1 {word}"
    if word.endswith("y"):
        return f"{count} {word[:-1]}ies"
    return f"{count} {word}{'es' if word.endswith('s') else 's'}"


def member_of(netns: str) -> str:
    """Return the lab member that a namespace belongs to, for people: "fabric" for the underlay."""
    owner = names.find_owner(netns)
    return (owner.name or "fabric") if owner else netns
