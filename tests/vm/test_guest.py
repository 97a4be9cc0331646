"""What a VM is for whoever runs commands in it."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from netlab.errors import UsageError, VmError
from netlab.vm.client import VmNetwork
from netlab.vm.guest import GuestVm


def test_it_has_a_kernel_of_its_own_and_netlab_inside(vm: GuestVm) -> None:
    release = vm.run(["uname", "-r"], check=True).stdout.strip()
    assert release.endswith("-cloud-amd64")
    assert release == vm.describe()["release"]
    assert vm.run(["netlab", "--version"]).stdout.startswith("netlab, version ")
    assert "netlab init:" not in vm.console  # the line of a boot that failed


def test_it_knows_itself_and_the_others(pair: VmNetwork) -> None:
    for vm in pair.vms:
        assert vm.run(["hostname"]).stdout.strip() == vm.name
        assert f"inet {vm.address}/24" in vm.run(["ip", "address", "show", "eth0"]).stdout
        for other in pair.vms:
            assert vm.run(["getent", "hosts", other.name]).stdout.split()[0] == other.address


def test_what_is_written_in_one_is_seen_by_no_other(pair: VmNetwork) -> None:
    one, two = pair.vms
    one.write("/netlab/written-by-a-test", b"here")
    assert one.read("/netlab/written-by-a-test") == b"here"
    with pytest.raises(FileNotFoundError, match="written-by-a-test"):
        two.read("/netlab/written-by-a-test")


def test_output_errors_and_status_come_apart(vm: GuestVm) -> None:
    done = vm.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert vm.run(["sh", "-c", "kill -9 $$"]).returncode == -signal.SIGKILL
    with pytest.raises(subprocess.CalledProcessError):
        vm.run(["false"], check=True)


def test_a_command_has_the_signals_that_commands_expect(vm: GuestVm) -> None:
    assert vm.run(["sh", "-c", "yes | head -1; echo done"], timeout=20).stdout == "y\ndone\n"
    ignored = vm.run(["sh", "-c", "grep SigIgn /proc/self/status"]).stdout.split()[1]
    assert int(ignored, 16) == 0


def test_input_environment_and_folder_are_passed(vm: GuestVm) -> None:
    done = vm.run(["sh", "-c", 'cat; echo "$WORD"; pwd'], stdin="typed\n", env={"WORD": "given"}, cwd="/usr")
    assert done.stdout == "typed\ngiven\n/usr\n"


def test_a_megabyte_goes_in_and_comes_back_unchanged(vm: GuestVm) -> None:
    content = os.urandom(1_000_000)
    vm.write("/tmp/content", content)
    assert vm.read("/tmp/content") == content


def test_a_command_that_is_not_there(vm: GuestVm) -> None:
    with pytest.raises(UsageError, match=r"vm1: cannot run no-such-command: .*No such file"):
        vm.run(["no-such-command"])


def test_a_command_that_takes_too_long_is_ended(vm: GuestVm) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        vm.run(["sleep", "4321"], timeout=0.5)
    assert vm.run(["sh", "-c", "until ! pgrep -f 'sleep 432[1]'; do sleep 0.1; done"]).returncode == 0


def test_commands_run_side_by_side(vm: GuestVm) -> None:
    with vm.start(["sh", "-c", "read word; echo got $word"]) as waiting:
        assert vm.run(["echo", "meanwhile"]).stdout == "meanwhile\n"
        waiting.write(b"this\n")
        assert waiting.wait(30) == 0
        assert waiting.output == "got this\n"


def test_what_a_command_leaves_running_keeps_nobody_waiting(vm: GuestVm) -> None:
    done = vm.run(["sh", "-c", "sleep 60 & echo $!"], timeout=20)
    assert vm.run(["kill", done.stdout.strip()]).returncode == 0


def test_a_command_is_waited_for_by_what_it_says(vm: GuestVm) -> None:
    with vm.start(["sh", "-c", "echo ready; exec sleep 60"]) as job:
        job.wait_for("ready")
        job.send_signal(signal.SIGTERM)
        assert job.wait(30) == -signal.SIGTERM
    with vm.start(["echo", "done"]) as job, pytest.raises(VmError, match="ended with status 0 without 'ready'"):
        job.wait_for("ready")


def test_a_terminal_has_a_size(vm: GuestVm) -> None:
    with vm.start(["sh", "-c", "stty size; read x; stty size"], terminal=(30, 100)) as job:
        job.wait_for("30 100")
        job.resize(50, 120)
        job.write(b"\n")
        assert job.wait(30) == 0
        assert "50 120" in job.output


def test_orphans_are_reaped(vm: GuestVm) -> None:
    orphan = vm.run(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"], check=True).stdout.strip()
    vm.run(["sh", "-c", f"while [ -e /proc/{orphan} ]; do sleep 0.05; done"], timeout=20, check=True)
