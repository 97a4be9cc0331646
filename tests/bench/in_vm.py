"""`bench ... --vm`: the same benchmark inside a VM, whose stock kernel has what this machine's may lack."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from netlab.errors import NetlabError
from netlab.vm.boot import Boot
from netlab.vm.client import VmNetwork
from netlab.vm.recipe import SOURCE_MOUNT
from netlab.vm.terminal import run_here
from tests.bench.measure import BenchError

MEMORY = 4096  # MiB the VM may use: nft takes a gigabyte for 5,000 Services with ten endpoints
FIGURES = "/run/figures.json"  # in the guest
PREPARED = (  # netlab loads no module; `dummy` would make dummy0
    *("sh", "-c", f'modprobe dummy numdummies=0 && modprobe ip_vs && cd {SOURCE_MOUNT} && exec "$@"', "sh"),
    *("python3", "-m", "tests.bench"),
)


def run(words: Sequence[str]) -> bytes:
    """Run a benchmark in a VM of its own, its output here; return the file FIGURES, b"" without. Raises BenchError."""
    try:
        boot = Boot.prepare(print)
        with VmNetwork.start(f"bench-{os.getpid()}", count=1, memory=MEMORY, boot=boot) as net:
            print(f"in a VM; accelerator {boot.accelerator}", flush=True)
            status = run_here(net.vms[0], [*PREPARED, *words])
            if status:
                raise BenchError(f"in the VM it ended with status {status}")
            return net.vms[0].read(FIGURES) if FIGURES in words else b""
    except NetlabError as exc:
        raise BenchError(str(exc)) from exc


def words(command: str, options: Mapping[str, Any], *, figures: bool) -> list[str]:
    """Return the command line of a benchmark of Services; with `figures` it keeps them in FIGURES."""
    found = [command, "--rounds", str(options["rounds"]), "--seed", str(options["seed"])]
    found += ["-n", ",".join(map(str, options["sizes"])), "--variants", ",".join(options["variants"])]
    if "endpoints" in options:
        found += ["--endpoints", ",".join(map(str, options["endpoints"])), "--bound", str(options["bound"])]
    return [*found, "--json", FIGURES] if figures else found
