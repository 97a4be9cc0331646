"""One VM inside the keeper: its qemu process, the line to its agent, and the commands that run in it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from netlab.vm import console, lines, qemu
from netlab.vm.lines import Message
from netlab.vm.qemu import Network, Sockets, Vm

WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")  # qemu ends when the keeper does, however that ends
CONNECT_PAUSE = 0.01  # seconds between looks for a socket that qemu has yet to make
CHUNK = 65536
MOST_UNREAD = 256 * 1024 * 1024  # bytes that a client may leave unread; then it is dropped


class State(StrEnum):
    """Where a VM is in its life."""

    BOOTING = "booting"
    READY = "ready"
    ENDED = "ended"


class Machine:
    """A VM. `plugged` is called once its network card is there."""

    def __init__(self, network: Network, vm: Vm, sockets: Sockets, plugged: Callable[[], None]) -> None:
        self.vm = vm
        self.state = State.BOOTING
        self.why = ""  # it has ended
        self.release = ""
        self.boot_seconds = 0.0
        self.settled = asyncio.Event()  # ready or ended
        self._argv = qemu.argv(network, vm, sockets)
        self._sockets = sockets
        self._plugged = plugged
        self._process: asyncio.subprocess.Process | None = None
        self._agent: asyncio.StreamWriter | None = None
        self._jobs: dict[int, asyncio.StreamWriter] = {}
        self._numbers = itertools.count(1)

    async def live(self) -> None:
        """Start the VM and stay until it ends."""
        self._started = time.monotonic()
        try:
            with self._sockets.errors.open("wb") as errors:
                self._process = await asyncio.create_subprocess_exec(
                    *WITH_PARENT, *self._argv, stdin=asyncio.subprocess.DEVNULL, stdout=errors, stderr=errors
                )
        except OSError as exc:
            self._end(f"qemu cannot be started: {exc}")
            return
        talk = asyncio.create_task(self._talk())
        status = await self._process.wait()
        talk.cancel()
        self._end(console.explain(self._console(), _read(self._sockets.errors), status))

    def kill(self) -> None:
        """End the VM at once: nothing in it outlives it anyway."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    def describe(self) -> Message:
        """Return what a client may know."""
        pid = self._process.pid if self._process and self._process.returncode is None else None
        memory, peak = _memory(pid)
        return {
            "name": self.vm.name,
            "address": str(self.vm.address.ip),
            "state": self.state.value,
            "why": self.why,
            "release": self.release,
            "boot_seconds": round(self.boot_seconds, 2),
            "pid": pid,
            "memory": memory,
            "peak_memory": peak,
        }

    # --- commands inside ---

    def start_job(self, request: Message, client: asyncio.StreamWriter) -> int:
        """Have the agent run a command for a client; return the job's number."""
        number = next(self._numbers)
        if self.state is State.ENDED:
            client.write(lines.pack({"op": "lost", "why": self.why}))
        else:
            self._jobs[number] = client
            self.tell(number, request)
        return number

    def tell(self, number: int, message: Message) -> None:
        """Pass a client's message on to the agent."""
        if self._agent:
            self._agent.write(lines.pack(message | {"id": number}))

    async def drain(self) -> None:
        """Wait until the agent has taken most of what it was told."""
        if self._agent:
            await self._agent.drain()

    def drop_job(self, number: int) -> None:
        """Kill the command of a client that has gone; nothing to do when it has ended."""
        if self._jobs.pop(number, None):
            self.tell(number, {"op": "signal", "number": int(signal.SIGKILL)})

    # --- the agent's line ---

    async def _talk(self) -> None:
        reader, self._agent = await self._connect()
        splitter = lines.Splitter()
        while received := await reader.read(CHUNK):
            try:
                for message in splitter.feed(received):
                    self._take(message)
            except ValueError as exc:
                self._lose_jobs(f"the guest's agent said what is not understood: {exc}")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return await asyncio.open_unix_connection(self._sockets.agent, limit=lines.LONGEST)
            await asyncio.sleep(CONNECT_PAUSE)

    def _take(self, message: Message) -> None:
        if message["op"] == "hello":
            self._greet(message)
            return
        number = message.pop("id")
        client = self._jobs.get(number)
        if client is None:
            return
        client.write(lines.pack(message))
        if message["op"] in ("exit", "refused"):
            del self._jobs[number]
        elif client.transport.get_write_buffer_size() > MOST_UNREAD:
            self.drop_job(number)
            client.close()

    def _greet(self, hello: Message) -> None:
        if self.state is State.READY:  # busybox init has started another agent
            self._lose_jobs("the guest's agent ended and was started anew")
            return
        self.state = State.READY
        self.release = hello["release"]
        self.boot_seconds = time.monotonic() - self._started
        self._plugged()
        self.settled.set()

    def _end(self, why: str) -> None:
        self.state, self.why = State.ENDED, why
        self._lose_jobs(why)
        self.settled.set()

    def _lose_jobs(self, why: str) -> None:
        for client in self._jobs.values():
            client.write(lines.pack({"op": "lost", "why": why}))
        self._jobs.clear()

    def _console(self) -> str:
        return _read(self._sockets.log)


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _memory(pid: int | None) -> tuple[int, int]:
    """Return what a process holds of memory, now and at most, in bytes (VmRSS and VmHWM of proc_pid_status(5))."""
    found = {"VmRSS": 0, "VmHWM": 0}
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    return found["VmRSS"], found["VmHWM"]
