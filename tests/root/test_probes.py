"""Probes from a node's namespace, against good, slow and broken servers, and the ends of commands that hang."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.enter import Place
from netlab.probes import ask, command
from netlab.probes.healthcheck import HealthServer, response
from netlab.probes.readiness import Outcome
from netlab.topology.pod import HttpGet
from tests.root.serving import OTHER_V4, V4, V6, connect, open_socket, read_all, room

pytestmark = pytest.mark.root

NAME = f"nl-tp{os.getpid()}.node"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = HttpGet("80")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with room(NAME):
        yield


def says(*answers: bytes, heard: list[bytes] | None = None) -> Serve:
    """Return a server that gives one answer after the other, each on a connection of its own."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(head)
        writer.write(left.pop(0) if left else OK)
        await writer.drain()
        writer.close()

    return serve


def probe(serve: Serve, get: HttpGet = GET, timeout: float = 5.0, address: str = V4) -> Outcome:
    """Return the outcome of an HTTP probe of a server in the room."""

    async def run() -> Outcome:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = open_socket(NAME, family=family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 80))
        async with await asyncio.start_server(serve, sock=listener):
            return await ask.http_get(NAME, ip_address(address), get, timeout)

    return asyncio.run(run())


def tcp(address: str, port: int, timeout: float = 5.0) -> Outcome:
    return asyncio.run(ask.tcp(NAME, ip_address(address), port, timeout))


@pytest.mark.parametrize("address", [V4, V6])
def test_tcp(address: str) -> None:
    with open_socket(NAME, family=socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 80))
        listener.listen()
        assert tcp(address, 80) == Outcome(True)
    refused = tcp(address, 80)
    assert not refused.ok
    assert refused.reason.startswith("dial tcp ")
    assert refused.reason.endswith(":80: connect: connection refused")


def test_tcp_where_nobody_answers() -> None:
    with open_socket(NAME) as listener:
        listener.bind((V4, 80))
        listener.listen(0)
        with open_socket(NAME) as first:  # the queue is full: what else comes is not answered
            first.connect((V4, 80))
            started = time.monotonic()
            assert tcp(V4, 80, 0.2) == Outcome(False, f"dial tcp {V4}:80: i/o timeout")
            assert time.monotonic() - started < 2


def test_a_namespace_that_is_gone_is_a_failure() -> None:
    outcome = asyncio.run(ask.tcp("nl-tp.nothing", ip_address(V4), 80, 1.0))
    assert not outcome.ok
    assert "nl-tp.nothing" in outcome.reason


@pytest.mark.parametrize(
    ("status", "ok"), [(b"200 OK", True), (b"204 -", True), (b"399 -", True), (b"400 -", False), (b"503 -", False)]
)
def test_statuses(status: bytes, ok: bool) -> None:
    outcome = probe(says(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"))
    assert outcome == Outcome(ok, "" if ok else f"HTTP probe failed with statuscode: {status[:3].decode()}")


@pytest.mark.parametrize("address", [V4, V6])
def test_what_a_server_hears(address: str) -> None:
    heard: list[bytes] = []
    get = replace(GET, path="/a b?c=d", headers=(("X-Who", "me"), ("user-agent", "mine")))
    assert probe(says(OK, heard=heard), get, address=address).ok
    host = f"[{address}]" if ":" in address else address
    assert heard[0].decode().split("\r\n") == [
        "GET /a%20b?c=d HTTP/1.1",
        f"Host: {host}:80",
        "user-agent: mine",
        "Accept: */*",
        "X-Who: me",
        "Connection: close",
        "",
        "",
    ]
    probe(says(OK, heard=heard))
    assert b"\r\nUser-Agent: kube-probe/" in heard[1]


def test_redirects_are_followed_on_the_same_host_only() -> None:
    def moved(to: str) -> bytes:
        return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()

    heard: list[bytes] = []
    assert not probe(says(moved("/x"), b"HTTP/1.1 500 -\r\n\r\n", heard=heard)).ok
    assert heard[1].startswith(b"GET /x HTTP/1.1\r\n")
    outcome = probe(says(moved(f"http://{OTHER_V4}/"), b"HTTP/1.1 500 -\r\n\r\n"))
    assert outcome == Outcome(True, f"Probe terminated redirects, Response status: 302, to http://{OTHER_V4}/")
    assert "stopped after 10 redirects" in probe(says(*[moved("/")] * 20)).reason


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 2xx OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000,
        b"\xff" * 5000,
    ],
)
def test_what_is_no_response_is_a_failure(wire: bytes) -> None:
    outcome = probe(says(wire))
    assert not outcome.ok
    assert outcome.reason.startswith(f'Get "http://{V4}:80/": ')


def test_a_server_that_drips_is_given_up() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.01)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()

    assert probe(drip, timeout=0.2) == Outcome(False, f'Get "http://{V4}:80/": context deadline exceeded')


def run(*argv: str, timeout: float = 10.0, **environment: str) -> Outcome:
    place = Place(NAME, "127.0.0.1 localhost\n", "", "web-0", environment, "/")
    return asyncio.run(command.command(place, argv, timeout))


def test_commands() -> None:
    assert run("hostname") == Outcome(True, "web-0")
    assert run("true") == Outcome(True)
    assert run("false") == Outcome(False, "exit status 1")
    assert run("sh", "-c", "echo out; echo err >&2; exit 3") == Outcome(False, "out\nerr")
    assert run("sh", "-c", "kill -9 $$") == Outcome(False, "ended by signal 9")
    assert not run("no-such-command").ok
    assert run("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x").reason == "x" * 10240


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome = run("sh", "-c", "trap '' TERM; sleep 1000 & sleep 1001", timeout=0.2, PROBE_MARK=str(tmp_path))
    assert time.monotonic() - started < 5
    assert outcome == Outcome(False, "command \"sh -c trap '' TERM; sleep 1000 & sleep 1001\" timed out after 0.2s")
    # `leaves_nothing` finds processes with the folder in their environment


def test_a_load_balancer_asks_a_node() -> None:
    ready = 2

    async def run() -> list[bytes]:
        server = await HealthServer.open(NAME, 31000, lambda: response("default", "web", ready, healthy=True))

        def ask_it(request: bytes, address: str = V4) -> bytes:
            with connect(NAME, 31000, address) as client:
                client.sendall(request)
                return read_all(client)

        nonlocal ready
        found = [await asyncio.to_thread(ask_it, b"GET /x HTTP/1.1\r\n\r\n")]
        ready = 0
        found.append(await asyncio.to_thread(ask_it, b"GET / HTTP/1.0\r\n\r\n", V6))
        found.append(await asyncio.to_thread(ask_it, b"HEAD / HTTP/1.1\r\n\r\n"))
        found.append(await asyncio.to_thread(ask_it, b"x" * 10_000))
        with pytest.raises(KernelError, match="healthCheckNodePort 31000 in nl-tp"):
            await HealthServer.open(NAME, 31000, lambda: b"")
        await server.close()
        assert not (await ask.tcp(NAME, ip_address(V4), 31000, 1.0)).ok
        return found

    first, second, head, rude = asyncio.run(run())
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"localEndpoints": 2' in first
    assert second.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert head.endswith(b"\r\n\r\n")
    assert rude == b""


def test_a_socket_of_a_probe_is_in_the_namespace_of_the_node() -> None:
    assert netns.call(NAME, lambda: os.readlink("/proc/thread-self/ns/net")) != os.readlink("/proc/self/ns/net")
    with socket.socket() as outside:
        outside.bind(("127.0.0.1", 0))
        outside.listen()
        assert not tcp("127.0.0.1", outside.getsockname()[1]).ok
