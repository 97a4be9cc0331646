"""The supervisor's loop: wait for a death, a request, some output or a timer; converge; publish; answer.

Single-threaded, and asleep while nothing happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from functools import partial
from types import FrameType

from netlab.kernel import proc
from netlab.supervisor.decide import NEVER
from netlab.supervisor.poll import Poll
from netlab.supervisor.processes import Processes
from netlab.supervisor.spec import APPLY, RETIRE, Files, Report, read_specs, write_report

_REQUEST_MAX = 512


class Loop:
    """PID 1 of a lab."""

    def __init__(self, lab: str, files: Files, listener: socket.socket) -> None:
        self._files = files
        self._listener = listener
        self._poll = Poll()
        self._processes = Processes(lab, files, self._poll)
        self._pid = int(os.readlink("/proc/self"))  # as the host sees it: this /proc is the host's
        self._started = proc.find_start_time(self._pid) or 0
        self._generation = 0
        self._asking: list[socket.socket] = []
        self._awaiting_ends: dict[socket.socket, str] = {}  # of pods
        self._poll.watch(listener.fileno(), self._accept)
        signal.signal(signal.SIGTERM, _leave)

    def run(self) -> None:
        """Work until killed. A SIGTERM ends this process, and with it all of the lab's."""
        while True:
            self._processes.reap()
            self._processes.converge()
            self._publish()
            now = time.monotonic()
            if self._processes.is_settled(now):
                self._answer()
            self._tell_ends()
            due = self._processes.next_due(now)
            self._poll.wait(None if due == NEVER else due - now)

    def _publish(self) -> None:
        if not self._processes.changed:
            return
        self._processes.changed = False
        report = Report(self._pid, self._started, self._generation, self._processes.statuses())
        try:
            write_report(self._files.status, report)
        except OSError as exc:
            self._processes.say(f"cannot write {self._files.status}: {exc.strerror}")

    def _answer(self) -> None:
        for client in self._asking:
            _reply(client, {"generation": self._generation})
        self._asking.clear()

    def _tell_ends(self) -> None:
        """Answer those who have retired pods whose containers have ended; the connections stay open."""
        for client, pod in list(self._awaiting_ends.items()):
            if self._processes.has_ended(pod):
                del self._awaiting_ends[client]
                _send(client, {"ended": pod})

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            client.setblocking(False)
            self._poll.watch(client.fileno(), partial(self._take, client))

    def _take(self, client: socket.socket) -> None:
        """Take one request. It is answered once everything has settled, or what it asks for has happened."""
        self._poll.unwatch(client.fileno())
        try:
            request = client.recv(_REQUEST_MAX)
            if request.startswith(RETIRE):
                self._retire(client, request.removeprefix(RETIRE).decode())
                return
            if request == APPLY:
                self._generation, specs = read_specs(self._files.spec)
                self._processes.want(specs)
            self._processes.changed = True  # the file is written anew in any case: it may have been lost
        except (OSError, ValueError) as exc:
            _reply(client, {"error": str(exc)})
        else:
            self._asking.append(client)

    def _retire(self, client: socket.socket, pod: str) -> None:
        """Retire a pod for as long as the client keeps the connection."""
        self._processes.retire(pod)
        self._awaiting_ends[client] = pod
        self._poll.watch(client.fileno(), partial(self._restore, client, pod))

    def _restore(self, client: socket.socket, pod: str) -> None:
        self._poll.unwatch(client.fileno())
        client.close()
        self._awaiting_ends.pop(client, None)
        self._processes.restore(pod)


def _reply(client: socket.socket, answer: dict[str, object]) -> None:
    with client:
        _send(client, answer)


def _send(client: socket.socket, answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the client may have gone
        client.send(json.dumps(answer).encode())


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
