"""Packets seen by packet sockets, where there may be no eBPF: one socket for each namespace, in one loop (packet(7)).

They see a packet where the tracepoints do, but neither that it was dropped nor whose memory it is in. A filter in the
kernel lets through what may be the probe's or its answer's (`candidates`); `Known` then decides as the programs of
`dissect` do: the cookie makes addresses and ports known, and those of the answer.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.timestamps import await_time_stamps
from netlab.trace.headers import (
    ICMP_ECHOES,
    TCP,
    Headers,
    Icmp,
    Ip,
    Ports,
    Quote,
    Tcp,
    Udp,
    fragment_offset,
    innermost,
    parse,
)
from netlab.trace.layout import SNAP, Direction, Kind, Target
from netlab.trace.mark import ACKNOWLEDGED, PLAIN, following
from netlab.trace.sighting import Sighting

ETH_P_ALL = 0x0003
SO_TIMESTAMPNS, SO_ATTACH_FILTER, SO_RCVBUFFORCE = 35, 26, 33
QUEUE = 4 << 20  # bytes
BARE = (65534, 768, 769, 778)  # linux/if_arp.h: ARPHRD_NONE (TUN), TUNNEL (ipip), TUNNEL6, IPGRE: no frame
ETHERNET = 14
IP_TYPES = (0x0800, 0x86DD)
SECOND = 10**9

LOAD_WORD, LOAD_HALF, EQUAL, RETURN = 0x20, 0x28, 0x15, 0x06
NETWORK_HEADER = 0xFFF0_0000  # SKF_NET_OFF: offsets from here on count from the network header
TUNNEL_STARTS = tuple(outer + inside for outer in (20, 40) for inside in (0, 8, 8 + 8 + 14))
HEADERS = (20, 40)
REPLY_PORT = 2  # where the destination port is


class PacketWatch:
    """Packet sockets in namespaces. Use it in a `with` statement; raises KernelError."""

    seen_by = "packet sockets, which do not see drops"
    tells_at_end = False
    reasons: Mapping[int, str] = {}

    def __init__(self, target: Target, namespaces: Iterable[str], ports: Ports, reply_port: int) -> None:
        self._ports = ports
        self._known = Known(target.cookie)
        self._sockets: dict[str, socket.socket] = {}
        self._stack = ExitStack()
        program = filter_program(target.cookie, reply_port)
        with self._stack:
            for name in namespaces:
                self._sockets[name] = opened = netns.call(name, _open, name, program)
                self._stack.callback(opened.close)
            await_time_stamps()
            self._stack = self._stack.pop_all()

    def take(self) -> list[Sighting]:
        """Return what was seen since the last call, in the order in which it was."""
        found = [one for name, opened in self._sockets.items() for one in self._received(name, opened)]
        found.sort(key=lambda one: one.time)
        return [known for one in found if (known := self._known.recognize(one))]

    def _received(self, name: str, opened: socket.socket) -> Iterator[Sighting]:
        while True:
            try:
                content, ancillary, _, (device, kind, direction, hardware, _) = opened.recvmsg(SNAP + ETHERNET, 64)
            except BlockingIOError:
                return
            if kind not in IP_TYPES:
                continue
            time = next((_time(value) for level, what, value in ancillary if what == SO_TIMESTAMPNS), 0)
            start = 0 if hardware in BARE else ETHERNET
            frame, packet = content[:start], content[start:]
            went = Kind.OUT if direction == socket.PACKET_OUTGOING else Kind.IN
            headers = parse(packet, frame, self._ports)
            yield Sighting(time, went, name, device, 0, headers, frame, packet, len(content))

    def rest(self) -> list[Sighting]:
        """Return what was seen since then, at the end."""
        return self.take()

    def close(self) -> None:
        """Close the sockets."""
        self._stack.close()

    def __enter__(self) -> PacketWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Known:
    """What the probe is known by: the cookie, then its addresses and ports, however they are translated."""

    def __init__(self, cookie: bytes) -> None:
        self._cookie = cookie
        self._number = int.from_bytes(cookie, "big")
        self._flows: dict[tuple[object, ...], Direction] = {}
        self._cut: dict[tuple[object, ...], Direction] = {}

    def recognize(self, one: Sighting) -> Sighting | None:
        """Return a sighting with its direction; None when it is of another packet."""
        direction = self._direction(one)
        if direction is None:
            return None
        for header in one.headers:
            if isinstance(header, Ip) and header.more_fragments and not header.offset:
                self._cut.setdefault((header.src, header.dst, header.ident, header.protocol), direction)
        return replace(one, direction=direction)

    def _direction(self, one: Sighting) -> Direction | None:
        if fragment_offset(one.headers):
            last = next(header for header in one.headers if isinstance(header, Ip) and header.offset)
            return self._cut.get((last.src, last.dst, last.ident, last.protocol))
        inner = innermost(one.headers)
        if Quote() in one.headers:
            quoted = one.headers[one.headers.index(Quote()) + 1 :]
            key = _flow(quoted)
            return self._flows.get(key) if key else None
        key = _flow(inner)
        if key is None:
            return None
        if self._has_cookie(one, inner):
            self._learn(key, Direction.THERE, Direction.BACK)
            return Direction.COOKIE
        if isinstance(inner[1], Tcp) and inner[1].ack == (self._number + 1) & 0xFFFF_FFFF:
            self._learn(key, Direction.BACK, Direction.THERE)
        return self._flows.get(key)

    def _learn(self, key: tuple[object, ...], own: Direction, answers: Direction) -> None:
        src, dst, sport, dport, protocol = key
        self._flows.setdefault(key, own)
        self._flows.setdefault((dst, src, dport, sport, protocol), answers)

    def _has_cookie(self, one: Sighting, inner: Headers) -> bool:
        if isinstance(inner[1], Tcp):
            return inner[1].seq == self._number
        return self._cookie in one.packet


def _flow(packet: Headers) -> tuple[object, ...] | None:
    ip, rest = (*packet, None, None)[:2]
    if not isinstance(ip, Ip):
        return None
    match rest:
        case Tcp(sport=sport, dport=dport) | Udp(sport=sport, dport=dport):
            return ip.src, ip.dst, sport, dport, ip.protocol
        case Icmp(type=kind, ident=ident) if kind in ICMP_ECHOES.get(ip.protocol, ()):
            return ip.src, ip.dst, ident, ident, ip.protocol
    return None


def _time(value: bytes) -> int:
    seconds, rest = struct.unpack("=qq", value[:16])
    return int(seconds) * SECOND + int(rest)


# --- the filter in the kernel ----------------------------------------------------------------------------------------


def candidates(cookie: bytes, reply_port: int) -> list[tuple[int, int, int]]:
    """Return where behind the network header what stands in a packet that may be meant: offset, size, number."""
    number, next_number = (int.from_bytes(one, "big") for one in (cookie, following(cookie)))
    places = {
        (offset, next_number if (protocol, offset) == (TCP, ACKNOWLEDGED) else number) for protocol, offset in PLAIN
    }
    quoted = {(8 + header + offset, value) for header in HEADERS for offset, value in places if value == number}
    found = set()
    for start in (0, *TUNNEL_STARTS):
        for header in HEADERS:
            found |= {(start + header + offset, 4, value) for offset, value in places | quoted}
            if reply_port:
                found.add((start + header + REPLY_PORT, 2, reply_port))
    return sorted(found)


def filter_program(cookie: bytes, reply_port: int) -> list[tuple[int, int, int, int]]:
    """Return a program of classic BPF: (code, jump if true, jump if false, operand).

    Places are asked in their order, for what is loaded from behind the end of a packet refuses it.
    """
    program: list[tuple[int, int, int, int]] = []
    for offset, size, value in candidates(cookie, reply_port):
        program.append((LOAD_WORD if size == 4 else LOAD_HALF, 0, 0, NETWORK_HEADER + offset))
        program.append((EQUAL, 0, 1, value))
        program.append((RETURN, 0, 0, SNAP + ETHERNET))
    return [*program, (RETURN, 0, 0, 0)]


def _open(name: str, program: list[tuple[int, int, int, int]]) -> socket.socket:
    """Open a socket that gets nothing until the filter is attached, in this thread's namespace."""
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"open a packet socket in {name}") from exc
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
    opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    try:
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE)
    except PermissionError:  # in a user namespace
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
    place = struct.pack("=HHi12x", socket.AF_PACKET, socket.htons(ETH_P_ALL), 0)  # struct sockaddr_ll: every device
    netns.syscall("bind", opened.fileno(), place, len(place))
    return opened
