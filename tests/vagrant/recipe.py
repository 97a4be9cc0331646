"""What the box of `scripts/test-vagrant` is made of. Pure: `box` runs it.

The box stands in for debian/bookworm64 where that cannot be fetched: the same distribution, the user `vagrant` with
Vagrant's well-known key, ifupdown, sshd. Its nodes have no Internet, so it holds what `scripts/setup` would fetch:
Debian's packages, and Python's in a folder that pip is told of. Read in the order of a build.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from netlab.vm.recipe import KERNEL

NAME = "netlab/bookworm64-local"
SUITE, PYTHON = "bookworm", "3.11"
DISK = 4 << 30  # bytes; the file is sparse
PARTITION = 1 << 20  # bytes before the root file system: room for GRUB
SECTOR = 512

MACHINE = (
    *(
        "systemd-sysv",
        "udev",
        "dbus",
        "kmod",
        "netbase",
        "ifupdown",
        "isc-dhcp-client",
        "openssh-server",
        "sudo",
        "rsync",
    ),
    *(KERNEL, "initramfs-tools", "zstd", "grub-pc-bin", "grub-common"),
)
WANTED_BY_SETUP = (  # what `scripts/setup test` would install; a unit test compares
    *("iproute2", "iptables", "nftables", "ipset", "iputils-ping", "procps", "python3", "python3-venv"),
    *("curl", "ethtool", "iperf3", "tcpdump", "util-linux", "graphviz", "gcc", "python3-dev", "libc6-dev"),
)
WHEELS = "/usr/share/netlab/wheels"
FROM_SOURCE = ("python-iptables",)  # has no wheel: the node compiles it
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")


def requirements(pyproject: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what `pip install --editable .[test,lint]` fetches, the build's own needs included (PEP 508 strings)."""
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    build = pyproject["build-system"]["requires"]
    return tuple(sorted({*project["dependencies"], *extras["test"], *extras["lint"], *build, "wheel"}))


def _is_from_source(requirement: str) -> bool:
    return requirement.startswith(FROM_SOURCE)


def pip_argvs(python: str, folder: Path, wanted: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the pip commands that fetch the Python packages for the box's Python, not ours: wheels, then sources."""
    wanted = tuple(wanted)
    download = (python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder))
    wheels = (
        *(*download, "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"),
        *(f"--platform={platform}" for platform in PLATFORMS),
        *(requirement for requirement in wanted if not _is_from_source(requirement)),
    )
    sources = (requirement for requirement in wanted if _is_from_source(requirement))
    return wheels, (*download, "--no-deps", "--no-binary=:all:", *sources)


def files(public_key: str) -> dict[str, tuple[int, str]]:
    """Return the box's own files: path -> mode and text. `public_key` is the one that Vagrant first logs in with."""
    interfaces = "auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\nsource interfaces.d/*\n"
    # norandmaps: QEMU before 8 without KVM translates a program's code again for each random address.
    kernel = "root=/dev/vda1 rw console=ttyS0 net.ifnames=0 norandmaps mitigations=off"
    grub = f"linux /vmlinuz {kernel}\ninitrd /initrd.img\nboot\n"
    # Compiling all that pip installs takes minutes there; Python compiles what it imports. pip has "no" mean yes here.
    pip = f"[global]\nno-index = true\nfind-links = {WHEELS}\n[install]\nno-compile = no\n"
    return {
        "/etc/hostname": (0o644, "netlab\n"),  # mmdebstrap copied the one of the machine that built the box
        "/etc/hosts": (0o644, "127.0.0.1 localhost\n::1 localhost\n"),
        "/etc/resolv.conf": (0o644, ""),
        "/etc/fstab": (0o644, "/dev/vda1 / ext4 noatime 0 0\n"),
        "/etc/network/interfaces": (0o644, interfaces),
        "/etc/pip.conf": (0o644, pip),
        "/etc/sudoers.d/vagrant": (0o440, "vagrant ALL=(ALL) NOPASSWD: ALL\n"),
        "/etc/ssh/sshd_config.d/vagrant.conf": (0o644, "UseDNS no\n"),
        "/home/vagrant/.ssh/authorized_keys": (0o600, public_key),
        "/boot/grub/grub.cfg": (0o644, grub),
    }


# Before the kernel is installed: an initramfs of the few modules that a virtual machine boots with.
BOOT_MODULES = """
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/netlab"
printf '%s\\n' virtio_pci virtio_blk ext4 >"$1/usr/share/initramfs-tools/modules.d/netlab"
"""

USER = 'chroot "$1" useradd --create-home --shell /bin/bash vagrant'

SYSTEM = """
set -eu
chroot "$1" chown -R vagrant: /home/vagrant
chroot "$1" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer
chroot "$1" grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/core.img biosdisk part_msdos ext2 linux normal
"""

# Nothing of the machine that built the box stays: its apt sources and settings may hold a proxy's password.
CLEAN = """
set -eu
rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/*.log
"""


def bootstrap_argv(root: Path, scratch: Path, sources: str, options: Iterable[str]) -> tuple[str, ...]:
    """Return the mmdebstrap command that makes the box's root folder of scratch/extra, the packages and the hooks."""
    add = f'cp -rT --no-preserve=ownership {shlex.quote(str(scratch / "extra"))} "$1"'
    return (
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64", "--format=directory"),
        f"--include={','.join((*MACHINE, *WANTED_BY_SETUP))}",
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "info", "locale")),
        *(f"--aptopt={option}" for option in options),
        f"--essential-hook={BOOT_MODULES}",
        *(f"--customize-hook={hook}" for hook in (USER, add, SYSTEM, CLEAN)),
        *(SUITE, str(root), *([sources] if sources else [])),
    )


def disk_argvs(root: Path, disk: Path, image: Path) -> tuple[tuple[str, ...], ...]:
    """Return the commands that make a bootable disk of the root folder, without a mount or a loop device.

    GRUB's first sector finds its second part in the sectors that follow, as grub-mkimage has it by default.
    """
    copy = ("dd", f"of={disk}", "conv=notrunc", "status=none")
    return (
        (
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-d",
            str(root),
            "-E",
            f"offset={PARTITION}",
            str(disk),
            f"{(DISK - PARTITION) >> 10}k",
        ),
        (*copy, f"if={root}/usr/lib/grub/i386-pc/boot.img", "bs=440", "count=1"),
        (*copy, f"if={root}/boot/core.img", f"bs={SECTOR}", "seek=1"),
        ("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", str(disk), str(image)),
    )


def partition_table() -> bytes:
    """Return the disk's first sector without a boot loader: one bootable Linux partition from PARTITION on."""
    place = (PARTITION // SECTOR, (DISK - PARTITION) // SECTOR)
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, *place)
    return bytes(446) + entry.ljust(64, b"\0") + b"\x55\xaa"


def metadata() -> str:
    """Return the box's metadata.json, as vagrant-libvirt wants it; `virtual_size` in GiB."""
    return json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": DISK >> 30})


def key(wanted: Sequence[str]) -> str:
    """Return the name of the box of these Python requirements: a hash of the commands and files that make it."""
    here = Path()
    commands = (pip_argvs("", here, wanted), bootstrap_argv(here, here, "", ()), disk_argvs(here, here, here))
    made_of = (commands, files(""), partition_table(), metadata())
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
