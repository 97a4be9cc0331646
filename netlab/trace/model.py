"""A trace as a value: what was asked, each hop with its causes, how it ended. Pure.

Every picture of a trace (tree, JSON, pcapng, page) is made from these values and from nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from netlab.topology.addresses import Network
from netlab.trace.correlate import Role
from netlab.trace.headers import Headers

UNDERLAY = "underlay"  # the member that the segments' bridges are of


class Event(StrEnum):
    """What happened to a packet at a device."""

    IN = "in"
    OUT = "out"
    DROPPED = "dropped"
    DELIVERED = "delivered"


class Source(StrEnum):
    """How a cause is known."""

    SEEN = "seen"  # the kernel said so as it happened
    LOOKED_UP = "looked up"  # asked for afterwards: it may have changed in between


class Topic(StrEnum):
    """What kind of thing a cause is."""

    ROUTE = "route"
    NEIGHBOR = "neighbor"
    FDB = "fdb"
    BRIDGE = "bridge"
    TUNNEL = "tunnel"
    RULE = "rule"
    CONNTRACK = "conntrack"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a packet is where it is: `text` in a tool's notation or a sentence; `origin`: who put the entry there."""

    topic: Topic
    text: str
    origin: str = ""
    source: Source = Source.LOOKED_UP


@dataclass(frozen=True, slots=True)
class Hop:
    """A packet at a device. `time`: nanoseconds since the first hop of its trace. `changes`: against the hop before."""

    time: int
    member: str
    namespace: str
    device: str
    ifindex: int
    event: Event
    headers: Headers
    changes: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    frame: bytes = b""
    packet: bytes = b""


@dataclass(frozen=True, slots=True)
class Drop:
    """Where and why the kernel dropped a packet, what that means and what to look at."""

    reason: str
    place: str
    sentence: str
    hint: str


@dataclass(frozen=True, slots=True)
class Way:
    """One packet's hops, and those of its copies that a bridge sent elsewhere."""

    role: Role
    hops: tuple[Hop, ...]
    copies: tuple[tuple[Hop, ...], ...] = ()
    drop: Drop | None = None


class Verdict(StrEnum):
    """How a trace ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    DELIVERED = "delivered"
    DROPPED = "dropped"
    LOST = "lost"
    NOT_SENT = "not sent"


@dataclass(frozen=True, slots=True)
class Trace:
    """One probe and what became of it, or would.

    `seen_by` names the mechanism, `remarks` what it could not tell and where the tables say otherwise. `began`: when it
    was sent, in nanoseconds since the epoch; 0 for a prediction, whose hops have no times.
    """

    lab: str
    question: str
    verdict: Verdict
    summary: str
    ways: tuple[Way, ...]
    seen_by: str
    remarks: tuple[str, ...] = ()
    began: int = 0

    @property
    def arrived(self) -> bool:
        """Whether the probe came to its receiver, which did not refuse it."""
        return self.verdict in (Verdict.ANSWERED, Verdict.DELIVERED)


@dataclass(frozen=True, slots=True)
class Places:
    """Who is meant by a lab's namespaces and podCIDRs."""

    members: Mapping[str, str]  # by namespace
    leases: Mapping[Network, str]  # nodes by podCIDR
    route_protocol: int  # that of netlab's own routes
