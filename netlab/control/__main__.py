"""The control plane as a process: `python -m netlab.control CONFIG`, in a lab's fabric namespace.

CONFIG lies in the lab's runtime folder; its text stands for what `netlab up` has recorded in the lab's folder, which is
read again on a SIGHUP. The lab's supervisor starts it, and hears when the first rules are written.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from netlab.control.api import Api
from netlab.control.plane import Plane
from netlab.errors import NetlabError
from netlab.supervisor.notify import FAILED, READY, tell

USAGE = "usage: python -m netlab.control CONFIG"


def main(arguments: Sequence[str]) -> int:
    """Keep a lab's Services until a signal ends it."""
    if not arguments:
        print(USAGE, file=sys.stderr)
        return 2
    folder = Path(arguments[0]).absolute().parents[2]  # STATE/LAB/run/daemons/CONFIG
    os.environ["NETLAB_STATE"] = str(folder.parent)
    try:
        asyncio.run(serve(folder.name))
    except (NetlabError, OSError) as exc:
        say(str(exc))
        tell(FAILED, str(exc).splitlines()[0])
        return 1
    return 0


async def serve(lab: str) -> None:
    """Run the control plane of a lab to its end."""
    loop = asyncio.get_running_loop()
    ended, reload = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    plane = Plane(lab, say)
    api = await Api.open(plane)
    reload.set()
    tasks = [
        asyncio.create_task(plane.run()),
        asyncio.create_task(plane.follow_namespaces()),
        asyncio.create_task(_follow(plane, reload)),
    ]
    ending = asyncio.create_task(ended.wait())
    try:
        done, _ = await asyncio.wait([*tasks, ending], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # raises what ended it
    finally:
        for task in tasks:
            task.cancel()
        ending.cancel()
        await api.close()
        await plane.close()


async def _follow(plane: Plane, reload: asyncio.Event) -> None:
    """Take in what is recorded whenever it is said to have changed, and say when that is done."""
    while True:
        await reload.wait()
        reload.clear()
        try:
            await plane.reload()
            await plane.settle()
        except (NetlabError, OSError) as exc:
            say(str(exc))
            tell(FAILED, str(exc).splitlines()[0])
        else:
            tell(READY, plane.registry.topology.proxy)
            await plane.changes.prepare()


def say(message: str) -> None:
    """Write a line into the log."""
    print(f"control plane: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
