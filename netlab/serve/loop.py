"""The loop: datagrams are answered by a function, streams by Conversations, everything by one thread on epoll.

Nothing that a peer does ends it, and what one costs is bounded: bytes kept for it, time without progress, and the
number of streams, of which the one that stood still longest makes place for a new one.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from netlab.serve.ports import plain_address

BATCH = 64  # datagrams, or new streams, before the others have their turn
LONGEST_DATAGRAM = 65535  # bytes
CHUNK = 65536  # bytes that are read from a stream at once
HIGH_WATER = 65536  # bytes that wait for a slow reader; more are neither made nor asked for
ANCILLARY = 64  # bytes of room: one packet information
WAYS_KEPT = 1024
TICK = 0.02  # seconds between two looks while it drains

Respond = Callable[[bytes, Any, str], "bytes | None"]  # datagram, sender as socket.recvfrom has it, own address


class Ends(NamedTuple):
    """The two ends of a stream: this side's address and port, and the peer's."""

    own: str
    own_port: int
    peer: str
    peer_port: int


class Conversation(Protocol):
    """One stream without its socket."""

    done: bool  # no reply follows: the stream is closed when all is sent

    def receive(self, received: bytes) -> None:
        """Take what the peer sent."""

    def finish(self) -> None:
        """Take note that the peer sends no more."""

    def reply(self) -> bytes:
        """Return the next bytes to send, none when there is nothing to say yet."""

    def is_busy(self) -> bool:
        """Say whether part of a request has come."""


class Limits(NamedTuple):
    """How many streams, and for how many seconds one may make no progress."""

    streams: int
    idle: float


class _Stream:
    """A stream's socket and what waits to be sent."""

    __slots__ = ("active", "ended", "events", "out", "sock", "talk")

    def __init__(self, sock: socket.socket, talk: Conversation, now: float) -> None:
        self.sock = sock
        self.talk = talk
        self.out = bytearray()
        self.active = now
        self.events = select.EPOLLIN
        self.ended = False  # the peer sends no more


class Server:
    """Sockets that are served by one thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._poll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}  # by file descriptor, of what is no stream
        self._streams: dict[int, _Stream] = {}  # the one that stood still longest is the first
        self._accepted = 0.0  # when the last stream came
        self._quiet = 0.0
        self._deadline: float | None = None

    def add(self, descriptor: int, call: Callable[[int], None]) -> None:
        """Call a function with epoll's events when there is something to read."""
        self._calls[descriptor] = call
        self._poll.register(descriptor, select.EPOLLIN)

    def add_datagrams(self, sock: socket.socket, respond: Respond) -> None:
        """Answer datagrams, each from the address that it came to."""
        self.add(sock.fileno(), Datagrams(sock, respond).serve)

    def add_streams(self, listener: socket.socket, converse: Callable[[Ends], Conversation]) -> None:
        """Take streams and hold a conversation on each."""
        self.add(listener.fileno(), lambda _: self._accept(listener, converse))

    def drain(self, *, quiet: float, longest: float) -> None:
        """Serve on until no stream has come for `quiet` seconds and no request is open, at most for `longest`."""
        if self._deadline is None:
            self._accepted = time.monotonic()
            self._quiet = quiet
            self._deadline = self._accepted + longest

    @property
    def is_draining(self) -> bool:
        """Say whether it is about to end."""
        return self._deadline is not None

    def run(self) -> None:
        """Serve until it has drained."""
        while not self._is_over():
            ready = self._poll.poll(self._patience())
            for descriptor, events in ready:
                if (stream := self._streams.get(descriptor)) is not None:
                    self._serve(stream, events)
            for descriptor, events in ready:  # last: a new stream may get the descriptor of one that has just ended
                if (call := self._calls.get(descriptor)) is not None:
                    call(events)
            self._expire()
        for stream in list(self._streams.values()):
            self._close(stream)

    def _patience(self) -> float | None:
        """Return for how many seconds nothing needs doing but what comes."""
        if self._deadline is not None:
            return TICK
        oldest = next(iter(self._streams.values()), None)
        return max(0.0, oldest.active + self._limits.idle - time.monotonic()) + 0.001 if oldest else None

    def _is_over(self) -> bool:
        if self._deadline is None:
            return False
        now = time.monotonic()
        if now >= self._deadline:
            return True
        return now >= self._accepted + self._quiet and not any(
            stream.out or (stream.talk.is_busy() and not stream.talk.done) for stream in self._streams.values()
        )

    def _expire(self) -> None:
        latest = time.monotonic() - self._limits.idle
        while (oldest := next(iter(self._streams.values()), None)) is not None and oldest.active <= latest:
            self._close(oldest)

    def _accept(self, listener: socket.socket, converse: Callable[[Ends], Conversation]) -> None:
        for _ in range(BATCH):
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # it has gone already, or descriptors are short: another gives up its own
                self._evict()
                return
            try:
                sock.setblocking(False)
                if sock.proto in (0, socket.IPPROTO_TCP):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                own = sock.getsockname()
            except OSError:
                sock.close()
                continue
            if len(self._streams) >= self._limits.streams:
                self._evict()
            self._accepted = time.monotonic()
            ends = Ends(plain_address(own[0]), own[1], plain_address(peer[0]), peer[1])
            self._streams[sock.fileno()] = _Stream(sock, converse(ends), self._accepted)
            self._poll.register(sock.fileno(), select.EPOLLIN)

    def _evict(self) -> None:
        if self._streams:
            self._close(next(iter(self._streams.values())))

    def _serve(self, stream: _Stream, events: int) -> None:
        try:
            if events & select.EPOLLIN and stream.events & select.EPOLLIN:
                self._read(stream)
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self._close(stream)
                return
            if self._write(stream):
                self._watch(stream)
            else:
                self._close(stream)
        except OSError:  # the peer has gone
            self._close(stream)

    def _read(self, stream: _Stream) -> None:
        """Take what has come; after the last reply it is dropped, for a close with bytes unread would reset."""
        received = stream.sock.recv(CHUNK)
        if not received:
            stream.ended = True
            stream.talk.finish()
        elif not stream.talk.done:
            self._touch(stream)
            stream.talk.receive(received)

    def _write(self, stream: _Stream) -> bool:
        """Send what can be sent; return False when the stream is at its end."""
        out, talk = stream.out, stream.talk
        was_done = talk.done and not out
        while True:
            while len(out) < HIGH_WATER and not talk.done and (reply := talk.reply()):
                out += reply
            if not out:
                break
            try:
                sent = stream.sock.send(out)
            except BlockingIOError:
                return True
            del out[:sent]
            self._touch(stream)
        if talk.done and not stream.ended and not was_done:
            stream.sock.shutdown(socket.SHUT_WR)
        return not stream.ended

    def _watch(self, stream: _Stream) -> None:
        full = len(stream.out) >= HIGH_WATER or stream.ended
        events = (0 if full else select.EPOLLIN) | (select.EPOLLOUT if stream.out else 0)
        if events != stream.events:
            stream.events = events
            self._poll.modify(stream.sock.fileno(), events)

    def _touch(self, stream: _Stream) -> None:
        stream.active = time.monotonic()
        descriptor = stream.sock.fileno()
        self._streams[descriptor] = self._streams.pop(descriptor)

    def _close(self, stream: _Stream) -> None:
        del self._streams[stream.sock.fileno()]
        stream.sock.close()


class Datagrams:
    """A UDP socket whose answers leave from the address that was asked."""

    def __init__(self, sock: socket.socket, respond: Respond) -> None:
        self._sock = sock
        self._respond = respond
        self._ways: dict[bytes, tuple[str, list[tuple[int, int, bytes]]]] = {}

    def serve(self, _: int = 0) -> None:
        """Answer what has come, at most BATCH of it."""
        receive, send, respond, ways = self._sock.recvmsg, self._sock.sendmsg, self._respond, self._ways
        for _ in range(BATCH):
            try:
                datagram, ancillary, _, peer = receive(LONGEST_DATAGRAM, ANCILLARY)
                came = ancillary[0][2]
                own, way = ways.get(came) or self._find_way(ancillary)
                reply = respond(datagram, peer, own)
                if reply is not None:
                    send((reply,), way, socket.MSG_DONTWAIT, peer)
            except BlockingIOError:
                return
            except OSError:  # of one peer: it cannot be reached, or its port is 0
                continue

    def _find_way(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[str, list[tuple[int, int, bytes]]]:
        """Return the address that a datagram came to, and what makes the answer leave from there (ip(7), ipv6(7)).

        The interface is left to the routes: an answer may have another way than its question.
        """
        level, kind, came = ancillary[0]
        if level == socket.IPPROTO_IPV6:
            own, there = socket.inet_ntop(socket.AF_INET6, came[:16]), came[:16] + bytes(4)
        else:
            own, there = socket.inet_ntop(socket.AF_INET, came[4:8]), struct.pack("=I4s4x", 0, came[4:8])
        if len(self._ways) >= WAYS_KEPT:
            self._ways.clear()
        found = self._ways[came] = plain_address(own), [(level, kind, there)]
        return found
