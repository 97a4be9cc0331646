"""Sending probes from a lab's namespaces and reading what comes back: one process, one loop, no `ping`.

Read in order: `check` (the whole command), `run` (probes in, answers out), `_Run.run` (two rounds of echo requests, and
the TCP connections beside them), `_send_all` (pacing), `_turn` (one turn of the loop).

Load is bounded in three ways: at most WINDOW echo requests are unanswered and younger than SETTLE seconds, so no buffer
overflows; a batch needs no more neighbour entries than the machine has room for (`check.batches`); and a probe is sent
once more if nothing came back, because the first packet may have been lost while an address was being resolved.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from netlab.check import matrix, packets
from netlab.check.batches import batches, path
from netlab.check.model import Answer, Outcome, Probe, Report
from netlab.kernel import neighbors, netns
from netlab.kernel.probe_sockets import (
    SO_TIMESTAMPNS,
    Channel,
    Sockets,
    free_descriptors,
    groups,
    link_mtu,
    open_all,
    socket_of,
    take_error,
)
from netlab.store.store import Snapshot
from netlab.topology.model import Topology

TIMEOUT = 1.0  # seconds for an answer to one packet
TRIES = 2
WINDOW = 128  # echo requests on their way: a receive buffer of the kernel's default size holds twice as many answers
SETTLE = 0.02  # seconds after which an unanswered request no longer holds up the next ones
BACK_OFF = 0.005  # seconds to wait when the kernel has no buffer left
RECEIVE_BYTES, ANCILLARY_BYTES = 1280, 64  # an error quotes at most what fits IPv6's smallest MTU

# What a refusal by the source's own kernel means (ip-route(8) for the route types).
LOCAL_WORDS = {
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "an unreachable route",
    errno.EINVAL: "a blackhole route",
    errno.EACCES: "a prohibit route",
    errno.EPERM: "a packet filter drops it",
}
NO_BUFFER = (errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM)


def check(topology: Topology, snapshot: Snapshot, limit: int = matrix.LIMIT) -> Report:
    """Probe who reaches whom in a running lab, and the topology's own checks. Raises KernelError, NotSupported."""
    selection = matrix.pairs(topology, snapshot, limit)
    checks = matrix.stated(topology, snapshot)
    start = time.monotonic()
    answers = run((*selection.probes, *checks))
    return matrix.report(topology, selection, checks, answers, time.monotonic() - start)


def run(probes: Sequence[Probe], *, timeout: float = TIMEOUT) -> list[Answer]:
    """Send every probe and return the answers in the same order.

    `timeout` is in seconds for each of TRIES packets; a TCP connection has as long as all of them.
    """
    numbered = dict(enumerate(probes))
    wanted = len({socket_of(index, probe) for index, probe in numbered.items()})
    answers: dict[int, Answer] = {}
    for group in groups(numbered, free_descriptors(wanted)):
        with open_all(group) as sockets, selectors.DefaultSelector() as selector:
            answers |= _Run(group, sockets, selector, timeout).run()
    return [answers[index] for index in numbered]


Key = tuple[str, int, int]  # source namespace, IP version, sequence number


class _Flight(NamedTuple):
    """An echo request on its way. `stamp` is when it was sent by the clock of the kernel's receive stamps."""

    key: Key
    probe: int
    sent: float
    stamp: float


class _Run:
    """The probes of one group of sources, from the first packet to the last answer."""

    def __init__(
        self, probes: Mapping[int, Probe], sockets: Sockets, selector: selectors.BaseSelector, timeout: float
    ) -> None:
        self.probes = probes
        self.sockets = sockets
        self.selector = selector
        self.timeout = timeout
        self.ident = int.from_bytes(os.urandom(2), "big")  # tells our requests from any other ping's in the lab
        self.sequences: dict[tuple[str, int], int] = {}
        self.flights: dict[Key, _Flight] = {}  # unanswered
        self.sent: deque[_Flight] = deque()  # by age: for the timeouts
        self.young: deque[_Flight] = deque()  # by age: for the window
        self.connecting: dict[int, float] = {}  # index to start time
        self.answers: dict[int, Answer] = {}

    def run(self) -> dict[int, Answer]:
        """Return an answer for every probe, by index."""
        for place, opened in self.sockets.items():
            if isinstance(place, Channel):
                self.selector.register(opened, selectors.EVENT_READ, place)
        self._connect_all()
        waiting = [index for index in self.probes if index not in self.sockets]
        for attempt in range(1, TRIES + 1):
            waiting = [index for index in self._round(waiting) if not self._is_given_up(index, attempt)]
        while self.connecting:
            self._turn(self._until(min(self.connecting.values()) + TRIES * self.timeout))
        return self.answers

    def _is_given_up(self, index: int, attempt: int) -> bool:
        """Say whether an unanswered probe is not sent again, and note that. Who cannot answer is asked only once."""
        if attempt < TRIES and not self.probes[index].by_design:
            return False
        again = ", nor to a second packet" if attempt > 1 else ""
        self.answers[index] = Answer(Outcome.FAILED, reason=f"no answer within {self.timeout:g} s{again}")
        return True

    def _round(self, indexes: Iterable[int]) -> list[int]:
        """Send the given probes once; return those that nothing came back to in time."""
        indexes = list(indexes)
        parts = list(batches(self.probes, indexes, {version: neighbors.room(version) for version in (4, 6)}))
        for part in parts:
            self._send_all(part)
            if len(parts) > 1:
                self._settle()
                neighbors.flush({name for i in part for name in path(self.probes[i].source, self.probes[i].target)})
        while self.flights:
            self._turn(self._until(self.sent[0].sent + self.timeout))
        return [index for index in indexes if index not in self.answers]

    # --- sending -----------------------------------------------------------------------------------------------------

    def _send_all(self, indexes: Iterable[int]) -> None:
        """Send echo requests as fast as the answers allow."""
        for index in indexes:
            while not self._has_room():
                self._turn(self._until(self.young[0].sent + SETTLE))
            give_up = time.monotonic() + self.timeout
            while not self._send(index):
                if time.monotonic() > give_up:
                    self.answers[index] = Answer(
                        Outcome.FAILED, reason="No buffer space available, said its own kernel"
                    )
                    break
                self._turn(BACK_OFF)

    def _has_room(self) -> bool:
        oldest = time.monotonic() - SETTLE
        while self.young and (self.young[0].sent < oldest or self.young[0].key not in self.flights):
            self.young.popleft()
        return len(self.young) < WINDOW

    def _settle(self) -> None:
        """Wait for what is on its way, as long as an answer is likely."""
        while self.young:
            self._turn(self._until(self.young[0].sent + SETTLE))
            self._has_room()

    def _send(self, index: int) -> bool:
        """Send one echo request; return False if it has to wait for buffer space. A refusal is an answer, too."""
        probe = self.probes[index]
        place = probe.source.netns, probe.family
        sequence = self.sequences[place] = (self.sequences.get(place, -1) + 1) & 0xFFFF
        size = probe.size or packets.USUAL[probe.family]
        packet = packets.echo_request(probe.family, packets.Echo(self.ident, sequence), size)
        flight = _Flight((*place, sequence), index, time.monotonic(), time.time())
        try:
            self.sockets[socket_of(index, probe)].sendto(packet, (str(probe.address), 0))
        except OSError as exc:
            code = exc.errno or errno.EIO
            if code not in NO_BUFFER:
                self.answers[index] = _refusal(probe, code)
            return code not in NO_BUFFER
        self.flights[flight.key] = flight
        self.sent.append(flight)
        self.young.append(flight)
        return True

    def _connect_all(self) -> None:
        """Start every TCP connection, and let those that are answered at once be measured before the echo requests."""
        start = time.monotonic()
        for index, probe in self.probes.items():
            tcp = self.sockets.get(index)
            if tcp is None:
                continue
            self.connecting[index] = time.monotonic()
            code = tcp.connect_ex((str(probe.address), probe.port))
            if code == errno.EINPROGRESS:
                self.selector.register(tcp, selectors.EVENT_WRITE, index)
            else:
                self._connected(index, code)
        while self.connecting and time.monotonic() < start + SETTLE:
            self._turn(self._until(start + SETTLE))

    # --- receiving ---------------------------------------------------------------------------------------------------

    def _until(self, moment: float) -> float:
        return max(0.0, moment - time.monotonic())

    def _turn(self, timeout: float) -> None:
        """Wait for something to happen, at most `timeout` seconds, and take it in; give up what is overdue."""
        for key, _ in self.selector.select(timeout):
            opened = key.fileobj
            assert isinstance(opened, socket.socket)
            if isinstance(key.data, Channel):
                self._receive(opened, key.data)
            else:
                self.selector.unregister(opened)
                self._connected(key.data, opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        now = time.monotonic()
        while self.sent and (self.sent[0].sent + self.timeout <= now or self.sent[0].key not in self.flights):
            self.flights.pop(self.sent.popleft().key, None)
        for index in [index for index, start in self.connecting.items() if start + TRIES * self.timeout <= now]:
            self.selector.unregister(self.sockets[index])
            self._connected(index, errno.ETIMEDOUT)

    def _receive(self, raw: socket.socket, channel: Channel) -> None:
        """Read everything that a raw socket holds. All raw sockets of a namespace get it: the first one counts."""
        while True:
            try:
                packet, ancillary, _, sender = raw.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES)
            except BlockingIOError:
                return
            match packets.parse(channel.version, packet):
                case packets.Echo() as echo:
                    flight = self._find_flight(channel, echo)
                    if flight and sender[0] == str(self.probes[flight.probe].address):
                        seconds = max(0.0, _received(ancillary) - flight.stamp)
                        self._land(flight, Answer(Outcome.ANSWERED, seconds))
                case packets.IcmpError() as error:
                    flight = self._find_flight(channel, error.echo)
                    if flight and error.destination == self.probes[flight.probe].address.packed:
                        outcome = Outcome.TOO_BIG if error.is_too_big else Outcome.FAILED
                        self._land(flight, Answer(outcome, reason=f"{error.words()}, said {sender[0]}"))

    def _find_flight(self, channel: Channel, echo: packets.Echo) -> _Flight | None:
        if echo.ident != self.ident:
            return None
        return self.flights.get((channel.netns, channel.version, echo.sequence))

    def _land(self, flight: _Flight, answer: Answer) -> None:
        del self.flights[flight.key]
        self.answers[flight.probe] = answer

    def _connected(self, index: int, code: int) -> None:
        """Note how a TCP connection went."""
        seconds = time.monotonic() - self.connecting.pop(index)
        if code == 0:
            self.answers[index] = Answer(Outcome.ANSWERED, seconds)
            return
        probe = self.probes[index]
        error = take_error(self.sockets[index], probe.family)
        if code == errno.ETIMEDOUT:
            reason = f"connection timed out after {TRIES * self.timeout:g} s"
        elif error and error.sayer:
            reason = f"{packets.words(probe.family, error.type, error.code)}, said {error.sayer}"
        elif code == errno.ECONNREFUSED:
            reason = "connection refused: nothing listens there"
        else:
            reason = _local_reason(code)
        self.answers[index] = Answer(Outcome.FAILED, reason=reason)


def _refusal(probe: Probe, code: int) -> Answer:
    """Return what it means that the source's own kernel did not send."""
    if code != errno.EMSGSIZE:
        return Answer(Outcome.FAILED, reason=_local_reason(code))
    mtu = netns.call(probe.source.netns, link_mtu, probe.family, probe.address)
    return Answer(Outcome.TOO_BIG, reason=f"message too long, mtu={mtu}, said its own kernel")


def _local_reason(code: int) -> str:
    meaning = f" ({LOCAL_WORDS[code]})" if code in LOCAL_WORDS else ""
    return f"{os.strerror(code)}{meaning}, said its own kernel"


def _received(ancillary: Iterable[tuple[int, int, bytes]]) -> float:
    """Return the kernel's receive stamp in seconds; the present where it gave none."""
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(payload) == 16:
            seconds, nanoseconds = struct.unpack("=qq", payload)
            return float(seconds + nanoseconds / 1e9)
    return time.time()
