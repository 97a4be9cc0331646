"""Which rules packets meet in some namespaces, and what connection tracking makes of them: asked for, listened to.

The table of `mark` belongs to a socket and goes with it. Reports about legacy tables come by nfnetlink_log, which has
to be chosen for a namespace (`log_choice`).
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.netlink import (
    RECEIVE_BYTES,
    SOL_NETLINK,
    Message,
    Socket,
    attribute,
    attribute_text,
    attributes,
    messages,
)
from netlab.trace import connections
from netlab.trace.connections import Connection
from netlab.trace.hits import Hit, read_legacy, read_nftables
from netlab.trace.log_choice import LogChoice
from netlab.trace.mark import BEGIN, END

NETLINK_NETFILTER, ADD_MEMBERSHIP, CONNTRACK_NEW_GROUP, NFTRACE_GROUP = 12, 1, 1, 9
SO_RCVBUFFORCE, QUEUE_BYTES = 33, 1 << 22
TRACE_MESSAGE, GET_RULE = 10 << 8 | 17, 10 << 8 | 7  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE and NFT_MSG_GETRULE
NEW_CONNECTION = 1 << 8  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
RULE_HANDLE = 3  # NFTA_RULE_HANDLE
FAMILY_NUMBERS = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}
LOG_SUBSYSTEM, LOG_PACKET, LOG_CONFIG = 4, 4 << 8 | 0, 4 << 8 | 1
LOG_GROUP, LOG_BYTES = 0, 64


@dataclass(frozen=True, slots=True)
class Report:
    """A rule that a packet met in a namespace, or a connection that became known there."""

    namespace: str
    what: Hit | Connection


class NetfilterWatch:
    """Listens in namespaces for the rules that packets meet, and for new connections. For `with`.

    `made`: the messages that make the table of `mark`, which says of which packets. Raises KernelError.
    """

    def __init__(self, namespaces: Iterable[str], made: list[Message], folder: Path) -> None:
        self._stack = ExitStack()
        self._logs = LogChoice(folder)
        self._owners: list[Socket] = []
        self._listeners: list[tuple[str, socket.socket, Callable[[int, bytes], Hit | Connection | None]]] = []
        with self._stack:
            self._stack.callback(self._logs.restore)
            self._stack.callback(self._disown)
            netns.call_each(namespaces, partial(self._arm, made))
            self._stack = self._stack.pop_all()

    def _arm(self, made: list[Message], name: str) -> None:
        owner = Socket(NETLINK_NETFILTER)
        self._owners.append(owner)
        if failures := owner.transact(BEGIN, made, END):
            raise KernelError(failures[0].errno, f"trace rules in {name}", failures[0].reason)
        groups = {NFTRACE_GROUP: _from_nftables, CONNTRACK_NEW_GROUP: _from_conntrack}
        for group, read in groups.items():
            listener = _listener()
            self._stack.callback(listener.close)
            listener.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
            self._listeners.append((name, listener, read))
        if legacy := _legacy_listener():
            self._stack.callback(legacy.close)
            self._listeners.append((name, legacy, _from_log))
            self._logs.choose(name)

    def _disown(self) -> None:
        """Let the tables go, all at once: each waits for the kernel's other processors (RCU)."""
        closing = [threading.Thread(target=owner.close) for owner in self._owners]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def reports(self) -> Iterator[Report]:
        """Yield what was met since the last call, namespace by namespace, each in order."""
        for name, listener, read in self._listeners:
            for kind, body in _received(listener):
                if what := read(kind, body):
                    yield Report(name, what)

    def close(self) -> None:
        """Ask for nothing any more."""
        self._stack.close()

    def __enter__(self) -> NetfilterWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_rules(name: str) -> Socket:
    """Open a socket to ask a namespace for its rules."""
    return netns.call(name, Socket, NETLINK_NETFILTER)


def rule_handles(asked: Socket, family: str, table_name: str, chain: str) -> list[int]:
    """Return the handles of a chain's rules in their order; none when there is no such chain."""
    body = struct.pack("!BBH", FAMILY_NUMBERS[family], 0, 0) + attribute_text(1, table_name) + attribute_text(2, chain)
    try:
        listed = asked.dump(Message(GET_RULE, 0, body))
        return [int.from_bytes(attributes(buffer, at + 4, end)[RULE_HANDLE], "big") for _, buffer, at, end in listed]
    except OSError:
        return []


def _listener() -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
    )
    opened.bind((0, 0))
    with suppress(PermissionError):
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
    return opened


def _legacy_listener() -> socket.socket | None:
    """Return a socket that gets the packets of log group 0; None where the kernel has no such thing."""
    opened = _listener()
    # NFULA_CFG_CMD: bind; NFULA_CFG_MODE: copy the packet's beginning; NFULA_CFG_QTHRESH: tell each at once.
    settings = (
        attribute(1, b"\1"),
        attribute(2, struct.pack("!IBB", LOG_BYTES, 2, 0)),
        attribute(5, struct.pack("!I", 1)),
    )
    try:
        for setting in settings:
            body = struct.pack("!BBH", socket.AF_INET, 0, LOG_GROUP) + setting
            opened.setblocking(True)
            opened.send(struct.pack("=IHHII", 16 + len(body), LOG_CONFIG, 1 | 4, 1, 0) + body)
            code = -struct.unpack_from("=i", opened.recv(RECEIVE_BYTES), 16)[0]
            if code:
                raise OSError(code, "nfnetlink_log")
    except OSError:
        opened.close()
        return None
    opened.setblocking(False)
    return opened


def _received(listener: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        try:
            buffer = listener.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise
            continue
        for kind, _, _, start, end in messages(buffer):
            yield kind, buffer[start:end]


def _from_nftables(kind: int, body: bytes) -> Hit | None:
    return read_nftables(body) if kind == TRACE_MESSAGE else None


def _from_conntrack(kind: int, body: bytes) -> Connection | None:
    return connections.read(body) if kind == NEW_CONNECTION else None


def _from_log(kind: int, body: bytes) -> Hit | None:
    return read_legacy(body) if kind == LOG_PACKET else None
