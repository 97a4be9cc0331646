"""A forwarder as a process: `python -m netlab.tunnel CONFIG [COUNTERS]`, in a node's network namespace.

CONFIG is a file as `config` describes it, or `-` for standard input; it is read again on a SIGHUP. COUNTERS is a file
for `counters`. The lab's supervisor starts it like this, and so can anybody by hand.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from netlab.errors import NetlabError
from netlab.supervisor.spec import FAILED, NOTIFY, READY
from netlab.tunnel import privileges, simple
from netlab.tunnel.config import Config, parse
from netlab.tunnel.counters import Counters
from netlab.tunnel.endpoint import Endpoint

FORWARDERS: dict[str, Callable[[Endpoint], None]] = {"simple": simple.run}
FASTEST = "simple"
USAGE = "usage: python -m netlab.tunnel CONFIG [COUNTERS]"
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
DEVICE_IS_GONE = (errno.EBADFD, errno.EFAULT)  # tun_chr_read_iter, tun_ring_recv


class ConfigFile:
    """The file with the configuration, which can be read again when the privileges are gone."""

    def __init__(self, path: str) -> None:
        """Open the folder of the file. Raises OSError."""
        self._name = path if path == "-" else os.path.basename(path)
        self._folder = -1 if path == "-" else os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_CLOEXEC)

    def read(self) -> Config:
        """Return what the file says now. Raises OSError and ValueError."""
        if self._folder < 0:
            return parse(sys.stdin.read())
        with open(os.open(self._name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)) as file:
            return parse(file.read())


def main(arguments: Sequence[str]) -> int:
    """Carry packets for as long as the TUN device is there."""
    if not 1 <= len(arguments) <= 2:
        print(USAGE, file=sys.stderr)
        return 2

    def reload(end: Endpoint) -> None:
        try:
            end.configure(file.read())
        except (OSError, ValueError) as exc:
            fail(f"goes on with the configuration that it has: {exc}")
        else:
            tell(READY, doing)

    try:
        file = ConfigFile(arguments[0])
        config = file.read()
        kind, doing = choose(config.forwarder)
        counters = Counters(Path(arguments[1]) if len(arguments) > 1 else None)
        end = Endpoint(config, counters, reload)
        privileges.drop()
    except (NetlabError, OSError, ValueError) as exc:
        fail(str(exc))
        return 1
    tell(READY, doing)
    return carry(FORWARDERS[kind], end, config.device)


def carry(forward: Callable[[Endpoint], None], end: Endpoint, device: str) -> int:
    """Run a forwarder to its end and return the exit status."""
    try:
        forward(end)
    except KeyboardInterrupt:  # started by hand
        return INTERRUPTED
    except OSError as exc:
        if exc.errno not in DEVICE_IS_GONE:
            raise
        fail(f"the TUN device {device} is gone: `netlab up` makes it again")
    return 1


def choose(wanted: str) -> tuple[str, str]:
    """Return the forwarder to use, and in words what that is and why, for `netlab status`."""
    if wanted in FORWARDERS:
        return wanted, wanted
    return FASTEST, FASTEST if wanted == "auto" else f"{FASTEST} ({wanted} is not in this version of netlab)"


def tell(kind: bytes, words: str) -> None:
    """Say to the supervisor, if one has started this process, how it goes."""
    if NOTIFY in os.environ:
        try:
            os.write(int(os.environ[NOTIFY]), kind + words.encode())
        except OSError:
            return  # it has ended, and this process will


def fail(why: str) -> None:
    """Say why, in the log and to the supervisor."""
    print(f"forwarder: {why}", file=sys.stderr, flush=True)
    tell(FAILED, why.splitlines()[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
