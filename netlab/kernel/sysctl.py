"""Kernel settings of a namespace: /proc/sys as a thread inside it sees it."""

from __future__ import annotations

import os
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from netlab.errors import KernelError, NotSupported
from netlab.kernel import netns

if TYPE_CHECKING:
    from netlab.plan.objects import Netns, Objects, Sysctl

ROOT = "/proc/sys/"
CONNTRACK = "net/netfilter/nf_conntrack_"
NETLINK_NETFILTER, NLM_F_REQUEST, NLM_F_DUMP = 12, 0x1, 0x300
CTNETLINK_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
WITHOUT = {  # what holds where there is no such setting
    "/disable_ipv6": "1",  # booted with ipv6.disable=1
    "/bridge-nf-call-": "0",  # no br_netfilter
}


def require_ipv6(needed_by: str) -> None:
    """Raise NotSupported where the kernel has no IPv6 at all."""
    if not os.path.exists(f"{ROOT}net/ipv6"):
        raise NotSupported("IPv6", needed_by, "boot the kernel without ipv6.disable=1, or use IPv4 networks only")


def write(settings: Iterable[tuple[Netns, Sysctl]]) -> None:
    """Set sysctls in their namespaces. Raises KernelError naming the first that is refused."""
    by_netns: dict[Netns, list[Sysctl]] = defaultdict(list)
    for name, setting in settings:
        by_netns[name].append(setting)

    def write_all(name: Netns) -> None:
        for setting in by_netns[name]:
            _write(name, setting.path, setting.value)

    netns.call_each(by_netns, write_all)


def write_one(name: Netns, path: str, value: str) -> None:
    """Set one sysctl in a namespace. Raises KernelError when it is refused."""
    netns.call(name, _write, name, path, value)


def _write(name: Netns, path: str, value: str) -> None:
    if path.startswith(CONNTRACK) and not os.path.exists(ROOT + path):
        _load_conntrack()
    try:
        with open(ROOT + path, "w") as file:
            file.write(value)
    except OSError as exc:
        if _find_value(path) != value:
            raise KernelError(exc.errno, f"{name}: set sysctl {path} to {value}") from exc


def _load_conntrack() -> None:
    """Have the kernel load connection tracking, as the first rule that needs it would: ask for a list of entries."""
    header = struct.pack("=IHHII", 20, CTNETLINK_GET, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as asked, suppress(OSError):
        asked.send(header + struct.pack("=BBH", socket.AF_INET, 0, 0))
        asked.recv(65536)


def read(like: Objects) -> dict[Netns, set[Sysctl]]:
    """Read the settings that `like` names, in each of its namespaces. One that does not exist is left out."""
    from netlab.plan.objects import Sysctl  # the control plane writes some, and starts without the plan

    def read_all(name: Netns) -> set[Sysctl]:
        wanted = [entry for entry in like[name] if isinstance(entry, Sysctl)]
        values = [(entry, _find_value(entry.path)) for entry in wanted]
        return {Sysctl(entry.path, value, entry.dev) for entry, value in values if value is not None}

    return netns.call_each(like, read_all)


def _find_value(path: str) -> str | None:
    try:
        with open(ROOT + path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return next((value for part, value in WITHOUT.items() if part in path), None)


def has_br_netfilter() -> bool:
    """Say whether bridges hand IP packets to the packet filter."""
    return os.path.exists(f"{ROOT}net/bridge/bridge-nf-call-iptables")
