"""Where a namespace's TRACE messages go: chosen for a trace, and put back, by the next trace if this one is killed.

What was chosen before is written down first, in a file of this process in the lab's folder. A file whose process has
ended is of a trace that was killed.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from netlab.errors import KernelError
from netlab.kernel import netns

SETTINGS = (Path("/proc/sys/net/netfilter/nf_log/2"), Path("/proc/sys/net/netfilter/nf_log/10"))  # IPv4, IPv6
BY_NETLINK = "nfnetlink_log"


class LogChoice:
    """The settings that a trace changes. Raises OSError when the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / f"nf-log.{os.getpid()}"
        for file in folder.glob("nf-log.*"):
            if not Path(f"/proc/{file.suffix[1:]}").exists():
                _restore(file)

    def choose(self, name: str) -> None:
        """Have the messages of this thread's namespace, which is called so, sent by netlink."""
        for setting in SETTINGS:
            with suppress(OSError):  # a kernel without nfnetlink_log
                before = setting.read_text().strip()
                if before != BY_NETLINK:
                    with self._file.open("a") as file:
                        file.write(json.dumps([name, str(setting), before]) + "\n")
                    setting.write_text(BY_NETLINK)

    def restore(self) -> None:
        """Put back what was chosen before."""
        _restore(self._file)


def _restore(file: Path) -> None:
    with suppress(FileNotFoundError):
        for line in file.read_text().splitlines():
            with suppress(ValueError, KernelError, OSError):  # a line that was cut off, a namespace that has gone
                name, setting, before = json.loads(line)
                netns.call(name, Path(setting).write_text, before)
        file.unlink()
