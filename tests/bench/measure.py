"""Run a program and say what it cost, by wait4(2)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class BenchError(Exception):
    """A contender failed; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program cost, with the children that it waited for. Seconds, and bytes of the largest process.

    The kernel counts what a process was before exec(2): none reads as smaller than Python, which starts them here.
    """

    wall: float
    cpu: float
    peak: int
    output: str


def run(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> Cost:
    """Run a program to its end. Raises BenchError with the end of what it said when its status is not 0."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
        ]
        started = time.perf_counter()
        pid = os.posix_spawnp(argv[0], list(argv), env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        output, said = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise BenchError(f"`{' '.join(argv[:4])}` ended with status {code}: {(said or output).strip()[-600:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)


def total(*costs: Cost) -> Cost:
    """Return what programs cost one after the other."""
    return Cost(
        wall=sum(cost.wall for cost in costs),
        cpu=sum(cost.cpu for cost in costs),
        peak=max(cost.peak for cost in costs),
        output="".join(cost.output for cost in costs),
    )
