"""What a guest's console says about why it ended."""

from __future__ import annotations

import re

SHOWN = 5  # lines of the console's end
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
_OUT_OF_MEMORY = re.compile(r"Out of memory: Killed process \d+ \((\S+)\)|Out of memory and no killable processes")
_INIT = re.compile(r"^netlab init: (.*)", re.MULTILINE)


def explain(console: str, errors: str, status: int) -> str:
    """Say why a VM ended, from its console, what qemu wrote and qemu's exit status (negative: a signal)."""
    if found := _PANIC.search(console):
        reason = f"the guest's kernel panicked: {found[1].strip()}"
        return f"{reason}; before that its memory ran out" if _OUT_OF_MEMORY.search(console) else reason
    if found := _INIT.search(console):
        return f"the guest could not start: {found[1].strip()}"
    if errors.strip():
        return f"qemu ended with status {status}: {errors.strip().splitlines()[-1]}"
    if status < 0:
        return f"qemu was ended by signal {-status}"
    if status:
        return f"qemu ended with status {status}"
    return "the guest switched itself off"


def find_oom_victims(console: str) -> list[str]:
    """Return the names of the processes that the guest's kernel killed because memory ran out."""
    return [name for name in _OUT_OF_MEMORY.findall(console) if name]


def tail(console: str) -> str:
    """Return the console's last lines, indented, for an error message."""
    last = [line.rstrip() for line in console.splitlines() if line.strip()][-SHOWN:]
    return "".join(f"\n    | {line}" for line in last)
