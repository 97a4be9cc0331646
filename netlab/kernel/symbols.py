"""The kernel's functions by address: /proc/kallsyms, which is read only when somebody asks (it takes 40 ms)."""

from __future__ import annotations

from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")


class Symbols:
    """The names of functions. Root sees their addresses unless kernel.kptr_restrict is 2."""

    def __init__(self) -> None:
        self._listed: bytes | None = None

    def name(self, address: int) -> str:
        """Return the function that an address is in; "" when the kernel does not tell."""
        if self._listed is None:
            try:
                self._listed = KALLSYMS.read_bytes()
            except OSError:
                self._listed = b""
        line = self._line(b"%016x" % address)
        parts = line.split()
        return parts[2].decode() if len(parts) > 2 and int(parts[0], 16) else ""

    def _line(self, address: bytes) -> bytes:
        """Return the last line that does not begin behind an address; lines are in the order of addresses."""
        listed = self._listed or b""
        low, high = 0, len(listed)
        while low < high:
            middle = listed.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = listed.find(b"\n", middle) + 1 or len(listed)
            if listed[middle : middle + 16] <= address:
                low = end
            else:
                high = middle
        return listed[listed.rfind(b"\n", 0, max(low - 1, 0)) + 1 : low]
