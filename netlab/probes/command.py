"""Exec probes: a command in a container's place, ended with all that it started when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from netlab.errors import NetlabError
from netlab.kernel.enter import Place, start
from netlab.probes.readiness import Outcome

LONGEST_OUTPUT = 10240  # bytes that are kept: pkg/probe/exec
AT_ONCE = 32
_threads = ThreadPoolExecutor(AT_ONCE, "exec-probe")


async def command(place: Place, argv: Sequence[str], timeout: float) -> Outcome:
    """Run a command within a timeout in seconds; status 0 is a success, and the reason is what it said."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _run, place, argv, timeout)


def _run(place: Place, argv: Sequence[str], timeout: float) -> Outcome:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(reader, "rb", buffering=0):
        try:
            process = start(argv, place, output=writer)
        except NetlabError as exc:
            return Outcome(False, str(exc))
        finally:
            os.close(writer)
        said, ended = _listen(process, reader, time.monotonic() + timeout)
        status = _end(process)
    if not ended:
        return Outcome(False, f'command "{" ".join(argv)}" timed out after {timeout:g}s')
    return Outcome(status == 0, said.decode(errors="replace").strip() or ("" if status == 0 else _how(status)))


def _listen(process: subprocess.Popen[bytes], reader: int, deadline: float) -> tuple[bytes, bool]:
    """Return the beginning of what a process says, and whether it ends before the deadline; it is not reaped."""
    said = bytearray()
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(descriptor, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = [found for found, _ in poll.poll(left * 1000)]
            if reader in ready:
                chunk = os.read(reader, 65536)
                said += chunk[: LONGEST_OUTPUT - len(said)]
                if not chunk:
                    poll.unregister(reader)
            elif ready:
                return bytes(said), True
        return bytes(said), False
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> int:
    """End the command's whole group, and return its own status. It leads the group until it is reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _how(status: int) -> str:
    return f"ended by signal {-status}" if status < 0 else f"exit status {status}"
