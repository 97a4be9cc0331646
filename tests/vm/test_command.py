"""`netlab vm`, as people and scripts use it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.vm.boot import Boot
from tests.users import NOBODY, can_play_users, new_user
from tests.vm.conftest import processes_of
from tests.waiting import until

NETLAB = [sys.executable, "-m", "netlab"]


def netlab(*words: str, stdin: str | None = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NETLAB, "vm", *words], input=stdin, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture
def up(boot: Boot, runtime: Path) -> Iterator[None]:
    done = netlab("up", "-n", "2")
    assert done.returncode == 0, done.stderr
    assert "vm2    192.168.77.12   ready" in done.stdout
    yield
    assert netlab("down").stdout == "vms: 2 VMs ended\n"
    assert netlab("down").stdout == "vms is not up\n"


@pytest.mark.usefixtures("up")
def test_up_ls_exec_down(runtime: Path) -> None:
    assert netlab("up", "-n", "2").stdout == "vms is up already\n"
    refused = netlab("up", "-n", "3")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (2, "netlab: vms is up with 2 VMs")
    listed = json.loads(netlab("ls", "-o", "json").stdout)
    assert [(vm["name"], vm["state"]) for vm in listed["vms"]] == [("vm1", "ready"), ("vm2", "ready")]
    assert netlab("exec", "1", "--", "ping", "-c1", "vm2").returncode == 0
    done = netlab("exec", "vm2", "--", "sh", "-c", "cat; echo err >&2; exit 9", stdin="typed\n")
    assert (done.stdout, done.stderr, done.returncode) == ("typed\n", "err\n", 9)
    assert netlab("exec", "2", "--", "sh", "-c", "kill -TERM $$").returncode == 128 + 15
    missing = netlab("exec", "3", "--", "true")
    assert (missing.returncode, missing.stderr) == (2, "netlab: there is no VM 3\n  hint: there are: vm1, vm2\n")


@pytest.mark.usefixtures("up")
def test_a_lab_inside_a_vm() -> None:
    assert netlab("exec", "1", "--", "netlab", "up", "/netlab/topologies/vxlan-2.yaml").returncode == 0
    checked = netlab("exec", "1", "--", "netlab", "check")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.usefixtures("up")
def test_exec_and_console_on_a_terminal() -> None:
    with Terminal([*NETLAB, "vm", "exec", "1", "--", "sh", "-c", "tty; stty size; read x; echo got:$x"]) as shown:
        shown.wait_for("/dev/pts/")
        shown.type("this\n")
        shown.wait_for("got:this")
        assert shown.process.wait(60) == 0
    with Terminal([*NETLAB, "vm", "console", "1"]) as shown:
        shown.wait_for("Ctrl-] leaves it")
        shown.wait_for("#")
        shown.type("echo $((40 + 2)) on $(tty)\r")
        shown.wait_for("42 on /dev/ttyS0")
        shown.type("\x1d")
        assert shown.process.wait(60) == 0


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, argv: list[str]) -> None:
        self._own, theirs = pty.openpty()
        self.process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def wait_for(self, text: str) -> None:
        while text not in self._seen:
            assert select.select([self._own], [], [], 60)[0], f"no {text!r} in {self._seen!r}"
            self._seen += os.read(self._own, 4096).decode(errors="replace")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._own)


def test_an_unknown_network_and_a_wrong_name(runtime: Path) -> None:
    assert netlab("ls").stdout == "no VM is up: `netlab vm up`\n"
    for words in (("exec", "1", "true"), ("console", "1")):
        done = netlab(*words)
        assert (done.returncode, done.stderr) == (2, "netlab: vms is not up\n  hint: `netlab vm up` starts VMs\n")
    assert netlab("up", "--network", "No/Name").returncode == 2


def test_ctrl_c_while_booting_leaves_nothing(boot: Boot, runtime: Path) -> None:
    with Terminal([*NETLAB, "vm", "up", "-n", "2"]) as shown:
        until(lambda: len(processes_of(runtime)) == 3)
        os.kill(shown.process.pid, 2)
        shown.wait_for("interrupted")
        assert shown.process.wait(60) == 130


def test_doctor_shows_both_kernels(boot: Boot, runtime: Path) -> None:
    done = subprocess.run([*NETLAB, "doctor", "--vm"], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines() if len(line.split()) >= 3}
    for feature in ("veth", "vxlan", "nft"):
        assert rows[feature] == ["ok", "ok"]
    for feature in ("ipip", "dummy", "wireguard", "netem", "ipvs"):
        assert rows[feature][1] == "ok"


@pytest.mark.skipif(not can_play_users(), reason="needs root, to become somebody without")
def test_no_root_is_needed(boot: Boot) -> None:
    with new_user() as user:
        image = user.home / ".cache/netlab/vm" / boot.image.folder.name
        shutil.copytree(boot.image.folder, image)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", user.home / ".cache"], check=True)

        def vm(*words: str) -> str:
            process = user.start("-m", "netlab", "vm", *words)
            shown, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
            return shown

        assert "vm2    192.168.77.12   ready" in vm("up", "-n", "2")
        assert "uid=0(root)" in vm("exec", "1", "--", "id")
        assert " 0% packet loss" in vm("exec", "1", "--", "ping", "-c1", "vm2")
        assert vm("down") == "vms: 2 VMs ended\n"
        until(lambda: not processes_of(user.runtime))
