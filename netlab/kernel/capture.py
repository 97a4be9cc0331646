"""Frames on an interface of a namespace, as a packet socket sees them (packet(7))."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from netlab.errors import KernelError
from netlab.kernel import netns

ETH_P_ALL = 0x0003
SO_TIMESTAMPNS = 35
SNAPLEN = 65536
BUFFER = 8 << 20  # bytes; a burst waits here until it is read
FRAMED = (1, 772)  # linux/if_arp.h: ARPHRD_ETHER, ARPHRD_LOOPBACK; frames of both begin with an Ethernet header


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `when` is seconds since the epoch by the kernel's clock, `outgoing` as the interface saw it.

    `bare` says that it is an IP packet with no frame around it: those of ipip and TUN devices are.
    """

    when: float
    outgoing: bool
    payload: bytes
    bare: bool = False


class Capture:
    """An open capture: frames are kept by the kernel from the moment it is made."""

    def __init__(self, netns_name: str, interface: str) -> None:
        self._socket = netns.call(netns_name, _open, netns_name, interface)

    def frames(self, *, idle: float) -> Iterator[Frame]:
        """Yield frames as they come, until none has come for `idle` seconds."""
        self._socket.settimeout(idle)
        while True:
            try:
                payload, ancillary, _, address = self._socket.recvmsg(SNAPLEN, 64)
            except TimeoutError:
                return
            except OSError as exc:
                if exc.errno == errno.ENETDOWN:  # said once when the interface goes down: it may come up again
                    continue
                raise
            when = time.time()
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds = int.from_bytes(value[:8], "little")
                    when = seconds + int.from_bytes(value[8:16], "little") / 1e9
            yield Frame(when, address[2] == socket.PACKET_OUTGOING, payload, address[3] not in FRAMED)

    def close(self) -> None:
        """End the capture."""
        self._socket.close()


def _open(netns_name: str, interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    try:
        opened.bind((interface, ETH_P_ALL))
    except OSError as exc:
        opened.close()
        if exc.errno in (errno.ENODEV, errno.ENXIO):
            present = ", ".join(name for _, name in socket.if_nameindex())
            raise KernelError(exc.errno, f"{netns_name}: capture on {interface}", f"it has {present}") from exc
        raise KernelError(exc.errno, f"{netns_name}: capture on {interface}") from exc
    return opened
