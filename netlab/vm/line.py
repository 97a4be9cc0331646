"""A connection to the keeper of a network of VMs: one operation each."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType

from netlab.errors import UsageError, VmError
from netlab.vm import folders, lines
from netlab.vm.lines import Message


class Line:
    """A connection to a network's keeper. Raises VmError when that does not answer."""

    def __init__(self, folder: Path, *, timeout: float | None = 30.0) -> None:
        self._network = folder.name
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(str(folders.control(folder)))
        except OSError as exc:
            self.socket.close()
            raise VmError(folder.name, f"its keeper does not answer: {exc.strerror}") from exc
        self._answers = self.socket.makefile("rb")

    def tell(self, message: Message) -> None:
        """Send a message. Raises VmError."""
        try:
            self.socket.sendall(lines.pack(message))
        except OSError as exc:
            raise VmError(self._network, "the keeper of the VMs has ended") from exc

    def ask(self, message: Message) -> Message:
        """Send a message and return the answer. Raises TimeoutError, VmError, UsageError for a refusal."""
        self.tell(message)
        line = self._answers.readline()
        if not line:
            raise VmError(self._network, "the keeper of the VMs has ended")
        answer: Message = json.loads(line)
        if "refused" in answer:
            raise UsageError(answer["refused"])
        return answer

    def close(self) -> None:
        """Let go of the keeper; a command that runs by this line is killed."""
        self._answers.close()
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def describe(folder: Path) -> list[Message]:
    """Ask a network's keeper for its VMs."""
    with Line(folder) as line:
        found: list[Message] = line.ask({"op": "describe"})["vms"]
    return found
