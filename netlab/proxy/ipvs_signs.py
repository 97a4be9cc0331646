"""Signs that somebody else changed what IPVS mode keeps in a node: nobody announces it, and to list it all is dear.

Without a program, and without looking at each thing: the kernel's table of virtual servers with real servers, weights
and schedulers; the addresses of kube-ipvs0; the number of entries of each IP set; what tells of packet-filter rules.
What they do not show (one entry of a set in the place of another, a flag) is found by listing, now and then.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from netlab.kernel import netlink, netns
from netlab.proxy import generation
from netlab.proxy.ipvs_device import Device
from netlab.proxy.watch import NETLINK_NETFILTER, LegacyWatch

TABLE = Path("/proc/thread-self/net/ip_vs")
CONNECTIONS = re.compile(rb"^(  -> .*?) +\d+ +\d+ *$", re.MULTILINE)  # a real server's line ends with their numbers
IPSET_LIST = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST
IPSET_PROTOCOL, IPSET_FLAGS = 1, 6 | 1 << 14  # IPSET_ATTR_PROTOCOL; IPSET_ATTR_FLAGS, of the network's byte order
PROTOCOL, LIST_HEADER = 6, 1 << 2  # the oldest that kernels speak; IPSET_FLAG_LIST_HEADER: entries are left out
HEADERS = netlink.Message(
    IPSET_LIST,
    0,
    bytes([2, 0, 0, 0])  # struct nfgenmsg; any family
    + netlink.attribute(IPSET_PROTOCOL, bytes([PROTOCOL]))
    + netlink.attribute(IPSET_FLAGS, LIST_HEADER.to_bytes(4, "big")),
)


class Signs(NamedTuple):
    """What differs where something was changed."""

    servers: bytes
    addresses: frozenset[bytes]
    sets: frozenset[bytes]
    rules: object


class Reader:
    """Reads the signs of one namespace. `variant` is that of iptables whose tables our rules are in."""

    def __init__(self, name: str, variant: str, versions: Iterable[int], device: Device) -> None:
        self._device = device
        with ExitStack() as stack:
            self._table = stack.enter_context(netns.call(name, _open_table))
            self._netfilter = stack.enter_context(closing(netns.call(name, netlink.Socket, NETLINK_NETFILTER)))
            legacy = variant == "iptables-legacy"
            self._legacy = stack.enter_context(closing(LegacyWatch(name, versions))) if legacy else None
            self._open = stack.pop_all()

    def close(self) -> None:
        """Close what is open."""
        self._open.close()

    def read(self) -> Signs:
        """Return the signs as they are now."""
        self._table.seek(0)
        servers = without_connections(self._table.read())
        sets = frozenset(buffer[start:end] for _, buffer, start, end in self._netfilter.dump(HEADERS))
        rules = self._legacy.sizes() if self._legacy else generation.read_by(self._netfilter)
        return Signs(servers, self._device.raw_addresses(), sets, rules)


def _open_table() -> io.FileIO:
    return io.FileIO(TABLE)  # one that keeps nothing: each read asks the kernel


def without_connections(table: bytes) -> bytes:
    """Leave the numbers of connections out, which change with every packet."""
    return CONNECTIONS.sub(rb"\1", table)
