"""However VMs end, whoever wanted them is told why, the console is kept, and no process and no file is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from netlab.errors import NotSupported, UsageError, VmError
from netlab.vm import boot as booting
from netlab.vm import folders
from netlab.vm.boot import Boot
from netlab.vm.client import VmNetwork
from tests.vm.conftest import processes_of
from tests.waiting import until

PANIC = ["sh", "-c", "echo c >/proc/sysrq-trigger"]
OWNER = """
import sys
from netlab.vm.client import VmNetwork
with VmNetwork.start("owned", count=1) as net:
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_panic_is_told_and_the_console_kept(boot: Boot, runtime: Path) -> None:
    with VmNetwork.start("panic", count=2, boot=boot) as net:
        with pytest.raises(
            VmError, match=r"vm1: it ended while it ran `sh .*the guest's kernel panicked: sysrq triggered"
        ):
            net.vms[0].run(PANIC)
        assert [vm["state"] for vm in net.describe()] == ["ended", "ready"]
        with pytest.raises(VmError, match="the guest's kernel panicked"):
            net.vms[0].run(["true"])
        assert net.vms[1].run(["true"]).returncode == 0
    assert "Kernel panic - not syncing" in folders.kept_log("panic", "vm1").read_text()


def test_a_guest_that_cannot_boot_is_told_with_its_console(boot: Boot, runtime: Path) -> None:
    broken = replace(boot, image=replace(boot.image, root=boot.image.kernel))
    with pytest.raises(VmError, match="vm1: the guest could not start: cannot mount the root disk") as caught:
        VmNetwork.start("broken", count=1, boot=broken)
    assert "its whole console is in" in caught.value.hint
    assert "cannot mount the root disk" in folders.kept_log("broken", "vm1").read_text()


def test_what_qemu_refuses_is_told_in_its_words(boot: Boot, runtime: Path) -> None:
    with pytest.raises(VmError, match=r"vm1: qemu ended with status 1: .*no-such-accelerator"):
        VmNetwork.start("refused", count=1, boot=replace(boot, accelerator="no-such-accelerator"))


def test_memory_that_runs_out_ends_a_command_not_the_guest(boot: Boot, runtime: Path) -> None:
    with VmNetwork.start("oom", count=1, memory=320, boot=boot) as net:
        (vm,) = net.vms
        eat = "x = []\nwhile True: x.append(bytearray(b'x' * 10_000_000))"
        assert vm.run(["python3", "-c", eat]).returncode == -signal.SIGKILL
        assert vm.run(["true"]).returncode == 0
        assert "Out of memory: Killed process" in vm.run(["dmesg"]).stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_vms_end_with_their_owner(runtime: Path, number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert owner.stdout
    assert owner.stdout.readline() == "ready\n"
    assert len(processes_of(runtime)) == 2
    owner.send_signal(number)
    owner.wait()
    until(lambda: not processes_of(runtime))
    assert list(folders.base().iterdir()) == []
    owner.communicate()


def test_vms_end_with_their_keeper(boot: Boot, runtime: Path) -> None:
    net = VmNetwork.start("keeperless", count=1, boot=boot)  # no `with`: on a failure its end would hide why
    keeper = next(int(line.split()[0]) for line in processes_of(runtime) if "netlab.vm.keeper" in line)
    with net.vms[0].start(["sleep", "60"]) as job:
        os.kill(keeper, signal.SIGKILL)
        with pytest.raises(VmError, match="the keeper of the VMs has ended"):
            job.wait(30)
    net.end()


def test_the_remains_of_a_killed_keeper_are_swept(boot: Boot, runtime: Path) -> None:
    net = VmNetwork.start("remains", count=1, boot=boot, detached=True)
    for line in processes_of(runtime):
        os.kill(int(line.split()[0]), signal.SIGKILL)
    until(lambda: not folders.names())
    assert VmNetwork.find("remains") is None
    with VmNetwork.start("remains", count=1, boot=boot) as again:
        assert again.vms[0].run(["true"]).returncode == 0
    del net


def test_a_name_is_taken_once(boot: Boot, runtime: Path) -> None:
    with VmNetwork.start("once", count=1, boot=boot):
        with pytest.raises(UsageError, match="there are VMs of the name once already"):
            VmNetwork.start("once", count=1, boot=boot)
        assert folders.names() == ["once"]


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("netlab.paths.SBIN", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="qemu-system-x86_64 is not available here") as caught:
        Boot.prepare()
    assert caught.value.hint == "apt install qemu-system-x86"


def test_an_old_qemu_is_refused() -> None:
    booting.check_version("QEMU emulator version 10.0.2 (Debian)")
    with pytest.raises(NotSupported, match=r"qemu 7.2 or newer"):
        booting.check_version("QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)")
