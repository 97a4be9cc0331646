"""The switch between the VMs of one network: a frame and the time in, deliveries out. No sockets and no clock.

It is a learning bridge (IEEE 802.1D-2004, 7.7 to 7.9) that knows no VLANs: one table of stations, whatever the tags.
Groups that end at every bridge (01:80:c2:00:00:00 to :0f: STP, pause, LACP, LLDP; 802.1D 7.12.6) are not forwarded.

A fault without `to_port` meets each frame once, before the switch has seen it, as if it were in the sender's cable; a
fault with `to_port` meets each copy that leaves by that port, as if it were in the receiver's cable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from netlab.bpf.classic import Program
from netlab.errors import UsageError

HEADER = 14  # bytes: two addresses and a type; a shorter frame is no Ethernet frame
AGEING = 300.0  # seconds: 802.1D 7.9.2, the recommended value
STATIONS = 4096  # addresses remembered; the one that was learned first makes room
RESERVED = bytes.fromhex("0180c20000")  # and a byte below 16


class Action(StrEnum):
    """What a fault does to a frame."""

    DROP = "drop"
    DELAY = "delay"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the cables, put in by a test.

    It counts the frames that come from `from_port`, go to `to_port` and match `program`, and acts on number n, from 1,
    when n is a multiple of `every` and not above `first`. It is deterministic: `every=10` is a loss of 10 %.
    `filter` is the text that `program` was compiled from. Raises UsageError for numbers that make no sense.
    """

    name: str
    action: Action
    _: KW_ONLY
    seconds: float = 0.0  # a delay's
    filter: str = ""
    program: Program | None = None  # None: every frame
    from_port: str | None = None
    to_port: str | None = None
    first: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if not self._right_seconds():
            raise UsageError(f"fault {self.name}: {self.seconds} seconds do not fit the action {self.action}")
        if self.every < 1:
            raise UsageError(f"fault {self.name}: every {self.every} is not 1 or more")
        if self.first is not None and self.first < 1:
            raise UsageError(f"fault {self.name}: first {self.first} is not 1 or more")
        if bool(self.filter) and self.program is None:
            raise UsageError(f"fault {self.name}: the filter {self.filter!r} is not compiled")

    def _right_seconds(self) -> bool:
        return 0 < self.seconds < float("inf") if self.action is Action.DELAY else self.seconds == 0


class Delivery(NamedTuple):
    """A frame that should leave by a port at a time: `receive`'s own `now`, or later when it was delayed.

    Deliveries with equal times leave in the order in which they were returned.
    """

    port: str
    frame: bytes
    at: float


@dataclass(slots=True)
class PortCounters:
    """What a port has seen; `in` is from its VM.

    A frame that a fault took on its way in is counted as in and as dropped, one on its way out as dropped only.
    """

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    dropped: int = 0  # by faults
    refused: int = 0  # runts and frames to a reserved group


class FaultCount(NamedTuple):
    """How often a fault found a frame of its kind, and how often it did something to one."""

    fault: Fault
    matched: int
    acted: int


@dataclass(slots=True)
class _ArmedFault:
    fault: Fault
    matched: int = 0
    acted: int = 0

    def acts_on(self, frame: bytes, from_port: str) -> bool:
        fault = self.fault
        if fault.from_port is not None and fault.from_port != from_port:
            return False
        if fault.program is not None and not fault.program.matches(frame):
            return False
        self.matched += 1
        if self.matched % fault.every or (fault.first is not None and self.matched > fault.first):
            return False
        self.acted += 1
        return True


@dataclass(slots=True)
class _Port:
    counters: PortCounters = field(default_factory=PortCounters)
    faults: tuple[_ArmedFault, ...] = ()  # those with this port as `to_port`


class Switch:
    """A learning Ethernet switch whose ports have the names of VMs."""

    def __init__(self, ports: Iterable[str] = ()) -> None:
        self._ports: dict[str, _Port] = {}
        self._stations: dict[bytes, tuple[str, float]] = {}  # address -> port and when it was last seen there
        self._faults: dict[str, _ArmedFault] = {}
        self._first_faults: tuple[_ArmedFault, ...] = ()  # those without `to_port`
        for port in ports:
            self.add_port(port)

    def receive(self, port: str, frame: bytes, now: float) -> list[Delivery]:
        """Decide where a frame that came in by a port goes, and when. Raises KeyError for a port that is not there.

        `now` is in seconds by any clock that never goes back. A delayed frame's sender is learned at once.
        """
        counters = self._ports[port].counters
        counters.frames_in += 1
        counters.bytes_in += len(frame)
        if len(frame) < HEADER or (frame.startswith(RESERVED) and frame[5] < 16):
            counters.refused += 1
            return []
        at = _pass_through(self._first_faults, frame, from_port=port, at=now) if self._first_faults else now
        if at is None:
            counters.dropped += 1
            return []
        self._learn(frame[6:12], port, now)
        found = self._find_port(frame[:6], now)
        ports = self._ports if found is None else (found,)
        copies = (self._send(to_port, frame, from_port=port, at=at) for to_port in ports if to_port != port)
        return [copy for copy in copies if copy]

    def _learn(self, source: bytes, port: str, now: float) -> None:
        """Remember where a station is, and that it lives. A group cannot be a station."""
        if source[0] & 1:
            return
        if len(self._stations) >= STATIONS and source not in self._stations:
            del self._stations[next(iter(self._stations))]
        self._stations[source] = (port, now)

    def _find_port(self, address: bytes, now: float) -> str | None:
        """Return the port of a station that was seen in the last 300 s. A group is never one: it was not learned."""
        station = self._stations.get(address)
        return station[0] if station and now - station[1] < AGEING else None

    def _send(self, to_port: str, frame: bytes, *, from_port: str, at: float) -> Delivery | None:
        port = self._ports[to_port]
        leaves = _pass_through(port.faults, frame, from_port=from_port, at=at) if port.faults else at
        if leaves is None:
            port.counters.dropped += 1
            return None
        port.counters.frames_out += 1
        port.counters.bytes_out += len(frame)
        return Delivery(to_port, frame, leaves)

    def add_port(self, name: str) -> None:
        """Plug in a VM. Raises UsageError when its port is there already."""
        if name in self._ports:
            raise UsageError(f"the switch has a port {name} already")
        self._ports[name] = _Port()
        self._arm()

    def remove_port(self, name: str) -> None:
        """Unplug a VM: forget its stations and counters. Faults that name the port wait for its return."""
        self._get_port(name)
        del self._ports[name]
        self._stations = {address: seen for address, seen in self._stations.items() if seen[0] != name}

    def counters(self, port: str) -> PortCounters:
        """Return a copy of a port's counters. Raises UsageError for a port that is not there."""
        return replace(self._get_port(port).counters)

    def add_fault(self, fault: Fault) -> None:
        """Put a fault in, behind those that are there: what one drops the next does not see, and delays add up.

        Raises UsageError when its name is taken or it names a port that is not there.
        """
        if fault.name in self._faults:
            raise UsageError(f"there is a fault {fault.name} already", "remove it first, or choose another name")
        for port in (fault.from_port, fault.to_port):
            if port is not None:
                self._get_port(port)
        self._faults[fault.name] = _ArmedFault(fault)
        self._arm()

    def remove_fault(self, name: str) -> FaultCount:
        """Take a fault out and return its last count. What it has delayed still comes. Raises UsageError."""
        if name not in self._faults:
            raise UsageError(f"there is no fault {name}", f"there are: {', '.join(self._faults) or 'none'}")
        armed = self._faults.pop(name)
        self._arm()
        return FaultCount(armed.fault, armed.matched, armed.acted)

    def clear_faults(self) -> None:
        """Take every fault out."""
        self._faults.clear()
        self._arm()

    def faults(self) -> list[FaultCount]:
        """Return the faults in the order in which they were put in, with their counts."""
        return [FaultCount(armed.fault, armed.matched, armed.acted) for armed in self._faults.values()]

    def _arm(self) -> None:
        """Hang each fault where frames meet it, so that a frame passes by no other."""
        armed = self._faults.values()
        self._first_faults = tuple(each for each in armed if each.fault.to_port is None)
        for name, port in self._ports.items():
            port.faults = tuple(each for each in armed if each.fault.to_port == name)

    def _get_port(self, name: str) -> _Port:
        if name not in self._ports:
            raise UsageError(f"the switch has no port {name}", f"there are: {', '.join(self._ports) or 'none'}")
        return self._ports[name]


def _pass_through(faults: tuple[_ArmedFault, ...], frame: bytes, *, from_port: str, at: float) -> float | None:
    """Return when a frame has passed a row of faults, None if it was lost in one."""
    for armed in faults:
        if armed.acts_on(frame, from_port):
            if armed.fault.action is Action.DROP:
                return None
            at += armed.fault.seconds
    return at
