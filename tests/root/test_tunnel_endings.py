"""What becomes of a forwarder, its device and its packets when somebody dies, is deleted or replaced."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netlab.kernel import netns, proc
from netlab.lab import Lab
from netlab.supervisor.client import Life
from netlab.topology.model import (
    Container,
    ForwarderKind,
    HostGwBackend,
    UdpBackend,
    VxlanBackend,
)
from tests.root.forwarders import SIMPLE, drift, forwarder, kill, pid_of, pings, wanted, words
from tests.root.journeys import address, run
from tests.volume import VOLUME
from tests.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def lab(kind: ForwarderKind) -> Iterator[Lab]:
    with Lab(wanted(UdpBackend(forwarder=kind))) as lab:
        yield lab


# --- what happens to it -----------------------------------------------------------------------------------------------


def test_a_killed_forwarder_is_back_at_once_and_status_says_so(lab: Lab, kind: ForwarderKind) -> None:
    kill(lab)
    found = forwarder(lab)
    assert (found.life, found.restarts, found.signal, found.said) == (Life.RUNNING, 1, signal.SIGKILL, words(kind))
    assert lab.status().drift == ()
    assert pings(lab)


def test_one_that_is_killed_again_and_again_waits_and_up_brings_it_back(lab: Lab) -> None:
    kill(lab)
    kill(lab)
    assert forwarder(lab).life is Life.WAITING
    assert drift(lab) == ["n1: forwarder: missing"]
    assert not pings(lab)
    assert len(lab.up().ops) == 1
    assert lab.status().drift == ()
    assert pings(lab)


def test_a_deleted_device_is_drift_and_up_makes_it_again(lab: Lab) -> None:
    other = pid_of(lab, "n2")
    run(lab, "n1", "ip link delete flannel0")
    until(lambda: forwarder(lab).life is Life.WAITING)
    assert re.search("flannel0 is gone: .*`netlab up` makes it", "".join(lab.log_lines("n1", "forwarder")))
    assert drift(lab) == ["n1: interface flannel0: missing"]
    lab.up()
    assert lab.status().drift == ()
    assert lab.up().ops == ()
    assert pings(lab)
    assert pid_of(lab, "n2") == other


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ip link set flannel0 down", "n1: interface flannel0: is down"),
        ("ip link set flannel0 mtu 1400", "n1: interface flannel0: mtu is 1400, should be 1472"),
        ("ip address flush dev flannel0", "n1: address 10.244.1.0/32 on flannel0: missing"),
        ("ip route delete 10.244.0.0/16", "n1: route 10.244.0.0/16 dev flannel0: missing"),
    ],
)
def test_drift_of_the_device_is_reported_and_repaired(lab: Lab, command: str, said: str) -> None:
    pid = pid_of(lab)
    run(lab, "n1", command)
    assert said in drift(lab)
    lab.up()
    assert lab.status().drift == ()
    assert pings(lab)
    assert pid_of(lab) == pid, "it has nothing to do with it"


def test_a_supervisor_that_is_killed_takes_it_along_and_up_brings_both_back(lab: Lab) -> None:
    pids = [pid_of(lab, node) for node in ("n1", "n2")]
    report = (lab.folder.runtime / "status.json").read_text()
    os.kill(int(report.split('"pid": ')[1].split(",")[0]), signal.SIGKILL)
    until(lambda: not any(proc.find_start_time(pid) for pid in pids))
    assert drift(lab) == ["n1: forwarder: missing", "n2: forwarder: missing"]
    lab.up()
    assert pings(lab)


ENOUGH = 8 * VOLUME  # bytes on their way before something happens


def test_a_transfer_outlives_kills_of_both_forwarders(lab: Lab) -> None:
    """The TUN device, its route and the sockets of the pods stay: TCP sends again what was lost."""
    digests: list[str] = []
    over = threading.Event()
    with netns.call(lab.netns("p-2"), socket.create_server, (address(lab, "p-2"), 7000)) as server:
        receiver = threading.Thread(target=lambda: digests.append(digest_of(server)))
        receiver.start()
        with netns.call(lab.netns("p-1"), socket.create_connection, (address(lab, "p-2"), 7000), 60) as connection:
            sender = threading.Thread(target=lambda: digests.append(send_until(over, connection)))
            sender.start()
            await_traffic(lab)
            for node in ("n1", "n2"):
                counted = lab.counters(node)
                kill(lab, node)
                assert lab.counters(node)["sentBytes"] >= counted["sentBytes"], "counters go on where they ended"
                await_traffic(lab)
            over.set()
            sender.join(60)
            receiver.join(60)
    assert len(set(digests)) == 1, digests
    assert [forwarder(lab, node).restarts for node in ("n1", "n2")] == [1, 1]


def await_traffic(lab: Lab) -> None:
    """Wait until both nodes have carried something."""
    for node in ("n1", "n2"):
        before = lab.counters(node)
        until(lambda node=node, before=before: moved(lab.counters(node), before) > ENOUGH, 180)


def send_until(over: threading.Event, connection: socket.socket) -> str:
    """Send until an event is set and return the hash of all that was sent."""
    found, piece = hashlib.sha256(), os.urandom(2**18)
    while not over.is_set():
        connection.sendall(piece)
        found.update(piece)
    connection.shutdown(socket.SHUT_WR)
    return found.hexdigest()


def moved(now: object, before: object) -> int:
    """Return how many bytes went either way between two readings of counters."""
    return sum(now[name] - before.get(name, 0) for name in ("sentBytes", "receivedBytes"))  # type: ignore[index,attr-defined]


def digest_of(server: socket.socket) -> str:
    """Accept one connection and return the hash of all that comes."""
    found = hashlib.sha256()
    connection, _ = server.accept()
    with connection:
        connection.settimeout(60)
        while octets := connection.recv(65536):
            found.update(octets)
    return found.hexdigest()


# --- other backends before and after ----------------------------------------------------------------------------------


def test_the_backend_can_be_switched_under_running_pods() -> None:
    """A TCP connection between pods lives through vxlan, udp, host-gw and back; no namespace is made anew."""
    base = wanted(VxlanBackend())
    sleeping = Container("c", ("sleep", "infinity"))
    base = replace(base, pods=tuple(replace(pod, containers=(sleeping,)) for pod in base.pods))
    with Lab(base) as lab:
        containers = {state.owner: state.pid for state in lab.processes() if state.name == "c"}
        with netns.call(lab.netns("p-2"), socket.create_server, (address(lab, "p-2"), 7000)) as server:
            connection = netns.call(lab.netns("p-1"), socket.create_connection, (address(lab, "p-2"), 7000), 30)
            accepted, _ = server.accept()
            with connection, accepted:
                for backend in (SIMPLE, HostGwBackend(), SIMPLE, VxlanBackend()):
                    changed = Lab(replace(base, backend=backend))
                    changed.up()
                    assert changed.status().drift == ()
                    assert changed.status().state.foreign == {}
                    assert bool(changed.forwarders()) is (backend is SIMPLE)
                    connection.sendall(backend.type.encode())
                    assert accepted.recv(100) == backend.type.encode()
        assert {state.owner: state.pid for state in changed.processes() if state.name == "c"} == containers
