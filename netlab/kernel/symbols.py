"""The kernel's functions by address: /proc/kallsyms, which is read only when somebody asks (it takes 40 ms)."""

from __future__ import annotations

from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")


class Symbols:
    """The names of functions. Root sees their addresses unless kernel.kptr_restrict is 2."""

    def __init__(self, file: Path = KALLSYMS) -> None:
        self._file = file
        self._listed: tuple[bytes, bytes] | None = None  # the kernel's own, in the order of addresses; its modules'

    def name(self, address: int) -> str:
        """Return the function that an address is in; "" when the kernel does not tell."""
        if self._listed is None:
            self._listed = self._read()
        core, modules = self._listed
        wanted = b"%016x" % address
        begun = (line for line in modules.splitlines() if line[:16] <= wanted)
        parts = max(_last_begun(core, wanted), max(begun, key=_place, default=b""), key=_place).split()
        return parts[2].decode() if len(parts) > 2 and int(parts[0], 16) else ""

    def _read(self) -> tuple[bytes, bytes]:
        try:
            listed = self._file.read_bytes()
        except OSError:
            return b"", b""
        first = listed.find(b"\t[")  # a module's name; modules stand in the order in which they were loaded
        start = len(listed) if first < 0 else listed.rfind(b"\n", 0, first) + 1
        return listed[:start], listed[start:]


def _place(line: bytes) -> bytes:
    return line[:16]


def _last_begun(listed: bytes, address: bytes) -> bytes:
    """Return the last line that does not begin behind an address, of lines in the order of addresses."""
    low, high = 0, len(listed)
    while low < high:
        middle = listed.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = listed.find(b"\n", middle) + 1 or len(listed)
        if listed[middle : middle + 16] <= address:
            low = end
        else:
            high = middle
    return listed[listed.rfind(b"\n", 0, max(low - 1, 0)) + 1 : low]
