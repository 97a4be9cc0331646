"""Cluster DNS as a process: transports, IP versions, the address that answers, zones that change, and strangers."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from subprocess import Popen

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from netlab.dns.records import Endpoint, Kind, Service
from netlab.dns.server import LIMITS
from netlab.dns.zone_file import Cluster, ZoneWriter
from tests.root.serving import (
    OTHER_V4,
    OTHER_V6,
    V4,
    V6,
    connect,
    open_socket,
    program,
    read_all,
    room,
    wait_until,
)

pytestmark = pytest.mark.root

NAME = f"nl-td{os.getpid()}.dns"
WEB, MANY = "web.default.svc.cluster.local.", "many.default.svc.cluster.local."
ENDPOINTS = tuple(Endpoint((ip_address(0x0AF40000 + n),)) for n in range(200))


def cluster(address: str = "10.96.0.50") -> Cluster:
    web = Service("default", "web", cluster_ips=(ip_address(address),))
    return Cluster((web, Service("default", "many", Kind.HEADLESS, endpoints=ENDPOINTS)))


@pytest.fixture
def zone(tmp_path: Path) -> ZoneWriter:
    writer = ZoneWriter(tmp_path / "zone.json")
    writer.write(cluster())
    return writer


@pytest.fixture
def server(zone: ZoneWriter, tmp_path: Path) -> Iterator[Popen[bytes]]:
    with room(NAME), program(NAME, "netlab.dns", str(tmp_path / "zone.json")) as process:
        connect(NAME, 53).close()
        yield process


def query(name: str = WEB, kind: str = "A", number: int = 1) -> dns.message.Message:
    return dns.message.make_query(name, kind, id=number)


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def messages(wire: bytes) -> list[dns.message.Message]:
    found = []
    while wire:
        size = int.from_bytes(wire[:2], "big")
        found.append(dns.message.from_wire(wire[2 : 2 + size]))
        wire = wire[2 + size :]
    return found


def ask(address: str = V4, name: str = WEB) -> dns.message.Message:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with open_socket(NAME, socket.SOCK_DGRAM, family) as client:
        client.connect((address, 53))  # hears that address only
        client.settimeout(1.0)
        for _ in range(20):  # as resolvers do: a queue may have been full
            client.send(query(name).to_wire())
            with suppress(TimeoutError):
                return dns.message.from_wire(client.recv(65535))
    raise AssertionError(f"no answer from {address}")


def first(reply: dns.message.Message) -> str:
    return str(reply.answer[0][0]) if reply.answer else dns.rcode.to_text(reply.rcode())


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("address", [V4, OTHER_V4, V6, OTHER_V6, "127.0.0.1", "::1"])
def test_the_answer_comes_from_the_address_that_was_asked(address: str) -> None:
    assert first(ask(address)) == "10.96.0.50"
    with connect(NAME, 53, address) as stream:
        stream.sendall(framed(query().to_wire()))
        stream.shutdown(socket.SHUT_WR)
        (reply,) = messages(read_all(stream))
    assert first(reply) == "10.96.0.50"


@pytest.mark.usefixtures("server")
def test_what_is_too_long_for_udp_comes_by_tcp() -> None:
    assert ask(name=MANY).flags & dns.flags.TC
    with connect(NAME, 53) as stream:
        stream.sendall(framed(query(MANY).to_wire()))
        stream.shutdown(socket.SHUT_WR)
        (reply,) = messages(read_all(stream))
    assert len(reply.answer[0]) == 200


@pytest.mark.usefixtures("server")
def test_queries_may_come_one_after_the_other_and_cut_anywhere() -> None:
    wire = b"".join(framed(query(MANY if n % 3 else WEB, number=n).to_wire()) for n in range(60))
    with connect(NAME, 53) as stream:
        for start in range(0, len(wire), 7):
            stream.sendall(wire[start : start + 7])
        stream.shutdown(socket.SHUT_WR)
        replies = messages(read_all(stream))
    assert [reply.id for reply in replies] == list(range(60))
    assert {len(reply.answer[0]) for reply in replies} == {1, 200}


def test_a_reader_that_is_slow_gets_everything_and_disturbs_nobody(server: Popen[bytes]) -> None:
    """Each query is answered with 100 times its length: the server must not keep it all, nor wait for the reader."""
    wire = b"".join(framed(query(MANY, number=n).to_wire()) for n in range(5_000))
    before = memory(server)
    with connect(NAME, 53) as stream:
        stream.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < len(wire):
                sent += stream.send(wire[sent : sent + 65536])
        for _ in range(20):
            assert first(ask()) == "10.96.0.50"
        assert memory(server) - before < 3 << 20
        stream.settimeout(20)
        whole = sent * 5_000 // len(wire)
        heard = 0
        while heard < whole:
            size = int.from_bytes(exactly(stream, 2), "big")
            reply = exactly(stream, size)
            assert int.from_bytes(reply[:2], "big") == heard % 65536
            heard += 1


def memory(process: Popen[bytes]) -> int:
    """Return what a process has in memory, in bytes."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def exactly(stream: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        chunk = stream.recv(size - len(found))
        assert chunk
        found += chunk
    return found


def test_a_zone_that_is_replaced_is_noticed_and_a_broken_one_is_not_taken(
    server: Popen[bytes], zone: ZoneWriter, tmp_path: Path
) -> None:
    zone.write(cluster("10.96.0.51"))
    wait_until(lambda: first(ask()) == "10.96.0.51")
    broken = tmp_path / "broken"
    broken.write_text("{")
    os.replace(broken, tmp_path / "zone.json")
    time.sleep(0.05)  # longer than the server goes without a look
    assert first(ask()) == "10.96.0.51"
    (tmp_path / "zone.json").unlink()
    time.sleep(0.05)
    assert first(ask()) == "10.96.0.51"
    zone.write(cluster("10.96.0.52"))
    wait_until(lambda: first(ask()) == "10.96.0.52")


@pytest.mark.usefixtures("server")
def test_no_bytes_end_it() -> None:
    chance = random.Random(7)
    whole = query().to_wire()
    with open_socket(NAME, socket.SOCK_DGRAM) as client:
        for _ in range(3000):
            wire = bytearray(whole)
            for _ in range(chance.randrange(4)):
                wire[chance.randrange(len(wire))] = chance.randrange(256)
            cut = bytes(wire[: chance.randrange(len(wire) + 1)]) if chance.random() < 0.3 else bytes(wire)
            client.sendto(cut, (V4, 53))
        client.sendto(b"", (V4, 53))
        client.sendto(bytes(65000), (V4, 53))
    for _ in range(30):
        with connect(NAME, 53) as stream:
            stream.sendall(chance.randbytes(chance.randrange(2000)))
            if chance.random() < 0.5:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
    assert first(ask()) == "10.96.0.50"


@pytest.mark.usefixtures("server")
def test_more_connections_than_it_keeps_close_the_one_that_was_still_longest() -> None:
    streams = [connect(NAME, 53)]
    try:
        with connect(NAME, 53) as busy:
            while len(streams) < LIMITS.streams + 20:
                streams.append(connect(NAME, 53))
                busy.sendall(framed(query().to_wire()))
                assert busy.recv(4096)
            assert streams[0].recv(1) == b""
    finally:
        for stream in streams:
            stream.close()


def test_a_sigterm_ends_it_at_once(server: Popen[bytes]) -> None:
    started = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0
    assert time.monotonic() - started < 1


def test_a_port_that_is_taken_is_said(tmp_path: Path, zone: ZoneWriter) -> None:
    with room(NAME), open_socket(NAME, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 53))
        with program(NAME, "netlab.dns", str(tmp_path / "zone.json")) as process:
            assert process.wait(20) == 1
            assert process.stderr is not None
            assert b"cannot listen on port 53/UDP: Address already in use" in process.stderr.read()
        with program(NAME, "netlab.dns", str(tmp_path / "nothing.json")) as process:
            assert process.wait(20) == 1
