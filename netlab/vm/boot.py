"""What a network of VMs boots from: the programs, the guest image, an initramfs, a disk with netlab's own source."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import netlab
from netlab import paths
from netlab.errors import NetlabError, NotSupported
from netlab.vm import accelerator, initramfs, qemu
from netlab.vm.image import Image, ensure_image, pack_tree
from netlab.vm.qemu import Network, Vm

PROGRAMS = {qemu.PROGRAM: "qemu-system-x86", "busybox": "busybox-static", "setpriv": "util-linux"}
NOT_SOURCE = (".git", ".venv", ".vagrant", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__")
NEEDED_BY = "a VM"


@dataclass(frozen=True, slots=True)
class Boot:
    """What every VM of this machine boots from."""

    image: Image
    accelerator: str  # "kvm" or "tcg"
    busybox: Path

    @classmethod
    def prepare(cls, say: Callable[[str], None] = lambda line: None) -> Boot:
        """Find or make what is needed. Raises NotSupported for a missing program, NetlabError, ProgramError."""
        found = {program: _find(program) for program in PROGRAMS}
        check_version(subprocess.run([qemu.PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout)
        image = ensure_image(say)
        return cls(image, accelerator.choose(), found["busybox"])

    def network(self, name: str, vms: tuple[Vm, ...], folder: Path) -> Network:
        """Describe a network of VMs, and put what it boots from beside the image into its folder."""
        modules = self.image.modules / "lib/modules" / self.image.release
        archive = folder / "initramfs"
        try:
            archive.write_bytes(initramfs.build(modules, self.busybox))
        except (LookupError, OSError) as exc:
            raise NetlabError(f"cannot make an initramfs: {exc}", f"remove {self.image.folder}, and try again") from exc
        source = folder / "source.squashfs"
        pack_tree(source_tree(), source, NOT_SOURCE)
        disks = (self.image.root, source)
        return Network(name, vms, self.image.kernel, archive, disks, accelerator=self.accelerator)


def source_tree() -> Path:
    """Return what the guest sees as /netlab: the checkout that this netlab runs from, or the folder that it is in."""
    return Path(netlab.__file__).parents[1]


def check_version(said: str) -> None:
    """Raise NotSupported when qemu is too old, given what `--version` printed."""
    found = re.search(r"version (\d+)\.(\d+)", said)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < qemu.OLDEST:
        oldest = ".".join(map(str, qemu.OLDEST))
        raise NotSupported(f"qemu {oldest} or newer", f"{NEEDED_BY}'s network", "Debian 12 and Ubuntu 24.04 have it")


def _find(program: str) -> Path:
    path = shutil.which(program, path=paths.search_path())
    if path is None:
        raise NotSupported(f"the program {program}", NEEDED_BY, f"apt install {PROGRAMS[program]}")
    return Path(path)
