"""What keeps a forwarder from starting, how that is told; forwarders by hand, and what the commands show."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab import names
from netlab.errors import NetlabError, NotSupported
from netlab.kernel import netns, proc, tun
from netlab.lab import Lab
from netlab.plan.objects import Forwarder
from netlab.plan.text import commands
from netlab.topology.model import (
    VxlanBackend,
)
from tests.root.forwarders import drift, forwarder, pings, wanted
from tests.root.journeys import address
from tests.users import can_play_users, new_user
from tests.waiting import until

pytestmark = pytest.mark.root


# --- refusals ---------------------------------------------------------------------------------------------------------


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


# --- by hand ----------------------------------------------------------------------------------------------------------


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


# --- the command line -------------------------------------------------------------------------------------------------


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
