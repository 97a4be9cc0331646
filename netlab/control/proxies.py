"""Every node's proxier: which mode it has, what it still has to write, and who looks after its rules.

A node's changes are merged while its last ones are being written, so a burst of them costs two writes. The tools that
proxiers run are waited for in threads; nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from netlab.control.modes import clear, make
from netlab.errors import NetlabError
from netlab.kernel import netns
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
        self._leaving: dict[str, asyncio.Task[None]] = {}  # nodes that keep rules which could not be taken away
        self._ports: dict[PortKey, ServicePort] = {}

    async def want(self, targets: Mapping[str, tuple[NodeTarget, Proxy]]) -> None:
        """Have proxiers for these nodes, by name, and no others; what another mode has left is taken away."""
        for name in self._nodes.keys() - targets.keys():
            gone = self._nodes.pop(name)
            if not await gone.stop(clean=True):
                self._leaving[name] = asyncio.create_task(gone.clean_later())
        for name, (target, mode) in targets.items():
            if name in self._leaving:
                self._leaving.pop(name).cancel()
            node = self._nodes.get(name)
            if node and (node.target, node.mode) == (target, mode):
                continue
            if node:
                await node.stop(clean=True)  # what fails is tried again as what another mode has left
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
        for task in self._leaving.values():
            task.cancel()
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
        self._clear_at: float | None = 0.0  # when to look for what other modes have left; None: it is gone
        self._left = ""  # why it is not
        self._lock = threading.Lock()
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

    async def stop(self, *, clean: bool = False) -> bool:
        """End the task; with `clean` take the rules away too, and return whether none are left."""
        self._unwatch()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        if clean and self._is_there():
            return await self._clean()
        with suppress(NetlabError, OSError):
            await self._in_thread(self._proxier.close)
        return True

    async def clean_later(self) -> None:
        """Try to take the rules away until it is done, or the node has gone."""
        while self._is_there():
            await asyncio.sleep(RETRY)
            if await self._clean():
                return

    async def _clean(self) -> bool:
        try:
            await self._in_thread(self._proxier.remove)
        except (NetlabError, OSError) as exc:
            if self._is_there():
                self._report(f"rules of mode {self.mode} are left: {exc}")
                return False
        return True

    def _is_there(self) -> bool:
        """Say whether the namespace that the rules are in is still the node's."""
        try:
            return netns.inode(self.target.netns) == self.target.inode
        except FileNotFoundError:
            return False

    async def _work(self) -> None:
        """Write what is pending, look after what was written, and sleep."""
        due: float | None = None
        while True:
            await self._sleep(due)
            self._wake.clear()
            try:
                await self._clear()
                await self._write()
                await self._look()
                due = await self._in_thread(self._proxier.tick, time.monotonic())
                self._report(self._left)
                due = min((moment for moment in (due, self._clear_at) if moment is not None), default=None)
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

    async def _clear(self) -> None:
        """Take away what other modes have left. Where that fails the node's own rules are written all the same."""
        if self._clear_at is None or time.monotonic() < self._clear_at:
            return
        try:
            await self._in_thread(clear, self.target, self.mode)
            self._clear_at, self._left = None, ""
        except (NetlabError, OSError) as exc:
            self._clear_at, self._left = time.monotonic() + RETRY, f"rules of another mode are left: {exc}"

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
        if failure and failure != self.failure:
            self._say(f"node {self.target.name}: {failure}")
        self.failure = failure

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Run what waits in a thread, one after the other: a task that was ended does not end its thread."""

        def run() -> T:
            with self._lock:
                return function(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)
