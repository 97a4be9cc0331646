"""Running commands in a lab: what they see, what passes through, and that the host stays as it is."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.errors import KernelError, UsageError
from netlab.kernel import mounts, netns, residents
from netlab.kernel.enter import Place, execute, run
from tests.waiting import until

pytestmark = pytest.mark.root

LAB = "nl-texec"
NETNS = f"nl-{LAB}.web"
HOSTS = "127.0.0.1\tlocalhost\n10.244.0.2\tweb\n"
RESOLV_CONF = "search cluster.local\noptions ndots:5\n"
PLACE = Place(NETNS, HOSTS, RESOLV_CONF, hostname="web")


@pytest.fixture(autouse=True)
def web() -> Iterator[None]:
    """Make a namespace with a device, and see that the host is the same afterwards."""
    before = host()
    netns.create([NETNS], lambda _: subprocess.run(["ip", "link", "add", "eth7", "type", "bridge"], check=True))
    yield
    netns.remove([NETNS])
    assert host() == before


def host() -> dict[str, object]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "mounts": [" ".join(line.split()[3:6]) for line in lines if " /run/netns" not in line],
        "files": [Path(path).read_bytes() for path in ("/etc/hosts", "/etc/resolv.conf")],
        "hostname": socket.gethostname(),
        "namespaces": [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in ("net", "mnt", "uts")],
    }


def become(*argv: str, place: Place = PLACE, stdin: int | None = None, stdout: int | None = None) -> int:
    """Fork, become the command, and return the wait status as a parent sees it."""
    pid = os.fork()
    if pid == 0:
        try:
            for fd, stream in ((stdin, 0), (stdout, 1)):
                if fd is not None:
                    os.dup2(fd, stream)
            execute(argv, place)
        finally:
            os._exit(99)
    return os.waitpid(pid, 0)[1]


def output_of(*argv: str, place: Place = PLACE, stdin: str = "") -> str:
    """Become the command with pipes for its streams and return what it wrote."""
    (source, feed), (tap, sink) = os.pipe(), os.pipe()
    os.write(feed, stdin.encode())
    os.close(feed)
    status = become(*argv, place=place, stdin=source, stdout=sink)
    os.close(source)
    os.close(sink)
    with open(tap) as stream:
        text = stream.read()
    assert status == 0, text
    return text


# --- what a command sees ---------------------------------------------------------------------------------------------

INTERFACES = "ls /sys/class/net | grep -x 'lo\\|eth.'"  # tunnel modules add devices to every namespace
SCRIPT = f"cat /etc/hosts /etc/resolv.conf; hostname; echo $HOSTNAME $NETLAB_LAB $COLOUR; {INTERFACES}; pwd"
SEEN = f"{HOSTS}{RESOLV_CONF}web\nweb {LAB} red\neth7\nlo\n/tmp\n"
COLOURED = Place(NETNS, HOSTS, RESOLV_CONF, hostname="web", env={"COLOUR": "red"}, cwd="/tmp")


def test_a_command_sees_its_pod() -> None:
    assert output_of("sh", "-c", SCRIPT, place=COLOURED) == SEEN


def test_a_command_that_is_run_sees_the_same() -> None:
    done = run(["sh", "-c", SCRIPT], COLOURED)
    assert (done.stdout, done.stderr, done.returncode) == (SEEN, "", 0)


def test_names_are_resolved_by_the_pods_hosts() -> None:
    assert output_of("getent", "hosts", "web").split() == ["10.244.0.2", "web"]


def test_no_descriptor_of_netlabs_is_passed_on() -> None:
    command = ["sh", "-c", "ls /proc/$$/fd"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True, close_fds=False)
    assert output_of(*command) == plain.stdout


def test_the_files_are_nowhere_else() -> None:
    """They can be written, and vanish with the command."""
    script = "echo changed > /etc/hosts; cat /etc/hosts; grep -c '^netlab /etc/' /proc/mounts"
    assert output_of("sh", "-c", script) == "changed\n2\n"
    assert output_of("cat", "/etc/hosts") == HOSTS


# --- what passes through ---------------------------------------------------------------------------------------------


def test_every_exit_status_passes_through() -> None:
    assert [os.waitstatus_to_exitcode(become("sh", "-c", f"exit {status}")) for status in range(256)] == [*range(256)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1])
def test_a_death_by_signal_is_one(number: signal.Signals) -> None:
    """So that a shell shows 128 + N."""
    command = f"ulimit -c 0; kill -{number.value} $$; sleep 5"
    assert os.waitstatus_to_exitcode(become("sh", "-c", command)) == -number
    assert run(["sh", "-c", command], PLACE).returncode == -number


def test_a_signal_to_netlab_is_a_signal_to_the_command() -> None:
    tap, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(sink, 1)
        execute(["sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done"], PLACE)
    assert os.read(tap, 16) == b"ready\n"
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    os.close(tap)
    os.close(sink)


def test_stdin_passes_through() -> None:
    assert output_of("wc", "-c", stdin="x" * 10_000) == "10000\n"
    assert run(["wc", "-c"], PLACE, stdin="x" * 1_000_000).stdout == "1000000\n"
    assert run(["wc", "-c"], PLACE).stdout == "0\n", "without stdin there is none"


TERMINAL = """
import os, sys
print([os.isatty(fd) for fd in (0, 1, 2)], tuple(os.get_terminal_size()), flush=True)
sys.stdin.readline()
"""


def test_a_terminal_passes_through() -> None:
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
        execute([sys.executable, "-S", "-c", TERMINAL], PLACE)
    read_until(master, b"[True, True, True] (111, 33)\r\n")
    os.write(master, b"\x03")  # Ctrl-C
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT
    os.close(master)


def test_a_shell_has_job_control() -> None:
    pid, master = pty.fork()
    if pid == 0:
        execute(["sh", "-i"], PLACE)
    os.write(master, b"sleep 100\n")
    until(lambda: any(resident.name == "sleep" for resident in residents.processes_in([NETNS], LAB)))
    os.write(master, b"\x03")  # Ctrl-C ends the job, not the shell
    os.write(master, b"echo status $?\n")
    read_until(master, b"status 130")
    os.write(master, b"exit 7\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    os.close(master)


def read_until(terminal: int, wanted: bytes) -> None:
    text = b""
    while wanted not in text:
        assert select.select([terminal], [], [], 10.0)[0], text
        text += os.read(terminal, 1000)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    return path


def refusal_of(*argv: str, place: Place = PLACE) -> tuple[int, str]:
    """Return exit status and message of a command that does not start, by both ways."""
    with pytest.raises(UsageError) as caught:
        run(argv, place)
    tap, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            execute(argv, place)
        except UsageError as exc:
            os.write(sink, exc.message.encode())
            os._exit(exc.exit_status)
        finally:
            os._exit(99)
    os.close(sink)
    with open(tap) as stream:
        assert stream.read() == caught.value.message
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == caught.value.exit_status
    return caught.value.exit_status, caught.value.message


def test_a_command_that_is_not_there_is_127() -> None:
    assert refusal_of("no-such-program", "-x") == (127, "no-such-program: command not found")


def test_a_file_that_cannot_be_run_is_126(script: Path) -> None:
    assert refusal_of(str(script)) == (126, f"cannot run {script}: Permission denied")


def test_a_folder_that_is_not_there_is_named() -> None:
    place = Place(NETNS, HOSTS, RESOLV_CONF, hostname="web", cwd="/no/folder")
    assert refusal_of("true", place=place) == (127, "cannot run true: there is no folder /no/folder")


def test_a_namespace_that_is_not_there_is_named() -> None:
    with pytest.raises(KernelError, match=r"nl-nl-texec\.ghost.*does not exist"):
        run(["true"], Place("nl-nl-texec.ghost", HOSTS, RESOLV_CONF, hostname="ghost"))


def test_a_timeout_ends_the_command() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(["sleep", "100"], PLACE, timeout=0.05)
    assert residents.processes_in([NETNS], LAB) == []


def test_run_works_beside_other_threads() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert run(["hostname"], PLACE).stdout == "web\n"
    done.set()
    thread.join()


def test_a_command_is_marked_as_the_labs() -> None:
    pid = os.fork()
    if pid == 0:
        execute(["sleep", "infinity"], PLACE)
    try:
        until(lambda: [(r.pid, r.name) for r in residents.processes_in([NETNS], LAB) if r.ours] == [(pid, "sleep")])
        assert residents.end_marked([NETNS], LAB) == []
    finally:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP


# --- machines without these files ------------------------------------------------------------------------------------


def in_bare_etc(*problems_of: str) -> list[str]:
    """Bind a text over files of an /etc that holds links only, in a mount namespace of its own."""

    def inside() -> list[str]:
        mounts.unshare()
        netns.mount("netlab", "/etc", "tmpfs", 0)
        netns.mount("netlab", "/run", "tmpfs", 0)
        os.mkdir("/run/resolve")
        Path("/run/resolve/stub.conf").write_text("the host's\n")
        os.symlink("../run/resolve/stub.conf", "/etc/resolv.conf")
        os.symlink("/nowhere/at/all", "/etc/dangling")
        problems = mounts.bind_texts(dict.fromkeys(problems_of, "the lab's\n"))
        return [*problems, *(Path(path).read_text() for path in problems_of if os.path.exists(path))]

    return netns.run_in_thread(inside)


def test_a_link_is_followed() -> None:
    assert in_bare_etc("/etc/resolv.conf") == ["the lab's\n"]


def test_a_file_that_is_missing_is_said_and_not_made() -> None:
    missing = "is left out: this machine has no such file to put it on"
    assert in_bare_etc("/etc/hosts", "/etc/dangling") == [f"/etc/hosts {missing}", f"/etc/dangling {missing}"]
