"""Every node's proxier: which mode it has, what it still has to write, and who looks after its rules.

A node's changes are merged while its last ones are being written, so a burst of them costs two writes. The tools that
proxiers run are waited for in threads; nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from netlab.control.modes import make
from netlab.errors import NetlabError
from netlab.proxy.proxier import Changes, NodeTarget, PortKey, Proxier
from netlab.service.model import ServicePort
from netlab.topology.model import Proxy

CHECK_PERIOD = 1.0  # seconds between two looks at rules that nobody announces changes of
RETRY = 5.0  # seconds after a write that failed
THREADS = 4 * (os.cpu_count() or 1)  # a tool waits for the kernel more than it works

Say = Callable[[str], None]
T = TypeVar("T")


class Proxies:
    """The proxiers of a lab's nodes."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._threads = ThreadPoolExecutor(THREADS, "proxy")
        self._nodes: dict[str, _Node] = {}
        self._ports: dict[PortKey, ServicePort] = {}

    async def want(self, targets: Mapping[str, tuple[NodeTarget, Proxy]]) -> None:
        """Have proxiers for these nodes, by name, and no others; what another mode has left is taken away."""
        for name in self._nodes.keys() - targets.keys():
            await self._nodes.pop(name).stop(clean=True)
        for name, (target, mode) in targets.items():
            node = self._nodes.get(name)
            if node and (node.target, node.mode) == (target, mode):
                continue
            if node:
                await node.stop(clean=True)
            self._nodes[name] = _Node(target, mode, self._threads, self._say)
            self._nodes[name].add(self._ports)

    def change(self, changes: Changes) -> None:
        """Write ports that changed, on every node, soon."""
        for key, port in changes.items():
            if port is None:
                self._ports.pop(key, None)
            else:
                self._ports[key] = port
        for node in self._nodes.values():
            node.add(changes)

    async def settled(self) -> None:
        """Wait until every node has what was asked for so far, or has failed to."""
        await asyncio.gather(*(node.settled() for node in self._nodes.values()))

    def failures(self) -> dict[str, str]:
        """Return what went wrong at each node's last write."""
        return {name: node.failure for name, node in self._nodes.items() if node.failure}

    async def stop(self, keep: Container[str]) -> None:
        """Let go of all nodes; the rules stay on those to `keep`, by name."""
        await asyncio.gather(*(node.stop(clean=name not in keep) for name, node in self._nodes.items()))
        self._threads.shutdown(wait=False)


class _Node:
    """One node's proxier and the task that feeds it."""

    def __init__(self, target: NodeTarget, mode: Proxy, threads: ThreadPoolExecutor, say: Say) -> None:
        self.target, self.mode, self.failure = target, mode, ""
        self._say = say
        self._threads = threads
        self._proxier: Proxier = make(mode, target)
        self._pending: dict[PortKey, ServicePort | None] = {}
        self._is_new = True
        self._wake = asyncio.Event()
        self._done = asyncio.Event()
        self._watched: int | None = None
        self._task = asyncio.create_task(self._work())

    def add(self, changes: Mapping[PortKey, ServicePort | None]) -> None:
        """Note changes and wake the task."""
        self._pending.update(changes)
        self._done.clear()
        self._wake.set()

    async def settled(self) -> None:
        """Wait until nothing is pending."""
        await self._done.wait()

    async def stop(self, *, clean: bool = False) -> None:
        """End the task; with `clean` take the rules away too."""
        self._unwatch()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        with suppress(NetlabError, OSError):  # the node may have gone already
            await self._in_thread(self._proxier.remove if clean else self._proxier.close)

    async def _work(self) -> None:
        """Write what is pending, look after what was written, and sleep."""
        due: float | None = None
        while True:
            await self._sleep(due)
            self._wake.clear()
            try:
                await self._write()
                await self._look()
                due = await self._in_thread(self._proxier.tick, time.monotonic())
                self.failure = ""
            except (NetlabError, OSError) as exc:
                self._report(str(exc))
                due = time.monotonic() + RETRY
            if not self._pending:
                self._done.set()

    async def _sleep(self, due: float | None) -> None:
        """Sleep until something is to be done: a change, a sign of somebody else's, the time of a tick or a look."""
        look = time.monotonic() + CHECK_PERIOD if self._watched is None and not self._is_new else None
        times = [moment for moment in (due, look) if moment is not None]
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)

    async def _write(self) -> None:
        if not (self._pending or self._is_new):
            return
        changes, self._pending = self._pending, {}
        await self._in_thread(self._proxier.sync, changes)  # what fails is remembered by the proxier
        self._is_new = False
        self._watch()

    async def _look(self) -> None:
        """Write everything anew where somebody else has changed it."""
        if not await self._in_thread(self._proxier.is_intact):
            self._say(f"node {self.target.name}: somebody has changed the rules of kube-proxy; they are written anew")
            await self._in_thread(self._proxier.resync)

    def _watch(self) -> None:
        descriptor = self._proxier.fileno()
        if descriptor != self._watched:
            self._unwatch()
            if descriptor is not None:
                asyncio.get_running_loop().add_reader(descriptor, self._wake.set)
            self._watched = descriptor

    def _unwatch(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None

    def _report(self, failure: str) -> None:
        if failure != self.failure:
            self._say(f"node {self.target.name}: {failure}")
        self.failure = failure

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
