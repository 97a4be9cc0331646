"""The probe itself: one packet from a member's namespace, with a cookie that is found again wherever it goes.

UDP and echo requests begin their payload with the cookie. A TCP connection's first sequence number is it: TCP_REPAIR
lets a socket choose one, and after that it is an ordinary connection (tcp(7), linux/tcp.h).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from enum import Enum, auto

from netlab.check.packets import ECHO_REPLY, ECHO_REQUEST, IP_HEADER, PROTOCOL
from netlab.checksum import internet_checksum
from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.probe_sockets import FAMILY, LEVEL, MTU_DISCOVER
from netlab.trace.question import Protocol, Question

COOKIE = 16  # bytes; the programs look for the first four
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, SEND_QUEUE = 19, 20, 21, 2
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
TTL = {4: socket.IP_TTL, 6: socket.IPV6_UNICAST_HOPS}
HEADER = 8  # bytes, of UDP and of ICMP


class Reply(Enum):
    """What the sender heard."""

    NONE = auto()
    ANSWER = auto()
    REFUSED = auto()
    ERROR = auto()


@dataclass(frozen=True, slots=True)
class Heard:
    """What the sender heard, and the kernel's word and number for an error."""

    reply: Reply
    words: str = ""
    error: int = 0


class Probe:
    """A probe that is ready to be sent. Raises KernelError where the namespace cannot be entered."""

    def __init__(self, question: Question, namespace: str) -> None:
        self._question = question
        self.cookie = os.urandom(COOKIE)
        self._version = question.address.version
        self._ident = int.from_bytes(self.cookie[4:6], "big")
        self._heard: Heard | None = None
        try:
            self._socket = netns.call(namespace, self._open)
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, f"open a socket in {namespace}") from exc

    def _open(self) -> socket.socket:
        kinds = {
            Protocol.UDP: (socket.SOCK_DGRAM, 0),
            Protocol.TCP: (socket.SOCK_STREAM, 0),
            Protocol.ICMP: (socket.SOCK_RAW, PROTOCOL[self._version]),
        }
        kind, protocol = kinds[self._question.protocol]
        opened = socket.socket(FAMILY[self._version], kind | socket.SOCK_NONBLOCK, protocol)
        options = self._question.options
        level = LEVEL[self._version]
        if self._question.protocol is not Protocol.TCP:
            how = PMTUDISC_DO if options.dont_fragment else PMTUDISC_DONT
            opened.setsockopt(level, MTU_DISCOVER[self._version], how)
        if options.ttl:
            opened.setsockopt(level, TTL[self._version], options.ttl)
        if self._question.protocol is Protocol.TCP:
            opened.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            opened.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, SEND_QUEUE)
            opened.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", self.sequence))
            opened.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
        if self._question.protocol is Protocol.UDP:
            try:
                opened.connect((str(self._question.address), self._question.port))  # sends nothing yet
            except OSError as exc:
                self._heard = _heard(exc)
        return opened

    @property
    def port(self) -> int:
        """Return the port that a UDP answer comes to; 0 for other probes."""
        return int(self._socket.getsockname()[1]) if self._question.protocol is Protocol.UDP else 0

    @property
    def sequence(self) -> int:
        """Return the cookie as a sequence number."""
        return int.from_bytes(self.cookie[:4], "big")

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait on."""
        return self._socket.fileno()

    def send(self) -> Heard | None:
        """Send it; return what the sender's own kernel said, None when that was nothing."""
        if self._heard:
            return self._heard
        target = (str(self._question.address), self._question.port)
        try:
            match self._question.protocol:
                case Protocol.ICMP:
                    self._socket.sendto(self._echo(), (target[0], 0))
                case Protocol.TCP:
                    self._socket.connect(target)
                case Protocol.UDP:
                    self._socket.send(self._payload(HEADER))
        except BlockingIOError:
            return None
        except OSError as exc:
            return _heard(exc)
        return None

    def receive(self) -> Heard | None:
        """Return what came, None when nothing has yet."""
        try:
            if self._question.protocol is Protocol.TCP:
                error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return _heard(OSError(error, os.strerror(error))) if error else Heard(Reply.ANSWER)
            content = self._socket.recv(65535)
        except BlockingIOError:
            return None
        except OSError as exc:
            return _heard(exc)
        if self._question.protocol is Protocol.UDP or self._is_reply(content):
            return Heard(Reply.ANSWER)
        return None

    def close(self) -> None:
        """Close the socket; a TCP connection ends as it should."""
        self._socket.close()

    def _payload(self, header: int) -> bytes:
        size = (self._question.options.size or 0) - IP_HEADER[self._version] - header
        return self.cookie.ljust(max(COOKIE, size), b"\0")

    def _echo(self) -> bytes:
        """Pack an echo request. The kernel fills in ICMPv6's checksum (RFC 3542 section 3.1)."""
        message = struct.pack("!BBHHH", ECHO_REQUEST[self._version], 0, 0, self._ident, 1) + self._payload(HEADER)
        if self._version == 6:
            return message
        return message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]

    def _is_reply(self, content: bytes) -> bool:
        start = (content[0] & 15) * 4 if self._version == 4 else 0
        reply = content[start:]
        return reply[:1] == bytes([ECHO_REPLY[self._version]]) and reply[HEADER : HEADER + COOKIE] == self.cookie


def _heard(exc: OSError) -> Heard:
    words = os.strerror(exc.errno or 0)
    return Heard(Reply.REFUSED if exc.errno == errno.ECONNREFUSED else Reply.ERROR, words, exc.errno or 0)
