"""rtnetlink's numbers and structures (rtnetlink(7)), and the questions that need no object of a plan."""

from __future__ import annotations

import struct

from netlab.kernel.netlink import Message, attribute_u32

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
