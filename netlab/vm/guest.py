"""One running VM: commands and files in it, and its console."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from netlab.errors import VmError
from netlab.vm import console, folders
from netlab.vm.job import Job
from netlab.vm.line import Line, describe
from netlab.vm.lines import Message
from netlab.vm.qemu import Sockets, Vm

BOOT_LIMIT = 120.0  # seconds; a VM takes 3 on an idle machine


class GuestVm:
    """One running VM."""

    def __init__(self, folder: Path, vm: Vm) -> None:
        self._folder = folder
        self.vm = vm
        self.name = vm.name
        self.address = str(vm.address.ip)

    @property
    def console(self) -> str:
        """Return what the VM's console has shown so far."""
        try:
            return Sockets(self._folder, self.name).log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def console_socket(self) -> Path:
        """Return the stream socket of the serial console; one client at a time."""
        return Sockets(self._folder, self.name).console

    def describe(self) -> Message:
        """Return state, release, memory and more, as the keeper knows them."""
        return next(vm for vm in describe(self._folder) if vm["name"] == self.name)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Job:
        """Start a command and return it running. `terminal` gives it one, of so many rows and columns."""
        request: Message = {"op": "run", "vm": self.name, "argv": list(argv), "env": dict(env or {}), "cwd": cwd}
        if terminal:
            request["pty"] = list(terminal)
        return Job(Line(self._folder, timeout=None), request, self.name)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | bytes = b"",
        timeout: float = 60.0,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return its output and exit status.

        Raises VmError when the VM ends meanwhile, UsageError when there is no such command,
        subprocess.TimeoutExpired after `timeout` seconds, and with `check` CalledProcessError on a failure.
        """
        with self.start(argv, env=env, cwd=cwd) as job:
            job.write(stdin.encode() if isinstance(stdin, str) else stdin)
            job.end_input()
            status = job.wait(timeout)
        done = subprocess.CompletedProcess(list(argv), status, job.output, job.errors)
        if check:
            done.check_returncode()
        return done

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the guest."""
        self.run(["sh", "-c", 'cat > "$1"', "sh", path], stdin=content, check=True)

    def read(self, path: str) -> bytes:
        """Return a file of the guest. Raises FileNotFoundError."""
        with self.start(["cat", path]) as job:
            job.end_input()
            if job.wait(60.0):
                raise FileNotFoundError(job.errors.strip())
            return job.output_bytes

    def wait_ready(self, limit: float = BOOT_LIMIT) -> None:
        """Wait until the VM takes commands. Raises VmError, with the console's end, when it does not."""
        try:
            with Line(self._folder, timeout=limit) as line:
                found = line.ask({"op": "settle", "vm": self.name})
        except TimeoutError:
            raise self._failure(f"it was not ready after {limit:g} s") from None
        if found["state"] != "ready":
            raise self._failure(found["why"])

    def _failure(self, why: str) -> VmError:
        kept = folders.kept_log(self._folder.name, self.name)
        with contextlib.suppress(OSError):
            shutil.copy(Sockets(self._folder, self.name).log, kept)
        return VmError(self.name, f"{why}{console.tail(self.console)}", f"its whole console is in {kept}")
