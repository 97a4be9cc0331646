"""Pods' processes on the real kernel: pause, containers, and what becomes of them when somebody dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.errors import NetlabError
from netlab.kernel import netns, proc, residents
from netlab.plan.etc import EtcFiles
from netlab.plan.objects import PAUSE, Process
from netlab.supervisor.client import Life, ProcessState, Supervisor, write_etc
from netlab.supervisor.spec import CONTROL
from tests.waiting import until

pytestmark = pytest.mark.root

LAB = "nl-tsup"
FABRIC = f"nl-{LAB}"
MEMBERS = ("n1", "web", "db")
PATH = {"PATH": os.environ["PATH"]}
SLEEP = ("sleep", "infinity")
LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", 7000))
print("listening", flush=True)
while True:
    server.accept()[0].sendall(b"hello")
"""


class Place:
    """A fabric, a node and two pods' namespaces, and the supervisor of their lab."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.supervisor = Supervisor(LAB, folder)

    def netns(self, member: str) -> str:
        return f"{FABRIC}.{member}"

    def make(self, *members: str) -> None:
        netns.create([self.netns(member) for member in members], raise_loopback)

    def pod(self, pod: str, *containers: Process, node: str | None = None) -> list[tuple[str, Process]]:
        """Return a pod's processes, in its own namespace or in its node's."""
        where = self.netns(node or pod)
        return [(where, process) for process in (Process(pod, PAUSE, (PAUSE,)), *containers)]

    def state(self, pod: str, name: str) -> ProcessState:
        return next(s for s in self.supervisor.states() if (s.process.pod, s.process.name) == (pod, name))

    def pid(self, pod: str, name: str) -> int:
        pid = self.state(pod, name).pid
        assert pid is not None
        return pid

    def log(self, pod: str, container: str) -> str:
        path = self.supervisor.log(pod, container)
        return path.read_text() if path.exists() else ""

    def report_of(self, pod: str, argv: tuple[str, ...], **settings: object) -> str:
        """Run a container once and return what it wrote."""
        once = Process(pod, "once", argv, restart=False, **settings)  # type: ignore[arg-type]
        self.supervisor.change(start=self.pod(pod, once))
        until(lambda: self.state(pod, "once").life is Life.ENDED)
        return self.log(pod, "once")

    @property
    def supervisor_pid(self) -> int:
        return int(json.loads((self.folder / "status.json").read_text())["pid"])

    def present(self) -> set[tuple[str, str]]:
        return {(p.pod, p.name) for processes in self.supervisor.observe().values() for p in processes}


def raise_loopback(name: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def kill(pid: int) -> None:
    """Kill a process and wait until it is dead, reaped or not."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not proc.find_start_time(pid))


def greeting(name: str) -> bytes:
    def connect() -> bytes:
        with socket.create_connection(("127.0.0.1", 7000), timeout=5) as connection:
            return connection.recv(16)

    return netns.call(name, connect)


def marked() -> list[int]:
    return [pid for pid in proc.pids() if proc.has_variable(pid, residents.MARK, LAB)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    host_files = [Path(path).read_bytes() for path in ("/etc/hosts", "/etc/resolv.conf")]
    mounts = host_mounts()
    netns.create([FABRIC], raise_loopback)
    place = Place(tmp_path / "run")
    place.make(*MEMBERS)
    try:
        yield place
    finally:
        place.supervisor.stop()
        netns.remove(netns.names(FABRIC))
    assert marked() == []
    assert [Path(path).read_bytes() for path in ("/etc/hosts", "/etc/resolv.conf")] == host_files
    assert host_mounts() == mounts


def host_mounts() -> list[str]:
    """Return this machine's mounts, without the names of namespaces, which other tests make meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [" ".join(line.split()[3:6]) for line in lines if " /run/netns" not in line]


# --- what a container finds ------------------------------------------------------------------------------------------


def test_a_container_finds_its_pod(place: Place) -> None:
    write_etc(place.folder, {"web": EtcFiles("127.0.0.1 localhost\n10.244.0.2 web\n", "search cluster.local\n")})
    netns.call(place.netns("web"), subprocess.run, ["ip", "link", "add", "eth0", "type", "bridge"])
    place.supervisor.change(start=place.pod("db", Process("db", "c", SLEEP)))  # nothing of it must show
    script = """
        hostname; cat /etc/hosts /etc/resolv.conf
        ls /sys/class/net | grep -x 'lo\\|eth.'; pwd; readlink /proc/self/fd/0
        echo $NETLAB_LAB $NETLAB_POD $NETLAB_CONTAINER $HOSTNAME $COLOUR; ls /proc/self/fd
        grep $NETLAB_LAB /proc/mounts; echo to-stderr >&2
    """
    text = place.report_of("web", ("sh", "-c", script), env=(("COLOUR", "red"),), working_dir="/tmp")
    assert text.split() == [
        *("web", "127.0.0.1", "localhost", "10.244.0.2", "web", "search", "cluster.local"),
        *("eth0", "lo", "/tmp", "/dev/null", LAB, "web", "once", "web", "red"),
        *("0", "1", "2", "3", "to-stderr"),  # 3 is the folder that `ls` reads
    ]


def test_a_container_sees_the_labs_processes_only(place: Place) -> None:
    pids = place.report_of("web", ("sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; echo; ls -d /proc/[0-9]*"))
    first, *others = pids.splitlines()
    assert "netlab.supervisor" in first
    assert len(others) <= 5


def test_a_pod_of_the_host_network_is_called_as_its_node(place: Place) -> None:
    once = Process("agent", "once", ("hostname",), restart=False)
    place.supervisor.change(start=place.pod("agent", once, node="n1"))
    until(lambda: place.state("agent", "once").life is Life.ENDED)
    assert place.log("agent", "once") == "n1\n"


def test_a_running_container_sees_new_hosts(place: Place) -> None:
    write_etc(place.folder, {"web": EtcFiles("1.1.1.1 old\n", "#\n")})
    script = "echo ready; while ! grep -q new /etc/hosts; do sleep 0.01; done; echo seen; exec sleep infinity"
    place.supervisor.change(start=place.pod("web", Process("web", "c", ("sh", "-c", script))))
    until(lambda: place.log("web", "c") == "ready\n")
    write_etc(place.folder, {"web": EtcFiles("1.1.1.1 new\n", "#\n")})
    until(lambda: place.log("web", "c") == "ready\nseen\n")
    assert place.state("web", "c").restarts == 0
    write_etc(place.folder, {})
    assert list((place.folder / "etc").iterdir()) == []


def test_pause_is_tiny(place: Place) -> None:
    place.supervisor.change(start=place.pod("web"))
    pid = place.pid("web", PAUSE)
    assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] in (b"pause", b"sleep")
    assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert proc.find_namespace(pid, "net") == netns.inode(place.netns("web"))
    memory = Path(f"/proc/{pid}/smaps_rollup").read_text()
    assert int(memory.split("Pss_Anon:")[1].split()[0]) < 500, "kB"


# --- deaths ----------------------------------------------------------------------------------------------------------


def test_a_killed_container_is_restarted_and_its_neighbours_notice_nothing(place: Place) -> None:
    def addresses() -> str:
        command = ["ip", "-n", place.netns("web"), "-o", "address"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    subprocess.run(["ip", "-n", place.netns("web"), "address", "add", "10.9.9.9/32", "dev", "lo"], check=True)
    listener = Process("web", "listener", (sys.executable, "-S", "-c", LISTEN))
    place.supervisor.change(start=place.pod("web", listener, Process("web", "victim", SLEEP)))
    until(lambda: "listening" in place.log("web", "listener"))
    before, neighbour, pause = addresses(), place.pid("web", "listener"), place.pid("web", PAUSE)
    victim = place.pid("web", "victim")

    kill(victim)

    state = place.state("web", "victim")
    assert (state.life, state.restarts, state.signal, state.exit_status) == (Life.RUNNING, 1, 9, None)
    assert state.pid not in (None, victim)
    assert (place.pid("web", "listener"), place.pid("web", PAUSE)) == (neighbour, pause)
    assert greeting(place.netns("web")) == b"hello"
    assert addresses() == before
    assert place.state("web", "listener").restarts == 0


def test_a_crash_loop_waits(place: Place) -> None:
    job = Process("web", "c", ("sh", "-c", "echo try; exit 3"))
    place.supervisor.change(start=place.pod("web", job))
    until(lambda: place.state("web", "c").life is Life.WAITING)
    state = place.state("web", "c")
    assert (state.restarts, state.exit_status, state.signal, state.pid) == (1, 3, None, None)
    assert place.log("web", "c") == "try\ntry\n"
    assert place.present() == {("web", PAUSE), ("web", "c")}, "to be restarted is as it should be"


def test_what_a_container_left_behind_dies_with_it(place: Place) -> None:
    script = "setsid sleep infinity & setsid sh -c 'sleep infinity & exit' & echo up; exec sleep infinity"
    place.supervisor.change(
        start=[
            *place.pod("web", Process("web", "c", ("sh", "-c", script))),
            *place.pod("db", Process("db", "c", SLEEP)),
        ]
    )
    inside = {place.netns("web")}
    until(lambda: len(residents.processes_in(inside, LAB)) == 4)
    old = {resident.pid for resident in residents.processes_in(inside, LAB)} - {place.pid("web", PAUSE)}
    others = place.pid("db", "c")
    kill(place.pid("web", "c"))
    assert place.state("web", "c").restarts == 1
    until(lambda: not any(proc.find_start_time(pid) for pid in old))
    assert place.pid("db", "c") == others


def test_a_pod_ends_with_its_pause(place: Place) -> None:
    web = place.pod("web", Process("web", "a", SLEEP), Process("web", "b", SLEEP))
    place.supervisor.change(start=[*web, *place.pod("db", Process("db", "a", SLEEP))])
    pids = [place.pid("web", "a"), place.pid("web", "b")]
    db = place.pid("db", "a")

    kill(place.pid("web", PAUSE))

    assert place.present() == {("db", PAUSE), ("db", "a")}
    assert not netns.is_alive(place.netns("web"))
    assert place.netns("web") not in netns.names(FABRIC)
    states = {state.process.name: state for state in place.supervisor.states() if state.process.pod == "web"}
    assert {state.life for state in states.values()} == {Life.ENDED}
    assert "the pod ended with its pause" in states[PAUSE].reason
    assert not any(proc.find_start_time(pid) for pid in pids)
    assert place.pid("db", "a") == db

    place.make("web")
    place.supervisor.change(start=web)
    assert place.present() == {(pod, name) for pod, name in [("web", PAUSE), ("web", "a"), ("web", "b")]} | {
        ("db", PAUSE),
        ("db", "a"),
    }
    assert proc.find_namespace(place.pid("web", "a"), "net") == netns.inode(place.netns("web"))
    assert place.pid("db", "a") == db


def test_a_node_outlives_the_pause_of_a_pod_of_its_network(place: Place) -> None:
    agent = place.pod("agent", Process("agent", "c", SLEEP), node="n1")
    place.supervisor.change(start=agent)
    kill(place.pid("agent", PAUSE))
    assert place.present() == set()
    assert netns.is_alive(place.netns("n1"))
    place.supervisor.change(start=agent)
    assert place.present() == {("agent", PAUSE), ("agent", "c")}


def test_everything_dies_with_the_supervisor(place: Place) -> None:
    script = "setsid sleep infinity & trap '' TERM HUP; echo up; while :; do sleep 60; done"
    web = place.pod("web", Process("web", "c", ("sh", "-c", script)))
    place.supervisor.change(start=web)
    until(lambda: "up" in place.log("web", "c"))
    assert len(marked()) >= 4

    kill(place.supervisor_pid)

    assert marked() == []
    assert place.present() == set()
    assert {state.life for state in place.supervisor.states()} == {Life.LOST}
    place.supervisor.change(start=web)
    assert place.present() == {("web", PAUSE), ("web", "c")}


def test_nothing_piles_up_in_the_supervisor(place: Place) -> None:
    def open_files() -> int:
        return len(os.listdir(f"/proc/{place.supervisor_pid}/fd"))

    place.supervisor.change(start=place.pod("db", Process("db", "c", SLEEP)))
    before = open_files()
    web = place.pod("web", Process("web", "c", SLEEP), Process("web", "bad", ("no-such-program",)))
    for _ in range(5):
        place.supervisor.change(start=web)
        kill(place.pid("web", "c"))
        assert place.state("web", "c").life is Life.RUNNING
        place.supervisor.change(stop=web)
    assert open_files() <= before + 1, "five rounds; one connection may be closing still"


# --- changes ---------------------------------------------------------------------------------------------------------


def test_only_what_changed_is_started_and_stopped(place: Place) -> None:
    keep, drop = Process("web", "keep", SLEEP), Process("web", "drop", SLEEP)
    old, new = Process("web", "edit", SLEEP), Process("web", "edit", SLEEP, env=(("A", "1"),))
    web = place.netns("web")
    place.supervisor.change(start=place.pod("web", keep, drop, old))
    before = {name: place.pid("web", name) for name in (PAUSE, "keep", "drop", "edit")}
    supervisor = place.supervisor_pid

    place.supervisor.change(stop=[(web, drop), (web, old)], start=[(web, new), *place.pod("db")])

    assert place.supervisor.observe() == {
        web: {Process("web", PAUSE, (PAUSE,)), keep, new},
        place.netns("db"): {Process("db", PAUSE, (PAUSE,))},
    }
    assert {name: place.pid("web", name) for name in (PAUSE, "keep")} == {n: before[n] for n in (PAUSE, "keep")}
    assert not proc.find_start_time(before["drop"])
    assert place.pid("web", "edit") != before["edit"]
    assert place.supervisor_pid == supervisor


def test_no_process_no_supervisor(place: Place) -> None:
    assert place.supervisor.observe() == {}
    place.supervisor.change()
    assert not place.folder.exists()
    web = place.pod("web", Process("web", "c", SLEEP))
    place.supervisor.change(start=web)
    place.supervisor.change(stop=web)
    assert marked() == []
    assert not (place.folder / "status.json").exists()


def test_a_container_that_ignores_sigterm_is_killed(place: Place) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 60; done"
    stubborn = Process("web", "c", ("sh", "-c", script))
    place.supervisor.change(start=place.pod("web", stubborn))
    until(lambda: "up" in place.log("web", "c"))
    pid = place.pid("web", "c")
    place.supervisor.change(stop=[(place.netns("web"), stubborn)])
    assert not proc.find_start_time(pid)
    assert place.present() == {("web", PAUSE)}


def test_an_end_for_good_is_no_drift(place: Place) -> None:
    job = Process("web", "job", ("sh", "-c", "exit 5"), restart=False)
    place.supervisor.change(start=place.pod("web", job))
    until(lambda: place.state("web", "job").life is Life.ENDED)
    assert place.state("web", "job").exit_status == 5
    assert place.present() == {("web", PAUSE), ("web", "job")}
    place.supervisor.change(start=place.pod("db"))
    assert place.state("web", "job").life is Life.ENDED


def test_a_namespace_that_was_made_anew_gets_its_processes_again(place: Place) -> None:
    web = place.pod("web", Process("web", "c", SLEEP))
    place.supervisor.change(start=[*web, *place.pod("db")])
    old, db = place.pid("web", "c"), place.pid("db", PAUSE)
    netns.remove([place.netns("web")])
    place.make("web")
    assert place.present() == {("db", PAUSE)}
    place.supervisor.change(start=web)
    assert proc.find_namespace(place.pid("web", "c"), "net") == netns.inode(place.netns("web"))
    assert not proc.find_start_time(old)
    assert place.pid("db", PAUSE) == db


def test_the_supervisor_of_a_fabric_that_is_gone_is_replaced(place: Place) -> None:
    web = place.pod("web", Process("web", "c", SLEEP))
    place.supervisor.change(start=web)
    old = place.supervisor_pid
    netns.remove([FABRIC])
    netns.create([FABRIC], raise_loopback)
    assert place.present() == set()
    place.supervisor.change(start=web)
    assert place.present() == {("web", PAUSE), ("web", "c")}
    assert not proc.find_start_time(old)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "working_dir", "status", "reason"),
    [
        (("no-such-program",), "/", 127, "cannot run no-such-program: No such file or directory"),
        (("/etc/hosts",), "/", 126, "cannot run /etc/hosts: Permission denied"),
        (SLEEP, "/no/folder", 127, "cannot change to working directory /no/folder: No such file or directory"),
    ],
)
def test_a_container_that_cannot_start_says_why(
    place: Place, argv: tuple[str, ...], working_dir: str, status: int, reason: str
) -> None:
    mode = os.stat("/etc/hosts").st_mode
    if argv == ("/etc/hosts",) and mode & 0o111:
        argv = (str(not_executable(place.folder)),)
        reason = f"cannot run {argv[0]}: Permission denied"
    bad = Process("web", "bad", argv, working_dir=working_dir)
    place.supervisor.change(start=place.pod("web", bad, Process("web", "good", SLEEP)))
    state = place.state("web", "bad")
    assert (state.life, state.exit_status, state.reason) == (Life.WAITING, status, reason)
    assert reason in place.log("web", "bad")
    assert reason in (place.folder / "supervisor.log").read_text()
    assert place.state("web", "good").life is Life.RUNNING


def not_executable(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    return path


def test_a_pod_without_a_namespace_is_an_error_that_names_it(place: Place) -> None:
    with pytest.raises(NetlabError, match=r"pod ghost does not start: .*nl-nl-tsup\.ghost.*does not exist"):
        place.supervisor.change(start=[*place.pod("ghost", Process("ghost", "c", SLEEP)), *place.pod("web")])
    assert place.present() == {("web", PAUSE)}
    assert "pause does not run" in place.state("ghost", "c").reason


def test_the_supervisor_is_found_without_its_files(place: Place) -> None:
    place.supervisor.change(start=place.pod("web", Process("web", "c", SLEEP)))
    shutil.rmtree(place.folder)
    assert place.present() == {("web", PAUSE), ("web", "c")}, "it writes them anew"
    shutil.rmtree(place.folder)
    netns.remove([FABRIC])
    place.supervisor.stop()
    assert marked() == []


def test_a_stale_status_file_misleads_nobody(place: Place) -> None:
    place.supervisor.change(start=place.pod("web"))
    status = place.folder / "status.json"
    tree = json.loads(status.read_text())
    bystander = subprocess.Popen(SLEEP)
    try:
        tree |= {"pid": bystander.pid, "started": proc.find_start_time(bystander.pid)}
        status.write_text(json.dumps(tree))
        place.supervisor.stop()
        assert bystander.poll() is None
        assert marked() == []
    finally:
        bystander.kill()
        bystander.wait()


# --- residents -------------------------------------------------------------------------------------------------------


def test_residents_are_told_apart_by_their_mark(place: Place) -> None:
    def start(**environment: str) -> subprocess.Popen[bytes]:
        process = netns.call(place.netns("web"), lambda: subprocess.Popen(SLEEP, env=PATH | environment))
        until(lambda: proc.name_of(process.pid) == "sleep")  # execve(2) closes Popen's pipe before it changes the name
        return process

    def name(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
        return (process.pid, "sleep", place.netns("web"))

    ours, stranger, other_lab = start(NETLAB_LAB=LAB), start(), start(NETLAB_LAB=f"{LAB}x")
    try:
        found = residents.processes_in([place.netns("web"), place.netns("db"), "nl-not-there"], LAB)
        assert {(r.pid, r.name, r.netns): r.ours for r in found} == {
            name(ours): True,
            name(stranger): False,
            name(other_lab): False,
        }
        left = residents.end_marked([place.netns("web")], LAB)
        assert {resident.pid for resident in left} == {stranger.pid, other_lab.pid}
        assert ours.wait() == -signal.SIGHUP
        assert (stranger.poll(), other_lab.poll()) == (None, None)
    finally:
        for process in (ours, stranger, other_lab):
            process.kill()
            process.wait()


@pytest.mark.parametrize("then", [f"exec env NETLAB_LAB={LAB} sleep 60", "exit"])
def test_a_resident_without_a_mark_may_be_starting_or_ending(place: Place, then: str) -> None:
    """A killed netlab's child shows its mark only after exec, and no longer while it exits."""
    script = ["sh", "-c", f"echo up; sleep 0.1; {then}"]
    child = netns.call(place.netns("web"), lambda: subprocess.Popen(script, env=PATH, stdout=subprocess.PIPE))
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    assert residents.end_marked([place.netns("web")], LAB) == []
    assert child.wait() in (-signal.SIGHUP, 0)
    child.stdout.close()


def test_a_resident_that_ignores_hangups_is_killed(place: Place) -> None:
    script = "trap '' HUP TERM; echo up; while :; do sleep 60; done"
    environment = PATH | {"NETLAB_LAB": LAB}
    stubborn = netns.call(
        place.netns("web"), lambda: subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.PIPE)
    )
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"up\n"
    assert residents.end_marked([place.netns("web")], LAB) == []
    assert stubborn.wait() == -signal.SIGKILL
    stubborn.stdout.close()


def test_a_pid_that_became_somebody_else_is_left_alone(place: Place) -> None:
    process = subprocess.Popen(SLEEP)
    try:
        residents.end([(process.pid, 1)])
        assert process.poll() is None
        residents.end([(2**22 - 1, 1)])
    finally:
        process.kill()
        process.wait()


def test_the_control_socket_is_nobody_elses(place: Place) -> None:
    place.supervisor.change(start=place.pod("web"))
    for name in (place.netns("web"), place.netns("n1")):
        with pytest.raises(ConnectionRefusedError):
            netns.call(name, connect_control)


def connect_control() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(CONTROL)
