"""munet's way: `PYTHON munet_lab.py PODS FOLDER` prints its two times. Runs under the Python that munet belongs to.

munet asks `pgrep -P` for a child that need not have been forked yet, and gives up when it has not: on a small
machine it never comes up with 100 hosts. That one call is asked again, at most 500 times; the time is munet's own.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

from munet import base, parser

RETRIES, PAUSE = 500, 0.002


def address(number: int) -> str:
    """Return a host's address."""
    return f"10.0.{number // 250}.{number % 250 + 1}"


def retry_pgrep() -> None:
    """Make munet wait for the child that it looks for."""
    original = base.Commander.cmd_raises

    def cmd_raises(self, cmd, **options):  # type: ignore[no-untyped-def]
        for _ in range(RETRIES if isinstance(cmd, list) and "pgrep" in str(cmd[0]) else 0):
            try:
                return original(self, cmd, **options)
            except base.CalledProcessError:
                time.sleep(PAUSE)
        return original(self, cmd, **options)

    base.Commander.cmd_raises = cmd_raises


async def main(pods: int, folder: str) -> None:
    """Make the lab, ping once across it, take it away."""
    numbers = range(1, pods + 1)
    nodes = [
        {"name": f"h{number}", "connections": [{"to": "net0", "name": "eth0", "ip": f"{address(number)}/16"}]}
        for number in numbers
    ]
    file = Path(folder) / "munet.yaml"
    file.write_text(json.dumps({"topology": {"networks": [{"name": "net0"}], "nodes": nodes}}))
    started = time.perf_counter()
    net = await parser.async_build_topology(parser.get_config(str(file)), rundir=folder)
    await net.run()
    made = time.perf_counter()
    net.hosts["h1"].cmd_raises(f"ping -c1 -W2 {address(pods)}")
    doomed = time.perf_counter()
    await net.async_delete()
    print(json.dumps({"up": made - started, "down": time.perf_counter() - doomed}))


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    os.environ["MUNET_RUNDIR"] = sys.argv[2]
    retry_pgrep()
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
