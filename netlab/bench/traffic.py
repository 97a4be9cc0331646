"""What is sent from pod to pod, and what comes of it: one TCP stream, and one small packet to and fro.

Sockets are opened inside the pods' namespaces and used here. The other end is a forked child, so that the two do not
share Python's lock.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from netlab.errors import NetlabError
from netlab.kernel import netns

CHUNK = bytes(2**18)  # what is written at once
ROOM = 2**20  # what is read at once
SETTLE = 0.2  # of the seconds: what arrives before is not counted
PAYLOAD = bytes(64)
ROUND_TRIPS = 500
PATIENCE = 5.0  # seconds without anything after which a way carries nothing


def gigabits(client: str, server: str, address: str, seconds: float) -> float:
    """Return what one TCP stream carries from a namespace to an address in another, in Gbit/s. Raises NetlabError."""
    with _open(server, socket.SOCK_STREAM) as listener, _open(client, socket.SOCK_STREAM) as sending:
        listener.bind((address, 0))
        listener.listen()
        sending.connect(listener.getsockname())
        receiving, _ = listener.accept()
        with receiving, _child(_send, sending):
            receiving.settimeout(PATIENCE)
            return _received(receiving, seconds) * 8 / 1e9


def _received(receiving: socket.socket, seconds: float) -> float:
    """Return the bytes per second that arrive once the stream is at its speed."""
    room = memoryview(bytearray(ROOM))
    begin = time.perf_counter() + SETTLE * seconds
    while time.perf_counter() < begin:
        _some(receiving, room)
    count, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        count += _some(receiving, room)
    return count / (now - begin)


def _some(receiving: socket.socket, room: memoryview) -> int:
    try:
        return receiving.recv_into(room)
    except TimeoutError as exc:
        raise NetlabError("a stream has come to a standstill", "`netlab check` tells who reaches whom") from exc


def round_trip(client: str, server: str, address: str) -> float:
    """Return the median time that a small UDP packet takes there and back, in seconds. Raises NetlabError."""
    with _open(server, socket.SOCK_DGRAM) as echo, _open(client, socket.SOCK_DGRAM) as asking:
        echo.bind((address, 0))
        asking.connect(echo.getsockname())
        asking.settimeout(PATIENCE)
        with _child(_echo, echo):
            return statistics.median(_one(asking) for _ in range(ROUND_TRIPS))


def _one(asking: socket.socket) -> float:
    started = time.perf_counter()
    asking.send(PAYLOAD)
    try:
        asking.recv(len(PAYLOAD))
    except TimeoutError as exc:
        raise NetlabError("a packet is lost on an idle way", "`netlab check` tells who reaches whom") from exc
    return time.perf_counter() - started


def _send(opened: socket.socket) -> None:
    while True:
        opened.sendall(CHUNK)


def _echo(opened: socket.socket) -> None:
    while True:
        opened.sendto(*opened.recvfrom(len(PAYLOAD)))


def _open(namespace: str, kind: socket.SocketKind) -> socket.socket:
    return netns.call(namespace, socket.socket, socket.AF_INET, kind)


@contextmanager
def _child(function: Callable[[socket.socket], None], opened: socket.socket) -> Iterator[None]:
    """Let a child do something with a socket until the end of the block."""
    child = multiprocessing.get_context("fork").Process(target=function, args=(opened,), daemon=True)
    child.start()
    try:
        yield
    finally:
        child.kill()
        child.join()
