"""The guest's initramfs: busybox, the modules that the root disk needs, /init and the agent (cpio "newc", see the
kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from netlab.vm.recipe import BOOT_MODULES

INSIDE = Path(__file__).with_name("inside")
_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a cpio archive. `device` is major and minor of a character device."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: Iterable[Entry]) -> bytes:
    """Return a cpio archive of files, in their order: a folder before what is in it."""
    packed = bytearray()
    for inode, entry in enumerate((*entries, Entry(_TRAILER, 0)), start=1):
        name = entry.name.encode() + b"\0"
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        packed += _MAGIC + b"".join(b"%08X" % field for field in fields) + name
        packed += bytes(-len(packed) % 4) + entry.content
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


def in_load_order(wanted: Iterable[str], dependencies: str, builtin: str) -> list[str]:
    """Return the files of modules with all that they depend on, dependencies first.

    `dependencies` and `builtin` are the texts of modules.dep and modules.builtin (depmod(8)); what is built in is left
    out. Raises LookupError for a module that this kernel does not have.
    """
    needs: dict[str, list[str]] = {}
    file_of: dict[str, str] = {}
    for line in dependencies.splitlines():
        file, _, others = line.partition(":")
        needs[file] = others.split()
        file_of[_module_name(file)] = file
    inside = {_module_name(line) for line in builtin.splitlines()}
    order: dict[str, None] = {}
    for module in wanted:
        if module in inside:
            continue
        if module not in file_of:
            raise LookupError(f"the kernel has no module {module}")
        file = file_of[module]
        order |= dict.fromkeys([*reversed(needs[file]), file])
    return list(order)


def _module_name(file: str) -> str:
    return re.sub(r"\.ko.*$", "", file.rpartition("/")[2]).replace("-", "_")


def entries(busybox: bytes, modules: Mapping[str, bytes]) -> Iterator[Entry]:
    """Yield what is in the initramfs; `modules` are in load order."""
    folder, program, plain = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    yield from (Entry(name, folder) for name in ("bin", "dev", "modules"))
    yield Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield Entry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    yield Entry("bin/busybox", program, busybox)
    yield Entry("init", program, (INSIDE / "init.sh").read_bytes())
    yield Entry("agent.py", plain, (INSIDE / "agent.py").read_bytes())
    yield from (Entry(f"modules/{name}", plain, content) for name, content in modules.items())
    yield Entry("modules/order", plain, "".join(f"{name}\n" for name in modules).encode())


def build(modules: Path, busybox: Path) -> bytes:
    """Return the initramfs for a kernel: `modules` is its /lib/modules/RELEASE. Raises LookupError, OSError."""
    order = in_load_order(
        BOOT_MODULES, (modules / "modules.dep").read_text(), (modules / "modules.builtin").read_text()
    )
    found = {file.rpartition("/")[2]: (modules / file).read_bytes() for file in order}
    return archive(entries(busybox.read_bytes(), found))
