"""`bench vm`: how long small VMs take to their first command, what they hold of memory, what their network carries."""

from __future__ import annotations

import json
import os
import time

from netlab.vm.boot import Boot
from netlab.vm.client import VmNetwork
from tests.bench import machine
from tests.bench.report import Spread, spread, table, verdict

LIMITS = {1: 4.0, 3: 7.0}  # seconds from nothing to a command's answer from every VM, by their number
MEMORY_LIMIT = 400.0  # MB that each may hold of this machine after that
MEGA = 1e6


def main(rounds: int, seed: int) -> None:
    """Measure networks of one and of three VMs in turns; `seed` changes nothing here."""
    print(f"# bench vm\n{machine.describe()}\n")
    boot = Boot.prepare(print)
    print(f"accelerator {boot.accelerator}, Linux {boot.image.release}\n")
    seconds: dict[int, list[float]] = {count: [] for count in LIMITS}
    megabytes: dict[int, list[float]] = {count: [] for count in LIMITS}
    for _ in range(rounds):
        for count in LIMITS:
            machine.wait_for_calm()
            took, memory = measure_boot(boot, count)
            seconds[count].append(took)
            megabytes[count].append(memory)
    rows = [
        [
            f"{count} VMs",
            *show(spread(seconds[count]), LIMITS[count], 2),
            *show(spread(megabytes[count]), MEMORY_LIMIT, 0),
        ]
        for count in LIMITS
    ]
    print(table(["", "first command s", "limit", "", "MB each", "limit", ""], rows))
    print(
        f"\nan answer from a VM: {measure_command(boot) * 1000:.0f} ms; TCP between two: {measure_tcp(boot):.0f} Mbit/s"
    )


def show(found: Spread, limit: float, digits: int) -> list[str]:
    """Return a figure's cells: the figure, its limit, whether it is kept."""
    return [found.text(digits), f"{limit:g}", verdict(found.median, limit)]


def measure_boot(boot: Boot, count: int) -> tuple[float, float]:
    """Return the seconds from nothing until every VM has answered, and the most MB that one holds then."""
    started = time.monotonic()
    with VmNetwork.start(f"bench-{os.getpid()}", count=count, boot=boot) as net:
        for vm in net.vms:
            vm.run(["true"], check=True)
        took = time.monotonic() - started
        return took, max(vm["memory"] for vm in net.describe()) / MEGA


def measure_command(boot: Boot) -> float:
    """Return the seconds that a command in a VM takes, the middle of several."""
    with VmNetwork.start(f"bench-{os.getpid()}", count=1, boot=boot) as net:
        times = []
        for _ in range(20):
            started = time.monotonic()
            net.vms[0].run(["true"], check=True)
            times.append(time.monotonic() - started)
    return spread(times).median


def measure_tcp(boot: Boot) -> float:
    """Return what one TCP stream carries from one VM to another, in Mbit/s."""
    with VmNetwork.start(f"bench-{os.getpid()}", count=2, boot=boot) as net:
        one, two = net.vms
        with two.start(["iperf3", "--server", "--one-off", "--forceflush"]) as server:
            server.wait_for("listening")
            done = one.run(["iperf3", "--client", two.address, "--time", "5", "--json"], check=True)
    result: float = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    return result / MEGA
