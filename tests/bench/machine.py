"""What the figures were measured on."""

from __future__ import annotations

import os
import platform


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
