"""The echo server as a process: every port and IP version, slow and rude clients, and an end that loses nobody."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from subprocess import Popen

import pytest

from netlab.echo.__main__ import QUIET
from tests.root.serving import OTHER_V4, V4, V6, connect, open_socket, program, read_all, room

pytestmark = pytest.mark.root

NAME = f"nl-te{os.getpid()}.echo"
WHO = {"NETLAB_POD": "web-0", "NETLAB_NAMESPACE": "shop", "NETLAB_NODE": "node-1"}
PORTS = ("--port", "8080/TCP", "--port", "9000/TCP", "--port", "5300/UDP")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def server() -> Iterator[Popen[bytes]]:
    with room(NAME), program(NAME, "netlab.echo", *PORTS, environment=WHO, lean=True) as process:
        connect(NAME, 8080).close()
        yield process


def get(address: str = V4, path: str = "/") -> http.client.HTTPResponse:
    with connect(NAME, 8080, address) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        found = http.client.HTTPResponse(client)
        found.begin()
        return found


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("address", [V4, OTHER_V4, V6])
def test_it_says_who_it_is_and_whom_it_saw(address: str) -> None:
    with connect(NAME, 9000, address) as client:
        own, port = client.getsockname()[:2]
        client.sendall(b"hello\n")
        client.shutdown(socket.SHUT_WR)
        line, _, rest = read_all(client).partition(b"\n")
    seen = {"pod": "web-0", "namespace": "shop", "node": "node-1", "address": address, "client": own}
    assert json.loads(line) == seen | {"clientPort": port, "port": 9000, "protocol": "TCP"}
    assert rest == b"hello\n"
    with open_socket(NAME, socket.SOCK_DGRAM, socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.connect((address, 5300))
        client.send(b"x")
        port = client.getsockname()[1]
        assert json.loads(client.recv(999)) == seen | {"clientPort": port, "port": 5300, "protocol": "UDP"}


@pytest.mark.usefixtures("server")
def test_clients_are_served_side_by_side_however_slow() -> None:
    """One sends a byte now and then, one reads nothing, one resets, and the others do not notice."""
    with connect(NAME, 8080) as slow, connect(NAME, 9000) as deaf, connect(NAME, 8080) as idle:
        deaf.setblocking(False)
        deaf.send(b"x\n")
        try:
            while True:
                deaf.send(bytes(65536))
        except BlockingIOError:
            pass
        for byte in GET[:-1]:
            slow.sendall(bytes([byte]))
            assert get(path="/hostname").status == 200
        with connect(NAME, 8080) as rude:
            rude.sendall(GET)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        slow.sendall(GET[-1:])
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 OK")
        idle.sendall(GET)
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.usefixtures("server")
def test_a_refusal_is_read_though_the_request_goes_on() -> None:
    """A close with bytes unread would reset the connection, and the client would not see why."""
    with connect(NAME, 8080) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(200_000))
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).startswith(b"HTTP/1.1 400 Bad Request")


@pytest.mark.usefixtures("server")
def test_a_thousand_connections_at_a_time() -> None:
    clients = [connect(NAME, 8080) for _ in range(400)]
    try:
        for client in clients:
            client.sendall(GET)
        assert all(client.recv(4096).startswith(b"HTTP/1.1 200 OK") for client in clients)
    finally:
        for client in clients:
            client.close()


def test_a_sigterm_is_followed_when_nobody_comes_any_more(server: Popen[bytes]) -> None:
    answers: list[bytes] = []
    with connect(NAME, 8080) as waiting:
        waiting.sendall(GET[:20])
        server.send_signal(signal.SIGTERM)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:  # as clients do until every node knows
            with connect(NAME, 8080) as client:
                client.sendall(GET)
                answers.append(read_all(client))  # ends by itself: the answer says close
        time.sleep(2 * QUIET)
        waiting.sendall(GET[20:])
        assert b"Connection: close" in read_all(waiting)
    quiet = time.monotonic()
    assert server.wait(20) == 0
    assert time.monotonic() - quiet < 2
    assert len(answers) > 20
    assert all(b"HTTP/1.1 200 OK" in answer and b"Connection: close" in answer for answer in answers)


def test_somebody_who_keeps_coming_does_not_keep_it_forever(server: Popen[bytes]) -> None:
    stop = threading.Event()

    def come() -> None:
        while not stop.is_set():
            with open_socket(NAME) as client:
                try:
                    client.connect((V4, 8080))
                    client.sendall(GET)
                    read_all(client)
                except OSError:  # it has ended
                    return

    visitor = threading.Thread(target=come)
    visitor.start()
    try:
        started = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert 4.5 < time.monotonic() - started < 8
    finally:
        stop.set()
        server.kill()
        visitor.join()


def test_a_port_that_is_taken_is_said() -> None:
    with room(NAME), open_socket(NAME) as other:
        other.bind(("0.0.0.0", 8080))
        other.listen()
        with program(NAME, "netlab.echo", "--port=8080/TCP", lean=True) as process:
            assert process.wait(20) == 1
            assert process.stderr is not None
            assert b"cannot listen on port 8080/TCP: Address already in use" in process.stderr.read()
