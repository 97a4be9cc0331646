"""The echo server without its sockets: what each kind of client hears, however its bytes are cut."""

from __future__ import annotations

import http.client
import io
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.echo.__main__ import find_ports
from netlab.echo.talk import Echo, EchoStream
from netlab.serve.loop import Ends

ENDS = Ends("10.244.1.7", 8080, "10.244.2.9", 40000)
SEEN = {
    "pod": "web-0",
    "namespace": "shop",
    "node": "node-1",
    "address": "10.244.1.7",
    "client": "10.244.2.9",
    "clientPort": 40000,
    "port": 8080,
    "protocol": "TCP",
}
GET = b"GET /a?b=c HTTP/1.1\r\nHost: web\r\n\r\n"


class _Draining:
    def __init__(self) -> None:
        self.on = False

    def __call__(self) -> bool:
        return self.on


def echo(draining: _Draining | None = None) -> Echo:
    return Echo("web-0", "shop", "node-1", draining or _Draining())


def talk(*pieces: bytes, server: Echo | None = None, ended: bool = False) -> tuple[bytes, EchoStream]:
    """Return all that a stream says to some pieces."""
    stream, said = EchoStream(server or echo(), ENDS, "TCP"), b""
    for piece in pieces:
        if stream.done:
            break
        stream.receive(piece)
        while not stream.done and (reply := stream.reply()):
            said += reply
    if ended:
        stream.finish()
        said += stream.reply()
    return said, stream


class _Wire:
    def __init__(self, wire: bytes) -> None:
        self._wire = wire

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._wire)


def response(wire: bytes, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    found = http.client.HTTPResponse(_Wire(wire), method=method)  # type: ignore[arg-type]
    found.begin()
    return found, found.read()


def test_http_tells_who_and_whom() -> None:
    said, stream = talk(GET)
    found, body = response(said)
    assert (found.status, found.getheader("Content-Type")) == (200, "application/json")
    assert json.loads(body) == SEEN | {"host": "web", "path": "/a?b=c"}
    assert not stream.done
    assert not stream.is_busy()


@pytest.mark.parametrize(
    ("request_line", "fields", "keeps", "says"),
    [
        ("GET / HTTP/1.1", "Host: a\r\n", True, None),
        ("GET / HTTP/1.1", "Host: a\r\nConnection: close\r\n", False, "close"),
        ("GET / HTTP/1.0", "", False, "close"),
        ("GET / HTTP/1.0", "Connection: Keep-Alive\r\n", True, "keep-alive"),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\n", False, "close"),
    ],
)
def test_keep_alive(request_line: str, fields: str, keeps: bool, says: str | None) -> None:
    said, stream = talk(f"{request_line}\r\n{fields}\r\n".encode())
    assert response(said)[0].getheader("Connection") == says
    assert stream.done is not keeps


def test_head_has_the_length_and_no_body() -> None:
    said, _ = talk(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    found, body = response(said, "HEAD")
    assert int(found.getheader("Content-Length") or 0) > 100
    assert said.endswith(b"\r\n\r\n")
    assert body == b""


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / " + b"x" * 20000, 431),
    ],
)
def test_what_is_not_http_after_all_is_refused(wire: bytes, status: int) -> None:
    said, stream = talk(wire)
    assert response(said)[0].status == status
    assert stream.done


def test_bodies_are_skipped() -> None:
    post = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    said, stream = talk(post + b"GET /" + GET)
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert not stream.is_busy()
    assert talk(post + b"GE")[1].is_busy()


def test_readiness_can_be_switched() -> None:
    draining = _Draining()
    server = echo(draining)

    def ask(method: str, path: str) -> int:
        said, _ = talk(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), server=server)
        return response(said)[0].status

    assert ask("GET", "/ready") == 200
    assert (ask("POST", "/ready?on=0"), ask("GET", "/ready"), ask("GET", "/healthz")) == (200, 503, 200)
    assert (ask("POST", "/ready?on=2"), ask("PUT", "/ready?on=1"), ask("GET", "/ready")) == (400, 405, 503)
    assert (ask("POST", "/ready?on=1"), ask("GET", "/ready")) == (200, 200)
    draining.on = True
    assert ask("GET", "/ready") == 503


def test_a_draining_server_closes_after_the_answer() -> None:
    draining = _Draining()
    draining.on = True
    said, stream = talk(GET, server=echo(draining))
    assert response(said)[0].getheader("Connection") == "close"
    assert stream.done


@pytest.mark.parametrize(("path", "want"), [("/hostname", b"web-0"), ("/clientip", b"10.244.2.9:40000")])
def test_agnhosts_paths(path: str, want: bytes) -> None:
    assert response(talk(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())[0])[1] == want


def test_a_plain_stream_hears_a_line_and_itself() -> None:
    line, _, rest = talk(b"hello\n", b"again\n")[0].partition(b"\n")
    assert json.loads(line) == SEEN
    assert rest == b"hello\nagain\n"


@pytest.mark.parametrize("said", [b"G", b"GET", b"CONNECT"])
def test_what_may_become_http_is_plain_at_the_end(said: bytes) -> None:
    assert talk(said)[0] == b""
    assert talk(said, ended=True)[0].endswith(b"\n" + said)


@given(cuts=st.lists(st.integers(1, 120), max_size=8))
def test_cuts_change_nothing(cuts: list[int]) -> None:
    wire = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + GET + b"HEAD / HTTP/1.0\r\n\r\n"
    edges = sorted({0, *(cut for cut in cuts if cut < len(wire)), len(wire)})
    pieces = [wire[start:end] for start, end in pairwise(edges)]
    strip = [line for line in talk(*pieces)[0].split(b"\r\n") if not line.startswith(b"Date")]
    assert strip == [line for line in talk(wire)[0].split(b"\r\n") if not line.startswith(b"Date")]


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"GET ", b" HTTP/1.1\r\n", b"\r\n\r\n", b"Host: a"])))
def test_nothing_that_is_said_breaks_it(pieces: list[bytes]) -> None:
    talk(*pieces, ended=True)


def test_datagrams() -> None:
    respond = echo().datagrams(53)
    peer = ("::ffff:10.244.2.9", 40000)
    line = json.loads(respond(b"x", peer, "10.244.1.7"))
    assert line == SEEN | {"port": 53, "protocol": "UDP"}
    assert respond(b"hostname\n", peer, "10.244.1.7") == b"web-0"
    assert respond(b"clientip", peer, "10.244.1.7") == b"10.244.2.9:40000"
    assert respond(b"clientip", ("fd00::9", 7, 0, 0), "fd00::1") == b"[fd00::9]:7"  # type: ignore[arg-type]
    assert respond(b"echo Hi there\n", peer, "10.244.1.7") == b"Hi there"


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ([], []),
        (["--port", "80/TCP", "--port=53/udp"], [(80, "TCP"), (53, "UDP")]),
        (["--port", "80", "--port", "80/TCP"], [(80, "TCP")]),
        (["--port"], None),
        (["--port", "0/TCP"], None),
        (["--port", "65536/TCP"], None),
        (["--port", "80/ICMP"], None),
        (["80/TCP"], None),
    ],
)
def test_arguments(arguments: list[str], want: list[tuple[int, str]] | None) -> None:
    assert find_ports(arguments) == want
