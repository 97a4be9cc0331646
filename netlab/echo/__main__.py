"""The echo server as a process: `python -m netlab.echo --port 8080/TCP --port 53/UDP ...`.

NETLAB_POD, NETLAB_NAMESPACE and NETLAB_NODE say who it is; without the first it is HOSTNAME. A thousand pods may run
it, so it needs nothing of site-packages (`python -S -P`) and imports little. After a SIGTERM it serves on for as long
as connections still come: until every node knows that the pod ends, its Service sends some here. Where the kernel has
no SCTP it says so and serves its other ports.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence

from netlab.echo.talk import Echo, EchoStream
from netlab.serve.loop import Ends, Limits, Server
from netlab.serve.ports import NoProtocol, PortRefused, open_port

USAGE = "usage: python -m netlab.echo [--port PORT/TCP|UDP|SCTP]..."
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
QUIET, LONGEST = 0.3, 5.0  # seconds: how long a drain waits for one more connection, and takes at most
IDLE = 60.0  # seconds
STREAMS = 4096
OTHERS = 64  # descriptors that are no streams

Port = tuple[int, str]


def main(arguments: Sequence[str]) -> int:
    """Serve until a SIGTERM, and then until nobody comes any more."""
    ports = find_ports(arguments)
    if ports is None:
        print(USAGE, file=sys.stderr)
        return 2
    server = Server(Limits(streams=_descriptors() - OTHERS, idle=IDLE))
    echo = Echo(
        os.environ.get("NETLAB_POD") or os.environ.get("HOSTNAME") or socket.gethostname(),
        os.environ.get("NETLAB_NAMESPACE") or "default",
        os.environ.get("NETLAB_NODE", ""),
        lambda: server.is_draining,
    )
    _drain_on_sigterm(server)
    opened = []
    try:
        for port, protocol in ports:
            try:
                opened.append(_open(server, echo, port, protocol))
            except NoProtocol as exc:  # its other ports can be served, and to start again would not help
                _tell(exc)
        server.run()
    except PortRefused as exc:
        _tell(exc)
        return 1
    except KeyboardInterrupt:  # started by hand
        return INTERRUPTED
    finally:
        for sock in opened:
            sock.close()
    return 0


def _tell(problem: PortRefused) -> None:
    print(f"echo: {problem}", file=sys.stderr, flush=True)


def find_ports(arguments: Sequence[str]) -> list[Port] | None:
    """Return the ports that the arguments name, once each; None when they cannot be read."""
    found: dict[Port, None] = {}
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--port":
            return None
        number, _, protocol = (value if equals else next(words, "")).partition("/")
        protocol = protocol.upper() or "TCP"
        if not (number.isascii() and number.isdecimal() and 0 < int(number[:6]) <= 0xFFFF):
            return None
        if protocol not in ("TCP", "UDP", "SCTP"):
            return None
        found[int(number), protocol] = None
    return list(found)


def _open(server: Server, echo: Echo, port: int, protocol: str) -> socket.socket:
    opened = open_port(protocol, port)
    if protocol == "UDP":
        server.add_datagrams(opened, echo.datagrams(port))
        return opened

    def converse(ends: Ends) -> EchoStream:
        return EchoStream(echo, ends, protocol)

    server.add_streams(opened, converse)
    return opened


def _drain_on_sigterm(server: Server) -> None:
    """Let a SIGTERM, which does not wake epoll up by itself, arrive as a byte."""
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(sender)
    signal.signal(signal.SIGTERM, lambda number, frame: None)

    def drain(_: int) -> None:
        if signal.SIGTERM in os.read(receiver, 64):
            server.drain(quiet=QUIET, longest=LONGEST)

    server.add(receiver, drain)


def _descriptors() -> int:
    """Take as many descriptors as STREAMS need, or as this process may have, and return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = STREAMS + OTHERS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(2 * OTHERS, min(soft, wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
