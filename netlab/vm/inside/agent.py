"""The guest's end of the virtio-serial port: runs what the host asks for. It is copied into the guest by itself.

Messages are JSON, one a line, both ways. `bytes` are base64.

from the host   {id, op: run, argv, cwd, env, pty: [rows, columns] or null}
                {id, op: input, bytes}        empty bytes: end of input
                {id, op: signal, number}      to the job's session
                {id, op: resize, size: [rows, columns]}
to the host     {op: hello, release, uptime}
                {id, op: output, stream: out or err, bytes}
                {id, op: exit, status}        negative: ended by that signal
                {id, op: refused, why}        could not be started

A VM is ready when this has started, and under emulation each module that is imported costs a tenth of a second: so no
typing, subprocess, selectors or pathlib here.
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import select
import signal
import struct
import termios
import time

MYPY = False
if MYPY:
    from collections.abc import Callable
    from typing import Any

PORT = "netlab.agent"
PORTS = "/sys/class/virtio-ports"
CHUNK = 32768
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "linux",
}
EXIT_NO_EXEC = 127  # of a child that could not become the command; why it could not comes through a pipe


def read_text(file: str) -> str:
    """Return the text of a file."""
    with open(file) as stream:
        return stream.read()


def open_port() -> int:
    """Open the virtio-serial port of our name, as soon as the kernel has made it."""
    for _ in range(500):
        for name in os.listdir(PORTS) if os.path.isdir(PORTS) else ():
            if read_text(f"{PORTS}/{name}/name").strip() == PORT:
                return os.open(f"/dev/{name}", os.O_RDWR)
        time.sleep(0.01)  # there is no udev to wait for
    raise SystemExit(f"no virtio port is called {PORT}")


def protect_from_oom_killer(score: int) -> None:
    """Say how gladly the kernel should end this process when memory runs out: -1000 never, 0 as any other."""
    with open("/proc/self/oom_score_adj", "w") as stream:
        stream.write(str(score))


class Job:
    """One command: its process, and our ends of its streams. On a terminal all of them are one descriptor."""

    def __init__(self, number: int, request: dict[str, Any]) -> None:
        self.number = number
        self.on_terminal = bool(request.get("pty"))
        self.unwritten = bytearray()
        self.input_ends = False
        if self.on_terminal:
            ours, theirs = os.openpty()
            self.input: int | None = ours
            self.outputs = {ours: "out"}
            self.resize(request["pty"])
            inner = (theirs, theirs, theirs)
        else:
            (in_read, in_write), (out_read, out_write), (err_read, err_write) = (os.pipe() for _ in range(3))
            self.input = in_write
            self.outputs = {out_read: "out", err_read: "err"}
            inner = (in_read, out_write, err_write)
        try:
            self.pid = self._spawn(request, inner)
        except OSError:
            self.close()
            raise
        finally:
            for fd in set(inner):
                os.close(fd)
        self.exited = os.pidfd_open(self.pid)
        for fd in self.descriptors():
            os.set_blocking(fd, False)

    def _spawn(self, request: dict[str, Any], streams: tuple[int, int, int]) -> int:
        """Start the command in a session of its own; return its pid. Raises OSError with what kept it from starting."""
        failure, report = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._become(request, streams, report)
        os.close(report)
        with open(failure, "rb") as stream:
            code = stream.read()
        if code:
            os.waitpid(pid, 0)
            raise OSError(int(code), os.strerror(int(code)), request["argv"][0])
        return pid

    def _become(self, request: dict[str, Any], streams: tuple[int, int, int], report: int) -> None:
        """Turn this child into the command. Never returns."""
        try:
            os.setsid()
            protect_from_oom_killer(0)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the command would inherit that
                signal.signal(number, signal.SIG_DFL)
            for fd, stream in enumerate(streams):
                os.dup2(stream, fd)
            if self.on_terminal:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.chdir(request.get("cwd") or "/root")
            os.execvpe(request["argv"][0], request["argv"], {**ENVIRONMENT, **request.get("env", {})})
        except OSError as exc:
            os.write(report, str(exc.errno).encode())
        finally:
            os._exit(EXIT_NO_EXEC)

    def resize(self, size: list[int]) -> None:
        """Tell a terminal its size: rows, columns."""
        if self.on_terminal and self.input is not None:
            fcntl.ioctl(self.input, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's session; it may just have ended."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def descriptors(self) -> set[int]:
        """Return our ends of the streams that are open."""
        return {*self.outputs, *([self.input] if self.input is not None else [])}

    def end_input(self) -> None:
        """Close the command's input; a terminal's is closed with the terminal."""
        if self.input is not None and not self.on_terminal:
            os.close(self.input)
            self.input = None

    def close(self) -> None:
        """Close everything."""
        for fd in self.descriptors():
            os.close(fd)


class Agent:
    """The loop: one port, many jobs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._jobs: dict[int, Job] = {}
        self._rest = b""
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._watch(port, self._read_port)

    def send(self, **message: Any) -> None:
        """Write a message; waits while the host does not read."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._port, line) :]

    def serve(self) -> None:
        """Run until the machine ends."""
        self.send(op="hello", release=os.uname().release, uptime=float(read_text("/proc/uptime").split()[0]))
        while True:
            for fd, _ in self._poll.poll():
                if then := self._watched.get(fd):  # not forgotten by one before it
                    then()

    def _watch(self, fd: int, then: Callable[[], object], event: int = select.POLLIN) -> None:
        self._poll.register(fd, event)
        self._watched[fd] = then

    def _forget(self, fd: int) -> None:
        if self._watched.pop(fd, None):
            self._poll.unregister(fd)

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
                    job.unwritten += binascii.a2b_base64(message["bytes"])
                    job.input_ends |= not message["bytes"]
                    self._write_input(job)
                case "signal":
                    job.send_signal(message["number"])
                case "resize":
                    job.resize(message["size"])

    # --- jobs ---

    def _start(self, number: int, message: dict[str, Any]) -> None:
        try:
            job = Job(number, message)
        except (OSError, ValueError) as exc:
            self.send(id=number, op="refused", why=str(exc))
            return
        self._jobs[number] = job
        for fd in job.outputs:
            self._watch(fd, lambda fd=fd: self._read_output(job, fd))  # type: ignore[misc]
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
        encoded = binascii.b2a_base64(content, newline=False).decode()
        self.send(id=job.number, op="output", stream=job.outputs[fd], bytes=encoded)
        if job.on_terminal and job.unwritten:  # it was full, and may have room now
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
            if not job.on_terminal:
                self._watch(fd, lambda: self._write_input(job), select.POLLOUT)
            return
        except OSError:  # the command reads no more
            job.unwritten.clear()
        if not job.on_terminal:
            self._forget(fd)
            if job.input_ends:
                job.end_input()

    def _end(self, job: Job) -> None:
        """Pass on the last output and the exit status. What a command left running keeps nobody waiting."""
        status = os.waitstatus_to_exitcode(os.waitpid(job.pid, 0)[1])
        for fd in job.outputs:
            while self._read_output(job, fd):
                pass
        for fd in (job.exited, *job.descriptors()):
            self._forget(fd)
        os.close(job.exited)
        job.close()
        del self._jobs[job.number]
        self.send(id=job.number, op="exit", status=status)


if __name__ == "__main__":
    protect_from_oom_killer(-1000)
    Agent(open_port()).serve()
