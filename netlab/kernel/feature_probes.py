"""How each feature is found out. Every probe tries the real thing and says (available, detail).

Those of links, queueing disciplines and packet filters must run in a throw-away network namespace
(`netns.call_anonymous`), which also cleans up after them. `features` says which feature is found by which probe.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from netlab import paths
from netlab.errors import KernelError
from netlab.kernel import netns, userns

PROGRAM_TIMEOUT = 10.0  # seconds; a packet filter's program answers in milliseconds or hangs
LOOPBACK = 1  # the index of lo in a fresh namespace

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}  # asm/unistd.h
BPF_PROG_LOAD, BPF_PROG_TYPE_RAW_TRACEPOINT = 5, 17  # linux/bpf.h
RETURN_ZERO = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit

ABSENT = dict.fromkeys((errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT), "this kernel has none")


class Finding(NamedTuple):
    """What a probe found. `how_to_get` is said where it depends on the machine."""

    available: bool
    detail: str
    how_to_get: str = ""


Probe = Callable[[], Finding]


# --- modules ---------------------------------------------------------------------------------------------------------


def find_unloaded(module: str) -> bool:
    """Say whether the kernel would load this module on first use."""
    loaded = os.path.exists(f"/sys/module/{module}")
    locked = _read("/proc/sys/kernel/modules_disabled") == "1"
    return not loaded and not locked and has_module(_installed_modules(), module)


def has_module(listing: str, module: str) -> bool:
    """Say whether a module's file is in the text of modules.dep, whatever its compression."""
    return any(line.partition(":")[0].partition(".ko")[0].endswith(f"/{module}") for line in listing.splitlines())


@cache
def _installed_modules() -> str:
    return _read(f"/lib/modules/{os.uname().release}/modules.dep")


def _read(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


def unless_loading(
    module: str, probe: Probe, remark: str = "", *, is_unloaded: Callable[[str], bool] = find_unloaded
) -> Probe:
    """Wrap a probe: a module that is installed but not loaded is left so, and counts as available."""

    def found() -> Finding:
        return Finding(True, f"module {module}, loaded on first use{remark}") if is_unloaded(module) else probe()

    return found


# --- rtnetlink, generic netlink, tun, sockets ------------------------------------------------------------------------


def link(kind: str, **options: Any) -> Probe:
    """Probe a link type by making one. The options are pyroute2's."""

    def found() -> Finding:
        return _try_netlink(lambda ipr: ipr.link("add", ifname="probe0", kind=kind, **options))

    return found


def vlan() -> Finding:
    """Probe 802.1Q interfaces: on a veth, because lo and some others refuse to carry them."""

    def make(ipr: Any) -> None:
        ipr.link("add", ifname="probe1", kind="veth", peer={"ifname": "probe2"})
        ipr.link("add", ifname="probe0", kind="vlan", vlan_id=7, link=ipr.link_lookup(ifname="probe1")[0])

    return _try_netlink(make)


def qdisc(kind: str, **options: Any) -> Probe:
    """Probe a queueing discipline by putting one on lo. The options are pyroute2's."""

    def found() -> Finding:
        return _try_netlink(lambda ipr: ipr.tc("add", kind, LOOPBACK, "1:", **options))

    return found


def _try_netlink(make: Callable[[Any], object]) -> Finding:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ipr:
            make(ipr)
    except NetlinkError as exc:
        return Finding(False, ABSENT.get(exc.code, os.strerror(exc.code)))
    return Finding(True, "works")


def ipvs() -> Finding:
    """Probe IPVS by its generic netlink family, which is there once the module is loaded."""
    from pyroute2 import GenericNetlinkSocket
    from pyroute2.netlink import genlmsg
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with GenericNetlinkSocket() as sock:
            sock.bind("IPVS", genlmsg)
    except NetlinkError as exc:
        installed = "module ip_vs is installed but not loaded"
        return Finding(False, installed if find_unloaded("ip_vs") else ABSENT.get(exc.code, os.strerror(exc.code)))
    return Finding(True, "works")


def tun() -> Finding:
    """Probe TUN devices: the permissions of /dev/net/tun and the making of one."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        return Finding(False, f"/dev/net/tun: {exc.strerror}")
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"probe0", IFF_TUN | IFF_NO_PI))
    except OSError as exc:
        return Finding(False, f"making one: {exc.strerror}")
    finally:
        os.close(fd)
    return Finding(True, "works")


def sctp() -> Finding:
    """Probe SCTP by a socket."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError as exc:
        return Finding(False, ABSENT.get(exc.errno or 0) or os.strerror(exc.errno or 0))
    return Finding(True, "works")


# --- packet filters --------------------------------------------------------------------------------------------------


def masquerade(program: str) -> Probe:
    """Probe masquerading with `iptables-restore` or `ip6tables-restore`, and say which variant that is."""

    def found() -> Finding:
        finding = _restore(program, "-j MASQUERADE --random-fully")
        return Finding(True, _version(program)) if finding.available else finding

    return found


def match(rule: str) -> Probe:
    """Probe a match of iptables, given as the arguments of a rule."""

    def found() -> Finding:
        return _restore("iptables-restore", f"{rule} -j ACCEPT")

    return found


def _restore(program: str, rule: str) -> Finding:
    return _run([program], f"*nat\n-A POSTROUTING {rule}\nCOMMIT\n")


def nft() -> Finding:
    """Probe a masquerading nft table."""
    rules = "type nat hook postrouting priority 100\nip saddr 10.0.0.0/8 masquerade random,fully-random"
    return _run(["nft", "-f", "-"], f"table ip probe {{\nchain postrouting {{\n{rules}\n}}\n}}\n")


def ipset() -> Finding:
    """Probe an IP set of the kind that Services use."""
    return _run(["ipset", "create", "probe", "hash:ip,port"])


def br_netfilter() -> Finding:
    """Probe whether a fresh namespace's bridges hand IP packets to iptables; the module is never loaded on demand."""
    value = _read("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if value:
        return Finding(True, f"bridge-nf-call-iptables starts at {value}")
    unloaded = find_unloaded("br_netfilter")
    return Finding(False, "module br_netfilter is installed but not loaded" if unloaded else "this kernel has none")


def _run(argv: list[str], text: str = "") -> Finding:
    path = shutil.which(argv[0], path=paths.search_path())
    if path is None:
        return Finding(False, f"there is no program {argv[0]}")
    try:
        done = subprocess.run(
            [path, *argv[1:]], input=text, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Finding(False, str(exc))
    said = next(iter(done.stderr.strip().splitlines()), f"{argv[0]} ended with status {done.returncode}")
    return Finding(done.returncode == 0, said if done.returncode else "works")


def _version(program: str) -> str:
    """Return "1.8.9 (nf_tables)" or "(legacy)": what `iptables` stands for here."""
    path = shutil.which(program, path=paths.search_path()) or program
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return " ".join(said[1:]).removeprefix("v")


# --- the machine -----------------------------------------------------------------------------------------------------


def root() -> Finding:
    """Probe whether the user is the machine's root."""
    uid = paths.real_uid()
    return Finding(uid == 0, "yes" if uid == 0 else f"user {uid}")


def capability(number: int) -> Probe:
    """Probe a capability of this process."""

    def found() -> Finding:
        held = number in userns.capabilities()
        inside = " in a user namespace" if held and paths.real_uid() != 0 else ""
        return Finding(held, f"held{inside}" if held else "not held")

    return found


def network_namespaces() -> Finding:
    """Probe whether this process may make network namespaces."""
    try:
        netns.call_anonymous(lambda: None)
    except KernelError as exc:
        return Finding(False, exc.message)
    return Finding(True, "works")


def user_namespaces() -> Finding:
    """Probe whether users may make user namespaces, going by the settings that forbid them."""
    if not os.path.exists("/proc/self/ns/user"):
        return Finding(False, "this kernel has none")
    if paths.real_uid() != 0 and userns.is_privileged():
        return Finding(True, "works")  # this process is in one
    if forbidding := userns.find_forbidding():
        return Finding(False, f"forbidden by {', '.join(forbidding)}", userns.remedy(forbidding))
    return Finding(True, "allowed")


def ebpf() -> Finding:
    """Probe whether eBPF programs for tracepoints can be loaded, and whether the kernel describes its structures."""
    number = BPF_SYSCALL.get(os.uname().machine)
    if number is None:
        return Finding(False, f"netlab does not know bpf(2) on {os.uname().machine}")
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        return Finding(False, "there is no /sys/kernel/btf/vmlinux")
    program, licence = ctypes.create_string_buffer(RETURN_ZERO), ctypes.create_string_buffer(b"GPL")
    head = (BPF_PROG_TYPE_RAW_TRACEPOINT, len(RETURN_ZERO) // 8, ctypes.addressof(program), ctypes.addressof(licence))
    attributes = ctypes.create_string_buffer(struct.pack("=IIQQ", *head), 128)
    try:
        fd = netns.syscall("syscall", ctypes.c_long(number), BPF_PROG_LOAD, attributes, len(attributes))
    except OSError as exc:
        return Finding(False, f"bpf(2): {exc.strerror}")
    os.close(fd)
    return Finding(True, "works")


def tracefs() -> Finding:
    """Probe whether tracefs can be had: root may mount it, in a namespace of its own."""
    if "\ttracefs" not in _read("/proc/filesystems"):
        return Finding(False, "this kernel has none")
    mine = paths.real_uid() == 0
    return Finding(mine, "can be mounted" if mine else "root's only")


def program(name: str) -> Probe:
    """Probe a program on $PATH or in the sbin folders."""

    def found() -> Finding:
        path = shutil.which(name, path=paths.search_path())
        return Finding(path is not None, path or "not found")

    return found


def sysctl(name: str, enough: int) -> Probe:
    """Probe a limit under /proc/sys against what is enough."""

    def found() -> Finding:
        text = _read(f"/proc/sys/{name.replace('.', '/')}")
        if not text:
            return Finding(False, "cannot be read here")
        return Finding(int(text) >= enough, text)

    return found


def open_files(enough: int) -> Probe:
    """Probe the hard limit of open files against what is enough."""

    def found() -> Finding:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if limit == resource.RLIM_INFINITY:
            return Finding(True, "unlimited")
        return Finding(limit >= enough, str(limit))

    return found
