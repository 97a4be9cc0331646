"""A guest's command or console on this process's own terminal."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from netlab.errors import VmError
from netlab.vm.guest import GuestVm
from netlab.vm.job import Job

CHUNK = 65536
LEAVE = b"\x1d"  # Ctrl-], as in telnet(1) and virsh(1)
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_here(vm: GuestVm, argv: Sequence[str]) -> int:
    """Run a command in a guest with this process's input, output and terminal; return a shell's exit status."""
    on_terminal = os.isatty(0) and os.isatty(1)
    size = shutil.get_terminal_size()
    terminal = (size.lines, size.columns) if on_terminal else None
    env = {"TERM": os.environ.get("TERM", "linux")} if on_terminal else {}
    with vm.start(argv, terminal=terminal, env=env) as job, _signals(job), _raw(on_terminal):
        _pass_on(job)
    assert job.status is not None
    return job.status if job.status >= 0 else 128 - job.status


def _pass_on(job: Job) -> None:
    """Carry bytes both ways until the command has ended."""
    outputs = {"out": 1, "err": 2}
    inputs = [0, job.fileno()]
    while job.status is None:
        ready, _, _ = select.select(inputs, [], [])
        if 0 in ready:
            content = os.read(0, CHUNK)
            job.write(content)
            if not content:
                job.end_input()
                inputs.remove(0)
        if job.fileno() in ready:
            for stream, content in job.take():
                _write(outputs[stream], content)


def open_console(console: Path) -> None:
    """Connect this terminal with a serial console until Ctrl-], the end of input, or the VM's end."""
    with socket.socket(socket.AF_UNIX) as connection, _raw(os.isatty(0)):
        try:
            connection.connect(str(console))
        except OSError as exc:
            raise VmError(console.stem, f"its console cannot be opened: {exc.strerror}") from exc
        connection.sendall(b"\r")  # the guest offers a shell to whoever presses Enter
        while True:
            ready, _, _ = select.select([0, connection.fileno()], [], [])
            if 0 in ready:
                typed = os.read(0, CHUNK)
                if not typed or LEAVE in typed:
                    return
                connection.sendall(typed)
            if connection.fileno() in ready:
                shown = connection.recv(CHUNK)
                if not shown:
                    return
                _write(1, shown)


@contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Give every key to the guest."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _signals(job: Job) -> Iterator[None]:
    """Send signals on to the command, and changes of the terminal's size."""

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        job.resize(size.lines, size.columns)

    previous = {number: signal.signal(number, lambda number, _: job.send_signal(number)) for number in FORWARDED}
    previous[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def _write(fd: int, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # our reader has gone: the command goes on, as in a pipeline's end
        while content:
            content = content[os.write(fd, content) :]
    sys.stdout.flush()
