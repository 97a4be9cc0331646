"""How a VM is described and started: values in, qemu's arguments out (qemu 7.2 or newer, x86-64).

The machine is a plain q35: `-M microvm` hangs under emulation at times (TSC calibration). `norandmaps` makes qemu 7's
emulation four times faster at fork and exec: without it every process has its code translated anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

PROGRAM = "qemu-system-x86_64"
OLDEST = (7, 2)  # the first with `-netdev dgram`
NETWORK = IPv4Interface("192.168.77.0/24")  # as in the Vagrantfile
FIRST_HOST = 11
MOST = 32  # VMs in one network
MEMORY = 1024  # MiB a VM may use; the host gives what is touched
TRANSLATED = 64  # MiB of translated code kept under TCG: with qemu's default, 1 GiB, a VM grows by 100 MB for nothing
AGENT_PORT = "netlab.agent"  # inside/agent.py
KERNEL_WORDS = (
    "console=ttyS0",
    "quiet",
    "panic=-1",  # with -no-reboot: a panic ends qemu
    "oops=panic",
    "nokaslr",
    "norandmaps",
    "mitigations=off",
    "net.ifnames=0",
    "audit=0",
    "random.trust_cpu=on",
)


@dataclass(frozen=True, slots=True)
class Vm:
    """One VM: `number` counts from 1 in its network."""

    number: int
    memory: int = MEMORY  # MiB

    @property
    def name(self) -> str:
        """Return its host name."""
        return f"vm{self.number}"

    @property
    def address(self) -> IPv4Interface:
        """Return the address of its eth0."""
        return IPv4Interface((NETWORK.ip + FIRST_HOST - 1 + self.number, NETWORK.network.prefixlen))

    @property
    def mac(self) -> str:
        """Return the MAC of its eth0, in qemu's own range."""
        return f"52:54:00:4e:4c:{self.number:02x}"


@dataclass(frozen=True, slots=True)
class Network:
    """Some VMs on one layer-2 network, and the files that they boot from."""

    name: str
    vms: tuple[Vm, ...]
    kernel: Path
    initramfs: Path
    disks: tuple[Path, ...]  # squashfs: the root, and netlab's source
    accelerator: str = "tcg"
    kernel_words: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Sockets:
    """The files of one VM in the folder of its network."""

    folder: Path
    vm: str

    @property
    def agent(self) -> Path:
        """Return the stream socket of the agent's port, where qemu listens."""
        return self.folder / f"{self.vm}.agent"

    @property
    def console(self) -> Path:
        """Return the stream socket of the serial console, where qemu listens."""
        return self.folder / f"{self.vm}.tty"

    @property
    def nic(self) -> Path:
        """Return the datagram socket where qemu takes frames for eth0."""
        return self.folder / f"{self.vm}.nic"

    @property
    def port(self) -> Path:
        """Return the datagram socket where the switch takes the frames that eth0 sends."""
        return self.folder / f"{self.vm}.port"

    @property
    def log(self) -> Path:
        """Return the file of everything that the console has shown."""
        return self.folder / f"{self.vm}.console"

    @property
    def errors(self) -> Path:
        """Return the file of what qemu itself says."""
        return self.folder / f"{self.vm}.qemu"


def command_line(network: Network, vm: Vm) -> str:
    """Return the guest kernel's command line."""
    hosts = ",".join(f"{other.address.ip}:{other.name}" for other in network.vms)
    who = (f"netlab.name={vm.name}", f"netlab.address={vm.address}", f"netlab.hosts={hosts}")
    return " ".join((*KERNEL_WORDS, *network.kernel_words, *who))


def argv(network: Network, vm: Vm, sockets: Sockets) -> list[str]:
    """Return the command that runs a VM."""
    listen = "server=on,wait=off"
    found = [PROGRAM, "-name", vm.name, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    accelerator = f"tcg,tb-size={TRANSLATED}" if network.accelerator == "tcg" else network.accelerator
    found += ["-machine", "q35", "-accel", accelerator, "-m", str(vm.memory), "-smp", "1"]
    found += ["-cpu", "host" if network.accelerator == "kvm" else "max"]
    found += ["-kernel", str(network.kernel), "-initrd", str(network.initramfs)]
    found += ["-append", command_line(network, vm)]
    for number, disk in enumerate(network.disks):
        drive = f"if=none,id=disk{number},file={_escape(disk)},format=raw,readonly=on,cache=unsafe"
        found += ["-drive", drive, "-device", f"virtio-blk-pci,drive=disk{number}"]
    found += ["-chardev", f"socket,id=tty,path={_escape(sockets.console)},{listen},logfile={_escape(sockets.log)}"]
    found += ["-serial", "chardev:tty"]
    found += ["-chardev", f"socket,id=agent,path={_escape(sockets.agent)},{listen}"]
    found += ["-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"]
    local = f"local.type=unix,local.path={_escape(sockets.nic)}"
    remote = f"remote.type=unix,remote.path={_escape(sockets.port)}"
    found += ["-netdev", f"dgram,id=nic,{local},{remote}"]
    found += ["-device", f"virtio-net-pci,netdev=nic,mac={vm.mac},romfile="]
    return found


def _escape(path: Path) -> str:
    """Return a path as it stands in an option list, where a comma is doubled (qemu(1))."""
    return str(path).replace(",", ",,")
