"""One end of the tunnel: what a forwarder holds while it runs, and what all forwarders do alike.

Opened with the privileges that it takes, used without: nothing here is opened again afterwards.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network

from netlab.errors import KernelError
from netlab.kernel import tun
from netlab.supervisor.wake import wake_on
from netlab.tunnel.config import Config
from netlab.tunnel.counters import Counters
from netlab.tunnel.limit import Limit
from netlab.tunnel.packet import Drop
from netlab.tunnel.routes import Peer, Routes

BUFFER = 4 * 2**20  # bytes of the socket's queues
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h: beyond net.core.*mem_max
BUFFERS = ((socket.SO_SNDBUF, SO_SNDBUFFORCE), (socket.SO_RCVBUF, SO_RCVBUFFORCE))
ERRORS, ERRORS_AT_ONCE = 100.0, 50  # ICMP errors a second (RFC 1812 4.3.2.8)
LINES, LINES_AT_ONCE = 0.2, 3  # log lines a second about datagrams that were refused
DROP_REASONS = {
    errno.EMSGSIZE: Drop.TOO_BIG,
    errno.EAGAIN: Drop.QUEUE_FULL,
    errno.ENOBUFS: Drop.QUEUE_FULL,
    errno.ENOMEM: Drop.QUEUE_FULL,
}


class Endpoint:
    """The TUN device, the UDP socket and the peers of one node.

    `tun` and `asked` are descriptors: the device's, and one that can be read when another configuration is there.
    """

    def __init__(
        self, config: Config, counters: Counters, reload: Callable[[Endpoint], None], *, vnet: bool = False
    ) -> None:
        """Open everything in this process's network namespace; with `vnet`, packets have a virtio_net_hdr.

        `reload` is called after a SIGHUP, and may call `configure`. Raises NetlabError that names what cannot be had.
        """
        self.counters = counters
        self.source = config.source
        self.socket = _open_socket(config)
        self.tun = _open_device(config.device, tun.IFF_VNET_HDR if vnet else 0)
        self.asked = wake_on(signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # held back until now (supervisor.spawn)
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        self._reload = reload
        self.followers: list[Callable[[], None]] = []  # called after each `configure`
        self._errors, self._lines = Limit(ERRORS, ERRORS_AT_ONCE), Limit(LINES, LINES_AT_ONCE)
        self._silent = 0  # refusals since the last line
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take other peers and another MTU in. Raises ValueError where two peers hold one podCIDR."""
        self.mtu = config.mtu
        self.routes = Routes(_with_itself(peer) for peer in config.peers)
        self._places = {id(peer): (str(peer.address), config.port) for peer in self.routes.peers}
        for follow in self.followers:
            follow()

    def reload(self) -> None:
        """Take in the configuration, and count to the end, as a SIGHUP asks. Raises BlockingIOError where none has."""
        os.read(self.asked, 4096)
        self._reload(self)
        self.counters.updated()

    def place_of(self, peer: Peer) -> tuple[str, int]:
        """Return where a peer of `routes` receives, as `sendto` takes it."""
        return self._places[id(peer)]

    def drop(self, reason: Drop, error: bytes | None = None) -> None:
        """Count a packet that is not forwarded, and send the ICMP error about it, if there is one, within the limit.

        It goes out by a socket: the kernel refuses packets of its own address that come in by a device.
        """
        self.counters.dropped(reason)
        if error and self._errors.allows(time.monotonic()):
            destination = socket.inet_ntoa(error[16:20])
            try:
                self._raw.sendto(error, (destination, 0))
            except OSError:
                return  # no way back: a router's error about an error is no better

    def refuse(self, reason: Drop, sender: str) -> None:
        """Count a datagram that is not let in, and say so in the log now and then."""
        self.counters.dropped(reason)
        if not self._lines.allows(time.monotonic()):
            self._silent += 1
            return
        more = f" ({self._silent} more were not listed)" if self._silent else ""
        self._silent = 0
        print(f"refused a datagram from {sender}: {reason}{more}", file=sys.stderr, flush=True)


def drop_reason(refusal: OSError) -> Drop:
    """Return what a write or send that failed is counted as."""
    return DROP_REASONS.get(refusal.errno or 0, Drop.REFUSED)


def _with_itself(peer: Peer) -> Peer:
    """Let a peer speak for its own address too: without masquerade a node answers pods with it."""
    return replace(peer, pod_cidrs=(*peer.pod_cidrs, IPv4Network(peer.address)))


def _open_socket(config: Config) -> socket.socket:
    """Return the UDP socket, bound. IP_MTU_DISCOVER stays the kernel's: DF on what fits, fragments of what does not."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    for option, beyond_limit in BUFFERS:
        try:
            opened.setsockopt(socket.SOL_SOCKET, beyond_limit, BUFFER)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    try:
        opened.bind((str(config.local), config.port))
    except OSError as exc:
        opened.close()
        why = {
            errno.EADDRINUSE: "another program has it; `ss -ulpn` on the node says which",
            errno.EADDRNOTAVAIL: "the node does not have this address; `netlab up` gives it back",
        }
        operation = f"receive on UDP port {config.port} of {config.local}"
        raise KernelError(exc.errno, operation, why.get(exc.errno or 0, "")) from exc
    return opened


def _open_device(name: str, flags: int) -> int:
    """Return a descriptor of the TUN device. It must exist: one made here would end with this process."""
    try:
        socket.if_nametoindex(name)
    except OSError as exc:
        raise KernelError(errno.ENODEV, f"attach to the TUN device {name}", "`netlab up` makes it") from exc
    fd = tun.attach(name, flags)
    os.set_blocking(fd, False)
    return fd
