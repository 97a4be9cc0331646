"""Netlink framing: attributes, batches of requests, dumps (RFC 3549, linux/netlink.h).

netlab has its own codec for the few rtnetlink messages that every lab sends by the thousand: a message packed by
pyroute2 costs 110 us and importing it 0.1 s, which is more than the kernel needs for the work (docs/adr/0002).

A batch is one sendmsg(2): the kernel carries its messages out in order before the call returns. Only the last one asks
for an acknowledgement; errors come back for any, with the kernel's own sentence where it has one (extended ack).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
NLMSGERR_ATTR_MSG = 1

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

RECEIVE_BYTES = 1 << 18
BATCH_BYTES = 1 << 16  # far below the default send buffer (net.core.wmem_default, 208 KiB)

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")


class Message(NamedTuple):
    """A request: `flags` without NLM_F_REQUEST and NLM_F_ACK, `body` without the netlink header."""

    type: int
    flags: int
    body: bytes


class Failure(NamedTuple):
    """A request that the kernel refused: its place in the batch, a positive errno, and the kernel's sentence."""

    position: int
    errno: int
    reason: str


def attribute(kind: int, payload: bytes) -> bytes:
    """Pack one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attribute_u32(kind: int, value: int) -> bytes:
    """Pack a 32-bit attribute in host order."""
    return attribute(kind, _U32.pack(value))


def attribute_text(kind: int, text: str) -> bytes:
    """Pack a NUL-terminated string attribute."""
    return attribute(kind, text.encode() + b"\0")


def attributes(buffer: bytes, start: int, end: int) -> dict[int, bytes]:
    """Unpack the attributes between two offsets into payloads by type, flags removed."""
    found = {}
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(buffer, start)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = buffer[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def nested(payload: bytes) -> dict[int, bytes]:
    """Unpack a nested attribute's payload."""
    return attributes(payload, 0, len(payload))


class Socket:
    """A netlink socket, rtnetlink's by default, of the namespace that the opening thread is in.

    It is usable from any thread afterwards.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket, which lets go of its namespace."""
        self._socket.close()

    def request(self, messages: Sequence[Message]) -> list[Failure]:
        """Send requests in as few system calls as their size allows; return those that the kernel refused."""
        failures: list[Failure] = []
        batch: list[Message] = []
        size = first = 0
        for index, message in enumerate(messages):
            batch.append(message)
            size += 16 + len(message.body)
            if size >= BATCH_BYTES or index == len(messages) - 1:
                failures += (failure._replace(position=first + failure.position) for failure in self._exchange(batch))
                batch, size, first = [], 0, index + 1
        return failures

    def transact(self, begin: Message, messages: Sequence[Message], end: Message) -> list[Failure]:
        """Send a transaction (nfnetlink's), and return what the kernel refused: then nothing of it was done.

        The last message between is acknowledged: the end itself is only since Linux 6.10.
        """
        first = self._sequence + 1
        packed: list[bytes] = []
        for message in (begin, *messages, end):
            self._sequence += 1
            flags = message.flags | NLM_F_REQUEST | (NLM_F_ACK if len(packed) == len(messages) else 0)
            packed.append(_HEADER.pack(16 + len(message.body), message.type, flags, self._sequence, 0) + message.body)
        self._socket.send(b"".join(packed))
        failures = []
        for failure in self._answers(first, first + len(messages)):
            failures.append(failure)
            if failure.position == 0:  # the beginning: nothing else is looked at
                break
        return failures

    def _exchange(self, batch: Sequence[Message]) -> Iterator[Failure]:
        """Send one batch and read answers up to the acknowledgement of its last message."""
        first = self._sequence + 1
        packed: list[bytes] = []
        for message in batch:
            self._sequence += 1
            flags = message.flags | NLM_F_REQUEST | (NLM_F_ACK if len(packed) == len(batch) - 1 else 0)
            packed.append(_HEADER.pack(16 + len(message.body), message.type, flags, self._sequence, 0) + message.body)
        self._socket.send(b"".join(packed))
        yield from self._answers(first, self._sequence)

    def _answers(self, first: int, last: int) -> Iterator[Failure]:
        """yield failures up to the answer to the message with the last sequence number."""
        while True:
            buffer = self._socket.recv(RECEIVE_BYTES)
            for kind, flags, sequence, start, end in messages(buffer):
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                code = -int.from_bytes(buffer[start : start + 4], "little", signed=True)
                if code:
                    yield Failure(sequence - first, code, _reason(buffer, flags, start, end))
                if sequence == last:
                    return

    def get(self, message: Message) -> tuple[int, bytes, int, int]:
        """Ask for one entry; return (message type, buffer, body start, body end). Raises OSError."""
        self._sequence += 1
        header = _HEADER.pack(16 + len(message.body), message.type, message.flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + message.body)
        while True:
            buffer = self._socket.recv(RECEIVE_BYTES)
            for kind, _, sequence, start, end in messages(buffer):
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_ERROR:
                    code = -int.from_bytes(buffer[start : start + 4], "little", signed=True)
                    raise OSError(code, os.strerror(code))
                return kind, buffer, start, end

    def dump(self, message: Message) -> Iterator[tuple[int, bytes, int, int]]:
        """Ask for a listing; yield (message type, buffer, body start, body end) for each entry. Raises OSError."""
        self._sequence += 1
        flags = message.flags | NLM_F_REQUEST | NLM_F_DUMP
        header = _HEADER.pack(16 + len(message.body), message.type, flags, self._sequence, 0)
        self._socket.send(header + message.body)
        while True:
            buffer = self._socket.recv(RECEIVE_BYTES)
            for kind, _, sequence, start, end in messages(buffer):
                if sequence != self._sequence:
                    continue
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    code = -int.from_bytes(buffer[start : start + 4], "little", signed=True)
                    if code:
                        raise OSError(code, "netlink dump")
                    return
                yield kind, buffer, start, end


def messages(buffer: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (type, flags, sequence, body start, body end) of each message in a buffer."""
    offset = 0
    while offset + 16 <= len(buffer):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer, offset)
        yield kind, flags, sequence, offset + 16, offset + length
        offset += (length + 3) & ~3


def _reason(buffer: bytes, flags: int, start: int, end: int) -> str:
    """Return the kernel's sentence from an extended acknowledgement, if there is one.

    The error's body is: errno (4 bytes), the request's header (16 bytes), its body unless capped, then attributes.
    """
    if not flags & NLM_F_ACK_TLVS:
        return ""
    request_length = _U32.unpack_from(buffer, start + 4)[0]
    skip = 20 if flags & NLM_F_CAPPED else 4 + ((request_length + 3) & ~3)
    text = attributes(buffer, start + skip, end).get(NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode(errors="replace")
