"""The forwarder as a process of its node: what it is, what it is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.kernel import netns, proc
from netlab.lab import Lab
from netlab.plan.text import commands
from netlab.supervisor.spec import read_report
from netlab.topology.model import (
    ForwarderKind,
    UdpBackend,
)
from tests.root.forwarders import forwarder, pid_of, pings, wanted, words
from tests.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def lab(kind: ForwarderKind) -> Iterator[Lab]:
    with Lab(wanted(UdpBackend(forwarder=kind))) as lab:
        yield lab


# --- what it is -------------------------------------------------------------------------------------------------------


MEMORY_MAX = 60e6  # bytes


def test_it_runs_in_its_nodes_network_as_nobody_and_may_do_nothing(lab: Lab) -> None:
    pid = pid_of(lab)
    assert proc.find_namespace(pid, "net") == netns.inode(lab.netns("n1"))
    assert proc.find_namespace(pid, "mnt") == proc.find_namespace(os.getpid(), "mnt")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert (status["Uid"].split(), status["Groups"].strip()) == (["65534"] * 4, "")
    assert int(status["VmRSS"].split()[0]) * 1024 < MEMORY_MAX


def test_a_second_up_changes_nothing(lab: Lab, kind: ForwarderKind) -> None:
    before = {state.owner: state.pid for state in lab.forwarders()}
    assert lab.up().ops == ()
    assert lab.status().drift == ()
    assert {state.owner: state.pid for state in lab.forwarders()} == before
    assert {state.said for state in lab.forwarders()} == {words(kind)}


def test_an_idle_forwarder_burns_nothing(lab: Lab) -> None:
    assert pings(lab)
    pids = [pid_of(lab, node) for node in ("n1", "n2")]

    def is_at_rest() -> bool:
        before = [switches(pid) for pid in pids]
        time.sleep(1.0)  # the passing of time is what is tested
        return [switches(pid) for pid in pids] == before

    until(is_at_rest)  # the kernel tells of new links for a moment


def switches(pid: int) -> list[str]:
    """Return how often a process has given the processor up, or lost it: it does not run without."""
    return [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "ctxt_switches" in line]


def test_it_says_when_it_is_ready(lab: Lab, kind: ForwarderKind) -> None:
    text = (lab.folder.runtime / "daemons" / "n1_forwarder.json").read_text()
    node = lab.netns("n1")
    lab.keeper.stop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = by_hand(node, text, notify=theirs)
        try:
            assert ours.recv(100).decode() == f"ready {words(kind)}"
        finally:
            process.kill()
            process.wait()


def test_it_imports_nothing_that_would_delay_its_start() -> None:
    """What a start takes is measured by the benchmarks; a test that takes the time would judge the machine."""
    script = "import sys, netlab.tunnel.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "click", "numpy", "pydantic", "pyroute2", "rich", "scapy", "yaml"}
    assert not heavy & set(done.stdout.split())


def by_hand(
    node: str, text: str, *, notify: socket.socket | None = None, log: Path | None = None
) -> subprocess.Popen[str]:
    """Start a forwarder as the dry run says, with its configuration on standard input."""
    environment = {**os.environ, **({"NETLAB_NOTIFY_FD": str(notify.fileno())} if notify else {})}
    argv = ["ip", "netns", "exec", node, sys.executable, "-m", "netlab.tunnel", "-"]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stderr=log.open("w") if log else None,
        text=True,
        env=environment,
        pass_fds=[notify.fileno()] if notify else [],
    )
    assert process.stdin
    process.stdin.write(text)
    process.stdin.close()
    return process


# --- what it is told --------------------------------------------------------------------------------------------------


def test_a_node_that_joins_is_told_to_those_that_run(lab: Lab, kind: ForwarderKind) -> None:
    pids = {node: pid_of(lab, node) for node in ("n1", "n2")}
    backend = UdpBackend(forwarder=kind)
    larger = Lab(wanted(backend, nodes=3, pods=3))
    said = [line for op in larger.up().ops for line in commands([op]) if "forwarder" in line]
    assert "# netlab itself tells the forwarder: 2 peers, MTU 1472" in said
    assert pings(larger, "p-3")
    assert {node: pid_of(larger, node) for node in ("n1", "n2")} == pids
    assert larger.up().ops == ()
    smaller = Lab(wanted(backend))
    smaller.up()
    assert {node: pid_of(smaller, node) for node in ("n1", "n2")} == pids
    answer = lab.exec("p-1", ["ping", "-c1", "-W1", "10.244.3.2"])
    assert "Destination Net Unreachable" in answer.stdout


@pytest.mark.parametrize("port", [8285, 8286])
def test_another_port_or_forwarder_is_a_restart(lab: Lab, kind: ForwarderKind, port: int) -> None:
    backend = UdpBackend(forwarder=kind if port == 8286 else ForwarderKind.AUTO, port=port)
    before = pid_of(lab)
    changed = Lab(wanted(backend))
    changed.up()
    assert pid_of(changed) != before
    assert forwarder(changed).said == words(backend.forwarder)
    assert pings(changed)
    assert changed.up().ops == ()


def test_what_it_cannot_read_does_not_stop_it(lab: Lab) -> None:
    file, pid = lab.folder.runtime / "daemons" / "n1_forwarder.json", pid_of(lab)
    for text in ("", "{", "[]", file.read_text().replace("10.244.2.0/24", "10.244.2.0/99")):
        file.write_text(text)
        os.kill(pid, signal.SIGHUP)
    until(
        lambda: any("goes on with the configuration that it has" in line for line in lab.log_lines("n1", "forwarder"))
    )
    assert pings(lab)
    assert pid_of(lab) == pid


def test_many_announcements_are_no_harm(lab: Lab) -> None:
    pid = pid_of(lab)
    for _ in range(200):
        os.kill(pid, signal.SIGHUP)
    assert pings(lab)
    assert pid_of(lab) == pid


def test_an_announcement_that_comes_too_early_waits(lab: Lab, kind: ForwarderKind) -> None:
    """A SIGHUP to a Python that does not know yet what to do with it would end it."""
    before = pid_of(lab)
    os.kill(before, signal.SIGKILL)
    until(lambda: published_pid(lab) not in (0, before))
    os.kill(published_pid(lab), signal.SIGHUP)
    found = forwarder(lab)  # waits until it is ready
    assert (found.restarts, found.signal, found.said) == (1, signal.SIGKILL, words(kind))


def published_pid(lab: Lab) -> int:
    """Return the pid of n1's forwarder, also while it starts."""
    report = read_report(lab.folder.runtime / "status.json")
    return next(status.pid for status in report.processes if status.spec.pod == "n1")
