"""A kernel made of dictionaries: the contract without root, in milliseconds.

It behaves as Linux does where plans can notice: a link takes what hangs on it along, a cable has two ends, a namespace
ends with everything in it, and an operation on what is not there is refused.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace

from netlab import names
from netlab.errors import KernelError
from netlab.plan.diff import Action, Op
from netlab.plan.objects import (
    LINKS,
    Addr,
    FdbEntry,
    Link,
    Loopback,
    Neighbor,
    Netns,
    Object,
    Objects,
    Route,
    Ruleset,
    State,
    Sysctl,
    Veth,
)

REPLACED = (Addr, Route, Neighbor, FdbEntry)  # what netlab sends with NLM_F_REPLACE


class FakeKernel:
    """Namespaces and their objects, in memory."""

    def __init__(self) -> None:
        self._objects: dict[Netns, set[Object]] = {}

    def observe(self, lab: str, like: Objects) -> State:
        """Return what a lab has; sysctls and rules are read where `like` has some."""
        found = {}
        for name, objects in self._objects.items():
            owner = names.find_owner(name)
            if owner and owner.lab == lab:
                wanted = {entry.key for entry in like.get(name, ())}
                found[name] = frozenset(
                    entry for entry in objects if not isinstance(entry, (Sysctl, Ruleset)) or entry.key in wanted
                )
        return State(found)

    def apply(self, ops: Iterable[Op], progress: Callable[[int], None] = lambda done: None) -> None:
        """Carry operations out in order."""
        for op in ops:
            self._apply(op)
            progress(1)

    def remove(self, lab: str) -> list[str]:
        """Take all of a lab's namespaces away."""
        for name in list(self._objects):
            owner = names.find_owner(name)
            if owner and owner.lab == lab:
                self._objects.pop(name)
        return []

    def _apply(self, op: Op) -> None:
        match op.action:
            case Action.ADD_NETNS:
                if op.netns in self._objects:
                    raise KernelError(errno.EEXIST, f"add namespace {op.netns}")
                self._objects[op.netns] = set()
            case Action.DELETE_NETNS:
                for entry in list(self._objects[op.netns]):
                    if isinstance(entry, Link):
                        self._delete_link(op.netns, entry)
                del self._objects[op.netns]
            case Action.CREATE if op.new is not None:
                self._create(op.netns, op.new, op.peer)
            case Action.CHANGE if op.new is not None and op.old is not None:
                if not isinstance(op.new, REPLACED):
                    self._delete(op.netns, op.old)
                self._create_one(op.netns, op.new)
            case Action.DELETE if op.old is not None:
                if isinstance(op.old, Link):
                    self._delete_link(op.netns, op.old)
                else:
                    self._delete(op.netns, op.old)

    def _create(self, netns: Netns, new: Object, peer: Veth | None) -> None:
        if isinstance(new, Veth) and peer is not None:
            self._create_one(netns, replace(new, hairpin=False))
            self._create_one(new.peer.netns, replace(peer, up=False, master=None, hairpin=False))
        else:
            self._create_one(netns, new)

    def _create_one(self, netns: Netns, new: Object) -> None:
        here = self._objects[netns]
        if isinstance(new, REPLACED):
            here -= {entry for entry in here if entry.key == new.key}
        if any(entry.key == new.key for entry in here):
            raise KernelError(errno.EEXIST, f"{netns}: create {new}")
        dev = getattr(new, "dev", "") or getattr(new, "master", "") or getattr(new, "parent", "")
        if dev and not any(isinstance(entry, Link) and entry.name == dev for entry in here):
            raise KernelError(errno.ENODEV, f"{netns}: create {new}")
        here.add(new)

    def _delete(self, netns: Netns, old: Object) -> None:
        if old not in self._objects[netns]:
            raise KernelError(errno.ENOENT, f"{netns}: delete {old}")
        here = self._objects[netns]
        here.remove(old)
        if isinstance(old, Addr) and not any(isinstance(entry, Addr) and entry.dev == old.dev for entry in here):
            here -= {entry for entry in here if isinstance(entry, (Route, Neighbor)) and entry.dev == old.dev}

    def _delete_link(self, netns: Netns, old: Link) -> None:
        """Take a link away with what hangs on it and, for a cable, its other end. Gone already is fine."""
        here = self._objects.get(netns, set())
        found = next((entry for entry in here if isinstance(entry, LINKS) and entry.name == old.name), None)
        if found is None or isinstance(found, Loopback):
            return
        here.remove(found)
        for entry in list(here):
            if getattr(entry, "dev", None) == old.name and not isinstance(entry, Sysctl):
                here.remove(entry)
            elif isinstance(entry, Veth) and entry.master == old.name:
                here.remove(entry)
                here.add(replace(entry, master=None, hairpin=False))
            elif getattr(entry, "parent", None) == old.name and isinstance(entry, Link):
                self._delete_link(netns, entry)
        if isinstance(found, Veth):
            for entry in list(self._objects.get(found.peer.netns, ())):
                if isinstance(entry, Veth) and entry.name == found.peer.name:
                    self._delete_link(found.peer.netns, entry)
