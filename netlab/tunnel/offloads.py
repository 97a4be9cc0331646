"""What the kernel lets a forwarder do for many packets at once: probed, and switched on."""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from netlab.kernel import tun

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h


class Offloads(NamedTuple):
    """Parts of the kernel, each of which a forwarder can do without, slower."""

    uso: bool  # UDP's super-packets by the TUN device
    segment: bool  # one send for many datagrams
    gro: bool  # one receive for many datagrams

    def __str__(self) -> str:
        """Say what is missing, as in "no UDP_GRO (Linux 5.0)"; nothing when all is there."""
        since = {"USO by TUN (Linux 6.2)": self.uso, "UDP_SEGMENT (Linux 4.18)": self.segment}
        since["UDP_GRO (Linux 5.0)"] = self.gro
        missing = [part for part, there in since.items() if not there]
        return f"no {', no '.join(missing)}" if missing else ""


def enable(device: int, endpoint: socket.socket) -> Offloads:
    """Switch on what there is: for a TUN device that was opened with IFF_VNET_HDR, and for a UDP socket."""
    return Offloads(
        uso=tun.set_offloads(device),
        segment=_has_option(endpoint, UDP_SEGMENT, 0),  # each send says its own size
        gro=_has_option(endpoint, UDP_GRO, 1),
    )


def _has_option(endpoint: socket.socket, option: int, value: int) -> bool:
    try:
        endpoint.setsockopt(SOL_UDP, option, value)
    except OSError as exc:
        if exc.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True
