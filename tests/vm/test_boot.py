"""Booting: the initramfs as others read it, the accelerator, and what a VM costs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from netlab.vm import accelerator
from netlab.vm.boot import Boot
from netlab.vm.client import VmNetwork
from netlab.vm.initramfs import Entry, archive

MEMORY_LIMIT = 400 << 20  # bytes that an idle VM may hold of this machine


def test_busybox_reads_the_archive(tmp_path: Path) -> None:
    entries = [Entry("folder", 0o40755), Entry("folder/odd", 0o100644, b"seven b"), Entry("folder/run", 0o100755)]
    subprocess.run(["busybox", "cpio", "-i"], input=archive(entries), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "folder/odd").read_bytes() == b"seven b"
    assert (tmp_path / "folder/run").stat().st_mode & 0o777 == 0o755


def test_the_trial_of_an_accelerator_tells_which_works() -> None:
    assert accelerator.runs_under("tcg")
    assert not accelerator.runs_under("no-such-accelerator")


def test_a_trial_that_hangs_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "SECTOR", bytes.fromhex("ebfe"))  # jumps to itself for ever
    monkeypatch.setattr(accelerator, "TRY_LIMIT", 1.0)
    assert not accelerator.runs_under("tcg")


def test_kvm_is_chosen_only_where_its_module_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(accelerator.VARIABLE, raising=False)
    monkeypatch.setattr(accelerator, "MODULES", (tmp_path / "kvm_intel",))
    assert accelerator.choose() == "tcg"
    monkeypatch.setenv(accelerator.VARIABLE, "kvm")
    assert accelerator.choose() == "kvm"


def test_a_vm_is_small(boot: Boot, runtime: Path) -> None:
    with VmNetwork.start("small", count=1, boot=boot) as net:
        (vm,) = net.describe()
        assert 0 < vm["memory"] <= vm["peak_memory"] < MEMORY_LIMIT
