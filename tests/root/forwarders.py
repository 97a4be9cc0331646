"""Labs with forwarders, for tests of what becomes of those."""

from __future__ import annotations

import os
import signal

from netlab.lab import Lab
from netlab.plan.drift import differences
from netlab.supervisor.client import Life, ProcessState
from netlab.topology.model import Backend, ForwarderKind, Topology, UdpBackend
from tests.labs import topology
from tests.waiting import until

NAME = "tpf"
KINDS = (ForwarderKind.SIMPLE, ForwarderKind.BATCHED, ForwarderKind.EBPF)
SIMPLE = UdpBackend(forwarder=ForwarderKind.SIMPLE)
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])


def wanted(backend: Backend = SIMPLE, *, nodes: int = 2, pods: int = 2) -> Topology:
    return topology(NAME, nodes=nodes, pods=pods, backend=backend)


def words(kind: ForwarderKind) -> str:
    """Return what a forwarder says that it does: on this kernel, which may lack something."""
    if kind is ForwarderKind.SIMPLE:
        return "simple"
    has_programs = KERNEL >= (6, 6)
    if kind is not ForwarderKind.BATCHED and has_programs:
        return "ebpf"
    lacks = [] if kind is ForwarderKind.BATCHED or has_programs else ["no eBPF: Invalid argument"]
    lacks += [] if KERNEL >= (6, 2) else ["no USO by TUN (Linux 6.2)"]
    return f"batched ({', '.join(lacks)})" if lacks else "batched"


def forwarder(lab: Lab, node: str = "n1") -> ProcessState:
    return next(state for state in lab.forwarders() if state.owner == node)


def pid_of(lab: Lab, node: str = "n1") -> int:
    pid = forwarder(lab, node).pid
    assert pid is not None
    return pid


def pings(lab: Lab, target: str = "p-2") -> bool:
    return lab.exec("p-1", ["ping", "-c1", "-W1", lab.address(target)]).returncode == 0


def drift(lab: Lab) -> list[str]:
    return [str(line) for line in differences(lab.status().drift)]


def log(lab: Lab, node: str = "n1") -> list[str]:
    """Return what a forwarder has written, but for what this kernel lacks."""
    return [line for line in lab.log_lines(node, "forwarder") if "goes on without eBPF" not in line]


def kill(lab: Lab, node: str = "n1") -> None:
    """Kill a forwarder and wait until it has been started again, or waits for that."""
    before = forwarder(lab, node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: (now := forwarder(lab, node)).pid != before.pid and (now.life is Life.WAITING or now.said))
