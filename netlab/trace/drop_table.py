"""What the kernel's reasons for dropping a packet mean, by the place in it where that was, and what to look at. Pure.

Reasons are those of `enum skb_drop_reason` (include/net/dropreason-core.h), without their prefix; places are functions.
A reason alone often says little ("NO_TX_TARGET"), a place alone neither: so the table has both. The first row that fits
counts: the reason begins with the row's, the place too. Linux 6.1 has no reason yet for much that newer kernels name,
and says NOT_SPECIFIED (kfree_skb) there: hence the rows by place at the end.

What is in braces is filled in from the packet's last hop (`drops`). `look` is commands, run in the hop's namespace.
"""

from __future__ import annotations

from typing import NamedTuple

RULES = ("nft list ruleset", "{iptables}-save -c")
ROUTE = ("ip route get {dst}",)
TUNNELS = ("ip -d link show type vxlan",)
FDB = ("bridge fdb show dev {device}",)
PORTS = ("bridge link", "bridge fdb show")
LINK = ("ip -s link show dev {device}",)
CHECKSUMS = ("ethtool -k {device}",)
FORWARDING = ("sysctl {forwarding}",)


class Row(NamedTuple):
    """What a reason at a place means; "" fits all."""

    reason: str
    place: str
    sentence: str
    look: tuple[str, ...]


FILTERED = "the packet filter of {member} stopped it"
NO_FDB = "{device} has no FDB entry for {mac}, so it knows no node to send to"
NO_PORT = "the bridge has no port for {mac} that is up"
NO_VNI = "{member} has no VXLAN device with VNI {vni} that is up"
NOT_BACK = "the bridge may not send it to the port of {mac}: hairpin mode is off, or the ports are isolated"
UNANSWERED = "nobody answered when {member} asked for the MAC of {next_hop} on {device}"
NOT_FORWARDING = "the bridge port {device} is not in state forwarding"
NO_FORWARDING = "{dst} is not an address of {member}, and {member} does not forward"
MARTIAN = "its source {src} is an address of {member} itself: a martian"
UNKNOWN_PROTOCOL = "{member} does not know its protocol: a tunnel device may be missing"
WRONG_SUM = "its {reason} checksum is wrong: something changed it on the way, or offloads do not fit"
BEHIND = "the other end of {device} is down, or its MTU is smaller than this packet"
BY_PROGRAM = "a program or filter at {device} dropped it"

TABLE = (
    Row("NETFILTER_DROP", "", FILTERED, RULES),
    Row("NO_SOCKET", "", "nobody on {member} listens on {port}", ("ss -lntu",)),
    # routes
    Row("IP_INNOROUTES", "", "{refusal}", ROUTE),
    Row("IP_OUTNOROUTES", "", "{refusal}", ROUTE),
    Row("IP_INADDRERRORS", "", NO_FORWARDING, ("ip address", *FORWARDING)),
    Row("IP_RPFILTER", "", "rp_filter: {return_route}", ("ip route get {src}", "sysctl net.ipv4.conf.all.rp_filter")),
    Row("IP_LOCAL_SOURCE", "", MARTIAN, ("ip address",)),
    Row("IP_INVALID_SOURCE", "", "its source {src} cannot be one", RULES),
    Row("IP_INVALID_DEST", "", "its destination {dst} cannot be one here", ROUTE),
    Row("IP_LOCALNET", "", "loopback addresses do not leave a machine", ("sysctl net.ipv4.conf.all.route_localnet",)),
    Row("IP_INHDR", "ip_forward", "its TTL is used up: too low, or it goes in a loop", ROUTE),
    Row("IP_INHDR", "ip6_forward", "its hop limit is used up: too low, or it goes in a loop", ROUTE),
    Row("IP_INHDR", "", "its IP header is broken", LINK),
    Row("PKT_TOO_BIG", "", "it has {length} bytes, and {mtu}: it must not be fragmented", (*ROUTE, "ip link")),
    # neighbours and frames
    Row("NEIGH_FAILED", "", UNANSWERED, ("ip neigh",)),
    Row("NEIGH_QUEUEFULL", "", "too many packets wait for the MAC of {next_hop} on {device}", ("ip neigh",)),
    Row("NEIGH_DEAD", "", "the neighbour entry of {next_hop} on {device} was deleted", ("ip neigh",)),
    Row(
        "NEIGH_CREATEFAIL",
        "",
        "the neighbour table of {member} is full",
        ("ip neigh", "sysctl net.ipv4.neigh.default.gc_thresh3"),
    ),
    Row("OTHERHOST", "", "it is for MAC {mac}, which is not that of {device}", ("ip link",)),
    Row("BRIDGE_INGRESS_STP_STATE", "", NOT_FORWARDING, ("bridge link show dev {device}",)),
    Row("LOCAL_MAC", "", "it comes from the MAC of the VXLAN device itself", PORTS),
    Row("MAC_INVALID_SOURCE", "", "its source MAC is that of {device} itself: a loop", PORTS),
    Row("DEV_READY", "", "{device} is down", LINK),
    Row("NO_TX_TARGET", "vxlan", NO_FDB, FDB),
    Row("NO_TX_TARGET", "br_", NO_PORT, PORTS),
    Row("NO_TX_TARGET", "", "{device} has nowhere to send it", PORTS),
    # tunnels
    Row("VXLAN_VNI_NOT_FOUND", "", NO_VNI, TUNNELS),
    Row("VXLAN_INVALID_HDR", "", "its VXLAN header is none that {member} takes", TUNNELS),
    Row("VXLAN_NO_REMOTE", "", NO_FDB, FDB),  # 6.12 only
    Row("IP_NOPROTO", "", UNKNOWN_PROTOCOL, ("ip -d link",)),
    Row("UNHANDLED_PROTO", "", UNKNOWN_PROTOCOL, ("ip -d link",)),
    # queues, programs, contents
    Row("FULL_RING", "", "the queue of {device} is full: whoever reads it is too slow", LINK),
    Row("CPU_BACKLOG", "", "the kernel's queue of received packets is full", ("sysctl net.core.netdev_max_backlog",)),
    Row("SOCKET_RCVBUFF", "", "the receiver's socket buffer is full", ("ss -um",)),
    Row("UDP_CSUM", "", WRONG_SUM, CHECKSUMS),
    Row("TCP_CSUM", "", WRONG_SUM, CHECKSUMS),
    Row("ICMP_CSUM", "", WRONG_SUM, CHECKSUMS),
    Row("IP_CSUM", "", WRONG_SUM, CHECKSUMS),
    Row("QDISC_DROP", "", "the queueing discipline of {device} dropped it", ("tc -s qdisc show dev {device}",)),
    Row("TC_INGRESS", "", BY_PROGRAM, ("tc filter show dev {device} ingress",)),
    Row("TC_EGRESS", "", BY_PROGRAM, ("tc filter show dev {device} egress",)),
    Row("XDP", "", "an XDP program on {device} dropped it", ("ip link show dev {device}",)),
    Row("IPV6DISABLED", "", "IPv6 is off on {device}", ("sysctl net.ipv6.conf.all.disable_ipv6",)),
    Row("TCP_", "", "the TCP of {member} refused it", ("nstat -az",)),
    # no reason: by place
    Row("NOT_SPECIFIED", "ip_error", "{refusal}", ROUTE),
    Row("NOT_SPECIFIED", "dst_discard", "{refusal}", ROUTE),
    Row("NOT_SPECIFIED", "ip6_pkt_", "{refusal}", ROUTE),
    Row("NOT_SPECIFIED", "neigh_", UNANSWERED, ("ip neigh",)),  # ndisc_error_report
    Row("NOT_SPECIFIED", "__dev_forward_skb", BEHIND, LINK),
    Row("NOT_SPECIFIED", "veth_xmit", BEHIND, LINK),
    Row(
        "NOT_SPECIFIED",
        "br_dev_queue_push_xmit",
        "it is larger than the MTU of the bridge port {device}: a bridge does not fragment",
        LINK,
    ),
    Row("NOT_SPECIFIED", "br_handle_frame_finish", NOT_BACK, ("bridge -d link", "bridge fdb show")),
    Row("NOT_SPECIFIED", "br_forward", NOT_BACK, ("bridge -d link", "bridge fdb show")),
    Row("NOT_SPECIFIED", "br_handle_frame", NOT_FORWARDING, ("bridge link show dev {device}",)),
    Row("NOT_SPECIFIED", "br_", NO_PORT, PORTS),
    Row("NOT_SPECIFIED", "vxlan_xmit", NO_FDB, FDB),
    Row("NOT_SPECIFIED", "vxlan_rcv", NO_VNI, TUNNELS),
    Row("NOT_SPECIFIED", "ip_rcv_finish_core", MARTIAN, ("ip address",)),
    Row("NOT_SPECIFIED", "ip6_forward", NO_FORWARDING, ("ip address", *FORWARDING)),
    Row("NOT_SPECIFIED", "tun_net_xmit", "nobody reads {device}, or too slowly", LINK),
    Row("NOT_SPECIFIED", "nf_", FILTERED, RULES),
    Row("NOT_SPECIFIED", "nft_", FILTERED, RULES),
    Row("", "", "the kernel dropped it in {place}, for a reason that it calls {reason}", ("nstat -az",)),
)

UNWRAPPED_BY_NOBODY = Row("", "", "{member} has no tunnel device that would unwrap it", ("ip -d link show",))
FLOODED = "it is for MAC {mac}, which is not that of {device}: {flooder} knew no port for it and sent it to all"
