"""TCP and HTTP probes from a node's namespace, for an asyncio loop (kubernetes, pkg/probe)."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
from ipaddress import ip_address
from urllib.parse import quote, urljoin, urlsplit

from netlab import __version__
from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.probes.readiness import Outcome
from netlab.topology.addresses import Address
from netlab.topology.pod import HttpGet

USER_AGENT = f"kube-probe/{__version__}"
REDIRECTS = 10  # net/http follows so many
LONGEST_HEAD = 65536  # bytes
LONGEST_BODY = 10240  # bytes that are read: pkg/probe/http
SAFE = "/%!$&'()*+,;=:@~?#[]"  # characters of a path and query that stay as they are


async def tcp(namespace: str, address: Address, port: int, timeout: float) -> Outcome:
    """Connect from a namespace, within a timeout in seconds."""
    try:
        async with asyncio.timeout(timeout):
            (await _connect(namespace, address, port)).close()
    except TimeoutError:
        return Outcome(False, f"dial tcp {_at(address, port)}: i/o timeout")
    except OSError as exc:
        return Outcome(False, f"dial tcp {_at(address, port)}: {_words(exc)}")
    return Outcome(True)


async def http_get(namespace: str, address: Address, get: HttpGet, timeout: float) -> Outcome:
    """Make a GET from a namespace, within a timeout in seconds; `get.port` is a number.

    `get.host` is where to connect when it is an address, else only the name to ask for: a lab's nodes resolve none.
    Redirects are followed on the same host; one to another host is a success with a reason, as kubelet has it.
    """
    with contextlib.suppress(ValueError):
        address = ip_address(get.host)
    port = int(get.port)
    origin = f"http://{get.host if get.host and not _is_address(get.host) else _bracketed(address)}:{port}"
    url = urljoin(origin, quote(get.path if get.path.startswith("/") else f"/{get.path}", safe=SAFE))
    host = urlsplit(url).hostname
    try:
        async with asyncio.timeout(timeout):
            for _ in range(REDIRECTS + 1):
                where = urlsplit(url)
                status, location = await _exchange(namespace, address, where.port or 80, _request(url, get))
                if status not in (301, 302, 303, 307, 308) or not location:
                    break
                onward = urljoin(url, quote(location, safe=SAFE))
                if urlsplit(onward).hostname != host or urlsplit(onward).scheme != "http":
                    return Outcome(True, f"Probe terminated redirects, Response status: {status}, to {onward}")
                url = onward
            else:
                return Outcome(False, f'Get "{url}": stopped after {REDIRECTS} redirects')
    except TimeoutError:
        return Outcome(False, f'Get "{url}": context deadline exceeded')
    except ValueError as exc:
        return Outcome(False, f'Get "{url}": {exc}')
    except OSError as exc:
        return Outcome(False, f'Get "{url}": dial tcp {_at(address, port)}: {_words(exc)}')
    if 200 <= status < 400:
        return Outcome(True)
    return Outcome(False, f"HTTP probe failed with statuscode: {status}")


def _request(url: str, get: HttpGet) -> bytes:
    where = urlsplit(url)
    fields = {"host": ("Host", where.netloc), "user-agent": ("User-Agent", USER_AGENT), "accept": ("Accept", "*/*")}
    for name, value in get.headers:
        if _is_broken(name) or _is_broken(value):
            raise ValueError(f"net/http: invalid header field {name!r}")
        fields[name.lower()] = name, value
    if not fields["accept"][1]:  # pkg/probe/http: an empty one stands for none
        del fields["accept"]
    fields["connection"] = "Connection", "close"
    target = where.path + (f"?{where.query}" if where.query else "")
    lines = [f"GET {target or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.values())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


async def _exchange(namespace: str, address: Address, port: int, request: bytes) -> tuple[int, str]:
    """Send a request and return the status and the Location of the response. Raises OSError and ValueError."""
    connected = await _connect(namespace, address, port)
    reader, writer = await asyncio.open_connection(sock=connected, limit=LONGEST_HEAD)
    try:
        writer.write(request)
        status, location = _read_head(await reader.readuntil(b"\r\n\r\n"))
        while status < 200:  # it only announces another
            status, location = _read_head(await reader.readuntil(b"\r\n\r\n"))
        await reader.read(LONGEST_BODY)
    except asyncio.IncompleteReadError as exc:
        raise ValueError(f"malformed HTTP response {exc.partial[:40]!r}" if exc.partial else "EOF") from exc
    except asyncio.LimitOverrunError as exc:
        raise ValueError(f"server response headers exceeded {LONGEST_HEAD} bytes") from exc
    finally:
        writer.transport.abort()
    return status, location


def _read_head(head: bytes) -> tuple[int, str]:
    from http.client import HTTPException, parse_headers  # takes its time to load, and few labs have such a probe

    first, _, fields = head.partition(b"\r\n")
    version, _, rest = first.decode("latin-1").partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or len(status) != 3 or not (status.isascii() and status.isdecimal()):
        raise ValueError(f"malformed HTTP response {first[:40]!r}")
    try:
        location = parse_headers(io.BytesIO(fields)).get("Location", "")
    except HTTPException as exc:
        raise ValueError(str(exc)) from exc
    return int(status), str(location)


async def _connect(namespace: str, address: Address, port: int) -> socket.socket:
    """Return a connected socket of a namespace. Raises OSError, also where the namespace is gone."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        opened = netns.call(namespace, socket.socket, family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except KernelError as exc:
        raise OSError(str(exc)) from exc
    try:
        await asyncio.get_running_loop().sock_connect(opened, (str(address), port))
    except BaseException:
        opened.close()
        raise
    return opened


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_broken(text: str) -> bool:
    return any(ord(letter) < 32 and letter != "\t" for letter in text)


def _bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _at(address: Address, port: int) -> str:
    return f"{_bracketed(address)}:{port}"


def _words(exc: OSError) -> str:
    """Return Go's words for an error of connect(2)."""
    return f"connect: {os.strerror(exc.errno).lower()}" if exc.errno else str(exc)
