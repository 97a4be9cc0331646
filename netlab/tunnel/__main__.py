"""A forwarder as a process: `python -m netlab.tunnel CONFIG [COUNTERS]`, in a node's network namespace.

CONFIG is a file as `config` describes it, or `-` for standard input; it is read again on a SIGHUP. COUNTERS is a file
for `counters`. The lab's supervisor starts it like this, and so can anybody by hand.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from netlab.errors import KernelError, NetlabError
from netlab.supervisor.notify import FAILED, READY, tell
from netlab.tunnel import privileges, simple
from netlab.tunnel.config import Config, parse
from netlab.tunnel.counters import Counters
from netlab.tunnel.endpoint import Endpoint

Forward = Callable[[Endpoint], None]

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
        except (NetlabError, OSError, ValueError) as exc:
            fail(f"goes on with the configuration that it has: {exc}")
        else:
            tell(READY, doing)

    try:
        file = ConfigFile(arguments[0])
        config = file.read()
        counters = Counters(Path(arguments[1]) if len(arguments) > 1 else None)
        end, forward, doing = prepare(config, counters, reload)
        privileges.drop()
    except (NetlabError, OSError, ValueError) as exc:
        fail(str(exc))
        return 1
    tell(READY, doing)
    return carry(forward, end, config.device)


def carry(forward: Forward, end: Endpoint, device: str) -> int:
    """Run a forwarder to its end and return the exit status."""
    try:
        forward(end)
    except KeyboardInterrupt:  # started by hand
        return INTERRUPTED
    except NetlabError as exc:
        fail(str(exc))
    except OSError as exc:
        if exc.errno not in DEVICE_IS_GONE:
            raise
        fail(f"the TUN device {device} is gone: `netlab up` makes it again")
    return 1


def prepare(config: Config, counters: Counters, reload: Forward) -> tuple[Endpoint, Forward, str]:
    """Open the end of the tunnel that a configuration asks for, or the fastest that the kernel allows.

    Returns it with the loop that carries its packets, and in words which that is, for `netlab status`.
    """
    if config.forwarder == "simple":
        return Endpoint(config, counters, reload), simple.run, "simple"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # or numpy starts threads, which would keep their privileges
    try:
        from netlab.tunnel import batched, offloads
    except ImportError as exc:
        print(f"forwarder: goes on without numpy: {exc}", file=sys.stderr, flush=True)
        return Endpoint(config, counters, reload), simple.run, "simple (numpy cannot be imported)"

    end = Endpoint(config, counters, reload, vnet=True)
    found = offloads.enable(end.tun, end.socket)
    lacks = [str(found)] if str(found) else []
    if config.forwarder != "batched":
        from netlab.tunnel import ebpf, fastpath

        try:
            programs = ebpf.KernelForwarder(end, config)
        except KernelError as exc:
            if exc.errno not in fastpath.REFUSALS:
                raise
            print(f"forwarder: goes on without eBPF: {exc}", file=sys.stderr, flush=True)
            lacks.insert(0, f"no eBPF: {os.strerror(exc.errno)}")
        else:
            end.followers.append(programs.follow)
            return end, functools.partial(batched.run, offloads=found, more=programs.ways), "ebpf"
    words = f"batched ({', '.join(lacks)})" if lacks else "batched"
    return end, functools.partial(batched.run, offloads=found), words


def fail(why: str) -> None:
    """Say why, in the log and to the supervisor."""
    print(f"forwarder: {why}", file=sys.stderr, flush=True)
    tell(FAILED, why.splitlines()[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
