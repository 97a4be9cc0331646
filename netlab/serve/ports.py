"""Opening a port on every address of a namespace, by IPv6 and IPv4, or by IPv4 alone where IPv6 is off."""

from __future__ import annotations

import errno
import socket

WILDCARDS = ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0"))
NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
BACKLOG = 1024
RECEIVE_BUFFER = 1 << 20  # bytes; the kernel gives at most net.core.rmem_max
IP_PKTINFO = 8  # linux/in.h; Python's socket module does not have it
MAPPED = "::ffff:"  # how a dual-stack socket writes an IPv4 address (RFC 4291, 2.5.5.2)


class PortRefused(Exception):
    """A port cannot be opened; the message says which and why."""


class NoProtocol(PortRefused):
    """No port of this protocol can be opened: the kernel does not have it."""


def open_port(protocol: str, port: int) -> socket.socket:
    """Return a non-blocking socket that listens to TCP or SCTP, or takes UDP, on every address. Raises PortRefused."""
    try:
        return _open(protocol, port)
    except OSError as exc:
        refusal = NoProtocol if exc.errno == errno.EPROTONOSUPPORT else PortRefused
        raise refusal(f"cannot listen on port {port}/{protocol}: {exc.strerror}{_advice(exc, protocol)}") from exc


def plain_address(text: str) -> str:
    """Return an address without the marks of a dual-stack socket and of a link."""
    return text.removeprefix(MAPPED).partition("%")[0]


def _open(protocol: str, port: int) -> socket.socket:
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    number = socket.IPPROTO_SCTP if protocol == "SCTP" else 0
    for family, address in WILDCARDS:
        opened = None
        try:
            opened = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
            _configure(opened, protocol)
            opened.bind((address, port))
            if protocol != "UDP":
                opened.listen(BACKLOG)
        except OSError as exc:
            if opened is not None:
                opened.close()
            if family == socket.AF_INET or exc.errno not in NO_IPV6:
                raise
        else:
            return opened
    raise AssertionError  # the last family returns or raises


def _configure(opened: socket.socket, protocol: str) -> None:
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if protocol != "UDP":
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def _advice(exc: OSError, protocol: str) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return " (another process has it; a hostNetwork pod shares its node's ports)"
        case errno.EACCES:
            return " (ports below 1024 need root)"
        case errno.EPROTONOSUPPORT if protocol == "SCTP":
            return " (this kernel has no SCTP; `modprobe sctp`, or another protocol)"
    return ""
