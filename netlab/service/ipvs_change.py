"""Which operations make a virtual server what it should be (facts.md 4.2, 4.3). Pure.

A real server that has to go gets weight 0: open connections stay, new ones go elsewhere. It is deleted when it has none
left, which `idle` finds out from the kernel's counts. UDP ones are deleted at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from netlab.service.ipvs import Flag, RealServer, VirtualKey, VirtualServer
from netlab.topology.service import Protocol

WEIGHT = 1
AT_ONCE = frozenset({Protocol.UDP})  # no server of these is given time


class Command(IntEnum):
    """What to do with a virtual server or one of its real servers (linux/ip_vs.h)."""

    NEW_SERVICE = 1
    SET_SERVICE = 2
    DEL_SERVICE = 3
    NEW_DEST = 5
    SET_DEST = 6
    DEL_DEST = 7


VERBS = {"NEW": "add", "SET": "change", "DEL": "delete"}
NOUNS = {"SERVICE": "virtual server", "DEST": "real server"}


@dataclass(slots=True)
class Installed:
    """A virtual server as the kernel has it, with its real servers' weights."""

    scheduler: str
    flags: Flag
    timeout: int
    weights: dict[RealServer, int] = field(default_factory=dict)

    @property
    def is_persistent(self) -> bool:
        """Whether a client stays with its real server for `timeout` seconds."""
        return Flag.PERSISTENT in self.flags


class Place(NamedTuple):
    """A real server of a virtual server."""

    key: VirtualKey
    server: RealServer


class Step(NamedTuple):
    """One operation. `virtual` says what it should be; `server` and `weight` are of commands on a real server."""

    command: Command
    virtual: VirtualServer
    server: RealServer | None = None
    weight: int = WEIGHT

    def __str__(self) -> str:
        address, protocol, port = self.virtual.key
        server = f", server {self.server.address} port {self.server.port}" if self.server else ""
        verb, _, noun = self.command.name.partition("_")
        return f"{VERBS[verb]} {NOUNS[noun]}: {address} {protocol} port {port}{server}"


def steps(
    key: VirtualKey, wanted: VirtualServer | None, found: Installed | None, leaving: Iterable[Place] = ()
) -> Iterator[Step]:
    """Yield what makes a virtual server what is wanted. `leaving` are real servers that were given time to end."""
    if wanted is None:
        if found is not None:
            yield Step(Command.DEL_SERVICE, VirtualServer(key))
        return
    if found is None:
        yield Step(Command.NEW_SERVICE, wanted)
    elif (found.scheduler, found.flags, found.timeout) != (wanted.scheduler, wanted.flags, wanted.timeout):
        yield Step(Command.SET_SERVICE, wanted)
    yield from _servers(wanted, found.weights if found else {}, frozenset(leaving))


def _servers(wanted: VirtualServer, weights: Mapping[RealServer, int], leaving: frozenset[Place]) -> Iterator[Step]:
    kept = frozenset(wanted.servers)
    for server, weight in weights.items():
        if server in kept:
            continue
        if wanted.key.protocol in AT_ONCE:
            yield Step(Command.DEL_DEST, wanted, server)
        elif weight:
            yield Step(Command.SET_DEST, wanted, server, 0)
    for server in wanted.servers:
        has = weights.get(server)
        if has is None:
            yield Step(Command.NEW_DEST, wanted, server)
        elif Place(wanted.key, server) in leaving:
            yield Step(Command.DEL_DEST, wanted, server)
            yield Step(Command.NEW_DEST, wanted, server)
        elif has != WEIGHT:
            yield Step(Command.SET_DEST, wanted, server)


def after(found: Installed | None, taken: Iterable[Step]) -> Installed | None:
    """Return what a virtual server is once steps were taken, without asking the kernel; `found` is changed."""
    for step in taken:
        match step.command:
            case Command.DEL_SERVICE:
                return None
            case Command.NEW_SERVICE | Command.SET_SERVICE:
                weights = found.weights if found else {}
                found = Installed(step.virtual.scheduler, step.virtual.flags, step.virtual.timeout, weights)
            case Command.DEL_DEST if found and step.server:
                found.weights.pop(step.server, None)
            case _ if found and step.server:
                found.weights[step.server] = step.weight
    return found
