"""Why the kernel dropped a packet, in a sentence, and what to look at: by its reason and by where in it that was. Pure.

Reasons are those of `enum skb_drop_reason` (include/net/dropreason-core.h), without their prefix; places are functions.
A reason alone often says little ("NO_TX_TARGET"), a place alone neither: so the table has both, the first that fits
counts, and "" fits all. What is in braces is filled in from the hop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from netlab.trace.headers import Ethernet, Ip, Tcp, Udp, Vxlan, innermost, outer
from netlab.trace.model import Drop, Hop


class Row(NamedTuple):
    """What a reason at a place means. `place` is the beginning of a function's name."""

    reason: str
    place: str
    sentence: str
    hint: str


IN = "ip netns exec {namespace}"
TABLE = (
    Row(
        "NETFILTER_DROP", "", "a packet filter rule on {member} dropped it", f"{IN} nft list ruleset; iptables-save -c"
    ),
    Row("NO_SOCKET", "", "nobody on {member} listens on {port}", f"{IN} ss -lntu"),
    Row("IP_INNOROUTES", "", "{member} has no route to {dst}", f"{IN} ip route get {{dst}}"),
    Row("IP_OUTNOROUTES", "", "{member} has no route to {dst}", f"{IN} ip route get {{dst}}"),
    Row(
        "IP_INADDRERRORS",
        "",
        "{dst} is not {member}'s own address, and it does not forward",
        f"{IN} sysctl net.ipv4.ip_forward",
    ),
    Row(
        "IP_RPFILTER",
        "",
        "{member} has its route to {src} by another device than {device}: rp_filter",
        f"{IN} ip route get {{src}}; sysctl net.ipv4.conf.all.rp_filter",
    ),
    Row("IP_INHDR", "ip_forward", "its TTL is used up", "a loop? `netlab trace` shows each hop's TTL"),
    Row("IP_INHDR", "ip6_forward", "its hop limit is used up", "a loop? `netlab trace` shows each hop's"),
    Row("IP_INHDR", "", "its IP header is broken", "see the headers of the hops before"),
    Row("PKT_TOO_BIG", "", "it is larger than the MTU of the next device, and must not be fragmented", f"{IN} ip link"),
    Row("VXLAN_VNI_NOT_FOUND", "", "{member} has no VXLAN device with VNI {vni}", f"{IN} ip -d link show type vxlan"),
    Row("VXLAN_INVALID_HDR", "", "its VXLAN header is none that {member} takes", f"{IN} ip -d link show type vxlan"),
    Row(
        "NO_TX_TARGET",
        "vxlan",
        "{device} has no FDB entry for {mac}, so it knows no node to send to",
        f"{IN} bridge fdb show dev {{device}}",
    ),
    Row(
        "NO_TX_TARGET",
        "br_",
        "the bridge has no port to send it to: the port of {mac} is down or gone",
        f"{IN} bridge link; bridge fdb show",
    ),
    Row("NO_TX_TARGET", "", "{device} has nowhere to send it", f"{IN} bridge link"),
    Row(
        "NEIGH_FAILED",
        "",
        "nobody answered when {member} asked for the MAC of the next hop on {device}",
        f"{IN} ip neigh show dev {{device}}; the next hop may be down, or its address gone",
    ),
    Row(
        "NEIGH_QUEUEFULL",
        "",
        "too many packets wait for the MAC of the next hop on {device}",
        f"{IN} ip neigh show dev {{device}}",
    ),
    Row(
        "NEIGH_CREATEFAIL",
        "",
        "{member}'s neighbour table is full",
        f"{IN} ip neigh; sysctl net.ipv4.neigh.default.gc_thresh3",
    ),
    Row(
        "OTHERHOST",
        "",
        "it is for MAC {mac}, which is not that of {device}",
        "a wrong neighbour or FDB entry of the sender, or a flooded frame",
    ),
    Row("IP_LOCAL_SOURCE", "", "its source {src} is {member}'s own address: a martian", f"{IN} ip address"),
    Row("IP_INVALID_SOURCE", "", "its source {src} cannot be one", "see the NAT rules that changed it"),
    Row("IP_INVALID_DEST", "", "its destination {dst} cannot be one here", "127.0.0.0/8 needs route_localnet"),
    Row(
        "IP_LOCALNET", "", "loopback addresses do not leave a machine", f"{IN} sysctl net.ipv4.conf.all.route_localnet"
    ),
    Row(
        "BRIDGE_INGRESS_STP_STATE",
        "",
        "the bridge port {device} is not in state forwarding",
        f"{IN} bridge link show dev {{device}}",
    ),
    Row("LOCAL_MAC", "", "it comes from the bridge's own MAC", f"{IN} bridge fdb show"),
    Row("MAC_INVALID_SOURCE", "", "its source MAC is that of {device} itself: a loop", f"{IN} bridge fdb show"),
    Row("DEV_READY", "", "{device} is down", f"{IN} ip link set {{device}} up"),
    Row("FULL_RING", "", "{device}'s queue is full: its reader is too slow", "fewer packets, or a faster forwarder"),
    Row("CPU_BACKLOG", "", "the kernel's queue of received packets is full", "sysctl net.core.netdev_max_backlog"),
    Row("SOCKET_RCVBUFF", "", "the receiver's socket buffer is full", f"{IN} ss -um"),
    Row("UDP_CSUM", "", "its UDP checksum is wrong", "checksum offload of a tunnel? `ethtool -K DEVICE tx off`"),
    Row("TCP_CSUM", "", "its TCP checksum is wrong", "checksum offload of a tunnel? `ethtool -K DEVICE tx off`"),
    Row("ICMP_CSUM", "", "its ICMP checksum is wrong", "something changed it on the way"),
    Row("IP_NOPROTO", "", "{member} does not know its protocol", f"{IN} ip -d link: a tunnel's device is missing"),
    Row("UNHANDLED_PROTO", "", "{member} does not know its protocol", f"{IN} ip -d link: a tunnel's device is missing"),
    Row("QDISC_DROP", "", "the queueing discipline of {device} dropped it", f"{IN} tc -s qdisc show dev {{device}}"),
    Row("TC_INGRESS", "", "a program or filter at {device} dropped it", f"{IN} tc filter show dev {{device}} ingress"),
    Row("TC_EGRESS", "", "a program or filter at {device} dropped it", f"{IN} tc filter show dev {{device}} egress"),
    Row("XDP", "", "an XDP program on {device} dropped it", f"{IN} ip link show {{device}}"),
    Row(
        "NOT_SPECIFIED",
        "br_handle_frame",
        "the bridge may not send it back to the port that it came from",
        f"{IN} bridge -d link show dev {{device}}: hairpin off?",
    ),
    Row("NOT_SPECIFIED", "ip_error", "{member}'s route to {dst} refuses it", f"{IN} ip route get {{dst}}"),
    Row(
        "NOT_SPECIFIED",
        "nf_",
        "a packet filter rule on {member} dropped it",
        f"{IN} nft list ruleset; iptables-save -c",
    ),
    Row("NOT_SPECIFIED", "nft_", "a packet filter rule on {member} dropped it", f"{IN} nft list ruleset"),
    Row("TCP_", "", "{member}'s TCP refused it", f"{IN} nstat -az | grep -i tcp"),
)

NO_TUNNEL = Row("NO_SOCKET", "", "{member} has no tunnel device that would unwrap it", f"{IN} ip -d link show")


def find_drop(reason: str, place: str, hops: Sequence[Hop]) -> Drop:
    """Say what it means that a packet was dropped at the last of its hops."""
    words = _words(hops)
    if reason == "NO_SOCKET" and outer(hops[-1].headers):
        return Drop(reason, place, NO_TUNNEL.sentence.format(**words), NO_TUNNEL.hint.format(**words))
    for row in TABLE:
        if reason.startswith(row.reason) and (place.startswith(row.place) or not row.place):
            return Drop(reason, place, row.sentence.format(**words), row.hint.format(**words))
    at = f"{place} on {words['member']}" if place else words["member"]
    return Drop(
        reason, place, f"the kernel dropped it in {at}", "the reason is in include/net/dropreason-core.h of Linux"
    )


def _words(hops: Sequence[Hop]) -> dict[str, object]:
    hop = hops[-1]
    inner = innermost(hop.headers)
    ip = inner[0] if inner and isinstance(inner[0], Ip) else None
    frame = next((header for header in hop.headers if isinstance(header, Ethernet)), None)
    vni = next((header.vni for header in hop.headers if isinstance(header, Vxlan)), "?")
    port = "it"
    match inner[1] if len(inner) > 1 else None:
        case Tcp(dport=number):
            port = f"TCP port {number}"
        case Udp(dport=number):
            port = f"UDP port {number}"
    return {
        "namespace": hop.namespace,
        "member": hop.member,
        "device": hop.device or "its device",
        "src": ip.src if ip else "its source",
        "dst": ip.dst if ip else "its destination",
        "mac": frame.dst if frame else "its MAC",
        "vni": vni,
        "port": port,
    }
