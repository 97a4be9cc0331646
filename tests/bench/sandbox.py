"""A throw-away machine for one measurement: own network, processes, mounts, /run and /sys.

`mn` deletes links and kills processes by pattern when it stumbles, munet and netlab name namespaces under /run/netns:
none of it is seen outside, and the kernel takes all of it away when the last process in it ends.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.measure import BenchError

ROOT = Path(__file__).parents[2]
STATE = "/run/netlab-bench"
_UNSHARE = ("unshare", "--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child")
_SET_UP = 'mount -t tmpfs tmpfs /run && mount -t sysfs sysfs /sys && ip link set lo up && exec "$@"'


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function of a module in a sandbox; its arguments and its answer pass as JSON. Raises BenchError."""
    target = f"{function.__module__}:{function.__qualname__}"
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    inside = (sys.executable, "-m", "tests.bench.sandbox", target)
    done = subprocess.run(
        [_UNSHARE[0], *user, *_UNSHARE[1:], "sh", "-c", _SET_UP, "sh", *inside],
        env=_environment(),
        input=json.dumps(args),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise BenchError(done.stderr.strip()[-800:] or f"{target} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """Return the environment inside: compiled modules are kept, as where netlab is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"NETLAB_STATE": STATE, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def _main(target: str) -> None:
    module, _, name = target.partition(":")
    try:
        answer = getattr(importlib.import_module(module), name)(*json.load(sys.stdin))
    except BenchError as exc:
        sys.exit(str(exc))
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
