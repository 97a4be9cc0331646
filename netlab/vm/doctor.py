"""What a guest's kernel offers, found out by netlab's own doctor inside one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from netlab.codec import from_json
from netlab.doctor import Report
from netlab.errors import VmError
from netlab.vm.client import VmNetwork

LIMIT = 120.0  # seconds


def examine_guest(say: Callable[[str], None]) -> tuple[str, Report]:
    """Return a guest's kernel release and what its doctor found. Raises VmError, and what starting one raises."""
    with VmNetwork.start(f"doctor-{os.getpid()}", count=1, say=say) as net:
        (vm,) = net.vms
        done = vm.run(["netlab", "doctor", "-o", "json"], timeout=LIMIT)
        release = vm.describe()["release"]
    if done.returncode:
        raise VmError(vm.name, f"its doctor ended with status {done.returncode}: {done.stderr.strip()}")
    return release, from_json(Report, json.loads(done.stdout))
