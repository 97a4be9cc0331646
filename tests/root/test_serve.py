"""The small servers' loop: streams that stand still end, and so does the loop when it has drained."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from netlab.dns.server import DnsStream
from netlab.kernel import netns
from netlab.serve.loop import Limits, Server
from netlab.serve.ports import PortRefused, open_port
from tests.root.serving import V4, connect, open_socket, room

pytestmark = pytest.mark.root

NAME = f"nl-ts{os.getpid()}.serve"
IDLE = 0.3  # seconds


@pytest.fixture
def place() -> Iterator[str]:
    with room(NAME) as name:
        yield name


@pytest.fixture
def server(place: str) -> Iterator[Server]:
    """Serve DNS messages that are sent back as they are, and datagrams likewise."""
    found = Server(Limits(streams=8, idle=IDLE))
    reader, writer = os.pipe()
    found.add(reader, lambda _: found.drain(quiet=0.05, longest=0.2))
    with netns.call(place, open_port, "TCP", 53) as listener, netns.call(place, open_port, "UDP", 53) as port:
        found.add_streams(listener, lambda _: DnsStream(lambda query: query))
        found.add_datagrams(port, lambda datagram, peer, own: own.encode())
        thread = threading.Thread(target=found.run)
        thread.start()
        yield found
        os.write(writer, b"x")
        thread.join(20)
        assert not thread.is_alive()
    os.close(reader)
    os.close(writer)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("sent", [b"", b"\x00", b"\x00\x05abc"])
def test_a_stream_that_stands_still_ends(sent: bytes) -> None:
    with connect(NAME, 53) as stream:
        started = time.monotonic()
        stream.sendall(sent)
        assert stream.recv(1) == b""
        assert IDLE * 0.9 < time.monotonic() - started < 10 * IDLE


@pytest.mark.usefixtures("server")
def test_a_stream_that_goes_on_stays() -> None:
    with connect(NAME, 53) as stream:
        started = time.monotonic()
        while time.monotonic() < started + 3 * IDLE:
            stream.sendall(b"\x00\x03abc")
            assert stream.recv(10) == b"\x00\x03abc"
            time.sleep(IDLE / 6)


@pytest.mark.usefixtures("server")
def test_a_younger_stream_may_end_before_an_older_one() -> None:
    with connect(NAME, 53) as busy, connect(NAME, 53) as still:
        still.settimeout(IDLE / 6)
        give_up = time.monotonic() + 20
        while True:
            busy.sendall(b"\x00\x03abc")
            assert busy.recv(10) == b"\x00\x03abc"
            try:
                assert still.recv(1) == b""
            except TimeoutError:
                assert time.monotonic() < give_up
            else:
                break


@pytest.mark.usefixtures("server")
def test_a_reader_that_never_reads_ends() -> None:
    with connect(NAME, 53) as stream:
        stream.settimeout(10 * IDLE)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            stream.sendall((b"\xff\xff" + bytes(65535)) * 1000)


@pytest.mark.usefixtures("server")
def test_a_reset_ends_one_stream_only() -> None:
    with connect(NAME, 53) as stream:
        for _ in range(20):
            other = connect(NAME, 53)
            other.sendall(b"\x00\x01a\x00")
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            other.close()
            stream.sendall(b"\x00\x01x")
            assert stream.recv(10) == b"\x00\x01x"


def test_without_ipv6_it_is_ipv4_alone(place: str) -> None:
    def switch_off() -> None:
        for which in ("all", "default"):
            with open(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", "w") as file:
                file.write("1")

    netns.call(place, switch_off)
    with netns.call(place, open_port, "UDP", 53) as port, open_socket(place, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", (V4, 53))
        port.setblocking(True)
        port.settimeout(20)
        assert port.recv(10) == b"x"


def test_who_cannot_have_a_port_hears_why(place: str) -> None:
    with netns.call(place, open_port, "TCP", 80), pytest.raises(PortRefused, match="port 80/TCP: Address already in"):
        netns.call(place, open_port, "TCP", 80)
