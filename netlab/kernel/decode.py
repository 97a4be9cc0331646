"""Dumped rtnetlink messages read back as netlab's objects (rtnetlink(7)); what asks for them is in `rtnl`."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network

from netlab import names
from netlab.kernel.netlink import attributes
from netlab.kernel.rtnetlink import (
    AF_INET,
    BR_STATE_FORWARDING,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDR,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_BRPORT_MODE,
    IFLA_BRPORT_STATE,
    IFLA_GROUP,
    IFLA_GSO_MAX_SEGS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_IPTUN_LOCAL,
    IFLA_IPTUN_REMOTE,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_TUN_TYPE,
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
    NUD_PERMANENT,
    ROUTE_KINDS,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTMSG,
    RTNH_F_ONLINK,
    RTPROT_KERNEL,
    RTPROT_RA,
    RTPROT_REDIRECT,
    TUN_TYPE_TUN,
)
from netlab.plan.objects import Addr, Bridge, End, FdbEntry, Ipip, Link, Loopback, Neighbor, Route, Tun, Veth, Vxlan
from netlab.topology.model import Address


class RawLink:
    """An interface as dumped, before names replace indexes."""

    __slots__ = ("attributes", "index", "kind", "name", "options", "port_options", "up")

    def __init__(self, buffer: bytes, start: int, end: int) -> None:
        _, _, self.index, flags, _ = IFINFO.unpack_from(buffer, start)
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


NOT_OBSERVED = (RTPROT_KERNEL, RTPROT_REDIRECT, RTPROT_RA, names.BALANCER_PROTOCOL)


def loopback_object(raw: RawLink) -> Loopback:
    """Turn a dumped `lo` into its object."""
    return Loopback(up=raw.up)


def address_object(buffer: bytes, start: int, end: int, names_by_index: Mapping[int, str]) -> Addr | None:
    """Read one address; None for those that the kernel makes by itself (loopback, link-local)."""
    _, length, _, scope, index = IFADDR.unpack_from(buffer, start)
    if scope != RT_SCOPE_UNIVERSE:
        return None
    found = attributes(buffer, start + 8, end)
    packed = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return Addr(names_by_index[index], ip_interface((packed, length)))


def route_object(buffer: bytes, start: int, end: int, names_by_index: Mapping[int, str]) -> tuple[Route, bool] | None:
    """Read one route of the main table and whether netlab made it; None for those that the kernel makes by itself."""
    family, length, _, _, table, protocol, _, kind, flags = RTMSG.unpack_from(buffer, start)
    if protocol in NOT_OBSERVED or table != RT_TABLE_MAIN:
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
    _, index, state, _, _ = NDMSG.unpack_from(buffer, start)
    if not state & NUD_PERMANENT:
        return None
    found = attributes(buffer, start + 12, end)
    return Neighbor(ip_address(found[NDA_DST]), found.get(NDA_LLADDR, b"").hex(":"), names_by_index[index])


def fdb_object(buffer: bytes, start: int, end: int, names_by_index: Mapping[int, str]) -> FdbEntry | None:
    """Read one forwarding entry; None when it holds no underlay address."""
    _, index, _, _, _ = NDMSG.unpack_from(buffer, start)
    found = attributes(buffer, start + 12, end)
    if NDA_DST not in found:
        return None
    return FdbEntry(found[NDA_LLADDR].hex(":"), ip_address(found[NDA_DST]), names_by_index[index])


def learned_entry(buffer: bytes, start: int, end: int) -> tuple[bytes, int] | None:
    """Read a bridge's forwarding entry: a MAC address and the index of the port; None when it was not learned."""
    _, index, state, _, _ = NDMSG.unpack_from(buffer, start)
    mac = attributes(buffer, start + 12, end).get(NDA_LLADDR)
    return None if state & NUD_PERMANENT or mac is None else (mac, index)


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")
