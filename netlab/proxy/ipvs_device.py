"""kube-ipvs0, the device whose addresses make those of Services local, and the sysctls of IPVS (facts.md 4.1).

It carries nothing: a dummy, down. Where the kernel has no dummy, or would load it for this, which puts dummy0 into the
machine's own network, a bridge without ports and without ARP stands in: its addresses are as local as a dummy's.
"""

from __future__ import annotations

import errno
import platform
import re
import sys
from collections.abc import Collection, Mapping
from ipaddress import ip_interface
from pathlib import Path

from netlab.errors import KernelError, NotSupported
from netlab.kernel import netns, rtnl
from netlab.kernel.decode import RawLink, address_object
from netlab.kernel.feature_probes import find_unloaded
from netlab.kernel.netlink import Message, Socket, attribute, attribute_text
from netlab.kernel.rtnetlink import (
    DUMP_ADDRESSES,
    DUMP_LINKS,
    IFINFO,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    RTM_DELADDR,
    RTM_NEWADDR,
    RTM_NEWLINK,
)
from netlab.kernel.sysctl import ROOT
from netlab.plan.objects import Addr
from netlab.topology.addresses import Address

DEVICE = "kube-ipvs0"
IFF_NOARP = 0x80
IFADDR_INDEX = slice(4, 8)  # of struct ifaddrmsg
SETTINGS = {
    "net/ipv4/vs/conntrack": "1",
    "net/ipv4/vs/expire_nodest_conn": "1",
    "net/ipv4/vs/expire_quiescent_template": "1",
    "net/ipv4/ip_forward": "1",
}
SETTINGS_6 = {"net/ipv6/conf/all/forwarding": "1"}
STRICT_ARP = {  # no interface answers for another one's address
    "net/ipv4/conf/all/arp_ignore": "1",
    "net/ipv4/conf/all/arp_announce": "2",
}
REUSE_MODE = "net/ipv4/vs/conn_reuse_mode"
REUSE_MODE_KERNELS = ((4, 1), (5, 9))  # from, and up to without: there 1 costs a second for each port used again


class Device:
    """kube-ipvs0 of one namespace. Made and used by any thread; `ensure` before the rest."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._socket = netns.call(name, Socket)
        self._index = 0

    def close(self) -> None:
        """Close the socket, which lets go of the namespace."""
        self._socket.close()

    def ensure(self) -> None:
        """Make the device unless it is there."""
        kinds = ("bridge",) if find_unloaded("dummy") else ("dummy", "bridge")
        for kind in kinds:
            if self._find():
                return
            self._create(kind)
        if not self._find():
            raise NotSupported("the link types dummy and bridge", f"{self._name}: {DEVICE}", "sudo modprobe dummy")

    def _create(self, kind: str) -> None:
        linkinfo = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()))
        body = IFINFO.pack(0, 0, 0, IFF_NOARP, IFF_NOARP) + attribute_text(IFLA_IFNAME, DEVICE) + linkinfo
        for failure in self._socket.request([Message(RTM_NEWLINK, rtnl.NEW, body)]):
            if failure.errno not in (errno.EOPNOTSUPP, errno.EEXIST):
                raise KernelError(failure.errno, f"{self._name}: ip link add {DEVICE} type {kind}", failure.reason)

    def _find(self) -> bool:
        self._index = next((index for index, name in self._links().items() if name == DEVICE), 0)
        return bool(self._index)

    def _links(self) -> dict[int, str]:
        found = [RawLink(buffer, start, end) for _, buffer, start, end in self._socket.dump(DUMP_LINKS)]
        return {raw.index: raw.name for raw in found}

    def addresses(self, version: int) -> set[Address]:
        """Return the device's addresses of an IP version."""
        links = self._links()
        dumped = self._socket.dump(DUMP_ADDRESSES)
        found = [address_object(buffer, start, end, links) for _, buffer, start, end in dumped]
        return {entry.ip.ip for entry in found if entry and entry.dev == DEVICE and entry.ip.version == version}

    def raw_addresses(self) -> frozenset[bytes]:
        """Return the device's addresses in the kernel's own words, which are cheap to compare."""
        index = self._index.to_bytes(4, sys.byteorder)
        dumped = self._socket.dump(DUMP_ADDRESSES)
        found = (buffer[start:end] for _, buffer, start, end in dumped)
        return frozenset(message for message in found if message[IFADDR_INDEX] == index)

    def change(self, added: Collection[Address], removed: Collection[Address]) -> None:
        """Take addresses away and add some. One that is gone already is fine."""
        plan = [(RTM_DELADDR, address) for address in removed] + [(RTM_NEWADDR, address) for address in added]
        messages = [rtnl.address(kind, Addr(DEVICE, ip_interface(address)), self._index) for kind, address in plan]
        for failure in self._socket.request(messages):
            kind, address = plan[failure.position]
            if kind == RTM_DELADDR and failure.errno == errno.EADDRNOTAVAIL:
                continue
            verb = "add" if kind == RTM_NEWADDR else "del"
            command = f"ip address {verb} {address} dev {DEVICE}"
            raise KernelError(failure.errno, f"{self._name}: {command}", failure.reason)

    def remove(self) -> None:
        """Delete the device, and its addresses with it."""
        if self._find():
            for failure in self._socket.request([rtnl.delete_link(self._index)]):
                raise KernelError(failure.errno, f"{self._name}: ip link del {DEVICE}", failure.reason)


# --- sysctls ---------------------------------------------------------------------------------------------------------


def settings(release: str, versions: Collection[int], *, strict_arp: bool) -> Mapping[str, str]:
    """Return the sysctls of a node, paths below /proc/sys, for a kernel release such as "6.1.0-56-amd64"."""
    found = dict(SETTINGS)
    numbers = re.match(r"(\d+)\.(\d+)", release)
    first, end = REUSE_MODE_KERNELS
    if numbers and first <= (int(numbers[1]), int(numbers[2])) < end:
        found[REUSE_MODE] = "0"
    if 6 in versions:
        found |= SETTINGS_6
    return found | STRICT_ARP if strict_arp else found


def configure(name: str, versions: Collection[int], *, strict_arp: bool) -> None:
    """Set a node's sysctls. Raises KernelError, or NotSupported where IPVS has none: in a user's namespaces."""
    wanted = settings(platform.release(), versions, strict_arp=strict_arp)

    def write() -> None:
        for path, value in wanted.items():
            file = Path(ROOT + path)
            try:
                if file.read_text().strip() != value:
                    file.write_text(value)
            except FileNotFoundError as exc:
                hint = "run netlab with sudo, on a kernel with CONFIG_IP_VS_NFCT"
                raise NotSupported(f"sysctl {path}", f"{name}: proxy ipvs", hint) from exc
            except OSError as exc:
                raise KernelError(exc.errno, f"{name}: set sysctl {path} to {value}") from exc

    netns.call(name, write)
