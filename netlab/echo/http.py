"""As much of HTTP/1 as an echo server needs: a request's head becomes a Request, an answer becomes bytes. Pure.

RFC 9112. A body is skipped by its Content-Length; after one that says its length otherwise the connection ends.
"""

from __future__ import annotations

from typing import NamedTuple

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT")
LONGEST_HEAD = 16384  # bytes
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class BadRequest(Exception):
    """A request that is not answered as asked; `status` says why."""

    def __init__(self, status: int = 400) -> None:
        super().__init__(status)
        self.status = status


class Request(NamedTuple):
    """A request without its body, of which `body` bytes follow."""

    method: str
    target: str
    minor: int  # of HTTP/1
    host: str
    keeps: bool  # whether the connection may live on
    body: int

    @property
    def path(self) -> str:
        """Return the target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """Return what follows the question mark."""
        return self.target.partition("?")[2]


def may_be_http(first: bytes | bytearray) -> bool | None:
    """Say whether a stream begins like an HTTP request; None when it takes more bytes to know."""
    for method in METHODS:
        begin = method + b" "
        if first.startswith(begin):
            return True
        if begin.startswith(first):
            return None
    return False


def take_head(waiting: bytearray) -> bytes | None:
    """Take a request's head off the front, None while it is not whole. Raises BadRequest for one without end."""
    while waiting.startswith((b"\r", b"\n")):  # RFC 9112, 2.2
        del waiting[0]
    ends = [(at, size) for mark, size in ((b"\r\n\r\n", 4), (b"\n\n", 2)) if (at := waiting.find(mark)) >= 0]
    at, size = min(ends, default=(len(waiting), 0))
    if at > LONGEST_HEAD:
        raise BadRequest(431)
    if not ends:
        return None
    head = bytes(waiting[:at])
    del waiting[: at + size]
    return head


def read_head(head: bytes) -> Request:
    """Read a request's head. Raises BadRequest."""
    first, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    words = first.split(" ")
    if len(words) != 3 or words[0].encode() not in METHODS or not words[1]:
        raise BadRequest
    if words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest(505 if words[2].startswith("HTTP/") else 400)
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest
        name = name.lower()
        if name in ("host", "content-length") and name in fields:
            raise BadRequest
        fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    minor = int(words[2][-1])
    length = fields.get("content-length", "0")
    if (minor and "host" not in fields) or not (length.isascii() and length.isdecimal()):
        raise BadRequest
    wishes = {wish.strip().lower() for wish in fields.get("connection", "").split(",")}
    unknown_end = "transfer-encoding" in fields or "expect" in fields or words[0] == "CONNECT" or len(length) > 12
    keeps = "close" not in wishes and (minor == 1 or "keep-alive" in wishes) and not unknown_end
    return Request(words[0], words[1], minor, fields.get("host", ""), keeps, int(length[:12]))


def render(status: int, kind: str, body: bytes, request: Request | None, *, keeps: bool, date: str) -> bytes:
    """Return a response; HEAD gets one without its body."""
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Date: {date}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
    ]
    if not keeps:
        lines.append("Connection: close")
    elif request and request.minor == 0:
        lines.append("Connection: keep-alive")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if request and request.method == "HEAD" else head + body
