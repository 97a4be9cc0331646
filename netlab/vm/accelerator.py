"""KVM where it really works, emulation (TCG) elsewhere.

/dev/kvm alone proves nothing: some clouds give one that no stock guest runs on. Where the processor's own module is
loaded, a guest that does nothing is tried.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from netlab.vm import qemu

KVM = Path("/dev/kvm")
MODULES = (Path("/sys/module/kvm_intel"), Path("/sys/module/kvm_amd"))
VARIABLE = "NETLAB_VM_ACCELERATOR"
TRY_LIMIT = 5.0  # seconds
SECTOR = bytes.fromhex("ba 01 05 b0 10 ee f4 eb fd")  # mov dx, 0x501; mov al, 0x10; out dx, al; hlt; jmp to the hlt
DISK = 1 << 20  # bytes: the firmware boots from no smaller one
EXIT_STATUS = 0x10 << 1 | 1  # isa-debug-exit(value): qemu ends with value * 2 + 1


def choose() -> str:
    """Return "kvm" when a guest runs under it here, else "tcg"; $NETLAB_VM_ACCELERATOR has the last word."""
    if chosen := os.environ.get(VARIABLE):
        return chosen
    if not os.access(KVM, os.R_OK | os.W_OK) or not any(module.exists() for module in MODULES):
        return "tcg"
    return "kvm" if runs_under("kvm") else "tcg"


def runs_under(accelerator: str) -> bool:
    """Try a boot sector that switches its machine off; takes about 0.1 s where it works."""
    disk = os.memfd_create("netlab-try")
    os.write(disk, SECTOR.ljust(510, b"\0") + b"\x55\xaa")
    os.truncate(disk, DISK)
    argv = [qemu.PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"]
    argv += ["-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max", "-m", "16"]
    argv += ["-device", "isa-debug-exit,iobase=0x501", "-drive", f"format=raw,file=/dev/fd/{disk}"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=TRY_LIMIT, check=False, pass_fds=[disk])
    except subprocess.TimeoutExpired:
        return False
    finally:
        os.close(disk)
    return done.returncode == EXIT_STATUS
