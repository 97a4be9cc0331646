"""`bench capture`: all interfaces of a big lab into one file, at several rates of packets; what is lost, what it costs.

A pod sends UDP to a pod of another node, paced, by VXLAN: each packet crosses some ten interfaces, and each is a frame
of the file. `flat out` sends as fast as it can, with and without a capture.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import labs, machine, sandbox
from tests.bench.contenders import NETLAB
from tests.bench.measure import BenchError, run
from tests.bench.report import shuffled, spread, table

NODES, PODS = 20, 40
RATES = (2_000, 20_000)  # packets per second
FLAT_OUT = 1_000_000
SECONDS = 3.0  # of one run
PAYLOAD = bytes(100)
TURN = 0.0005  # seconds between two bursts of the sender
PATIENCE = 30.0
COUNTS = re.compile(r"(\d+) frames? at (\d+) interfaces?; the kernel dropped (none|\d+)")


def main(rounds: int, seed: int) -> None:
    """Measure each rate in turns."""
    print(f"# bench capture, seed {seed}\n{machine.describe()}\n")
    found: dict[str, Any] = sandbox.call(measure, rounds, seed)
    rows = []
    for name, samples in found["runs"].items():
        sent, frames, dropped, cpu = (spread(column) for column in zip(*samples, strict=True))
        rows.append([name, sent.text(0), frames.text(0), dropped.text(0), cpu.text(0, 100)])
    print(table(["packets/s asked", "sent/s", "frames/s", "frames lost", "CPU % of one core"], rows))
    print(f"\n{found['interfaces']} interfaces; frames: at all of them together")


def measure(rounds: int, seed: int) -> dict[str, Any]:
    """Return [sent/s, frames/s, lost, CPU/s] of every rate and round: to be called in a sandbox."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        file = Path(folder) / "lab.yaml"
        file.write_text(labs.many_nodes(NODES, PODS))
        run([NETLAB, "up", str(file)])
        target = subprocess.run([NETLAB, "address", "p-2"], capture_output=True, text=True, check=True).stdout.strip()
        ways = {f"{rate}": (rate, True) for rate in RATES}
        ways |= {"flat out, no capture": (FLAT_OUT, False), "flat out": (FLAT_OUT, True)}
        found: dict[str, list[list[float]]] = {name: [] for name in ways}
        interfaces = 0
        for turn in range(rounds):
            for name in shuffled(ways, seed, turn):
                machine.wait_for_calm()
                rate, watched = ways[name]
                sample, places = (
                    _watched(rate, target, Path(folder)) if watched else ([_sent(rate, target), 0, 0, 0], 0)
                )
                found[name].append(sample)
                interfaces = max(interfaces, places)
        run([NETLAB, "down", labs.LAB])
    return {"runs": found, "interfaces": interfaces}


def _watched(rate: int, target: str, folder: Path) -> tuple[list[float], int]:
    """Send with a capture of the whole lab."""
    file = folder / "all.pcapng"
    running = subprocess.Popen([NETLAB, "capture", "all", "-w", str(file)], stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + PATIENCE
    while not (file.exists() and file.stat().st_size > 1000):  # it writes the interfaces once it is ready
        if running.poll() is not None or time.monotonic() > give_up:
            raise BenchError("netlab capture does not begin")
        time.sleep(0.01)
    sent = _sent(rate, target)
    running.send_signal(signal.SIGINT)
    assert running.stderr is not None
    said = running.stderr.read()
    _, _, used = os.wait4(running.pid, 0)
    counts = COUNTS.search(said)
    if counts is None:
        raise BenchError(f"netlab capture said {said!r}")
    file.unlink()
    frames, places, dropped = counts.groups("0")
    lost = 0 if dropped == "none" else int(dropped)
    return [sent, int(frames) / SECONDS, lost, (used.ru_utime + used.ru_stime) / SECONDS], int(places)


def _sent(rate: int, target: str) -> float:
    """Return how many packets per second a pod sent."""
    sender = [sys.executable, "-m", "tests.bench.capture", str(rate), target]
    done = subprocess.run(
        [NETLAB, "exec", "p-1", "--", *sender], capture_output=True, text=True, cwd=sandbox.ROOT, check=False
    )
    if done.returncode:
        raise BenchError(done.stderr.strip()[-800:])
    return float(done.stdout)


def send(rate: int, target: str) -> float:
    """Send UDP at a rate for a while; return how many packets per second went."""
    count, begin = 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while (passed := time.monotonic() - begin) < SECONDS:
            due = min(int(passed * rate), count + 1000)
            for _ in range(due - count):
                sender.sendto(PAYLOAD, (target, 9))
            count = due
            if rate < FLAT_OUT:
                time.sleep(TURN)
    return count / passed


if __name__ == "__main__":
    print(send(int(sys.argv[1]), sys.argv[2]))
