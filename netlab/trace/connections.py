"""What connection tracking made of a packet: its NAT mapping, as the kernel tells it when it is made. Pure.

Source: linux/netfilter/nfnetlink_conntrack.h (CTA_*).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from netlab.kernel.netlink import attributes, nested
from netlab.topology.addresses import Address
from netlab.trace.headers import ICMP, ICMPV6, Headers, Icmp, Ip, Tcp, Udp, innermost, with_port

TUPLE_ORIG, TUPLE_REPLY, TUPLE_IP, TUPLE_PROTO = 1, 2, 1, 2
V4_SRC, V4_DST, V6_SRC, V6_DST = 1, 2, 3, 4
PROTO_NUMBER, PROTO_SRC_PORT, PROTO_DST_PORT, ICMP_ID, ICMPV6_ID = 1, 2, 3, 4, 7


@dataclass(frozen=True, slots=True)
class Ends:
    """Who sends to whom; both ports are the identifier of an echo."""

    src: Address
    sport: int
    dst: Address
    dport: int

    def __str__(self) -> str:
        return f"{with_port(self.src, self.sport)} > {with_port(self.dst, self.dport)}"


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection: what its first packet was, and what its answers are expected to be."""

    protocol: int
    original: Ends
    reply: Ends

    @property
    def is_translated(self) -> bool:
        """Whether answers are not simply the other way round."""
        turned = Ends(self.reply.dst, self.reply.dport, self.reply.src, self.reply.sport)
        return turned != self.original

    def begins(self, headers: Headers) -> bool:
        """Say whether a packet may be its first one, as it came in: its source port may not be known yet, and is 0."""
        inner = innermost(headers)
        ip, rest = (*inner, None, None)[:2]
        if not isinstance(ip, Ip) or ip.protocol != self.protocol or ip.dst != self.original.dst:
            return False
        return not isinstance(rest, (Tcp, Udp)) or rest.dport == self.original.dport

    def is_of(self, headers: Headers) -> bool:
        """Say whether a packet is this connection's, as it came in or as it went out."""
        inner = innermost(headers)
        ip = inner[0] if inner else None
        if not isinstance(ip, Ip) or ip.protocol != self.protocol:
            return False
        match inner[1] if len(inner) > 1 else None:
            case Tcp(sport=sport, dport=dport) | Udp(sport=sport, dport=dport):
                source, destination = (ip.src, sport), (ip.dst, dport)
            case Icmp(ident=ident):
                source, destination = (ip.src, ident), (ip.dst, ident)
            case _:
                return False
        sources = {(self.original.src, self.original.sport), (self.reply.dst, self.reply.dport)}
        destinations = {(self.original.dst, self.original.dport), (self.reply.src, self.reply.sport)}
        return source in sources and destination in destinations

    def __str__(self) -> str:
        return f"{self.original}, answers {self.reply}"


def read(body: bytes) -> Connection | None:
    """Take a message of conntrack's groups apart; `body` begins with its nfgenmsg. None for other protocols."""
    found = attributes(body, 4, len(body))
    original, reply = (_tuple(found.get(kind, b"")) for kind in (TUPLE_ORIG, TUPLE_REPLY))
    if original is None or reply is None:
        return None
    return Connection(original[0], original[1], reply[1])


def _tuple(payload: bytes) -> tuple[int, Ends] | None:
    parts = nested(payload)
    addresses, protocol = nested(parts.get(TUPLE_IP, b"")), nested(parts.get(TUPLE_PROTO, b""))
    src, dst = addresses.get(V4_SRC) or addresses.get(V6_SRC), addresses.get(V4_DST) or addresses.get(V6_DST)
    if not src or not dst or PROTO_NUMBER not in protocol:
        return None
    number = protocol[PROTO_NUMBER][0]
    if number in (ICMP, ICMPV6):
        echo = int.from_bytes(protocol.get(ICMP_ID if number == ICMP else ICMPV6_ID, b""), "big")
        return number, Ends(ip_address(src), echo, ip_address(dst), echo)
    sport, dport = (int.from_bytes(protocol.get(kind, b""), "big") for kind in (PROTO_SRC_PORT, PROTO_DST_PORT))
    return number, Ends(ip_address(src), sport, ip_address(dst), dport)
