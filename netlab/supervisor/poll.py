"""Wait for descriptors that can be read, and for the deaths of children."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable

from netlab.supervisor.wake import wake_on


class Poll:
    """The one place where the supervisor sleeps."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._deaths = wake_on(signal.SIGCHLD)
        self.watch(self._deaths, self._clear)

    def watch(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever there is something to read."""
        self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = reader

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; do so before it is closed."""
        self._epoll.unregister(fd)
        del self._readers[fd]

    def wait(self, timeout: float | None) -> None:
        """Sleep until something can be read, a child has ended or the timeout (seconds) is over."""
        for fd, _ in self._epoll.poll(timeout):
            reader = self._readers.get(fd)  # an earlier one may have unwatched it
            if reader:
                reader()

    def _clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._deaths, 4096)
