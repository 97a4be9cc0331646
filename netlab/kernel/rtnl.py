"""rtnetlink messages for netlab's objects: encode what is asked for, decode what is there (rtnetlink(7)).

Interfaces are told apart by name in a plan and by index in the kernel: every function takes or returns indexes where
the kernel does. Read `encode` for how objects are made, `decode` for how they are read back.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network

from netlab import names
from netlab.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attribute,
    attribute_text,
    attribute_u32,
    attributes,
)
from netlab.plan.objects import (
    GSO_MAX_SEGS,
    Addr,
    Bridge,
    FdbEntry,
    Ipip,
    Link,
    Loopback,
    Neighbor,
    Route,
    Tun,
    Veth,
    Vxlan,
)
from netlab.topology.model import Address

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
FAMILY = {4: AF_INET, 6: AF_INET6}

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_PROTINFO = 1, 3, 4, 10, 12
IFLA_LINKINFO, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 18, 27, 28, 29
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_GSO_MAX_SEGS = 31, 32, 40
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE = 1, 4  # the latter is hairpin
BR_STATE_FORWARDING = 3
VETH_INFO_PEER = 1
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT = 1, 3, 4, 7, 15
IFLA_VXLAN_LOCAL6, IFLA_VXLAN_GBP = 17, 23
IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE, IFLA_IPTUN_PROTO, IFLA_IPTUN_PMTUDISC = 2, 3, 9, 10
IFLA_TUN_TYPE, TUN_TYPE_TUN = 3, bytes([1])
RTEXT_FILTER_SKIP_STATS = 1 << 3

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_F_NODAD = 1, 2, 4, 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RT_TABLE_MAIN, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTNH_F_ONLINK = 254, 0, 253, 4
RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA = 1, 2, 9
ROUTE_KINDS = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
NDA_DST, NDA_LLADDR, NDA_MASTER = 1, 2, 9
NUD_PERMANENT, NTF_SELF = 0x80, 0x02

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
NEW = NLM_F_CREATE | NLM_F_EXCL


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _flags(link: Link) -> int:
    return IFF_UP if getattr(link, "up", False) else 0


# --- links -----------------------------------------------------------------------------------------------------------


# A veth end is made with a queue for each processor and cut down to one, which waits for an RCU grace period; asked for
# one, it is not (drivers/net/veth.c: veth_init_queues). That was a third of a cable's time, and most on a busy machine.
_ONE_QUEUE = attribute_u32(IFLA_NUM_TX_QUEUES, 1) + attribute_u32(IFLA_NUM_RX_QUEUES, 1)


def create_veth(link: Veth, index: int, master: int, peer: Veth, peer_index: int, peer_fd: int) -> Message:
    """Make a cable: this end with its master and state, the other end placed, still down, in its own namespace."""
    other = (
        _IFINFO.pack(0, 0, peer_index, 0, 0)
        + _common(peer.name, peer.mtu, peer.mac)
        + _segments(peer)
        + _ONE_QUEUE
        + attribute_u32(IFLA_NET_NS_FD, peer_fd)
    )
    body = (
        _IFINFO.pack(0, 0, index, _flags(link), _flags(link))
        + _common(link.name, link.mtu, link.mac)
        + _segments(link)
        + _ONE_QUEUE
        + (attribute_u32(IFLA_MASTER, master) if master else b"")
        + _linkinfo("veth", attribute(VETH_INFO_PEER, other))
    )
    return Message(RTM_NEWLINK, NEW, body)


def create_bridge(link: Bridge, index: int) -> list[Message]:
    """Make a bridge, then set its MTU: only one that is changed by hand outlives ports that join and leave."""
    body = _IFINFO.pack(0, 0, index, _flags(link), _flags(link)) + _common(link.name, None, link.mac)
    return [Message(RTM_NEWLINK, NEW, body + _linkinfo("bridge", b"")), set_link(index, mtu=link.mtu)]


def create_vxlan(link: Vxlan, index: int, parent: int) -> Message:
    """Make a VTEP with a fixed local address and no default destination (facts.md 1.10)."""
    local = IFLA_VXLAN_LOCAL if link.local.version == 4 else IFLA_VXLAN_LOCAL6
    options = (
        attribute_u32(IFLA_VXLAN_ID, link.vni)
        + attribute_u32(IFLA_VXLAN_LINK, parent)
        + attribute(local, link.local.packed)
        + attribute(IFLA_VXLAN_LEARNING, bytes([link.learning]))
        + attribute(IFLA_VXLAN_PORT, link.port.to_bytes(2, "big"))
        + (attribute(IFLA_VXLAN_GBP, b"") if link.gbp else b"")
    )
    body = _IFINFO.pack(0, 0, index, _flags(link), _flags(link)) + _common(link.name, link.mtu, link.mac)
    return Message(RTM_NEWLINK, NEW, body + _linkinfo("vxlan", options))


def create_ipip(link: Ipip, index: int) -> Message:
    """Make an IP-in-IP device with any remote end; path MTU discovery on, as `ip tunnel add` sets it."""
    options = (
        attribute(IFLA_IPTUN_LOCAL, link.local.packed)
        + attribute(IFLA_IPTUN_PROTO, bytes([4]))
        + attribute(IFLA_IPTUN_PMTUDISC, bytes([1]))
    )
    body = _IFINFO.pack(0, 0, index, _flags(link), _flags(link)) + _common(link.name, link.mtu, "")
    return Message(RTM_NEWLINK, NEW, body + _linkinfo("ipip", options))


def set_tun(link: Tun, index: int) -> Message:
    """Make a device that an ioctl has made what it should be: netlab's, with its MTU and state."""
    return set_link(index, up=link.up, mtu=link.mtu, gso_max_segs=link.gso_max_segs, group=names.LINK_GROUP)


def set_link(
    index: int,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    group: int | None = None,
    gso_max_segs: int | None = None,
) -> Message:
    """Change an interface; None leaves a property alone, master 0 takes it off its bridge."""
    state, mask = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    body = _IFINFO.pack(0, 0, index, state, mask)
    if mtu is not None:
        body += attribute_u32(IFLA_MTU, mtu)
    if mac is not None:
        body += attribute(IFLA_ADDRESS, _mac(mac))
    if master is not None:
        body += attribute_u32(IFLA_MASTER, master)
    if group is not None:
        body += attribute_u32(IFLA_GROUP, group)
    if gso_max_segs is not None:
        body += attribute_u32(IFLA_GSO_MAX_SEGS, gso_max_segs)
    return Message(RTM_SETLINK, 0, body)


def set_hairpin(index: int, on: bool) -> Message:
    """Let a bridge port send a frame back out of the port that it came in by, or not."""
    port = attribute(IFLA_PROTINFO | NLA_F_NESTED, attribute(IFLA_BRPORT_MODE, bytes([on])))
    return Message(RTM_SETLINK, 0, _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + port)


def delete_link(index: int) -> Message:
    """Delete one interface."""
    return Message(RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0))


def delete_group(group: int) -> Message:
    """Delete every interface of a group at once: one RCU grace period instead of one for each."""
    return Message(RTM_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + attribute_u32(IFLA_GROUP, group))


def _common(name: str, mtu: int | None, mac: str) -> bytes:
    packed = attribute_text(IFLA_IFNAME, name) + attribute_u32(IFLA_GROUP, names.LINK_GROUP)
    packed += b"" if mtu is None else attribute_u32(IFLA_MTU, mtu)
    return packed + attribute(IFLA_ADDRESS, _mac(mac)) if mac else packed


def _segments(link: Veth) -> bytes:
    return b"" if link.gso_max_segs == GSO_MAX_SEGS else attribute_u32(IFLA_GSO_MAX_SEGS, link.gso_max_segs)


def _linkinfo(kind: str, options: bytes) -> bytes:
    packed = attribute(IFLA_INFO_KIND, kind.encode())
    return attribute(IFLA_LINKINFO, packed + (attribute(IFLA_INFO_DATA, options) if options else b""))


# --- addresses, routes, neighbours -----------------------------------------------------------------------------------


def address(kind: int, addr: Addr, index: int) -> Message:
    """Add (RTM_NEWADDR) or delete an address. IPv6 addresses skip duplicate detection, as CNI's do."""
    version = addr.ip.version
    packed = addr.ip.ip.packed
    body = _IFADDR.pack(FAMILY[version], addr.ip.network.prefixlen, IFA_F_NODAD if version == 6 else 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if version == 4 and addr.ip.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, addr.ip.network.broadcast_address.packed)
    return Message(kind, NLM_F_CREATE | NLM_F_REPLACE if kind == RTM_NEWADDR else 0, body)


def route(kind: int, entry: Route, index: int) -> Message:
    """Set or delete a route of the main table, marked as netlab's."""
    adding = kind == RTM_NEWROUTE
    scope = RT_SCOPE_UNIVERSE if entry.via or entry.dst.version == 6 or not adding else RT_SCOPE_LINK
    body = _RTMSG.pack(
        FAMILY[entry.dst.version],
        entry.dst.prefixlen,
        0,
        0,
        RT_TABLE_MAIN,
        names.ROUTE_PROTOCOL if adding else 0,
        scope if adding else 255,  # RT_SCOPE_NOWHERE: any
        1 if adding else 0,
        RTNH_F_ONLINK if entry.onlink else 0,
    )
    body += attribute(RTA_DST, entry.dst.network_address.packed) if entry.dst.prefixlen else b""
    body += attribute_u32(RTA_OIF, index) if index else b""
    body += attribute(RTA_GATEWAY, entry.via.packed) if entry.via else b""
    flags = NLM_F_CREATE | NLM_F_REPLACE if adding else 0
    return Message(kind, flags, body)


def neighbor(kind: int, entry: Neighbor, index: int) -> Message:
    """Set or delete a permanent neighbour."""
    body = _NDMSG.pack(FAMILY[entry.ip.version], index, NUD_PERMANENT, 0, 0)
    body += attribute(NDA_DST, entry.ip.packed) + attribute(NDA_LLADDR, _mac(entry.mac))
    return Message(kind, NLM_F_CREATE | NLM_F_REPLACE if kind == RTM_NEWNEIGH else 0, body)


def fdb(kind: int, entry: FdbEntry, index: int) -> Message:
    """Set or delete a VXLAN device's own forwarding entry (NTF_SELF)."""
    body = _NDMSG.pack(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, 0)
    body += attribute(NDA_LLADDR, _mac(entry.mac)) + attribute(NDA_DST, entry.dst.packed)
    return Message(kind, NLM_F_CREATE | NLM_F_REPLACE if kind == RTM_NEWNEIGH else 0, body)


# --- dumps -----------------------------------------------------------------------------------------------------------

_NO_STATS = attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
DUMP_LINKS = Message(RTM_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _NO_STATS)
DUMP_ADDRESSES = Message(RTM_GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0))
DUMP_NEIGHBORS = Message(RTM_GETNEIGH, 0, _NDMSG.pack(0, 0, 0, 0, 0))


def get_link(index: int) -> Message:
    """Ask for one interface. The kernel takes note of its carrier before it answers (rtnl_getlink, Linux 6.8)."""
    return Message(RTM_GETLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + _NO_STATS)


def dump_routes(version: int) -> Message:
    """Ask for the routes of the main table of one IP version."""
    body = _RTMSG.pack(FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0) + attribute_u32(RTA_TABLE, RT_TABLE_MAIN)
    return Message(RTM_GETROUTE, 0, body)


def dump_fdb(index: int) -> Message:
    """Ask for the forwarding entries of one device."""
    return Message(RTM_GETNEIGH, 0, _NDMSG.pack(AF_BRIDGE, index, 0, 0, 0))


def dump_bridge_entries(index: int) -> Message:
    """Ask for the forwarding entries of a bridge, which belong to its ports."""
    return Message(RTM_GETNEIGH, 0, _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0) + attribute_u32(NDA_MASTER, index))


class RawLink:
    """An interface as dumped, before names replace indexes."""

    __slots__ = ("attributes", "index", "kind", "name", "options", "port_options", "up")

    def __init__(self, buffer: bytes, start: int, end: int) -> None:
        _, _, self.index, flags, _ = _IFINFO.unpack_from(buffer, start)
        self.up = bool(flags & IFF_UP)
        self.attributes = attributes(buffer, start + 16, end)
        self.name = _text(self.attributes[IFLA_IFNAME])
        linkinfo = self.attributes.get(IFLA_LINKINFO, b"")
        details = attributes(linkinfo, 0, len(linkinfo))
        self.kind = _text(details.get(IFLA_INFO_KIND, b""))
        self.options = details.get(IFLA_INFO_DATA, b"")
        self.port_options = details.get(IFLA_INFO_SLAVE_DATA, b"")

    def number(self, kind: int) -> int:
        """Return a numeric attribute, 0 when absent."""
        return int.from_bytes(self.attributes.get(kind, b""), "little")

    @property
    def is_forwarding(self) -> bool:
        """Say whether a bridge port takes part in forwarding; it does not before its carrier was noticed."""
        port = attributes(self.port_options, 0, len(self.port_options))
        return port.get(IFLA_BRPORT_STATE) == bytes([BR_STATE_FORWARDING])

    @property
    def is_ours(self) -> bool:
        """Say whether the interface bears netlab's group."""
        return self.number(IFLA_GROUP) == names.LINK_GROUP


def link_object(raw: RawLink, names_by_index: Mapping[int, str]) -> Link | None:
    """Turn a dumped interface of a kind that netlab makes into its object; None for any other kind.

    A veth's peer is not dumped by name: it is left empty, and does not take part in comparisons.
    """
    from netlab.plan.objects import End

    mtu, mac = raw.number(IFLA_MTU), raw.attributes.get(IFLA_ADDRESS, b"").hex(":")
    options = attributes(raw.options, 0, len(raw.options))
    match raw.kind:
        case "veth":
            port = attributes(raw.port_options, 0, len(raw.port_options))
            master = names_by_index.get(raw.number(IFLA_MASTER))
            hairpin = port.get(IFLA_BRPORT_MODE, b"\0") != b"\0"
            segments = raw.number(IFLA_GSO_MAX_SEGS)
            return Veth(raw.name, End("", ""), mtu, mac, master, hairpin, raw.up, segments)
        case "bridge":
            return Bridge(raw.name, mtu, mac, raw.up)
        case "vxlan":
            return _vxlan_object(raw, options, names_by_index, mtu, mac)
        case "ipip":
            local, remote = (options.get(kind, bytes(4)) for kind in (IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE))
            return Ipip(raw.name, ip_address(local), mtu, ip_address(remote) if any(remote) else None, raw.up)
        case "tun" if options.get(IFLA_TUN_TYPE) == TUN_TYPE_TUN:
            return Tun(raw.name, mtu, raw.up, raw.number(IFLA_GSO_MAX_SEGS))
    return None


def _vxlan_object(
    raw: RawLink, options: Mapping[int, bytes], names_by_index: Mapping[int, str], mtu: int, mac: str
) -> Vxlan:
    return Vxlan(
        name=raw.name,
        vni=int.from_bytes(options.get(IFLA_VXLAN_ID, b""), "little"),
        port=int.from_bytes(options.get(IFLA_VXLAN_PORT, b""), "big"),
        local=ip_address(options.get(IFLA_VXLAN_LOCAL) or options.get(IFLA_VXLAN_LOCAL6) or bytes(4)),
        parent=names_by_index.get(int.from_bytes(options.get(IFLA_VXLAN_LINK, b""), "little"), ""),
        mtu=mtu,
        mac=mac,
        learning=options.get(IFLA_VXLAN_LEARNING, b"\0") != b"\0",
        gbp=IFLA_VXLAN_GBP in options,
        up=raw.up,
    )


def loopback_object(raw: RawLink) -> Loopback:
    """Turn a dumped `lo` into its object."""
    return Loopback(up=raw.up)


def address_object(buffer: bytes, start: int, end: int, names_by_index: Mapping[int, str]) -> Addr | None:
    """Read one address; None for those that the kernel makes by itself (loopback, link-local)."""
    _, length, _, scope, index = _IFADDR.unpack_from(buffer, start)
    if scope != RT_SCOPE_UNIVERSE:
        return None
    found = attributes(buffer, start + 8, end)
    packed = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return Addr(names_by_index[index], ip_interface((packed, length)))


def route_object(buffer: bytes, start: int, end: int, names_by_index: Mapping[int, str]) -> tuple[Route, bool] | None:
    """Read one route of the main table and whether netlab made it; None for those that the kernel makes by itself."""
    family, length, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(buffer, start)
    if protocol in (RTPROT_KERNEL, RTPROT_REDIRECT, RTPROT_RA) or table != RT_TABLE_MAIN:
        return None
    found = attributes(buffer, start + 12, end)
    dst = ip_network((found.get(RTA_DST, bytes(4 if family == AF_INET else 16)), length))
    via: Address | None = ip_address(found[RTA_GATEWAY]) if RTA_GATEWAY in found else None
    index = int.from_bytes(found.get(RTA_OIF, b""), "little")
    named = ROUTE_KINDS.get(kind, str(kind))
    dev = names_by_index.get(index, "") if named == "unicast" else ""
    entry = Route(dst, dev, via, bool(flags & RTNH_F_ONLINK), named)
    return entry, protocol == names.ROUTE_PROTOCOL


def neighbor_object(buffer: bytes, start: int, end: int, names_by_index: Mapping[int, str]) -> Neighbor | None:
    """Read one neighbour; None unless it is permanent."""
    _, index, state, _, _ = _NDMSG.unpack_from(buffer, start)
    if not state & NUD_PERMANENT:
        return None
    found = attributes(buffer, start + 12, end)
    return Neighbor(ip_address(found[NDA_DST]), found.get(NDA_LLADDR, b"").hex(":"), names_by_index[index])


def fdb_object(buffer: bytes, start: int, end: int, names_by_index: Mapping[int, str]) -> FdbEntry | None:
    """Read one forwarding entry; None when it holds no underlay address."""
    _, index, _, _, _ = _NDMSG.unpack_from(buffer, start)
    found = attributes(buffer, start + 12, end)
    if NDA_DST not in found:
        return None
    return FdbEntry(found[NDA_LLADDR].hex(":"), ip_address(found[NDA_DST]), names_by_index[index])


def learned_entry(buffer: bytes, start: int, end: int) -> tuple[bytes, int] | None:
    """Read a bridge's forwarding entry: a MAC address and the index of the port; None when it was not learned."""
    _, index, state, _, _ = _NDMSG.unpack_from(buffer, start)
    mac = attributes(buffer, start + 12, end).get(NDA_LLADDR)
    return None if state & NUD_PERMANENT or mac is None else (mac, index)


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")
