"""Running without root: real users' processes in real user namespaces."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import netlab
from netlab.kernel import netns, proc, rootless
from tests.users import NOBODY, User, can_play_users, new_user

pytestmark = pytest.mark.root
if not can_play_users():
    pytest.skip("only a full root can play another user", allow_module_level=True)

PRELUDE = """
import os, subprocess, sys
from netlab import paths
from netlab.errors import NetlabError
from netlab.kernel import netns, rootless
def sh(line): subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL)
"""
MAKE_LAB = """
rootless.ensure_privileged()
netns.create(["nl-tr", "nl-tr.a", "nl-tr.b"], lambda name: None)
sh("ip -n nl-tr link add br0 type bridge && ip -n nl-tr link set br0 up")
for number, pod in enumerate("ab", start=1):
    sh(f"ip -n nl-tr link add to-{pod} type veth peer name eth0 netns nl-tr.{pod}")
    sh(f"ip -n nl-tr link set to-{pod} master br0 up && ip -n nl-tr.{pod} link set eth0 up")
    sh(f"ip -n nl-tr.{pod} addr add 10.9.8.{number}/24 dev eth0")
"""
PING = 'sh("ip netns exec nl-tr.a ping -c 1 -W 5 10.9.8.2")\n'
WHICH_KEEPER = "rootless.ensure_privileged(); print(rootless.find_keeper().pid, os.stat('/proc/self/ns/net').st_ino)"


@pytest.fixture
def user() -> Iterator[User]:
    with new_user() as found:
        yield found


def _start(user: User, code: str, *, namespaces_forbidden: bool = False) -> subprocess.Popen[str]:
    return user.start("-c", PRELUDE + code, namespaces_forbidden=namespaces_forbidden)


def _run(user: User, code: str) -> str:
    return _finish(_start(user, code))


def _finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def _kill(keeper: rootless.Keeper) -> None:
    if proc.is_running(keeper.pid, keeper.start_time):
        os.kill(keeper.pid, signal.SIGKILL)
        _wait_for_end(keeper)


def _wait_for_end(keeper: rootless.Keeper) -> None:
    while proc.is_running(keeper.pid, keeper.start_time):
        os.sched_yield()


def _host_network() -> str:
    lines = ["ip -d link", "ip addr", "ip route show table all", "ip rule", "ls -i /run/netns"]
    return subprocess.run("; ".join(lines), shell=True, check=False, capture_output=True, text=True).stdout


def test_users_run_this_interpreter_and_this_source(user: User) -> None:
    out = _run(user, "import netlab; print(netlab.__file__, sys.executable, os.getuid())")
    assert out.split() == [netlab.__file__, sys.executable, str(NOBODY)]


def test_lab_made_without_root_works_and_a_later_command_finds_it(user: User) -> None:
    host = _host_network()
    _run(user, MAKE_LAB + PING)
    seen = _run(user, "rootless.ensure_privileged(); print(netns.names('nl-tr'))\n" + PING)
    assert seen.strip() == "['nl-tr', 'nl-tr.a', 'nl-tr.b']"
    assert _host_network() == host


TOPOLOGY = """
name: tr
nodes: [n1, n2]
pods:
  - {name: a, node: n1}
  - {name: b, node: n2}
"""


def test_whole_lab_by_the_commands(user: User) -> None:
    (user.home / "topology.yaml").write_text(TOPOLOGY)

    def netlab_command(*words: str) -> str:
        return _run(user, f"from netlab.cli.main import main; sys.argv = {['netlab', *words]}; main()")

    netlab_command("up")
    address = next(line.split()[2] for line in netlab_command("status").splitlines() if line.startswith("b "))
    assert " 0% packet loss" in netlab_command("exec", "a", "ping", "-c1", "-W5", address)
    assert "nothing to do" in netlab_command("up")
    netlab_command("down")
    assert list((user.home / "run").iterdir()) == []


def test_reading_commands_make_no_keeper(user: User) -> None:
    assert _run(user, "print(rootless.join_if_kept(), rootless.find_keeper())").strip() == "False None"
    assert not user.runtime.exists()
    _run(user, MAKE_LAB)
    assert _run(user, "print(rootless.join_if_kept(), len(netns.names('nl-tr')))").strip() == "True 3"


def test_first_commands_at_once_make_one_keeper(user: User) -> None:
    started = [_start(user, WHICH_KEEPER) for _ in range(6)]
    assert len({_finish(process) for process in started}) == 1


def test_keeper_survives_its_terminal_and_holds_nothing_of_it(user: User) -> None:
    _run(user, "rootless.ensure_privileged()")
    pid = user.keeper().pid
    assert os.getsid(pid) not in (os.getsid(0), 0)
    assert {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()} == {"/dev/null"}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert proc.name_of(pid) == "sleep"


def test_killed_keeper_takes_everything_along_and_is_replaced(user: User) -> None:
    _run(user, MAKE_LAB)
    first = user.keeper()
    _kill(first)
    assert _run(user, "rootless.ensure_privileged(); print(netns.names('nl-'))").strip() == "[]"
    assert user.keeper() != first


def test_pid_that_was_used_again_is_not_taken_for_the_keeper(user: User) -> None:
    _run(user, "rootless.ensure_privileged()")
    keeper = user.keeper()
    (user.runtime / "keeper").write_text(f"{os.getpid()} {proc.find_start_time(os.getpid())}\n")
    assert _run(user, WHICH_KEEPER).split()[0] == str(keeper.pid)


@pytest.mark.parametrize("left", ["", "12", "\0\0 \xff", "1 2 3"])
def test_lost_or_broken_record_does_not_lose_the_labs(user: User, left: str) -> None:
    _run(user, MAKE_LAB)
    keeper = user.keeper()
    if left:
        (user.runtime / "keeper").write_bytes(left.encode("latin-1"))
    else:
        shutil.rmtree(user.runtime)
    assert _run(user, "rootless.ensure_privileged(); print(len(netns.names('nl-tr')))").strip() == "3"
    assert user.keeper() == keeper


def test_stop_leaves_neither_process_nor_file(user: User) -> None:
    _run(user, MAKE_LAB)
    keeper = user.keeper()
    down = "rootless.ensure_privileged(); netns.remove(netns.names('nl-tr')); print(rootless.stop_keeper())"
    assert _run(user, down).strip() == "True"
    assert not proc.is_running(keeper.pid, keeper.start_time)
    assert list((user.home / "run").iterdir()) == []
    assert _run(user, "print(rootless.stop_keeper())").strip() == "False"


def test_stop_waits_for_the_last_lab(user: User) -> None:
    _run(user, MAKE_LAB)
    assert _run(user, "rootless.ensure_privileged(); print(rootless.stop_keeper())").strip() == "False"
    assert _run(user, "print(rootless.stop_keeper())").strip() == "False"  # the same from outside
    assert proc.is_running(user.keeper().pid, user.keeper().start_time)


def test_stop_leaves_a_command_that_has_not_made_its_lab_yet(user: User) -> None:
    entered = "rootless.ensure_privileged(); print('in', flush=True); sys.stdin.readline()\n"
    other = _start(user, entered + "print(rootless.stop_keeper())")
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    assert _run(user, "rootless.ensure_privileged(); print(rootless.stop_keeper())").strip() == "False"
    assert other.communicate("\n")[0].strip() == "True"


def test_commands_that_stop_and_start_at_once_never_lose_a_lab(user: User) -> None:
    up = "rootless.ensure_privileged(); netns.create(['nl-tr-{0}'], lambda name: None)"
    down = "rootless.ensure_privileged(); rootless.stop_keeper()"
    started = [_start(user, code) for number in range(5) for code in (up.format(number), down)]
    for process in started:
        _finish(process)
    assert _run(user, "rootless.ensure_privileged(); print(len(netns.names('nl-tr')))").strip() == "5"


def test_lock_on_a_removed_file_counts_for_nothing(user: User) -> None:
    user.runtime.mkdir(mode=0o700)
    os.chown(user.runtime, NOBODY, NOBODY)
    first = _lock(user.runtime / "keeper")
    process = _start(user, "rootless.ensure_privileged()")
    _wait_until_waiting(process, first)
    second = _lock(user.runtime / "new")
    os.rename(user.runtime / "new", user.runtime / "keeper")
    os.close(first)  # the command gets the lock of a file that is gone
    _wait_until_waiting(process, second)
    assert not user.runtime.joinpath("members").exists()
    os.close(second)
    _finish(process)


def _lock(file: Path) -> int:
    fd = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    os.fchown(fd, NOBODY, NOBODY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _wait_until_waiting(process: subprocess.Popen[str], fd: int) -> None:
    """Return when a process waits for the lock of a file (proc_locks(5))."""
    wanted = (str(process.pid), str(os.fstat(fd).st_ino))
    while True:
        waiting = (line.split() for line in Path("/proc/locks").read_text().splitlines() if " -> " in line)
        if any((words[5], words[6].rpartition(":")[2]) == wanted for words in waiting):
            return
        assert process.poll() is None, "it went on without the lock"


def test_user_stays_the_user(user: User) -> None:
    code = "print(os.getcwd(), paths.state_dir(), paths.runtime_dir())"
    out = _run(user, f"{code}\nrootless.ensure_privileged()\n{code}\nopen('made', 'w').close()")
    before, after = out.splitlines()
    assert before == after == f"{user.home} {user.home}/.local/state/netlab {user.runtime}"
    assert (user.home / "made").stat().st_uid == NOBODY


def test_host_run_is_there_but_for_what_labs_write(user: User) -> None:
    entries = set(_run(user, "rootless.ensure_privileged(); print(*os.listdir('/run'))").split())
    assert entries >= set(os.listdir("/run")) - {"netns", "xtables.lock"}
    _run(user, "rootless.ensure_privileged(); os.makedirs('/run/netns/x'); open('/run/xtables.lock', 'w').close()")


NAT_RULES = "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["iptables-nft-restore"], NAT_RULES),
        (["iptables-legacy-restore"], NAT_RULES),  # opens /run/xtables.lock
        (["nft", "-f", "-"], "table ip probe\n"),
    ],
)
def test_programs_of_sbin_are_found_and_work(user: User, argv: list[str], text: str) -> None:
    netns.call_anonymous(lambda: subprocess.run(argv, input=text, text=True, check=True))  # users cannot load modules
    _run(user, f"rootless.ensure_privileged(); subprocess.run({argv}, input={text!r}, text=True, check=True)")


def test_process_with_threads_is_told(user: User) -> None:
    code = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
try: rootless.ensure_privileged()
except NetlabError as exc: print(exc, flush=True)
os._exit(0)
"""
    assert "several threads" in _run(user, code)


def test_forbidden_user_namespaces_are_explained(user: User) -> None:
    code = "try: rootless.ensure_privileged()\nexcept NetlabError as exc: print(exc.exit_status, exc)\n"
    said = _finish(_start(user, code, namespaces_forbidden=True))
    assert said.startswith("3 a user namespace for an unprivileged user is not available here")
    assert "`sudo sysctl -w user.max_user_namespaces=15000`" in said


def test_root_needs_no_keeper() -> None:
    before = os.stat("/proc/self/ns/net").st_ino
    rootless.ensure_privileged()
    assert os.stat("/proc/self/ns/net").st_ino == before
    assert rootless.stop_keeper() is False


def test_a_packet_is_traced_by_packet_sockets(user: User) -> None:
    _finish(user.start("-m", "netlab", "up", str(Path("topologies/vxlan-2.yaml").absolute())))
    try:
        out = _finish(user.start("-m", "netlab", "trace", "p-1", "p-2"))
        assert "answered: p-2 answered" in out
        assert "wrapped in VXLAN VNI 1" in out
        assert "seen by packet sockets" in out
        assert "eBPF is not to be had" in out
        refused = user.start("-m", "netlab", "trace", "p-1", "p-2", "--by", "ebpf")
        assert "Operation not permitted" in refused.communicate(timeout=60)[1]
    finally:
        _finish(user.start("-m", "netlab", "down"))
