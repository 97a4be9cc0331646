"""The kernel's time stamps on packets that come in: it begins to make them a while after a socket has asked for them.

Switching them on is left to a worker (net/core/dev.c, net_enable_timestamp). A packet that came before gets the time at
which it is read, which says nothing about its place among others.
"""

from __future__ import annotations

import socket
import struct
import time

from netlab.kernel import netns
from netlab.kernel.netlink import Socket
from netlab.kernel.rtnl import set_link

LOOPBACK = 1  # the index of lo in a fresh namespace
SO_TIMESTAMPNS = 35
PAUSE = 0.001  # seconds: longer than a packet needs to a socket on this machine, far from none
PATIENCE = 1.0  # seconds


def await_time_stamps() -> None:
    """Return when packets have time stamps, while somebody's socket asks for them; after a second in any case."""
    netns.call_anonymous(_await)


def _await() -> None:
    link = Socket()
    link.request([set_link(LOOPBACK, up=True)])
    link.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind(("127.0.0.1", 0))
        asked.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not _is_stamped(asked):
            pass


def _is_stamped(asked: socket.socket) -> bool:
    """Send a packet to oneself, and read it a moment later: say whether it has the time at which it was sent."""
    sent = time.time_ns()
    asked.sendto(b"", asked.getsockname())
    time.sleep(PAUSE)
    _, ancillary, _, _ = asked.recvmsg(1, 64)
    seconds, rest = struct.unpack("=qq", ancillary[0][2][:16])
    return int(seconds) * 10**9 + int(rest) - sent < PAUSE * 10**9 / 2
