"""What a VM boots from, as values: the initramfs, qemu's arguments, the reading of its last words."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from netlab.codec import from_json, to_json
from netlab.vm import console, initramfs, lines, qemu
from netlab.vm.initramfs import Entry, in_load_order
from netlab.vm.qemu import Network, Sockets, Vm

DEPENDENCIES = """\
kernel/net/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/failover.ko
kernel/fs/over-lay/overlay.ko.xz:
"""
BUILTIN = "kernel/drivers/virtio/virtio-pci.ko\n"
NETWORK = Network("demo", (Vm(1), Vm(2, memory=512)), Path("/k"), Path("/i"), (Path("/root,1"), Path("/src")))
SOCKETS = Sockets(Path("/run/x"), "vm2")


def test_modules_are_loaded_after_what_they_need() -> None:
    assert in_load_order(["virtio_pci", "virtio_net", "overlay"], DEPENDENCIES, BUILTIN) == [
        "kernel/net/failover.ko",
        "kernel/drivers/net/net_failover.ko",
        "kernel/drivers/net/virtio_net.ko",
        "kernel/fs/over-lay/overlay.ko.xz",
    ]


def test_a_module_that_is_nowhere_is_named() -> None:
    with pytest.raises(LookupError, match="no module squashfs"):
        in_load_order(["squashfs"], DEPENDENCIES, BUILTIN)


def test_folders_come_before_what_is_in_them() -> None:
    found = list(initramfs.entries(b"busybox", {"a.ko": b"A", "b.ko": b"B"}))
    seen = {"", *(entry.name for entry in found if entry.mode & 0o40000)}
    assert all(entry.name.rpartition("/")[0] in seen for entry in found)
    assert found[-1] == Entry("modules/order", 0o100644, b"a.ko\nb.ko\n")


def test_every_vm_has_its_own_name_address_and_mac() -> None:
    vms = [Vm(number) for number in range(1, qemu.MOST + 1)]
    for of_one in ("name", "address", "mac"):
        assert len({getattr(vm, of_one) for vm in vms}) == qemu.MOST
    assert (Vm(2).name, Vm(2).address, Vm(2).mac) == ("vm2", IPv4Interface("192.168.77.12/24"), "52:54:00:4e:4c:02")


def test_the_kernel_is_told_who_it_is_and_who_else_there_is() -> None:
    words = qemu.command_line(NETWORK, Vm(2)).split()
    assert "netlab.name=vm2" in words
    assert "netlab.address=192.168.77.12/24" in words
    assert "netlab.hosts=192.168.77.11:vm1,192.168.77.12:vm2" in words


def test_qemus_arguments() -> None:
    argv = qemu.argv(NETWORK, NETWORK.vms[1], SOCKETS)
    assert argv[argv.index("-m") + 1] == "512"
    assert argv[argv.index("-cpu") + 1] == "max"
    assert "if=none,id=disk0,file=/root,,1,format=raw,readonly=on,cache=unsafe" in argv
    assert "dgram,id=nic,local.type=unix,local.path=/run/x/vm2.nic,remote.type=unix,remote.path=/run/x/vm2.port" in argv
    with_kvm = qemu.argv(replace(NETWORK, accelerator="kvm"), NETWORK.vms[0], SOCKETS)
    assert with_kvm[with_kvm.index("-cpu") + 1] == "host"


def test_a_network_survives_its_file() -> None:
    assert from_json(Network, to_json(NETWORK)) == NETWORK


@pytest.mark.parametrize(
    ("shown", "errors", "status", "why"),
    [
        (
            "[ 1.0] Kernel panic - not syncing: sysrq triggered\r\n",
            "",
            0,
            "the guest's kernel panicked: sysrq triggered",
        ),
        (
            "Out of memory: Killed process 70 (python3) total-vm\nKernel panic - not syncing: dead init",
            "",
            0,
            "the guest's kernel panicked: dead init; before that its memory ran out",
        ),
        ("netlab init: cannot mount the root disk\n", "", 0, "the guest could not start: cannot mount the root disk"),
        ("", "qemu: first\nqemu: -accel foo: invalid\n", 1, "qemu ended with status 1: qemu: -accel foo: invalid"),
        ("", "", -9, "qemu was ended by signal 9"),
        ("", "", 3, "qemu ended with status 3"),
        ("all went well\n", "", 0, "the guest switched itself off"),
    ],
)
def test_why_a_vm_ended(shown: str, errors: str, status: int, why: str) -> None:
    assert console.explain(shown, errors, status) == why


def test_victims_of_the_oom_killer() -> None:
    shown = "Out of memory: Killed process 7 (pytest) x\nOut of memory: Killed process 8 (python3) y\n"
    assert console.find_oom_victims(shown) == ["pytest", "python3"]
    assert console.tail("a\n\nb\n") == "\n    | a\n    | b"


def test_messages_come_whole_however_they_are_cut() -> None:
    sent = [{"op": "output", "bytes": lines.to_text(bytes(range(256)))}, {"op": "exit", "status": 0}]
    stream = b"".join(lines.pack(message) for message in sent)
    splitter = lines.Splitter()
    assert [message for byte in stream for message in splitter.feed(bytes([byte]))] == sent
    assert lines.to_bytes(sent[0]["bytes"]) == bytes(range(256))
    with pytest.raises(ValueError, match="not a message"):
        list(splitter.feed(b"[1]\n"))
