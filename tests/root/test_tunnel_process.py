"""The forwarder as a process of its node: what starts it, what it is told, what becomes of it when somebody dies."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netlab import names
from netlab.errors import NetlabError, NotSupported
from netlab.kernel import netns, proc, tun
from netlab.lab import Lab
from netlab.plan.drift import differences
from netlab.plan.objects import Forwarder
from netlab.plan.text import commands
from netlab.supervisor.client import Life, ProcessState
from netlab.supervisor.spec import read_report
from netlab.topology.model import (
    Backend,
    Container,
    ForwarderKind,
    HostGwBackend,
    Topology,
    UdpBackend,
    VxlanBackend,
)
from tests.labs import topology
from tests.root.journeys import address, run
from tests.users import can_play_users, new_user
from tests.waiting import until

pytestmark = pytest.mark.root

NAME = "tpf"
SIMPLE = UdpBackend(forwarder=ForwarderKind.SIMPLE)
TRANSFER = 40 * 2**20  # bytes
MEMORY_MAX = 60e6  # bytes


def wanted(backend: Backend = SIMPLE, *, nodes: int = 2, pods: int = 2) -> Topology:
    return topology(NAME, nodes=nodes, pods=pods, backend=backend)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(wanted()) as lab:
        yield lab


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


def kill(lab: Lab, node: str = "n1") -> None:
    """Kill a forwarder and wait until it has been started again, or waits for that."""
    before = forwarder(lab, node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: (now := forwarder(lab, node)).pid != before.pid and (now.life is Life.WAITING or now.said))


# --- what it is ------------------------------------------------------------------------------------------------------


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


def test_a_second_up_changes_nothing(lab: Lab) -> None:
    before = {state.owner: state.pid for state in lab.forwarders()}
    assert lab.up().ops == ()
    assert lab.status().drift == ()
    assert {state.owner: state.pid for state in lab.forwarders()} == before
    assert {state.said for state in lab.forwarders()} == {"simple"}


def test_an_idle_forwarder_burns_nothing(lab: Lab) -> None:
    assert pings(lab)
    pids = [pid_of(lab, node) for node in ("n1", "n2")]
    before = [switches(pid) for pid in pids]
    time.sleep(1.0)  # the passing of time is what is tested
    assert [switches(pid) for pid in pids] == before


def switches(pid: int) -> list[str]:
    """Return how often a process has given the processor up, or lost it: it does not run without."""
    return [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "ctxt_switches" in line]


def test_it_says_when_it_is_ready(lab: Lab) -> None:
    text = (lab.folder.runtime / "daemons" / "n1_forwarder.json").read_text()
    node = lab.netns("n1")
    lab.keeper.stop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = by_hand(node, text, notify=theirs)
        try:
            assert ours.recv(100) == b"ready simple"
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


# --- what it is told -------------------------------------------------------------------------------------------------


def test_a_node_that_joins_is_told_to_those_that_run(lab: Lab) -> None:
    pids = {node: pid_of(lab, node) for node in ("n1", "n2")}
    larger = Lab(wanted(nodes=3, pods=3))
    said = [line for op in larger.up().ops for line in commands([op]) if "forwarder" in line]
    assert "# netlab itself tells the forwarder: 2 peers, MTU 1472" in said
    assert pings(larger, "p-3")
    assert {node: pid_of(larger, node) for node in ("n1", "n2")} == pids
    assert larger.up().ops == ()
    smaller = Lab(wanted())
    smaller.up()
    assert {node: pid_of(smaller, node) for node in ("n1", "n2")} == pids
    answer = lab.exec("p-1", ["ping", "-c1", "-W1", "10.244.3.2"])
    assert "Destination Net Unreachable" in answer.stdout


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (replace(SIMPLE, port=8286), "simple"),
        (replace(SIMPLE, forwarder=ForwarderKind.AUTO), ""),
    ],
    ids=["port", "forwarder"],
)
def test_another_port_or_forwarder_is_a_restart(lab: Lab, backend: Backend, said: str) -> None:
    before = pid_of(lab)
    changed = Lab(wanted(backend))
    changed.up()
    assert pid_of(changed) != before
    assert forwarder(changed).said.startswith(said)
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


def test_an_announcement_that_comes_too_early_waits(lab: Lab) -> None:
    """A SIGHUP to a Python that does not know yet what to do with it would end it."""
    before = pid_of(lab)
    os.kill(before, signal.SIGKILL)
    until(lambda: published_pid(lab) not in (0, before))
    os.kill(published_pid(lab), signal.SIGHUP)
    found = forwarder(lab)  # waits until it is ready
    assert (found.restarts, found.signal, found.said) == (1, signal.SIGKILL, "simple")


def published_pid(lab: Lab) -> int:
    """Return the pid of n1's forwarder, also while it starts."""
    report = read_report(lab.folder.runtime / "status.json")
    return next(status.pid for status in report.processes if status.spec.pod == "n1")


# --- what happens to it ----------------------------------------------------------------------------------------------


def test_a_killed_forwarder_is_back_at_once_and_status_says_so(lab: Lab) -> None:
    kill(lab)
    found = forwarder(lab)
    assert (found.life, found.restarts, found.signal, found.said) == (Life.RUNNING, 1, signal.SIGKILL, "simple")
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
    assert "is gone: `netlab up` makes it again" in "".join(lab.log_lines("n1", "forwarder"))
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


def test_a_transfer_outlives_kills_of_both_forwarders(lab: Lab) -> None:
    """The TUN device, its route and the sockets of the pods stay: TCP sends again what was lost."""
    content = os.urandom(2**20) * (TRANSFER // 2**20)
    digests: list[str] = []
    with netns.call(lab.netns("p-2"), socket.create_server, (address(lab, "p-2"), 7000)) as server:
        receiver = threading.Thread(target=lambda: digests.append(digest_of(server)))
        receiver.start()
        with netns.call(lab.netns("p-1"), socket.create_connection, (address(lab, "p-2"), 7000), 60) as connection:
            sender = threading.Thread(target=lambda: (connection.sendall(content), connection.shutdown(socket.SHUT_WR)))
            sender.start()
            for node in ("n1", "n2"):
                carried = lab.counters(node)
                until(lambda node=node, carried=carried: moved(lab.counters(node), carried) > TRANSFER // 5, 60)
                kill(lab, node)
            assert sender.is_alive(), "it was over before anybody was killed"
            sender.join(60)
            receiver.join(60)
    assert digests == [hashlib.sha256(content).hexdigest()]
    assert [forwarder(lab, node).restarts for node in ("n1", "n2")] == [1, 1]
    assert lab.counters("n1")["sentBytes"] > TRANSFER, "counters go on where the killed one ended"


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


# --- other backends before and after ---------------------------------------------------------------------------------


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


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_named_and_up_tries_again() -> None:
    with Lab(wanted(VxlanBackend())) as lab:
        taken = netns.call(lab.netns("n1"), socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        changed = Lab(wanted())
        with taken:
            taken.bind((address(lab, "n1"), 8285))
            with pytest.raises(NetlabError, match=r"forwarder of node n1.*UDP port 8285 of 172\.18\.0\.2.*in use"):
                changed.up()
            assert "in use" in forwarder(changed).reason
            assert drift(changed) == ["n1: forwarder: missing"]
        changed.up()
        assert pings(changed)


def test_a_device_that_somebody_else_reads_is_named() -> None:
    with Lab(wanted(VxlanBackend())) as lab:
        fd = netns.call(lab.netns("n1"), tun.attach, "flannel0")
        changed = Lab(wanted())
        try:
            with pytest.raises(NetlabError, match=r"nl-tpf\.n1: make the TUN device flannel0.*another process has it"):
                changed.up()
        finally:
            os.close(fd)
        changed.up()
        assert pings(changed)


@pytest.mark.parametrize(("damage", "hint"), [("missing", "modprobe tun"), ("forbidden", "chmod 666 /dev/net/tun")])
def test_without_dev_net_tun_nothing_is_changed_and_the_remedy_is_named(damage: str, hint: str, tmp_path: Path) -> None:
    """In a mount namespace of its own, where the device is hidden, or is one that the kernel does not let us open."""
    done = netns.run_in_thread(_up_without_device, damage, tmp_path)
    assert isinstance(done, NotSupported)
    assert done.exit_status == 3
    assert "/dev/net/tun" in done.message
    assert hint in done.hint
    assert netns.names(names.PREFIX) == []


def _up_without_device(damage: str, tmp_path: Path) -> BaseException | None:
    netns.unshare(netns.CLONE_NEWNS)
    netns.mount("", "/", None, netns.MS_PRIVATE | netns.MS_REC)
    options = "mode=0755"
    netns.mount("tmpfs", "/dev/net", "tmpfs", 0x4 if damage == "forbidden" else 0, options)  # MS_NODEV: EACCES
    if damage == "forbidden":
        os.mknod("/dev/net/tun", 0o20666, os.makedev(10, 200))
    try:
        Lab(wanted()).up()
    except NotSupported as exc:
        return exc
    return None


ROOTLESS = """
import os
from dataclasses import replace
from pathlib import Path
from netlab.kernel.rootless import ensure_privileged
from netlab.lab import Lab
from netlab.topology.model import UdpBackend
from tests.labs import topology
ensure_privileged()
with Lab(topology("tpfuser", nodes=2, pods=2, backend=UdpBackend())) as lab:
    assert lab.up().ops == ()
    assert lab.exec("p-1", ["ping", "-c1", "-W2", lab.address("p-2")]).returncode == 0
    os.kill(lab.forwarders()[0].pid, 9)
    while lab.forwarders()[0].restarts != 1 or not lab.forwarders()[0].said:
        pass
    assert lab.exec("p-1", ["ping", "-c1", "-W2", lab.address("p-2")]).returncode == 0
    for state in lab.forwarders():
        lines = Path(f"/proc/{state.pid}/status").read_text().splitlines()
        print(*[line.split()[1] for line in lines if line.startswith(("CapEff", "CapPrm", "NoNewPrivs"))])
"""


@pytest.mark.skipif(not can_play_users(), reason="only a full root can play another user")
def test_a_user_without_root_has_it_too() -> None:
    if not os.stat(tun.CLONE_DEVICE).st_mode & stat.S_IWOTH:
        pytest.skip("this machine keeps /dev/net/tun for root")
    with new_user() as user:
        process = user.start("-c", ROOTLESS)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines() == ["0000000000000000 0000000000000000 1"] * 2


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_the_dry_run_works_by_hand_and_up_takes_over(tmp_path: Path) -> None:
    """The forwarders of the dry run are the shell's: netlab sees a lab that lacks its own, and nothing else."""
    lab = Lab(wanted())
    try:
        script = "\n".join(commands(lab.up(dry_run=True).ops))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (tmp_path / "log").open("w") as log:
            done = subprocess.run(
                ["sh", "-eu"],
                input=script,
                stdout=log,
                stderr=log,
                text=True,
                check=False,
                env={**os.environ, "PATH": path},
            )
        assert done.returncode == 0, (tmp_path / "log").read_text()
        until(lambda: len(forwarders_in(lab)) == 2)
        pids = forwarders_in(lab)
        lab.folder.store.acquire(lab.topology)
        until(lambda: pings(lab))
        assert drift(lab) == ["n1: forwarder: missing", "n2: forwarder: missing"]
        assert [type(op.new) for op in lab.status().drift] == [Forwarder, Forwarder]
        end(pids)
        lab.up()
        assert pings(lab)
    finally:
        end(forwarders_in(lab))
        lab.down()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def forwarders_in(lab: Lab) -> list[int]:
    """Return the forwarders that run in a lab's nodes, whoever has started them."""
    spaces = {netns.inode(name) for name in map(lab.netns, ("n1", "n2")) if netns.is_alive(name)}
    inside = [pid for pid in proc.pids() if proc.find_namespace(pid, "net") in spaces]
    return [pid for pid in inside if "-m netlab.tunnel" in command_line(pid)]


def end(pids: list[int]) -> None:
    for pid in pids:
        if proc.find_start_time(pid):
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not proc.find_start_time(pid))


# --- the command line ------------------------------------------------------------------------------------------------


def netlab(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "netlab", *argv], capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "tpfcli.yaml"
    path.write_text("nodes: 2\npods: 2\n")
    yield path
    netlab("down", "tpfcli")


def test_the_commands_name_the_forwarder_and_its_counters(file: Path) -> None:
    refused = netlab("up", str(file), "--forwarder", "simple")
    assert refused.returncode == 2
    assert "the backend vxlan has no forwarder" in refused.stderr
    assert netlab("up", str(file), "--backend", "udp", "--forwarder", "simple").returncode == 0
    assert netlab("exec", "p-1", "--", "ping", "-c2", "-i0.01", "10.244.2.2").returncode == 0
    assert netlab("exec", "p-1", "--", "ping", "-c1", "-W1", "10.244.77.2").returncode == 1
    shown = netlab("status", "--counters").stdout
    rows = [line.split() for line in shown.splitlines()]
    assert ["NODE", "FORWARDER", "STATE", "PID", "RESTARTS", "LAST", "END"] in rows
    assert any(row[:3] == ["n1", "simple", "running"] and row[4:] == ["0", "-"] for row in rows)
    assert ["n1", *("2", "168", "2"), *("2", "168", "2"), "no-route", "1"] in rows
    assert ["n2", *("2", "168", "2"), *("2", "168", "2"), "-"] in rows
    assert "DROPPED" not in netlab("status").stdout
    assert netlab("logs", "n1").returncode == 0
    assert '"no-route": 1' in netlab("status", "--counters", "-o", "json").stdout
    assert "2 forwarders" in netlab("up", str(file)).stdout, "the file says vxlan"
    assert "FORWARDER" not in netlab("status").stdout
