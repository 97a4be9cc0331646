"""Which pods are behind which ports of a bridge, as the kernel learns it, and whether interfaces are still there.

Told by rtnetlink's groups, so that nothing has to be asked again and again.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable

from netlab.errors import KernelError
from netlab.kernel import decode, netlink, rtnetlink

GROUPS = 1 << 0 | 1 << 2  # RTMGRP_LINK, RTMGRP_NEIGH
AF_UNSPEC = 0
SO_ATTACH_FILTER = 26  # asm-generic/socket.h


class Ports:
    """The forwarding entries of a bridge in this process's network namespace, and interfaces that must not go."""

    def __init__(self, bridge: str, interfaces: Iterable[str]) -> None:
        """Begin to listen. Raises KernelError for an interface that is missing."""
        self._events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        _let_in_what_matters(self._events)
        self._events.bind((0, GROUPS))
        self._asking = netlink.Socket()
        self._interfaces = {_index(name): name for name in (bridge, *interfaces)}
        self._bridge = _index(bridge)

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is news."""
        return self._events.fileno()

    def take_news(self) -> bool:
        """Say whether the entries may have changed, or a link. Raises KernelError when an interface has gone."""
        changed = False
        while True:
            try:
                buffer = self._events.recv(netlink.RECEIVE_BYTES)
            except BlockingIOError:
                return changed
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:  # there was more news than room
                    raise
                changed = True
                continue
            for kind, _, _, start, end in netlink.messages(buffer):
                changed |= self._take(kind, buffer[start:end])

    def _take(self, kind: int, body: bytes) -> bool:
        family, index = struct.unpack_from("=B3xi", body)  # ndmsg and ifinfomsg begin alike
        if kind == rtnetlink.RTM_DELLINK and family == AF_UNSPEC and index in self._interfaces:
            raise KernelError(errno.ENODEV, f"the interface {self._interfaces[index]} is gone", "`netlab up` makes it")
        return family == rtnetlink.AF_BRIDGE or (kind == rtnetlink.RTM_NEWLINK and index in self._interfaces)

    def entries(self) -> dict[bytes, int]:
        """Return behind which port (by interface index) each learned MAC address is. Raises OSError."""
        dumped = self._asking.dump(rtnetlink.dump_bridge_entries(self._bridge))
        found = (decode.learned_entry(buffer, start, end) for _, buffer, start, end in dumped)
        return dict(entry for entry in found if entry)

    def close(self) -> None:
        """Stop listening."""
        self._events.close()
        self._asking.close()


def _let_in_what_matters(events: socket.socket) -> None:
    """Have the kernel keep back other news, or every ARP reply would wake this process: a classic BPF filter.

    Source: linux/filter.h; each instruction is code, jump if true, jump if false, constant.
    """
    load_half, load_byte, equal, answer = 0x28, 0x30, 0x15, 0x06
    program = (
        (load_half, 0, 0, 4),  # nlmsg_type
        (equal, 5, 0, socket.htons(rtnetlink.RTM_NEWLINK)),
        (equal, 4, 0, socket.htons(rtnetlink.RTM_DELLINK)),
        (equal, 1, 0, socket.htons(rtnetlink.RTM_NEWNEIGH)),
        (equal, 0, 3, socket.htons(rtnetlink.RTM_DELNEIGH)),
        (load_byte, 0, 0, 16),  # the family
        (equal, 0, 1, rtnetlink.AF_BRIDGE),
        (answer, 0, 0, 0xFFFF_FFFF),  # let it in, whole
        (answer, 0, 0, 0),
    )
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    events.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(packed)))


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as exc:
        raise KernelError(errno.ENODEV, f"look at the interface {name}", "`netlab up` makes it") from exc
