"""How the supervisor becomes a daemon: `python -m netlab.supervisor LAB RUNTIME_DIR`.

Ends with status 0 once the supervisor answers on its control socket, or with 1 and a message.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from netlab import names
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.supervisor.loop import Loop
from netlab.supervisor.spec import CONTROL, Files

_READY = b"ready"


def main(lab: str, runtime_dir: str) -> int:
    """Start the supervisor in the lab's fabric namespace and in a pid namespace of its own."""
    try:
        netns.enter(names.fabric(lab))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(CONTROL)
        listener.listen()
        listener.setblocking(False)
        netns.unshare(netns.CLONE_NEWPID)
    except (NetlabError, OSError) as exc:
        print(f"the supervisor of lab {lab} cannot start: {exc}", file=sys.stderr)
        return 1
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _live(lab, Files(Path(runtime_dir)), listener, writer)
    os.close(writer)
    return 0 if os.read(reader, len(_READY)) == _READY else 1


def _live(lab: str, files: Files, listener: socket.socket, ready: int) -> NoReturn:
    """Be PID 1. Messages go to the caller until everything is set up, then to the supervisor's log."""
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    files.root.mkdir(parents=True, exist_ok=True)
    loop = Loop(lab, files, listener)
    null = os.open(os.devnull, os.O_RDONLY)
    events = os.open(files.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for source, target in ((null, 0), (events, 1), (events, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(events)
    os.write(ready, _READY)
    os.close(ready)
    loop.run()
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
