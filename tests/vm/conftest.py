"""VMs for tests: `vm` is one, `vms(n)` a network of n. They live for the session, and are booted when first wanted."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netlab.vm.boot import Boot
from netlab.vm.client import VmNetwork
from netlab.vm.guest import GuestVm
from tests.waiting import until

TIER = "NETLAB_VM_TIER"
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests to their own tier: they need qemu and an image that takes a minute to build."""
    if TIER not in os.environ:
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="the VM tier runs it: scripts/test-vm"))


@pytest.fixture(scope="session")
def boot() -> Boot:
    """Return what VMs boot from."""
    return Boot.prepare(print)


@pytest.fixture(scope="session")
def vms(boot: Boot) -> Iterator[Callable[[int], VmNetwork]]:
    """Return a function that gives a network of so many VMs, always the same one for a number."""
    networks: dict[int, VmNetwork] = {}
    with ExitStack() as stack:

        def network(count: int) -> VmNetwork:
            if count not in networks:
                name = f"tests-{os.getpid()}-{count}"
                networks[count] = stack.enter_context(VmNetwork.start(name, count=count, boot=boot))
            return networks[count]

        yield network


@pytest.fixture(scope="session")
def pair(vms: Callable[[int], VmNetwork]) -> VmNetwork:
    """Return a network of two VMs."""
    return vms(2)


@pytest.fixture(scope="session")
def vm(pair: VmNetwork) -> GuestVm:
    """Return one VM: the first of the pair, so that a session boots no third."""
    return pair.vms[0]


def processes_of(runtime: Path) -> list[str]:
    """Return the processes whose command line names a runtime folder: keepers and qemus."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if str(runtime).encode() in words:
                found.append(f"{folder.name} {words[:60]!r}")
    return found


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a test a runtime folder of its own; fail it when a VM, its keeper or a file of theirs is left."""
    folder = Path(tempfile.mkdtemp(prefix="nlvm-", dir="/tmp"))  # short: a unix socket's path has at most 107 bytes
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    until(lambda: not processes_of(folder))
    left = [file for file in folder.rglob("*") if not file.is_dir() or file.parent.name == "vm"]
    shutil.rmtree(folder)
    assert left == []
