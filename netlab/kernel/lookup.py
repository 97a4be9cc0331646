"""What a namespace's tables say of one packet: the kernel itself looks it up, by rtnetlink (rtnetlink(7)).

Nothing is changed. A route is asked for with RTM_F_FIB_MATCH: the answer is the table's entry, not what would be sent.
"""

from __future__ import annotations

import os
import struct
from ipaddress import ip_address, ip_network

from netlab.kernel import netns
from netlab.kernel.netlink import Message, Socket, attribute, attribute_u32, attributes, nested
from netlab.kernel.rtnetlink import (
    AF_BRIDGE,
    DUMP_ADDRESSES,
    DUMP_LINKS,
    FAMILY,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDR,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_VXLAN_ID,
    NDA_DST,
    NDA_LLADDR,
    NDA_MASTER,
    NDMSG,
    NTF_SELF,
    RT_SCOPE_UNIVERSE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_TABLE,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTMSG,
    RTNH_F_ONLINK,
)
from netlab.topology.addresses import Address
from netlab.trace.tables import Device, FdbEntry, NeighborEntry, RouteEntry

RTA_SRC, RTA_IIF, RTA_PREFSRC, RTA_MARK, RTA_MULTIPATH, RTA_VIA = 2, 3, 7, 16, 9, 18
RTM_F_FIB_MATCH = 0x2000
IFLA_LINK, IFLA_LINK_NETNSID = 5, 37
RTM_GETNSID, NETNSA_NSID, NETNSA_FD = 90, 1, 3  # linux/net_namespace.h
ROUTE_KINDS = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast", 6: "blackhole", 7: "unreachable"}
ROUTE_KINDS |= {8: "prohibit", 9: "throw"}
NEIGHBOR_STATES = {1: "INCOMPLETE", 2: "REACHABLE", 4: "STALE", 8: "DELAY", 16: "PROBE", 32: "FAILED", 64: "NOARP"}
NEIGHBOR_STATES |= {128: "PERMANENT"}
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
RTNEXTHOP = struct.Struct("=HBBi")  # length, flags, hops, interface


class KernelTables:
    """The tables of the namespace that a socket is of. Its devices are read when it is made. Raises OSError."""

    def __init__(self, asked: Socket) -> None:
        self._socket = asked
        self._peers: dict[int, tuple[int, int]] = {}
        self._devices = {device.ifindex: device for device in self._read_devices()}
        self._addresses: dict[str, list[Address]] | None = None
        self._by_name = {device.name: device for device in self._devices.values()}

    @classmethod
    def of(cls, name: str) -> KernelTables:
        """Return a namespace's tables. Raises KernelError."""
        return cls(netns.call(name, Socket))

    @classmethod
    def here(cls, name: str) -> KernelTables:
        """Return the tables of this thread's namespace, for `netns.call_each`."""
        return cls(Socket())

    def device(self, name: str) -> Device | None:
        """Return an interface."""
        return self._by_name.get(name)

    def devices(self) -> list[Device]:
        """Return every interface."""
        return list(self._devices.values())

    def address(self, device: str, version: int) -> Address | None:
        """Return the first address of an interface that others can reach."""
        if self._addresses is None:
            self._addresses = self._read_addresses()
        return next((one for one in self._addresses.get(device, ()) if one.version == version), None)

    def route(self, dst: Address, src: Address | None, arrived_by: str, mark: int) -> RouteEntry | str:
        """Return the entry that a packet meets, `arrived_by` "" for the namespace's own; or why there is none."""
        bits = dst.max_prefixlen
        with_source = src is not None and bool(arrived_by)
        body = RTMSG.pack(FAMILY[dst.version], bits, bits if with_source else 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
        body += attribute(RTA_DST, dst.packed)
        if with_source and src:
            body += attribute(RTA_SRC, src.packed)
        if arrived_by:
            body += attribute_u32(RTA_IIF, self._index(arrived_by))
        if mark:
            body += attribute_u32(RTA_MARK, mark)
        try:
            _, buffer, start, end = self._socket.get(Message(RTM_GETROUTE, 0, body))
        except OSError as exc:
            return os.strerror(exc.errno or 0)
        return self._route(buffer, start, end, dst)

    def _route(self, buffer: bytes, start: int, end: int, dst: Address) -> RouteEntry:
        _, bits, _, _, table, protocol, _, kind, flags = RTMSG.unpack_from(buffer, start)
        found = attributes(buffer, start + RTMSG.size, end)
        if RTA_MULTIPATH in found and RTA_OIF not in found:
            hop = found[RTA_MULTIPATH]
            _, _, _, index = RTNEXTHOP.unpack_from(hop)
            found |= {RTA_OIF: struct.pack("=i", index)} | nested(hop[RTNEXTHOP.size :])
        via = found.get(RTA_GATEWAY) or (found[RTA_VIA][2:] if RTA_VIA in found else None)
        network = ip_address(found.get(RTA_DST, bytes(len(dst.packed))))
        return RouteEntry(
            ROUTE_KINDS.get(kind, f"type {kind}"),
            ip_network(f"{network}/{bits}"),
            ip_address(via) if via else None,
            self._name(found.get(RTA_OIF)),
            int.from_bytes(found[RTA_TABLE], "little") if RTA_TABLE in found else table,
            protocol,
            ip_address(found[RTA_PREFSRC]) if RTA_PREFSRC in found else None,
            bool(flags & RTNH_F_ONLINK),
        )

    def neighbor(self, address: Address, device: str) -> NeighborEntry | None:
        """Return who is behind an address."""
        body = NDMSG.pack(FAMILY[address.version], self._index(device), 0, 0, 0) + attribute(NDA_DST, address.packed)
        try:
            _, buffer, start, end = self._socket.get(Message(RTM_GETNEIGH, 0, body))
        except OSError:
            return None
        state = NDMSG.unpack_from(buffer, start)[2]
        mac = attributes(buffer, start + NDMSG.size, end).get(NDA_LLADDR, b"")
        return NeighborEntry(address, mac.hex(":"), NEIGHBOR_STATES.get(state, f"state {state}"), device)

    def fdb(self, mac: str, device: str) -> FdbEntry | None:
        """Return the entry of a bridge or VXLAN device for a MAC."""
        found = self.device(device)
        is_bridge = found is not None and found.kind == "bridge"
        index = self._index(device)
        body = NDMSG.pack(AF_BRIDGE, 0 if is_bridge else index, 0, 0 if is_bridge else NTF_SELF, 0)
        body += attribute(NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        body += attribute_u32(NDA_MASTER, index) if is_bridge else b""
        try:
            _, buffer, start, end = self._socket.get(Message(RTM_GETNEIGH, 0, body))
        except OSError:
            return None
        _, index, state, _, _ = NDMSG.unpack_from(buffer, start)
        remote = attributes(buffer, start + NDMSG.size, end).get(NDA_DST)
        return FdbEntry(
            mac,
            self._devices[index].name if index in self._devices else "",
            ip_address(remote) if remote else None,
            is_local=is_bridge and bool(state & NUD_PERMANENT),
            is_static=bool(state & (NUD_NOARP | NUD_PERMANENT)),
        )

    def peer(self, device: str) -> tuple[int, int] | None:
        """Return what a cable's other end is: its index, and how this namespace numbers the one that it is in."""
        return self._peers.get(self._index(device))

    def number(self, namespace: int) -> int:
        """Return how this namespace numbers another one, by an open descriptor of that; -1 when it knows none."""
        body = bytes(4) + attribute_u32(NETNSA_FD, namespace)
        _, buffer, start, end = self._socket.get(Message(RTM_GETNSID, 0, body))
        number: int = struct.unpack("=i", attributes(buffer, start + 4, end)[NETNSA_NSID])[0]
        return number

    def holds(self, address: Address) -> str:
        """Return the MAC of the interface that has an address; "" when none has."""
        if self._addresses is None:
            self._addresses = self._read_addresses()
        return next((self._by_name[name].mac for name, held in self._addresses.items() if address in held), "")

    def name(self, index: int) -> str:
        """Return an interface's name; "" when there is none of this index."""
        return self._devices[index].name if index in self._devices else ""

    def close(self) -> None:
        """Let go of the namespace."""
        self._socket.close()

    def _index(self, device: str) -> int:
        found = self._by_name.get(device)
        return found.ifindex if found else 0

    def _name(self, index: bytes | None) -> str:
        return self.name(struct.unpack("=i", index)[0] if index else 0)

    def _read_addresses(self) -> dict[str, list[Address]]:
        found: dict[str, list[Address]] = {}
        for _, buffer, start, end in self._socket.dump(DUMP_ADDRESSES):
            _, _, _, scope, index = IFADDR.unpack_from(buffer, start)
            packed = attributes(buffer, start + IFADDR.size, end)
            address = packed.get(IFA_LOCAL) or packed.get(IFA_ADDRESS)
            if address and scope == RT_SCOPE_UNIVERSE:
                found.setdefault(self._devices[index].name, []).append(ip_address(address))
        return found

    def _read_devices(self) -> list[Device]:
        links = []
        for _, buffer, start, end in self._socket.dump(DUMP_LINKS):
            _, _, index, flags, _ = IFINFO.unpack_from(buffer, start)
            links.append((index, flags, attributes(buffer, start + IFINFO.size, end)))
        self._peers = {
            index: tuple(struct.unpack("=Ii", found[IFLA_LINK] + found[IFLA_LINK_NETNSID]))
            for index, _, found in links
            if IFLA_LINK in found and IFLA_LINK_NETNSID in found
        }
        names = {index: found[IFLA_IFNAME].rstrip(b"\0").decode() for index, _, found in links}
        return [_device(index, flags, found, names) for index, flags, found in links]


def _device(index: int, flags: int, found: dict[int, bytes], names: dict[int, str]) -> Device:
    link = nested(found.get(IFLA_LINKINFO, b""))
    kind = link.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    options = nested(link.get(IFLA_INFO_DATA, b""))
    master = struct.unpack("=I", found[IFLA_MASTER])[0] if IFLA_MASTER in found else 0
    return Device(
        names[index],
        index,
        kind,
        found.get(IFLA_ADDRESS, b"").hex(":"),
        struct.unpack("=I", found[IFLA_MTU])[0],
        bool(flags & IFF_UP),
        names.get(master, ""),
        struct.unpack("=I", options[IFLA_VXLAN_ID])[0] if kind == "vxlan" and IFLA_VXLAN_ID in options else 0,
    )
