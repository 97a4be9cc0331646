"""The guest's end of the virtio-serial port: runs what the host asks for. Standard library only; copied into the guest.

Messages are JSON, one a line, both ways. `bytes` are base64.

    from the host   {id, op: run, argv, cwd, env, pty: [rows, columns] or null}
                    {id, op: input, bytes}        empty bytes: end of input
                    {id, op: signal, number}      to the job's session
                    {id, op: resize, size: [rows, columns]}
    to the host     {op: hello, release, uptime}
                    {id, op: output, stream: out or err, bytes}
                    {id, op: exit, status}        negative: ended by that signal
                    {id, op: refused, why}        could not be started
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PORT = "netlab.agent"
CHUNK = 32768
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "linux",
}


def open_port() -> int:
    """Open the virtio-serial port of our name, as soon as the kernel has made it."""
    for _ in range(500):
        for entry in Path("/sys/class/virtio-ports").glob("*/name"):
            if entry.read_text().strip() == PORT:
                return os.open(f"/dev/{entry.parent.name}", os.O_RDWR)
        time.sleep(0.01)  # there is no udev to wait for
    raise SystemExit(f"no virtio port is called {PORT}")


def protect_from_oom_killer(score: int) -> None:
    """Say how gladly the kernel should end this process when memory runs out: -1000 never, 0 as any other."""
    Path("/proc/self/oom_score_adj").write_text(str(score))


class Job:
    """One command: its process and what is still open of its streams."""

    def __init__(self, number: int, request: dict[str, Any]) -> None:
        self.number = number
        self.terminal: int | None = None
        environment = {**ENVIRONMENT, **request.get("env", {})}
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        if request.get("pty"):
            self.terminal, inner = os.openpty()
            self.resize(request["pty"])
            streams = dict.fromkeys(streams, inner)
        try:
            self.process = subprocess.Popen(
                request["argv"],
                **streams,
                cwd=request.get("cwd") or "/root",
                env=environment,
                bufsize=0,
                start_new_session=True,
                preexec_fn=self._prepare,  # noqa: PLW1509 - the agent has one thread
            )
        except BaseException:
            if self.terminal is not None:
                os.close(self.terminal)
            raise
        finally:
            if self.terminal is not None:
                os.close(inner)
        self.exited = os.pidfd_open(self.process.pid)
        self.unwritten = bytearray()
        self.input_ends = False

    def _prepare(self) -> None:
        protect_from_oom_killer(0)
        if self.terminal is not None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, size: list[int]) -> None:
        """Tell a terminal its size: rows, columns."""
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    @property
    def outputs(self) -> dict[int, str]:
        """Return what the command writes to: descriptor -> the stream's name."""
        if self.terminal is not None:
            return {self.terminal: "out"}
        assert self.process.stdout
        assert self.process.stderr
        return {self.process.stdout.fileno(): "out", self.process.stderr.fileno(): "err"}

    @property
    def input(self) -> int | None:
        """Return the descriptor of the command's input; None when that is closed."""
        if self.terminal is not None:
            return self.terminal
        stdin = self.process.stdin
        return stdin.fileno() if stdin and not stdin.closed else None

    def close(self) -> None:
        """Close everything."""
        os.close(self.exited)
        if self.terminal is not None:
            os.close(self.terminal)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


class Agent:
    """The loop: one port, many jobs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._jobs: dict[int, Job] = {}
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        self._watch(port, self._read_port)

    def send(self, **message: Any) -> None:
        """Write a message; waits while the host does not read."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._port, line) :]

    def serve(self) -> None:
        """Run until the machine ends."""
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        self.send(op="hello", release=os.uname().release, uptime=uptime)
        while True:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:  # not closed by one before it
                    key.data()

    def _watch(self, fd: int, then: Callable[[], object], event: int = selectors.EVENT_READ) -> None:
        self._selector.register(fd, event, then)

    def _forget(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    # --- the port ---

    def _read_port(self) -> None:
        received = os.read(self._port, CHUNK)
        if not received:  # nobody listens on the host's side
            time.sleep(0.05)
            return
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            if line.strip():
                self._obey(json.loads(line))

    def _obey(self, message: dict[str, Any]) -> None:
        number = message["id"]
        if message["op"] == "run":
            self._start(number, message)
        elif job := self._jobs.get(number):  # it may have ended meanwhile
            match message["op"]:
                case "input":
                    job.unwritten += base64.b64decode(message["bytes"])
                    job.input_ends |= not message["bytes"]
                    self._write_input(job)
                case "signal":
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(job.process.pid, message["number"])
                case "resize":
                    job.resize(message["size"])

    # --- jobs ---

    def _start(self, number: int, message: dict[str, Any]) -> None:
        try:
            job = Job(number, message)
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            self.send(id=number, op="refused", why=str(exc))
            return
        self._jobs[number] = job
        for fd in job.outputs:
            os.set_blocking(fd, False)
            self._watch(fd, partial(self._read_output, job, fd))
        if job.input is not None:
            os.set_blocking(job.input, False)
        self._watch(job.exited, lambda: self._end(job))

    def _read_output(self, job: Job, fd: int) -> bool:
        """Pass on what a command has written; say whether there may be more."""
        try:
            content = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process has left the terminal
            content = b""
        if not content:
            self._forget(fd)
            return False
        stream = job.outputs[fd]
        self.send(id=job.number, op="output", stream=stream, bytes=base64.b64encode(content).decode())
        if job.terminal is not None and job.unwritten:  # it was full, and may have room now
            self._write_input(job)
        return True

    def _write_input(self, job: Job) -> None:
        fd = job.input
        if fd is None:
            return
        try:
            while job.unwritten:
                del job.unwritten[: os.write(fd, job.unwritten)]
        except BlockingIOError:
            if job.terminal is None:
                self._forget(fd)
                self._watch(fd, lambda: self._write_input(job), selectors.EVENT_WRITE)
            return
        except OSError:  # the command reads no more
            job.unwritten.clear()
        if job.terminal is None:
            self._forget(fd)
            if job.input_ends and job.process.stdin:
                job.process.stdin.close()

    def _end(self, job: Job) -> None:
        """Pass on the last output and the exit status. What a command left running keeps nobody waiting."""
        self._forget(job.exited)
        status = job.process.wait()
        for fd in job.outputs:
            while self._read_output(job, fd):
                pass
            self._forget(fd)
        if job.input is not None:
            self._forget(job.input)
        del self._jobs[job.number]
        job.close()
        self.send(id=job.number, op="exit", status=status)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    protect_from_oom_killer(-1000)
    sys.stdout = sys.stderr
    Agent(open_port()).serve()
