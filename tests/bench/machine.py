"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

PATIENCE = 10.0  # seconds
LOOK = 0.1  # seconds
CALM = 0.75  # of all processors' time idle


def describe() -> str:
    """Return the kernel, the processors, the Python and the load, in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Linux {platform.release()}, {os.cpu_count()} CPUs, {memory:.0f} GiB, Python {platform.python_version()}; "
        f"load at the start: {load()}"
    )


def load() -> str:
    """Return the load averages of 1, 5 and 15 minutes."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def wait_for_calm() -> None:
    """Wait until the processors are mostly idle, at most for PATIENCE: neighbours come and go."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        idle_before, all_before = _ticks()
        time.sleep(LOOK)
        idle, everything = _ticks()
        if idle - idle_before >= CALM * (everything - all_before):
            return


def _ticks() -> tuple[int, int]:
    """Return the idle and the whole time of all processors since the start, in ticks (proc_stat(5))."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
