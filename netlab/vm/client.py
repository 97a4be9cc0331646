"""Small VMs on one layer-2 network, from Python: start them, run commands in them, watch and disturb their network.

    with VmNetwork.start("demo", count=2) as net:
        one, two = net.vms
        with net.capture(Path("wire.pcap")), net.fault(Action.DROP, filter="arp") as fault:
            one.run(["ping", "-c1", "vm2"])

Everything goes through the keeper's socket, one connection an operation, so any process of the same user may join in.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from netlab.codec import from_json, to_json
from netlab.errors import UsageError, VmError
from netlab.vm import console, faults, folders, lines, qemu
from netlab.vm.boot import Boot
from netlab.vm.faults import compile_filter
from netlab.vm.job import Job
from netlab.vm.lines import Message
from netlab.vm.qemu import Network, Sockets, Vm
from netlab.vm.switch import Action, Fault

BOOT_LIMIT = 120.0  # seconds; a VM takes 3 on an idle machine
END_LIMIT = 20.0
_NUMBERS = itertools.count(1)


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

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.close()
        self.socket.close()


class HeldFault:
    """A fault that is at work."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def counts(self) -> tuple[int, int]:
        """Return how many frames of its kind there were, and to how many it did something."""
        answer = self._line.ask({"op": "count"})
        return answer["matched"], answer["acted"]


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
        return Job(Line(self._folder, timeout=None).socket, request, self.name)

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


class VmNetwork:
    """VMs on one network, kept by a process of their own."""

    def __init__(self, folder: Path, network: Network, owner: subprocess.Popen[bytes] | None = None) -> None:
        self.name = network.name
        self.vms = tuple(GuestVm(folder, vm) for vm in network.vms)
        self._folder = folder
        self._keeper = owner

    @classmethod
    def start(
        cls,
        name: str,
        *,
        count: int,
        memory: int = qemu.MEMORY,
        detached: bool = False,
        boot: Boot | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> VmNetwork:
        """Start VMs and wait until all take commands. They end with this process, unless `detached`.

        Raises UsageError when a network of that name lives, NotSupported when a program is missing, VmError.
        """
        boot = boot or Boot.prepare(say)
        claimed = folders.claim(name)
        if claimed is None:
            raise UsageError(f"there are VMs of the name {name} already", f"`netlab vm down --network {name}`")
        folder, lock = claimed
        try:
            network = boot.network(name, tuple(Vm(number, memory) for number in range(1, count + 1)), folder)
            folders.description(folder).write_text(json.dumps(to_json(network)))
            keeper = _start_keeper(folder, lock, detached=detached)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            os.close(lock)
        found = cls(folder, network, keeper)
        try:
            _await_keeper(folder, keeper)
            for vm in found.vms:
                vm.wait_ready()
        except BaseException:
            found.end()
            raise
        return found

    @classmethod
    def find(cls, name: str) -> VmNetwork | None:
        """Return the network of a name, if it lives."""
        folder = folders.base() / name
        if not folders.is_alive(folder):
            return None
        return cls(folder, from_json(Network, json.loads(folders.description(folder).read_text())))

    def describe(self) -> list[Message]:
        """Return what the keeper knows of each VM."""
        return describe(self._folder)

    @contextmanager
    def capture(self, file: Path) -> Iterator[None]:
        """Write every frame that a VM sends meanwhile to a pcap file, complete at the end. Raises UsageError."""
        with self._hold({"op": "capture", "file": str(file.absolute())}):
            yield

    @contextmanager
    def fault(self, action: Action, **how: Any) -> Iterator[HeldFault]:
        """Disturb the network meanwhile; `how` are the fields of `switch.Fault`. Raises UsageError."""
        program = compile_filter(how.get("filter", ""))
        fault = Fault(f"fault-{os.getpid()}-{next(_NUMBERS)}", action, program=program, **how)
        with self._hold({"op": "fault", "fault": faults.pack(fault)}) as held:
            yield HeldFault(held)

    @contextmanager
    def _hold(self, request: Message) -> Iterator[Line]:
        """Have the keeper do something for as long as the connection lasts; wait until it has begun and ended."""
        with Line(self._folder) as held:
            held.ask(request)
            try:
                yield held
            finally:
                with contextlib.suppress(VmError):  # they may have been ended inside
                    held.ask({"op": "stop"})

    def end(self) -> None:
        """End the VMs and everything that was made for them; nothing to do when they have gone."""
        with contextlib.suppress(OSError, VmError), Line(self._folder) as line:
            line.tell({"op": "end"})
        if self._keeper:
            if self._keeper.stdin:
                self._keeper.stdin.close()
            try:
                self._keeper.wait(END_LIMIT)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        deadline = time.monotonic() + END_LIMIT
        while folders.is_alive(self._folder):
            if time.monotonic() > deadline:
                raise VmError(
                    self.name, "the keeper of the VMs does not end", "find it with `pgrep -f netlab.vm.keeper`"
                )
            time.sleep(0.02)  # somebody else's child: only its lock says that it has ended

    def __enter__(self) -> VmNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def describe(folder: Path) -> list[Message]:
    """Ask a network's keeper for its VMs."""
    with Line(folder) as line:
        found: list[Message] = line.ask({"op": "describe"})["vms"]
    return found


def _start_keeper(folder: Path, lock: int, *, detached: bool) -> subprocess.Popen[bytes]:
    """Start the keeper in a session of its own, so that a Ctrl-C reaches it through its owner only."""
    with folders.keeper_log(folder).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "netlab.vm.keeper", str(folder)],
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )


def _await_keeper(folder: Path, keeper: subprocess.Popen[bytes]) -> None:
    while not folders.control(folder).exists():
        if keeper.poll() is not None:
            log = folders.keeper_log(folder)
            said = log.read_text() if log.exists() else ""
            raise VmError(
                folder.name, f"the keeper of the VMs ended with status {keeper.returncode}{console.tail(said)}"
            )
        time.sleep(0.01)  # its socket appears when it is ready
