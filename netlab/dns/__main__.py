"""Cluster DNS as a process: `python -m netlab.dns ZONEFILE [--port 53]`, in the namespace of pod coredns.

It answers by UDP and TCP on every address; ZONEFILE (`zone_file`) is read again when it has been replaced.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from netlab.dns.server import open_server, tell
from netlab.dns.zone_file import ZoneFileError
from netlab.serve.ports import PortRefused

USAGE = "usage: python -m netlab.dns ZONEFILE [--port PORT]"
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal ends it."""
    match arguments:
        case [path]:
            port = "53"
        case [path, "--port", port] | ["--port", port, path]:
            pass
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    if not port.isdecimal() or not 0 < int(port) <= 0xFFFF:
        print(f"dns: {port}: no port; a number from 1 to 65535 is", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)  # in a pod it is PID 1, for which the kernel has no default action
    try:
        open_server(Path(path), int(port)).run()
    except (PortRefused, ZoneFileError, OSError) as exc:
        tell(str(exc))
        return 1
    except KeyboardInterrupt:  # started by hand
        return INTERRUPTED
    return 0


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
