"""A command that runs in a guest, as its starter sees it: one connection to the keeper."""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from types import TracebackType

from netlab.errors import UsageError, VmError
from netlab.vm import lines
from netlab.vm.line import Line
from netlab.vm.lines import Message

CHUNK = 65536


class Job:
    """A command in a guest. It is killed when its starter closes it, or ends."""

    def __init__(self, line: Line, request: Message, vm: str) -> None:
        self.status: int | None = None  # once it has ended; negative: by that signal
        self._vm = vm
        self._argv = request["argv"]
        self._line = line
        self._splitter = lines.Splitter()
        self._streams = {"out": bytearray(), "err": bytearray()}
        self.tell(request)

    def fileno(self) -> int:
        """Return the descriptor to wait for: `take` when it can be read."""
        return self._line.socket.fileno()

    @property
    def output_bytes(self) -> bytes:
        """Return what it has written to its standard output so far."""
        return bytes(self._streams["out"])

    @property
    def output(self) -> str:
        """Return what it has written to its standard output so far, as text."""
        return self._streams["out"].decode(errors="replace")

    @property
    def errors(self) -> str:
        """Return what it has written to its standard error so far, as text."""
        return self._streams["err"].decode(errors="replace")

    def tell(self, message: Message) -> None:
        """Send the agent a message about this command; it may have ended."""
        with contextlib.suppress(VmError):
            self._line.tell(message)

    def write(self, content: bytes) -> None:
        """Write to its standard input."""
        for start in range(0, len(content), CHUNK):
            self.tell({"op": "input", "bytes": lines.to_text(content[start : start + CHUNK])})

    def end_input(self) -> None:
        """Close its standard input."""
        self.tell({"op": "input", "bytes": ""})

    def send_signal(self, number: int) -> None:
        """Send a signal to it and to all that it has started in its session."""
        self.tell({"op": "signal", "number": number})

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal a new size."""
        self.tell({"op": "resize", "size": [rows, columns]})

    def take(self) -> list[tuple[str, bytes]]:
        """Wait for news and return what it has written: "out" or "err", and bytes. Sets `status` when it has ended.

        Raises UsageError when it could not be started, VmError when the VM has ended.
        """
        try:
            received = self._line.socket.recv(CHUNK)
        except ConnectionResetError:
            received = b""
        if not received:
            raise VmError(self._vm, "the keeper of the VMs has ended")
        written = []
        for message in self._splitter.feed(received):
            match message["op"]:
                case "output":
                    content = lines.to_bytes(message["bytes"])
                    self._streams[message["stream"]] += content
                    written.append((message["stream"], content))
                case "exit":
                    self.status = message["status"]
                case "refused":
                    raise UsageError(f"{self._vm}: cannot run {self._argv[0]}: {message['why']}")
                case "lost":
                    raise VmError(self._vm, f"it ended while it ran `{' '.join(self._argv)}`: {message['why']}")
        return written

    def wait(self, timeout: float) -> int:
        """Wait until it has ended and return its status. Raises subprocess.TimeoutExpired and as `take` does."""
        deadline = time.monotonic() + timeout
        while self.status is None:
            self._take_before(deadline, timeout)
        return self.status

    def wait_for(self, text: str, timeout: float = 30.0) -> None:
        """Wait until it has written a text. Raises VmError when it ends without, and as `wait` does."""
        deadline = time.monotonic() + timeout
        while text not in self.output and text not in self.errors:
            if self.status is not None:
                raise VmError(self._vm, f"`{' '.join(self._argv)}` ended with status {self.status} without {text!r}")
            self._take_before(deadline, timeout)

    def _take_before(self, deadline: float, timeout: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self], [], [], left)[0]:
            raise subprocess.TimeoutExpired(self._argv, timeout, self.output_bytes, bytes(self._streams["err"]))
        self.take()

    def close(self) -> None:
        """Let go of it: what still runs is killed."""
        self._line.close()

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
