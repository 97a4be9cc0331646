"""The DNS server's way from sockets to answers: which zone is answered from, and DNS on streams (RFC 7766)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from netlab.dns.answer import answer
from netlab.dns.zone import Zone
from netlab.dns.zone_file import ZoneFileError, ZoneReader
from netlab.serve.loop import Limits, Server
from netlab.serve.ports import open_port

LIMITS = Limits(streams=256, idle=10.0)
PREFIX = 2  # bytes: a message's length on a stream
LOOK = 0.02  # seconds between two looks at the zone file


class Answerer:
    """Answers queries from the zone file as it is now; one that becomes broken leaves the zone as it was.

    Raises OSError and ZoneFileError when it cannot be read at the start.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._reader = ZoneReader(path)
        self._tell = tell
        self._said = ""  # of what is wrong with the file
        self._order = Random()
        self._zone = self._reader.read_change() or Zone.of((), (), ())
        self._next_look = time.monotonic() + LOOK

    def look(self) -> None:
        """Read the zone file if it has changed."""
        self._next_look = time.monotonic() + LOOK
        try:
            self._zone = self._reader.read_change() or self._zone
        except (OSError, ZoneFileError) as exc:
            if str(exc) != self._said:
                self._said = str(exc)
                self._tell(f"goes on with the zone that it has: {exc}")

    def by_udp(self, query: bytes, _peer: object, _own: str) -> bytes | None:
        """Return the reply to a datagram."""
        if time.monotonic() >= self._next_look:
            self.look()
        return answer(query, self._zone, udp=True, now=int(time.time()), order=self._order)

    def by_tcp(self, query: bytes) -> bytes | None:
        """Return the reply to a message of a stream."""
        if time.monotonic() >= self._next_look:
            self.look()
        return answer(query, self._zone, udp=False, now=int(time.time()), order=self._order)


class DnsStream:
    """Messages on a stream, each behind its length; replies come in the order of the queries."""

    def __init__(self, respond: Callable[[bytes], bytes | None]) -> None:
        self.done = False
        self._respond = respond
        self._waiting = bytearray()

    def receive(self, received: bytes) -> None:
        """Take what the peer sent."""
        self._waiting += received

    def finish(self) -> None:
        """Take note that the peer sends no more: half a message stays without an answer."""

    def reply(self) -> bytes:
        """Return the reply to the next whole message that gets one."""
        waiting = self._waiting
        while len(waiting) >= PREFIX:
            end = PREFIX + int.from_bytes(waiting[:PREFIX], "big")
            if len(waiting) < end:
                break
            query = bytes(waiting[PREFIX:end])
            del waiting[:end]
            reply = self._respond(query)
            if reply is not None:
                return len(reply).to_bytes(PREFIX, "big") + reply
        return b""

    def is_busy(self) -> bool:
        """Say whether part of a message has come."""
        return bool(self._waiting)


def open_server(path: Path, port: int) -> Server:
    """Open the port by UDP and TCP, and return what serves it from a zone file.

    Raises PortRefused, and OSError and ZoneFileError as Answerer does.
    """
    answerer = Answerer(path, tell)
    server = Server(LIMITS)
    server.add_datagrams(open_port("UDP", port), answerer.by_udp)
    server.add_streams(open_port("TCP", port), lambda _: DnsStream(answerer.by_tcp))
    return server


def tell(problem: str) -> None:
    """Say in the container's log what is wrong."""
    print(f"dns: {problem}", file=sys.stderr, flush=True)
