"""The cables of the VMs: datagram sockets where qemu sends and takes frames, with the switch between them.

No interface, no namespace and no right is needed: frames travel over unix sockets (`-netdev dgram`, one frame a
datagram), so nothing of them is ever seen by the host's network.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

from netlab.vm.pcap import PcapWriter
from netlab.vm.qemu import Sockets
from netlab.vm.switch import Delivery, Switch

FRAME = 65536  # bytes: with segmentation offload a guest's frame may be longer than the MTU
BATCH = 64  # frames taken from one VM before it is the next one's turn
QUEUED = 1000  # frames that wait for a VM; more are dropped, as by any switch
BUFFER = 4 * 1024 * 1024  # bytes of a socket's buffer


class Wire:
    """The ports of all VMs."""

    def __init__(self) -> None:
        self.switch = Switch()
        self._ports: dict[str, Port] = {}
        self._captures: dict[int, tuple[BinaryIO, PcapWriter]] = {}

    def open(self, sockets: Sockets) -> None:
        """Make a VM's port, before qemu looks for it."""
        self._ports[sockets.vm] = Port(sockets, self)

    def plug(self, vm: str) -> None:
        """Put a VM's cable in: qemu has made its end."""
        self._ports[vm].connect()
        self.switch.add_port(vm)

    def start_capture(self, number: int, file: Path) -> None:
        """Write every frame that a VM sends to a file, also those that a fault takes away. Raises OSError."""
        stream = file.open("wb")
        self._captures[number] = (stream, PcapWriter(stream))

    def end_capture(self, number: int) -> None:
        """Close a capture's file."""
        stream, _ = self._captures.pop(number)
        stream.close()

    def take(self, vm: str, frame: bytes) -> None:
        """Take a frame from a VM and bring it where the switch says."""
        if self._captures:
            nanoseconds = time.time_ns()
            for _, writer in self._captures.values():
                writer.write(frame, nanoseconds)
        now = time.monotonic()
        for delivery in self.switch.receive(vm, frame, now):
            if delivery.at <= now:
                self._deliver(delivery)
            else:
                asyncio.get_running_loop().call_at(delivery.at, self._deliver, delivery)

    def _deliver(self, delivery: Delivery) -> None:
        self._ports[delivery.port].send(delivery.frame)


class Port:
    """One VM's end of its cable."""

    def __init__(self, sockets: Sockets, wire: Wire) -> None:
        self._vm = sockets.vm
        self._nic = sockets.nic
        self._wire = wire
        self._waiting: deque[bytes] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._socket.bind(str(sockets.port))

    def connect(self) -> None:
        """Join the cable's two ends."""
        self._socket.connect(str(self._nic))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            for _ in range(BATCH):
                self._wire.take(self._vm, self._socket.recv(FRAME))

    def send(self, frame: bytes) -> None:
        """Send a frame to the VM, or keep it until the VM takes more."""
        if self._waiting:
            if len(self._waiting) < QUEUED:
                self._waiting.append(frame)
            return
        try:
            self._socket.send(frame)
        except BlockingIOError:
            self._waiting.append(frame)
            asyncio.get_running_loop().add_writer(self._socket, self._drain)
        except OSError:  # the VM has ended
            pass

    def _drain(self) -> None:
        try:
            while self._waiting:
                self._socket.send(self._waiting[0])
                self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._waiting.clear()
        asyncio.get_running_loop().remove_writer(self._socket)
