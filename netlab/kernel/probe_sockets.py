"""The sockets of `netlab.kernel.probe`: opened inside the source's namespace, used outside.

One raw ICMP or ICMPv6 socket for each namespace and IP version, one more where packets of a given size are sent, one
TCP socket for each connection.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from netlab.check import packets
from netlab.errors import KernelError, NotSupported
from netlab.kernel import netns
from netlab.topology.model import Address, CheckProtocol

if TYPE_CHECKING:
    from netlab.check.model import Probe

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
BUFFER_BYTES = 4 << 20
SPARE_DESCRIPTORS = 64
DISCARD = 9  # RFC 863: the port of those who want nothing to happen

# Constants that Python's socket module lacks (linux/in.h, linux/in6.h, linux/icmp.h, asm-generic/socket.h).
SOL_RAW, ICMP_FILTER, ICMPV6_FILTER = 255, 1, 1
MTU_DISCOVER, PMTUDISC_PROBE = {4: 10, 6: 23}, 3
RECVERR = {4: 11, 6: 25}
IPV6_DONTFRAG = 62
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 32, 33, 35


class Channel(NamedTuple):
    """What a raw socket is for: a source namespace, an IP version, packets of a given size or the usual ones."""

    netns: str
    version: int
    sized: bool


Sockets = dict[Channel | int, socket.socket]  # raw ones by what they are for, TCP ones by their probe's index


def socket_of(index: int, probe: Probe) -> Channel | int:
    """Return the key of the socket that a probe leaves by."""
    if probe.protocol is CheckProtocol.TCP:
        return index
    return Channel(probe.source.netns, probe.family, probe.size is not None)


@contextmanager
def open_all(probes: Mapping[int, Probe]) -> Iterator[Sockets]:
    """Open the sockets of all probes, each in its source's namespace, and close them at the end.

    Raises KernelError where a namespace is missing, NotSupported without the right to enter it or to open raw sockets.
    """
    by_netns: dict[str, dict[Channel | int, Probe]] = defaultdict(dict)
    for index, probe in probes.items():
        by_netns[probe.source.netns][socket_of(index, probe)] = probe
    sockets: Sockets = {}

    def inside(name: str) -> None:
        for key, probe in by_netns[name].items():
            sockets[key] = _open_raw(probe.family, key.sized) if isinstance(key, Channel) else _open_tcp(probe.family)

    try:
        _enter_each(by_netns, inside)
        yield sockets
    finally:
        for opened in sockets.values():
            opened.close()


def _enter_each(names: Iterable[str], inside: Callable[[str], None]) -> None:
    try:
        netns.call_each(names, inside)
    except KernelError as exc:
        if exc.errno == errno.EPERM:
            raise _no_right() from exc
        hint = "the lab is not up, or not wholly: run `netlab up` on its file"
        raise KernelError(exc.errno, exc.operation, exc.reason, hint) from exc
    except PermissionError as exc:
        raise _no_right() from exc
    except OSError as exc:
        raise KernelError(exc.errno or errno.EIO, "open a socket to probe with") from exc


def _no_right() -> NotSupported:
    return NotSupported(
        "the right to send from a lab's namespaces (CAP_SYS_ADMIN and CAP_NET_RAW)", "check", "run as root"
    )


def _open_raw(version: int, sized: bool) -> socket.socket:
    """Open a raw ICMP socket that receives echo replies and errors only, with the time at which each came in."""
    raw = socket.socket(FAMILY[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, packets.PROTOCOL[version])
    if version == 4:
        raw.setsockopt(SOL_RAW, ICMP_FILTER, packets.socket_filter(4))
    else:
        raw.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, packets.socket_filter(6))
    raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    _enlarge(raw, SO_RCVBUFFORCE, socket.SO_RCVBUF)
    _enlarge(raw, SO_SNDBUFFORCE, socket.SO_SNDBUF)
    if sized:
        _forbid_fragments(raw, version)
    return raw


def _enlarge(raw: socket.socket, forced: int, asked: int) -> None:
    """Set a buffer's size beyond the system's limit where that is allowed, and up to it where it is not."""
    try:
        raw.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
    except PermissionError:
        raw.setsockopt(socket.SOL_SOCKET, asked, BUFFER_BYTES)


def _forbid_fragments(opened: socket.socket, version: int) -> None:
    """Send with don't-fragment, and pay no heed to path MTUs that the namespace has learned.

    A router's "frag needed" is remembered for ten minutes (net.ipv4.route.mtu_expires). With PMTUDISC_DO a second probe
    would be refused at home, in other words, and a probe after the repair would be refused still; with PMTUDISC_PROBE
    only the own link's MTU counts, and every probe asks the way anew (ip(7)).
    """
    opened.setsockopt(LEVEL[version], MTU_DISCOVER[version], PMTUDISC_PROBE)
    if version == 6:
        opened.setsockopt(LEVEL[6], IPV6_DONTFRAG, 1)


def _open_tcp(version: int) -> socket.socket:
    """Open a TCP socket that remembers who answered its SYN with an ICMP error."""
    tcp = socket.socket(FAMILY[version], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    tcp.setsockopt(LEVEL[version], RECVERR[version], 1)
    return tcp


def take_error(opened: socket.socket, version: int) -> packets.ExtendedError | None:
    """Take the oldest entry off a socket's error queue; None when there is none."""
    with suppress(OSError):
        _, ancillary, _, _ = opened.recvmsg(1, 512, socket.MSG_ERRQUEUE)
        for level, kind, payload in ancillary:
            if level == LEVEL[version] and kind == RECVERR[version]:
                return packets.parse_extended_error(payload)
    return None


def link_mtu(version: int, address: Address) -> int:
    """Return the MTU of the link that packets to an address leave by; 0 when it takes every size.

    The calling thread is in the source's namespace. A datagram of the largest size makes the kernel tell, unsent.
    """
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as opened:
        _forbid_fragments(opened, version)
        opened.setsockopt(LEVEL[version], RECVERR[version], 1)
        with suppress(OSError):
            opened.sendto(bytes(packets.LARGEST - packets.SMALLEST[version]), (str(address), DISCARD))
        found = take_error(opened, version)
    return found.mtu if found and found.errno == errno.EMSGSIZE else 0


def free_descriptors(wanted: int) -> int:
    """Return how many sockets this process may open, after raising its limit where `wanted` needs that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) + SPARE_DESCRIPTORS
    if soft - used < wanted and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max(1, soft - used)


def groups(probes: Mapping[int, Probe], free: int) -> Iterator[dict[int, Probe]]:
    """Split probes, source by source, into groups that need at most `free` sockets each."""
    group: dict[int, Probe] = {}
    sockets: set[Channel | int] = set()
    for index, probe in sorted(probes.items(), key=lambda item: item[1].source.netns):
        key = socket_of(index, probe)
        if key not in sockets and len(sockets) >= free:
            yield group
            group, sockets = {}, set()
        group[index] = probe
        sockets.add(key)
    if group:
        yield group
