"""rtnetlink messages that make, change and ask for netlab's objects (rtnetlink(7)).

Interfaces are told apart by name in a plan and by index in the kernel: every function takes or returns indexes where
the kernel does. `encode` makes them of operations, `decode` reads the answers.
"""

from __future__ import annotations

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
from netlab.kernel.rtnetlink import (
    AF_BRIDGE,
    FAMILY,
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_F_NODAD,
    IFA_LOCAL,
    IFADDR,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_BRPORT_MODE,
    IFLA_GROUP,
    IFLA_GSO_MAX_SEGS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_IPTUN_LOCAL,
    IFLA_IPTUN_PMTUDISC,
    IFLA_IPTUN_PROTO,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES,
    IFLA_PROTINFO,
    IFLA_VXLAN_GBP,
    IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING,
    IFLA_VXLAN_LINK,
    IFLA_VXLAN_LOCAL,
    IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT,
    NDA_DST,
    NDA_LLADDR,
    NDMSG,
    NTF_SELF,
    NUD_PERMANENT,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_SETLINK,
    RTMSG,
    RTNH_F_ONLINK,
    VETH_INFO_PEER,
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
