"""healthCheckNodePort: what kube-proxy tells external load balancers about one Service on one node (facts.md 3.10)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from http import HTTPStatus

from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.serve.ports import PortRefused, open_port

PATIENCE = 5.0  # seconds for a request to be whole, and for its answer to be taken
LONGEST_REQUEST = 8192  # bytes
CONNECTIONS = 64


def response(namespace: str, name: str, local_ready: int, *, healthy: bool) -> bytes:
    """Return the response for a Service with so many ready endpoints on the node, whose proxier is healthy or not."""
    status = HTTPStatus.OK if local_ready and healthy else HTTPStatus.SERVICE_UNAVAILABLE
    state = {
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local_ready,
        "serviceProxyHealthy": healthy,
    }
    body = json.dumps(state, indent="\t").encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
        f"X-Load-Balancing-Endpoint-Weight: {local_ready}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


class HealthServer:
    """One healthCheckNodePort on one node. Make it with `open`; `respond` is asked for every request."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    @classmethod
    async def open(cls, namespace: str, port: int, respond: Callable[[], bytes]) -> HealthServer:
        """Listen on every address of a node's namespace. Raises KernelError when the port cannot be had."""
        try:
            listener: socket.socket = netns.call(namespace, open_port, "TCP", port)
        except PortRefused as exc:
            cause = exc.__cause__
            code = cause.errno if isinstance(cause, OSError) else None
            raise KernelError(code, f"healthCheckNodePort {port} in {namespace}", str(exc)) from exc
        exchange = _Exchange(respond)
        return cls(await asyncio.start_server(exchange.serve, sock=listener, limit=LONGEST_REQUEST))

    async def close(self) -> None:
        """Stop listening; requests that are there already are answered."""
        self._server.close()
        await asyncio.sleep(0)


class _Exchange:
    """Answers one request on each connection, and not more connections than CONNECTIONS at a time."""

    def __init__(self, respond: Callable[[], bytes]) -> None:
        self._respond = respond
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                answer = self._respond()
                writer.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD ") else answer)
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            writer.transport.abort()
        finally:
            self._open -= 1
            with contextlib.suppress(OSError):
                writer.close()
