"""Traffic between two pods, of a lab or not, whose content is compared; and what their kernels count.

All sockets wait `DEADLINE` seconds at most, so that what is lost fails a test instead of holding it up.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from netlab.kernel import netns
from netlab.lab import Lab

DEADLINE = 180.0  # seconds; an emulated machine is slow
PIECE = 1 << 18
SO_NO_CHECK, SO_RCVBUFFORCE = 11, 33  # asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h
MTU_DISCOVER, PMTUDISC_DONT = 10, 0  # linux/in.h
BUFFER = 8 << 20

Setup = Callable[[socket.socket], None]


def _as_it_is(_: socket.socket) -> None:
    """Change nothing."""


class Pod(NamedTuple):
    """Where a pod's sockets are opened, and its address."""

    netns: str
    address: str

    def socket(self, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """Open a socket of the address's family."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        opened = netns.call(self.netns, socket.socket, family, kind, protocol)
        opened.settimeout(DEADLINE)
        return opened


def pods(lab: Lab) -> tuple[Pod, Pod]:
    """Return the pods p-1 and p-2, which are on different nodes."""
    one, two = (Pod(lab.netns(name), lab.address(name)) for name in ("p-1", "p-2"))
    return one, two


# --- TCP -------------------------------------------------------------------------------------------------------------


@contextmanager
def connection(source: Pod, target: Pod, setup: Setup = _as_it_is) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Open a TCP connection, both ends after `setup`; yield the ends of source and target."""
    with target.socket() as listening, source.socket() as near:
        for opened in (listening, near):
            setup(opened)
        listening.bind((target.address, 0))
        listening.listen()
        near.connect(listening.getsockname()[:2])
        far, _ = listening.accept()
        with far:
            far.settimeout(DEADLINE)
            yield near, far


def transfer(source: Pod, target: Pod, size: int, *, setup: Setup = _as_it_is, back: int | None = None) -> None:
    """Send random bytes over TCP, `size` there and at the same time `back` (as many) back; they must arrive whole."""
    sizes = (size, size if back is None else back)
    with connection(source, target, setup) as (near, far), ThreadPoolExecutor(4) as pool:
        ways = [(near, far, os.urandom(sizes[0])), (far, near, os.urandom(sizes[1]))]
        sent = [pool.submit(_send, sender, content) for sender, _, content in ways]
        received = [pool.submit(digest_of, receiver) for _, receiver, _ in ways]
        for sending in sent:
            sending.result()
        for (_, _, content), digest in zip(ways, received, strict=True):
            assert digest.result() == hashlib.sha256(content).hexdigest()


def transfer_through(source: Pod, target: Pod, size: int, change: Callable[[], None]) -> None:
    """Send random bytes over TCP, and call `change` when half has arrived: the rest is on its way or must wait."""
    content = os.urandom(size)
    received = hashlib.sha256()
    with connection(source, target, _with_little_room) as (near, far):
        sending = threading.Thread(target=_send, args=(near, content))
        sending.start()
        try:
            count = 0
            while piece := far.recv(PIECE):
                received.update(piece)
                if count < size // 2 <= count + len(piece):
                    assert sending.is_alive(), "all was sent before the change"
                    change()
                count += len(piece)
        finally:
            near.close()
            sending.join()
    assert received.hexdigest() == hashlib.sha256(content).hexdigest()


def _with_little_room(opened: socket.socket) -> None:
    """Keep less in buffers than is still to be sent when half has arrived."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)


def at_once(*flows: Callable[[], None]) -> None:
    """Run functions side by side, each to its end, and raise what the first has raised."""
    with ThreadPoolExecutor(len(flows)) as pool:
        for future in [pool.submit(flow) for flow in flows]:
            future.result()


def _send(opened: socket.socket, content: bytes) -> None:
    opened.sendall(content)
    opened.shutdown(socket.SHUT_WR)


def digest_of(opened: socket.socket) -> str:
    """Return the hash of all that comes."""
    found = hashlib.sha256()
    while piece := opened.recv(PIECE):
        found.update(piece)
    return found.hexdigest()


# --- UDP -------------------------------------------------------------------------------------------------------------


@contextmanager
def datagram_sockets(
    source: Pod, target: Pod, setup: Setup = _as_it_is
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Open a sender after `setup`, connected to a receiver with much room, which waits 5 seconds."""
    with target.socket(socket.SOCK_DGRAM) as receiving, source.socket(socket.SOCK_DGRAM) as sending:
        receiving.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        receiving.bind((target.address, 0))
        receiving.settimeout(5.0)
        setup(sending)
        sending.connect(receiving.getsockname()[:2])
        yield sending, receiving


def datagrams(
    source: Pod, target: Pod, payloads: Sequence[bytes], *, setup: Setup = _as_it_is, window: int = 32
) -> list[bytes]:
    """Send datagrams, `window` of them at once, and return what arrives, in order."""
    found: list[bytes] = []
    with datagram_sockets(source, target, setup) as (sending, receiving):
        for start in range(0, len(payloads), window):
            batch = payloads[start : start + window]
            for payload in batch:
                sending.send(payload)
            if not _receive(receiving, len(batch), found):
                return found
    return found


def train(source: Pod, target: Pod, content: bytes, size: int) -> list[bytes]:
    """Send a content as datagrams of `size` bytes by one call, and return what arrives, in order."""
    found: list[bytes] = []
    with datagram_sockets(source, target) as (sending, receiving):
        sending.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        sending.send(content)
        _receive(receiving, -(-len(content) // size), found)
    return found


def pieces(content: bytes, size: int) -> list[bytes]:
    """Cut a content as UDP_SEGMENT does."""
    return [content[start : start + size] for start in range(0, len(content), size)]


def _receive(receiving: socket.socket, count: int, found: list[bytes]) -> bool:
    """Append what comes, and say whether all did."""
    try:
        for _ in range(count):
            found.append(receiving.recv(65536))
    except TimeoutError:
        return False
    return True


def may_be_fragmented(opened: socket.socket) -> None:
    """Let the kernel cut datagrams that are longer than the path takes."""
    opened.setsockopt(socket.IPPROTO_IP, MTU_DISCOVER, PMTUDISC_DONT)


def without_checksum(opened: socket.socket) -> None:
    """Send datagrams without a checksum (RFC 768)."""
    opened.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)


# --- what kernels count ----------------------------------------------------------------------------------------------

WRONG = ("TcpInCsumErrors", "UdpInCsumErrors", "IcmpInCsumErrors", "IpInHdrErrors", "IpReasmFails")
WRONG_V6 = ("Udp6InCsumErrors", "Icmp6InCsumErrors", "Ip6InHdrErrors", "Ip6ReasmFails")


def counted(name: str) -> dict[str, int]:
    """Return what the kernel counts in a namespace, by the names that `nstat` has for them (RFC 1213)."""
    found: dict[str, int] = {}
    for file in ("snmp", "netstat"):
        lines = _read(name, file).splitlines()
        for head, numbers in zip(lines[::2], lines[1::2], strict=True):
            group, *fields = head.replace(":", "").split()
            found |= zip([group + each for each in fields], map(int, numbers.split()[1:]), strict=True)
    return found | {field: int(number) for field, number in map(str.split, _read(name, "snmp6").splitlines())}


def errors(*among: Pod) -> dict[str, int]:
    """Return the packets that pods' kernels have found damaged."""
    numbers = [counted(pod.netns) for pod in among]
    sums = {field: sum(each[field] for each in numbers) for field in (*WRONG, *WRONG_V6)}
    return {field: number for field, number in sums.items() if number}


def _read(name: str, file: str) -> str:
    return netns.call(name, Path(f"/proc/thread-self/net/{file}").read_text)
