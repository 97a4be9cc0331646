"""healthCheckNodePort: on every node, a port for each Service that tells load balancers of local endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from netlab import names
from netlab.controllers.backends import Backend
from netlab.controllers.state import Key
from netlab.errors import NetlabError
from netlab.probes.healthcheck import HealthServer, response

Say = Callable[[str], None]
Place = tuple[str, int, Key, int]  # node and the inode number of its namespace, Service, port

RETRY = 5.0  # seconds after a port that could not be opened


class HealthChecks:
    """The servers of a lab's health checks. `failing` says whether a node's proxier could not write its rules."""

    def __init__(self, lab: str, failing: Callable[[str], bool], say: Say) -> None:
        self._lab = lab
        self._failing = failing
        self._say = say
        self._nodes: Mapping[str, int] = {}
        self._ports: dict[Key, int] = {}
        self._ready: dict[Key, tuple[str, ...]] = {}  # nodes of ready endpoints, one for each
        self._servers: dict[Place, HealthServer] = {}
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._keep())

    def want(self, nodes: Mapping[str, int]) -> None:
        """Take the nodes that there are, with the inode numbers of their namespaces."""
        self._nodes = nodes
        self._wake.set()

    def publish(self, key: Key, port: int, backends: Sequence[Backend]) -> None:
        """Take a Service's health check port, 0 for none, and what is behind it."""
        if self._ports.get(key, 0) != port:
            self._ports[key] = port
            self._wake.set()
        if port:
            self._ready[key] = tuple(backend.endpoint.node for backend in backends if backend.endpoint.ready)
        else:
            self._ports.pop(key, None)
            self._ready.pop(key, None)

    def close(self) -> None:
        """End the task; the servers end with the process."""
        self._task.cancel()

    async def _keep(self) -> None:
        """Open and close servers as Services and nodes come and go."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted = {(*node, *check) for node in self._nodes.items() for check in self._ports.items()}
            for place in self._servers.keys() - wanted:
                await self._servers.pop(place).close()
            for place in wanted - self._servers.keys():
                await self._open(place)

    async def _open(self, place: Place) -> None:
        node, _, key, port = place

        def respond() -> bytes:
            ready = self._ready.get(key, ()).count(node)
            return response(*key, ready, healthy=not self._failing(node))

        try:
            self._servers[place] = await HealthServer.open(names.netns(self._lab, node), port, respond)
        except NetlabError as exc:
            self._say(f"node {node}: {exc}")
            asyncio.get_running_loop().call_later(RETRY, self._wake.set)
