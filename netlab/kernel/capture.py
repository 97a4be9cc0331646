"""Frames on interfaces of namespaces, as packet sockets see them (packet(7)).

`Capture` sees one interface and has each frame at once. `Captures` sees many namespaces in one loop, in the order of
time, and at rates that need the rings of `packet_ring`.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import NamedTuple

from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.packet_ring import RETIRE, Instructions, PacketRing

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
            raise _absent(netns_name, interface) from exc
        raise KernelError(exc.errno, f"{netns_name}: capture on {interface}") from exc
    return opened


def _absent(netns_name: str, interface: str) -> KernelError:
    """Say what interfaces there are instead, in this thread's namespace."""
    present = ", ".join(name for _, name in socket.if_nameindex())
    return KernelError(errno.ENODEV, f"{netns_name}: capture on {interface}", f"it has {present}")


# --- many namespaces in one loop -------------------------------------------------------------------------------------

ROOM = 256 << 20  # bytes of all rings
MOST, LEAST = 16 << 20, 2 << 20  # bytes of one ring
LATE = 3 * RETIRE  # ms after which no ring has anything older: its timer may come late
SIOCGIFHWADDR = 0x8927
IFREQ = struct.Struct("16sH22x")
GONE = "gone"  # the name of an interface that was away before it could be asked for
TIME = itemgetter(0)


class Interface(NamedTuple):
    """An interface that frames are of. `bare`: they are IP packets with nothing around."""

    namespace: str
    name: str
    bare: bool


class Packet(NamedTuple):
    """A frame at the interface of this number. `time`: nanoseconds since 1970; `length`: bytes before it was cut."""

    time: int
    interface: int
    outgoing: bool
    content: bytes
    length: int


class Captures:
    """Open captures of an interface, or of all (None), in each of some namespaces. Raises KernelError.

    `everywhere`: a namespace without the interface is an error. Use it in a `with` statement.
    """

    def __init__(
        self, namespaces: Sequence[str], interface: str | None, program: Instructions, *, everywhere: bool
    ) -> None:
        self.interfaces: list[Interface] = []  # in the order of their numbers; more may come
        self.received: list[int] = []  # packets, by interface
        self.last_news = time.monotonic()
        self._numbers: dict[str, dict[int, int]] = {}  # by namespace and index
        self._rings: dict[str, PacketRing] = {}
        self._dropped: dict[str, int] = {}
        self._waiting: list[Packet] = []  # for what may still come from before them
        self._poll = select.poll()
        size = min(max(ROOM // max(len(namespaces), 1), LEAST), MOST)
        with ExitStack() as stack:
            stack.callback(self.close)
            netns.call_each(namespaces, lambda name: self._add(name, interface, size, program, everywhere))
            if not self._rings:
                raise netns.call(namespaces[0], _absent, namespaces[0], interface or "any interface")
            stack.pop_all()

    def _add(self, namespace: str, interface: str | None, size: int, program: Instructions, everywhere: bool) -> None:
        """Open the ring of the namespace that this thread is in."""
        present = {name: index for index, name in socket.if_nameindex()}
        if interface is not None and interface not in present:
            if everywhere:
                raise _absent(namespace, interface)
            return
        wanted = present if interface is None else {interface: present[interface]}
        index = 0 if interface is None else present[interface]
        try:
            ring = PacketRing(ifindex=index, size=size, program=program)
        except OSError as exc:
            raise KernelError(exc.errno, f"{namespace}: capture on {interface or 'all interfaces'}") from exc
        self._rings[namespace], self._dropped[namespace], self._numbers[namespace] = ring, 0, {}
        self._poll.register(ring.fileno(), select.POLLIN)
        for name, index in wanted.items():
            self._number(namespace, index, name, bare=_is_bare(ring, name))

    def _number(self, namespace: str, index: int, name: str, *, bare: bool) -> int:
        self._numbers[namespace][index] = number = len(self.interfaces)
        self.interfaces.append(Interface(namespace, name, bare))
        self.received.append(0)
        return number

    def wait(self, seconds: float, others: Mapping[int, int]) -> set[int]:
        """Wait until there is something to take, or for an event of poll(2) on other descriptors: return these."""
        for descriptor, events in others.items():
            self._poll.register(descriptor, events)
        timeout = min(seconds, LATE / 1000) if self._waiting else seconds
        ready = dict(self._poll.poll(max(timeout, 0) * 1000))
        for descriptor in others:
            self._poll.unregister(descriptor)
        if any(ready[each] & select.POLLERR for each in ready.keys() - others.keys()):
            for ring in self._rings.values():
                ring.clear_error()
        return ready.keys() & others.keys()

    def take(self, *, last: bool = False) -> list[Packet]:
        """Return what was seen, in the order of time. What is so new that older may still come is kept back.

        `last`: return that too.
        """
        ripe = time.time_ns() - LATE * 1_000_000
        before = len(self._waiting)
        for namespace, ring in self._rings.items():
            self._waiting.extend(self._numbered(namespace, ring))
        if len(self._waiting) > before:
            self.last_news = time.monotonic()
        self._waiting.sort(key=TIME)
        end = len(self._waiting) if last else bisect_left(self._waiting, ripe, key=TIME)
        taken, self._waiting = self._waiting[:end], self._waiting[end:]
        return taken

    def finish(self) -> list[Packet]:
        """Return the rest, once the kernel has handed it over."""
        time.sleep(2 * RETIRE / 1000)
        return self.take(last=True)

    def _numbered(self, namespace: str, ring: PacketRing) -> Iterator[Packet]:
        numbers, received, make = self._numbers[namespace], self.received, Packet._make
        for when, index, hardware, kind, content, length in ring.take():
            number = numbers.get(index)
            if number is None:
                number = self._number(namespace, index, _find_name(namespace, index), bare=hardware not in FRAMED)
            received[number] += 1
            yield make((when, number, kind == socket.PACKET_OUTGOING, content, length))

    def dropped(self) -> dict[str, int]:
        """Return how many packets the kernel had no room for until now, by namespace."""
        for namespace, ring in self._rings.items():
            self._dropped[namespace] += ring.dropped()
        return dict(self._dropped)

    def close(self) -> None:
        """End them, several at once: the kernel takes up to 10 ms for one."""
        with ThreadPoolExecutor(16) as several:
            list(several.map(PacketRing.close, self._rings.values()))
        self._rings = {}

    def __enter__(self) -> Captures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_bare(ring: PacketRing, name: str) -> bool:
    """Say whether an interface's packets have no frame, in this thread's namespace."""
    try:
        answer = fcntl.ioctl(ring.fileno(), SIOCGIFHWADDR, IFREQ.pack(name.encode(), 0))
    except OSError:  # it has just gone
        return False
    return IFREQ.unpack(answer)[1] not in FRAMED


def _find_name(namespace: str, index: int) -> str:
    try:
        return netns.call(namespace, socket.if_indextoname, index)
    except (OSError, KernelError):
        return GONE
