"""The process behind a network of VMs: parent of the qemu processes, switch of their network, door to their agents.

`python -m netlab.vm.keeper FOLDER` finds in the folder what to run (`network.json`) and ends, with everything that it
started and the folder itself, when it is told to, on SIGTERM, or when its standard input closes: that is a pipe from
whoever wants the VMs for no longer than itself (a test run), and /dev/null for `netlab vm up`.

A client's connection to FOLDER/control carries one operation; `client.py` has them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import stat
import sys
from functools import partial
from pathlib import Path

from netlab.codec import from_json
from netlab.errors import UsageError
from netlab.vm import faults, folders, lines
from netlab.vm.lines import Message
from netlab.vm.machine import Machine, State
from netlab.vm.qemu import Network, Sockets
from netlab.vm.switch import Fault
from netlab.vm.wire import Wire


class Keeper:
    """The VMs of one network."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._network = network
        self._folder = folder
        self._wire = Wire()
        self._machines: dict[str, Machine] = {}
        self._asked_to_end = asyncio.Event()
        self._captures = itertools.count(1)

    async def run(self) -> None:
        """Keep the VMs until asked to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_end.set)
        self._end_with_owner()
        for vm in self._network.vms:
            sockets = Sockets(self._folder, vm.name)
            self._wire.open(sockets)
            self._machines[vm.name] = Machine(self._network, vm, sockets, partial(self._wire.plug, vm.name))
        lives = [asyncio.create_task(machine.live()) for machine in self._machines.values()]
        server = await asyncio.start_unix_server(self._serve, folders.control(self._folder), limit=lines.LONGEST)
        await self._asked_to_end.wait()
        server.close()
        self._keep_logs()
        for machine in self._machines.values():
            machine.kill()
        await asyncio.gather(*lives, return_exceptions=True)

    def _end_with_owner(self) -> None:
        """End when standard input does; /dev/null and the like never do."""

        def look() -> None:
            if not os.read(0, 4096):
                self._asked_to_end.set()

        if stat.S_ISFIFO(os.fstat(0).st_mode):
            asyncio.get_running_loop().add_reader(0, look)

    def _keep_logs(self) -> None:
        """Put the consoles of VMs that ended by themselves where they outlive this network."""
        for machine in self._machines.values():
            if machine.state is State.ENDED:
                log = Sockets(self._folder, machine.vm.name).log
                with contextlib.suppress(OSError):
                    shutil.copy(log, folders.kept_log(self._network.name, machine.vm.name))

    # --- clients ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, ValueError, KeyError, TypeError):
                if request := await _next(reader):
                    await self._obey(request, reader, writer)
                    await writer.drain()
        finally:
            writer.close()

    async def _obey(self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match request.pop("op"):
            case "describe":
                writer.write(lines.pack({"vms": [machine.describe() for machine in self._machines.values()]}))
            case "settle":
                machine = self._machines[request["vm"]]
                await machine.settled.wait()
                writer.write(lines.pack(machine.describe()))
            case "run":
                await self._run(self._machines[request.pop("vm")], request, reader, writer)
            case "capture":
                await self._capture(Path(request["file"]), reader, writer)
            case "fault":
                await self._disturb(faults.unpack(request["fault"]), reader, writer)
            case "end":
                self._asked_to_end.set()

    async def _run(
        self, machine: Machine, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Run a command in a guest for as long as the client stays."""
        number = machine.start_job({"op": "run", **request}, writer)
        try:
            while message := await _next(reader):
                machine.tell(number, message)
                await machine.drain()
        finally:
            machine.drop_job(number)

    async def _capture(self, file: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write frames to a file for as long as the client stays, or until it says stop: then all are in the file."""
        number = next(self._captures)
        try:
            self._wire.start_capture(number, file)
        except OSError as exc:
            writer.write(lines.pack({"refused": f"cannot write {file}: {exc.strerror}"}))
            return
        try:
            writer.write(lines.pack({}))
            await _next(reader)
        finally:
            self._wire.end_capture(number)
        writer.write(lines.pack({}))

    async def _disturb(self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a fault in the switch for as long as the client stays, or until it says stop."""
        switch = self._wire.switch
        try:
            switch.add_fault(fault)
        except UsageError as exc:
            writer.write(lines.pack({"refused": str(exc)}))
            return
        try:
            writer.write(lines.pack({}))
            while (message := await _next(reader)) and message["op"] == "count":
                found = next(count for count in switch.faults() if count.fault is fault)
                writer.write(lines.pack({"matched": found.matched, "acted": found.acted}))
        finally:
            switch.remove_fault(fault.name)
        writer.write(lines.pack({}))


async def _next(reader: asyncio.StreamReader) -> Message | None:
    """Return a client's next message; None when it has gone."""
    line = await reader.readline()
    return next(lines.Splitter().feed(line), None) if line.endswith(b"\n") else None


def main(folder: Path) -> None:
    """Run the VMs of a folder; remove it in the end. The caller holds its lock, and passes it on."""
    network = from_json(Network, json.loads(folders.description(folder).read_text()))
    try:
        asyncio.run(Keeper(network, folder).run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
