"""Notices that somebody else changed a node's packet-filter rules, without starting a program.

Rules of nftables, and those of iptables-nft, which are nftables' too: the kernel tells a listener each change and whose
it is (linux/netfilter/nfnetlink.h, group NFNLGRP_NFTABLES). Rules of iptables-legacy: the kernel tells nobody, but
answers with the number and the size of a table's entries (linux/netfilter_ipv4/ip_tables.h, IPT_SO_GET_INFO). What
does not show so (one rule in the place of another that is as long) is found by listing, now and then.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netlab.kernel import netlink, netns

NETLINK_NETFILTER = 12
NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP = 1, 2
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
SO_RCVBUFFORCE = 33
LOOKS = 30  # of so many looks at what nobody announces changes of, the last one lists everything
QUEUE_BYTES = 1 << 22
FAMILIES = {2: 4, 10: 6}  # NFPROTO_IPV4, NFPROTO_IPV6
CHAIN_MESSAGES = range(3, 6)  # NFT_MSG_NEWCHAIN, GETCHAIN, DELCHAIN
RULE_MESSAGES = range(6, 9)
DELETIONS = frozenset({2, 5, 8, 11, 14, 20, 24})  # NFT_MSG_DELTABLE, -CHAIN, -RULE, -SET, -SETELEM, -OBJ, -FLOWTABLE
NFT_MSG_NEWGEN = 15

SO_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
INFO_BYTES = 84
LEGACY_TABLES = ("nat", "filter", "mangle")


class Change(NamedTuple):
    """One change of a table that somebody else made. `chain` is empty where it is not one of a chain or a rule."""

    version: int  # 4, 6; 0 for tables of other families
    table: str
    chain: str
    is_deletion: bool


class NftWatch:
    """Hears of every change of nftables' rules in a namespace, but for those of a program that is ours."""

    def __init__(self, name: str) -> None:
        self._socket = netns.call(name, _open_listener)

    def fileno(self) -> int:
        """Return the socket, readable when there are changes."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket, which lets go of its namespace."""
        self._socket.close()

    @contextmanager
    def ignoring(self, pid: int) -> Iterator[None]:
        """Leave out what a process does. It must not have begun: its netlink port is its pid, like every first one."""
        program = (  # classic BPF: linux/filter.h. A word is loaded as from the network
            _instruction(0x20, 0, 0, 12),  # A = nlmsg_pid, the sender's port
            _instruction(0x15, 0, 1, socket.htonl(pid)),  # is it the process?
            _instruction(0x06, 0, 0, 0),  # then drop
            _instruction(0x06, 0, 0, 0xFFFFFFFF),
        )
        code = ctypes.create_string_buffer(b"".join(program))
        filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
        try:
            yield
        finally:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hear nothing meanwhile: to tell a listener of each new rule takes the kernel a seventh of the time.

        `generation.read` before and after says whether there was a transaction that nobody heard of.
        """
        self._socket.setsockopt(netlink.SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, NFNLGRP_NFTABLES)
        try:
            yield
        finally:
            self._socket.setsockopt(netlink.SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)

    def take(self) -> list[Change] | None:
        """Return the changes since the last call; None where there were more than the queue holds."""
        found: dict[Change, None] = {}
        lost = False
        while True:
            try:
                buffer = self._socket.recv(netlink.RECEIVE_BYTES)
            except BlockingIOError:
                return None if lost else list(found)
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            found.update(dict.fromkeys(_changes(buffer)))


def _open_listener() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    listener = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
    except PermissionError:  # in a user namespace
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
    listener.bind((0, 0))
    listener.setsockopt(netlink.SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
    return listener


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _changes(buffer: bytes) -> Iterator[Change]:
    for kind, _, _, start, end in netlink.messages(buffer):
        message = kind & 0xFF
        if kind >> 8 != NFNL_SUBSYS_NFTABLES or message == NFT_MSG_NEWGEN:
            continue
        found = netlink.attributes(buffer, start + 4, end)  # after struct nfgenmsg; 1 is the table's name in every one
        chain = found.get(3) if message in CHAIN_MESSAGES else found.get(2) if message in RULE_MESSAGES else None
        version = FAMILIES.get(buffer[start], 0)
        yield Change(version, _text(found.get(1)), _text(chain), message in DELETIONS)


def _text(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0").decode(errors="replace")


class LegacyWatch:
    """Compares the sizes of iptables-legacy's tables with those that it saw last."""

    def __init__(self, name: str, versions: Iterable[int]) -> None:
        self._sockets = netns.call(name, _open_raw, tuple(versions))
        self._seen = self.sizes()

    def close(self) -> None:
        """Close the sockets, which lets go of their namespace."""
        for opened in self._sockets.values():
            opened.close()

    def accept(self) -> None:
        """Take the tables as they are for the ones to compare with."""
        self._seen = self.sizes()

    def has_changed(self) -> bool:
        """Say whether a table is not as it was. One rule in the place of another that is as long does not show."""
        return self.sizes() != self._seen

    def sizes(self) -> dict[tuple[int, str], tuple[int, ...]]:
        """Return what the kernel says of each table: of which hooks, and how many entries of which length."""
        return {
            (version, table): _info(opened, version, table)
            for version, opened in self._sockets.items()
            for table in LEGACY_TABLES
        }


def _open_raw(versions: Iterable[int]) -> dict[int, socket.socket]:
    families = {4: socket.AF_INET, 6: socket.AF_INET6}
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    return {version: socket.socket(families[version], kind, socket.IPPROTO_RAW) for version in versions}


def _info(opened: socket.socket, version: int, table: str) -> tuple[int, ...]:
    """Return hooks, number of entries and size of a table; empty for one that is not there.

    The table's name goes in where the answer comes out, which socket.getsockopt has no way for.
    """
    buffer = ctypes.create_string_buffer(table.encode(), INFO_BYTES)
    length = ctypes.c_uint32(INFO_BYTES)
    level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
    try:
        netns.syscall("getsockopt", opened.fileno(), level, SO_GET_INFO, buffer, ctypes.byref(length))
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOPROTOOPT):  # no such table; iptables-legacy's modules not loaded
            raise
        return ()
    return struct.unpack("=32s13I", buffer.raw)[1:]
