"""What the paths to peers take, for packets that the programs send past the sockets (RFC 1191).

A socket's packets are made into fragments where the kernel has learned of a narrow path; the programs' would be lost.
So this listens to what routers say, and looks at the uplink's own MTU.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from ipaddress import IPv4Address

from netlab.errors import KernelError
from netlab.tunnel.packet import ICMP, UDP

SIOCGIFMTU = 0x8921  # linux/sockios.h
SOL_RAW, ICMP_FILTER = 255, 1  # linux/icmp.h
UNREACHABLE, FRAGMENTATION_NEEDED = 3, 4  # RFC 792: type and code
VALID = 600.0  # seconds: RFC 1191 section 6.3, and net.ipv4.route.mtu_expires
LEAST = 68  # bytes: RFC 791

_IFREQ = struct.Struct("16si20x")  # name, MTU


class Paths:
    """The MTUs of the paths from one node to its peers, as far as anybody has said."""

    def __init__(self, uplink: str, port: int) -> None:
        """Begin to listen to the ICMP errors about datagrams from a port. Raises OSError."""
        self._uplink = uplink
        self._port = port
        self._learned: dict[IPv4Address, tuple[int, float]] = {}  # MTU, and since when
        self._errors = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, ICMP)
        self._errors.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", ~(1 << UNREACHABLE) & 0xFFFF_FFFF))

    def fileno(self) -> int:
        """Return the descriptor that can be read when a router has said something."""
        return self._errors.fileno()

    def take_news(self) -> bool:
        """Say whether a path has been found to be narrow."""
        changed = False
        while True:
            try:
                found = read_error(self._errors.recv(2048), self._port)
            except BlockingIOError:
                return changed
            if found:
                peer, mtu = found
                self._learned[peer] = max(mtu, LEAST), time.monotonic()
                changed = True

    def mtu(self, peer: IPv4Address) -> int:
        """Return the longest IP packet that goes to a peer, in bytes. Raises KernelError when the uplink is gone."""
        named = _IFREQ.pack(self._uplink.encode(), 0)
        try:
            _, own = _IFREQ.unpack(fcntl.ioctl(self._errors, SIOCGIFMTU, named))
        except OSError as exc:
            raise KernelError(exc.errno, f"the interface {self._uplink} is gone", "`netlab up` makes it") from exc
        learned, since = self._learned.get(peer, (own, 0.0))
        return min(own, learned) if time.monotonic() - since < VALID else int(own)

    def close(self) -> None:
        """Stop listening."""
        self._errors.close()


def read_error(message: bytes, port: int) -> tuple[IPv4Address, int] | None:
    """Return whither a datagram from a port was too long, and the MTU there, if that is what an IPv4 packet says."""
    start = (message[0] & 0x0F) * 4
    if len(message) < start + 36 or message[start : start + 2] != bytes([UNREACHABLE, FRAGMENTATION_NEEDED]):
        return None
    quoted = message[start + 8 :]
    if quoted[0] != 0x45 or quoted[9] != UDP or quoted[20:22] != port.to_bytes(2, "big"):
        return None
    return IPv4Address(quoted[16:20]), int.from_bytes(message[start + 6 : start + 8], "big")
