"""rtnetlink messages that make, change and ask for netlab's objects (rtnetlink(7)).

Interfaces are told apart by name in a plan and by index in the kernel: every function takes or returns indexes where
the kernel does. `encode` makes them of operations, `decode` reads the answers.
"""

from __future__ import annotations

import struct

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
)
from netlab.plan.objects import (
    GSO_MAX_SEGS,
    Addr,
    Bridge,
    FdbEntry,
    Ipip,
    Link,
    Neighbor,
    Route,
    Tun,
    Veth,
    Vxlan,
)

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

IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
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
        IFINFO.pack(0, 0, peer_index, 0, 0)
        + _common(peer.name, peer.mtu, peer.mac)
        + _segments(peer)
        + _ONE_QUEUE
        + attribute_u32(IFLA_NET_NS_FD, peer_fd)
    )
    body = (
        IFINFO.pack(0, 0, index, _flags(link), _flags(link))
        + _common(link.name, link.mtu, link.mac)
        + _segments(link)
        + _ONE_QUEUE
        + (attribute_u32(IFLA_MASTER, master) if master else b"")
        + _linkinfo("veth", attribute(VETH_INFO_PEER, other))
    )
    return Message(RTM_NEWLINK, NEW, body)


def create_bridge(link: Bridge, index: int) -> list[Message]:
    """Make a bridge, then set its MTU: only one that is changed by hand outlives ports that join and leave."""
    body = IFINFO.pack(0, 0, index, _flags(link), _flags(link)) + _common(link.name, None, link.mac)
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
    body = IFINFO.pack(0, 0, index, _flags(link), _flags(link)) + _common(link.name, link.mtu, link.mac)
    return Message(RTM_NEWLINK, NEW, body + _linkinfo("vxlan", options))


def create_ipip(link: Ipip, index: int) -> Message:
    """Make an IP-in-IP device with any remote end; path MTU discovery on, as `ip tunnel add` sets it."""
    options = (
        attribute(IFLA_IPTUN_LOCAL, link.local.packed)
        + attribute(IFLA_IPTUN_PROTO, bytes([4]))
        + attribute(IFLA_IPTUN_PMTUDISC, bytes([1]))
    )
    body = IFINFO.pack(0, 0, index, _flags(link), _flags(link)) + _common(link.name, link.mtu, "")
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
    body = IFINFO.pack(0, 0, index, state, mask)
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
    return Message(RTM_SETLINK, 0, IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + port)


def delete_link(index: int) -> Message:
    """Delete one interface."""
    return Message(RTM_DELLINK, 0, IFINFO.pack(0, 0, index, 0, 0))


def delete_group(group: int) -> Message:
    """Delete every interface of a group at once: one RCU grace period instead of one for each."""
    return Message(RTM_DELLINK, 0, IFINFO.pack(0, 0, 0, 0, 0) + attribute_u32(IFLA_GROUP, group))


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
    body = IFADDR.pack(FAMILY[version], addr.ip.network.prefixlen, IFA_F_NODAD if version == 6 else 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if version == 4 and addr.ip.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, addr.ip.network.broadcast_address.packed)
    return Message(kind, NLM_F_CREATE | NLM_F_REPLACE if kind == RTM_NEWADDR else 0, body)


def route(kind: int, entry: Route, index: int) -> Message:
    """Set or delete a route of the main table, marked as netlab's."""
    adding = kind == RTM_NEWROUTE
    scope = RT_SCOPE_UNIVERSE if entry.via or entry.dst.version == 6 or not adding else RT_SCOPE_LINK
    body = RTMSG.pack(
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
    body = NDMSG.pack(FAMILY[entry.ip.version], index, NUD_PERMANENT, 0, 0)
    body += attribute(NDA_DST, entry.ip.packed) + attribute(NDA_LLADDR, _mac(entry.mac))
    return Message(kind, NLM_F_CREATE | NLM_F_REPLACE if kind == RTM_NEWNEIGH else 0, body)


def fdb(kind: int, entry: FdbEntry, index: int) -> Message:
    """Set or delete a VXLAN device's own forwarding entry (NTF_SELF)."""
    body = NDMSG.pack(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, 0)
    body += attribute(NDA_LLADDR, _mac(entry.mac)) + attribute(NDA_DST, entry.dst.packed)
    return Message(kind, NLM_F_CREATE | NLM_F_REPLACE if kind == RTM_NEWNEIGH else 0, body)


# --- dumps -----------------------------------------------------------------------------------------------------------

_NO_STATS = attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
DUMP_LINKS = Message(RTM_GETLINK, 0, IFINFO.pack(0, 0, 0, 0, 0) + _NO_STATS)
DUMP_ADDRESSES = Message(RTM_GETADDR, 0, IFADDR.pack(0, 0, 0, 0, 0))
DUMP_NEIGHBORS = Message(RTM_GETNEIGH, 0, NDMSG.pack(0, 0, 0, 0, 0))


def get_link(index: int) -> Message:
    """Ask for one interface. The kernel takes note of its carrier before it answers (rtnl_getlink, Linux 6.8)."""
    return Message(RTM_GETLINK, 0, IFINFO.pack(0, 0, index, 0, 0) + _NO_STATS)


def dump_routes(version: int) -> Message:
    """Ask for the routes of the main table of one IP version."""
    body = RTMSG.pack(FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0) + attribute_u32(RTA_TABLE, RT_TABLE_MAIN)
    return Message(RTM_GETROUTE, 0, body)


def dump_fdb(index: int) -> Message:
    """Ask for the forwarding entries of one device."""
    return Message(RTM_GETNEIGH, 0, NDMSG.pack(AF_BRIDGE, index, 0, 0, 0))


def dump_bridge_entries(index: int) -> Message:
    """Ask for the forwarding entries of a bridge, which belong to its ports."""
    return Message(RTM_GETNEIGH, 0, NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0) + attribute_u32(NDA_MASTER, index))
