"""Modules of the kernel that a test wants loaded."""

from __future__ import annotations

import shutil
import subprocess


def modprobe(*arguments: str) -> bool:
    """Load modules, and return whether that went well; it does not where there is no `modprobe`, as in a container."""
    program = shutil.which("modprobe")
    return program is not None and subprocess.run([program, "-q", *arguments], check=False).returncode == 0
