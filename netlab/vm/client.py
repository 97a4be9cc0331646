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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from netlab.bpf.pcap_filter import compile_filter
from netlab.codec import from_json, to_json
from netlab.errors import NetlabError, UsageError, VmError
from netlab.vm import console, faults, folders, qemu
from netlab.vm.boot import Boot
from netlab.vm.guest import GuestVm
from netlab.vm.line import Line, describe
from netlab.vm.lines import Message
from netlab.vm.qemu import Network, Vm
from netlab.vm.switch import Action, Fault

END_LIMIT = 20.0
_NUMBERS = itertools.count(1)


class HeldFault:
    """A fault that is at work."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def counts(self) -> tuple[int, int]:
        """Return how many frames of its kind there were, and to how many it did something."""
        answer = self._line.ask({"op": "count"})
        return answer["matched"], answer["acted"]


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
        except BaseException as exc:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(exc, OSError):
                hint = "make room, or set XDG_RUNTIME_DIR to another folder"
                raise NetlabError(f"cannot prepare VMs in {folder}: {exc.strerror}", hint) from exc
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
        try:
            return cls(folder, from_json(Network, json.loads(folders.description(folder).read_text())))
        except (FileNotFoundError, ValueError):  # it is just being made, or taken away
            return None

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
    """Wait until a keeper answers. Raises VmError when it ends instead."""
    while True:
        with contextlib.suppress(VmError), Line(folder):
            return
        if keeper.poll() is not None:
            log = folders.keeper_log(folder)
            said = console.tail(log.read_text() if log.exists() else "")
            raise VmError(folder.name, f"the keeper of the VMs ended with status {keeper.returncode}{said}")
        time.sleep(0.01)  # nothing says when its socket is there
