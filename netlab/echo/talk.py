"""What the echo server says: one JSON line with both ends, on HTTP, plain streams and datagrams.

The paths and words of Kubernetes' own test server (agnhost netexec) are known: /hostname, /clientip, and by UDP
`hostname`, `clientip` and `echo TEXT`. /ready is 200 or 503 as POST /ready?on=1 or ?on=0 last said.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from netlab.echo.http import BadRequest, Request, may_be_http, read_head, render, take_head
from netlab.serve.loop import Ends
from netlab.serve.ports import plain_address

JSON, TEXT = "application/json", "text/plain; charset=utf-8"
LONGEST_ECHO = 65000  # bytes that a datagram carries in any case


class Echo:
    """Who this pod is, and whether it says that it is ready."""

    def __init__(self, pod: str, namespace: str, node: str, is_draining: Callable[[], bool]) -> None:
        self.pod = pod
        self.is_on = True
        self.is_draining = is_draining
        self._self = {"pod": pod, "namespace": namespace, "node": node}

    @property
    def is_ready(self) -> bool:
        """Say whether it should get new connections."""
        return self.is_on and not self.is_draining()

    def line(self, ends: Ends, protocol: str, request: Request | None = None) -> bytes:
        """Return who answers, and whom it saw."""
        seen = {
            **self._self,
            "address": ends.own,
            "client": ends.peer,
            "clientPort": ends.peer_port,
            "port": ends.own_port,
            "protocol": protocol,
        }
        if request:
            seen |= {"host": request.host, "path": request.target}
        return json.dumps(seen).encode() + b"\n"

    def answer(self, request: Request, ends: Ends, protocol: str) -> tuple[int, str, bytes]:
        """Return the status, content type and body for a request."""
        match request.path:
            case "/ready":
                return self._ready(request)
            case "/healthz":
                return 200, TEXT, b"ok\n"
            case "/hostname":
                return 200, TEXT, self.pod.encode()
            case "/clientip":
                return 200, TEXT, client_of(ends)
        return 200, JSON, self.line(ends, protocol, request)

    def _ready(self, request: Request) -> tuple[int, str, bytes]:
        if request.method == "POST":
            if request.query not in ("on=0", "on=1"):
                return 400, TEXT, b"say POST /ready?on=1 or POST /ready?on=0\n"
            self.is_on = request.query == "on=1"
            return 200, TEXT, b"ready\n" if self.is_on else b"not ready\n"
        if request.method not in ("GET", "HEAD"):
            return 405, TEXT, b"GET, HEAD and POST are known here\n"
        return (200, TEXT, b"ready\n") if self.is_ready else (503, TEXT, b"not ready\n")

    def datagrams(self, port: int) -> Callable[[bytes, tuple[str, int], str], bytes]:
        """Return what answers datagrams to a port."""

        def respond(datagram: bytes, peer: tuple[str, int], own: str) -> bytes:
            ends = Ends(own, port, plain_address(peer[0]), peer[1])
            match datagram.strip().lower():
                case b"hostname":
                    return self.pod.encode()
                case b"clientip":
                    return client_of(ends)
                case words if words.startswith(b"echo "):
                    return datagram.strip()[len(b"echo ") :][:LONGEST_ECHO]
            return self.line(ends, "UDP")

        return respond


class EchoStream:
    """One TCP or SCTP connection: HTTP if it begins like that, else a line and then what the peer said."""

    def __init__(self, echo: Echo, ends: Ends, protocol: str) -> None:
        self.done = False
        self._echo = echo
        self._ends = ends
        self._protocol = protocol
        self._waiting = bytearray()
        self._is_http: bool | None = None
        self._greeted = False
        self._body = 0  # bytes that are still to be skipped

    def receive(self, received: bytes) -> None:
        """Take what the peer sent."""
        self._waiting += received

    def finish(self) -> None:
        """Take note that the peer sends no more: what could have become HTTP will not."""
        if self._is_http is None:
            self._is_http = False

    def is_busy(self) -> bool:
        """Say whether part of a request has come."""
        return bool(self._waiting or self._body)

    def reply(self) -> bytes:
        """Return the next answer."""
        if self._is_http is None and self._waiting:
            self._is_http = may_be_http(self._waiting)
        if self._is_http is None or not self._waiting:
            return b""
        if self._is_http:
            return self._http()
        said = bytes(self._waiting)
        self._waiting.clear()
        line = b"" if self._greeted else self._echo.line(self._ends, self._protocol)
        self._greeted = True
        return line + said

    def _http(self) -> bytes:
        skipped = min(self._body, len(self._waiting))
        del self._waiting[:skipped]
        self._body -= skipped
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        try:
            head = take_head(self._waiting)
            if head is None:
                return b""
            request = read_head(head)
        except BadRequest as exc:
            self.done = True
            return render(exc.status, TEXT, b"this is not HTTP/1 as it should be\n", None, keeps=False, date=date)
        self._body = request.body
        keeps = request.keeps and not self._echo.is_draining()
        self.done = not keeps
        status, kind, body = self._echo.answer(request, self._ends, self._protocol)
        return render(status, kind, body, request, keeps=keeps, date=date)


def client_of(ends: Ends) -> bytes:
    """Return the client as agnhost writes it."""
    return (f"[{ends.peer}]:{ends.peer_port}" if ":" in ends.peer else f"{ends.peer}:{ends.peer_port}").encode()
