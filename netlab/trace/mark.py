"""The table that has the kernel tell which rules a packet meets: netlink messages. Pure.

A chain in front of all others, at PREROUTING and at OUTPUT, looks for the cookie, or asks a filter by iptables' match
`bpf` (xt_bpf, which nf_tables can call too), and sets `nftrace` on the packet. From there on the kernel reports every
rule that it meets in this namespace, those of iptables' legacy tables too: both look at the same bit. No rule of
anybody's is changed. The table is owned by the socket that made it, so it goes when that is closed, in whatever way the
process ends (linux/netfilter/nf_tables.h, NFT_TABLE_F_OWNER, since Linux 5.12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from netlab.kernel.netlink import NLA_F_NESTED, NLM_F_CREATE, Message, attribute, attribute_text
from netlab.trace.headers import ICMP, ICMPV6, IPIP, IPV6, TCP, UDP

if TYPE_CHECKING:
    from netlab.bpf.classic import Instruction

NAME = "netlab_trace"
UNSPECIFIED, INET, SUBSYSTEM = 0, 1, 10  # AF_UNSPEC, NFPROTO_INET, NFNL_SUBSYS_NFTABLES
IPV4_AND_IPV6 = 2, 10  # NFPROTO_IPV4, NFPROTO_IPV6: for tables of both the kernel loads no modules of iptables
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NEW_TABLE, NEW_CHAIN, NEW_RULE = 0, 3, 6
OWNER = 2  # NFT_TABLE_F_OWNER
FIRST = -450  # in front of defragmentation (-400) and "raw" (-300)
CHAINS = {"prerouting": 0, "output": 3}  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
REGISTER, TRANSPORT = 1, 2  # NFT_REG_1, NFT_PAYLOAD_TRANSPORT_HEADER
META_NFTRACE, META_L4PROTO = 12, 16

PLAIN = {(UDP, 8), (ICMP, 8), (ICMPV6, 8), (TCP, 4), (TCP, 8)}  # protocol, where the cookie is in what follows IP
TUNNELS = {(UDP, 8 + 8 + 14), (UDP, 8), (IPIP, 0), (IPV6, 0)}  # VXLAN, flannel's UDP, IP in IP: where the inner IP is
HEADERS = {IPIP: (20,), IPV6: (40,)}  # bytes of the inner IP header; both where the carrier does not say it
# linux/netfilter/xt_bpf.h, struct xt_bpf_info: instructions of 8 bytes, and room for a pointer of the kernel's.
MOST_INSTRUCTIONS = 64
XT_BPF_INFO = struct.Struct(f"@H2x{MOST_INSTRUCTIONS * 8}s0Q8x")
ACKNOWLEDGED = 8  # in a TCP header: the other side answers with the number that follows the cookie


class Match(NamedTuple):
    """A protocol, and a number of 4 bytes that is expected so far behind the IP header."""

    protocol: int
    offset: int
    expected: bytes


def matches(cookie: bytes) -> Iterator[Match]:
    """Yield where the first 4 bytes of a cookie may be, in packets and in those that they carry."""

    def expected(protocol: int, offset: int) -> bytes:
        return following(cookie) if (protocol, offset) == (TCP, ACKNOWLEDGED) else cookie[:4]

    for protocol, offset in sorted(PLAIN):
        yield Match(protocol, offset, expected(protocol, offset))
    inner = sorted({(offset, expected(protocol, offset)) for protocol, offset in PLAIN})
    for carrier, start in sorted(TUNNELS):
        for header in HEADERS.get(carrier, (20, 40)):
            for offset, number_ in inner:
                yield Match(carrier, start + header + offset, number_)


def following(cookie: bytes) -> bytes:
    """Return the number after a cookie: what a TCP segment that answers acknowledges."""
    return ((int.from_bytes(cookie[:4], "big") + 1) & 0xFFFF_FFFF).to_bytes(4, "big")


def table(cookie: bytes) -> list[Message]:
    """Return the messages that make the table, in one transaction between BEGIN and END."""
    return _table(INET, [_has_cookie(match) for match in matches(cookie)])


def filter_table(instructions: Sequence[Instruction]) -> list[Message]:
    """Return the messages that make a table for each IP version, for a filter of packets that begin with that header.

    Raises ValueError for one that is too long.
    """
    if len(instructions) > MOST_INSTRUCTIONS:
        raise ValueError(f"it has {len(instructions)} instructions, and {MOST_INSTRUCTIONS} are the most")
    code = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    info = XT_BPF_INFO.pack(len(instructions), code)
    match = attribute_text(1, "bpf") + _number(2, 0) + attribute(3, info)
    return [message for family in IPV4_AND_IPV6 for message in _table(family, [_expression("match", match)])]


def _table(family: int, tests: Sequence[bytes]) -> list[Message]:
    found = [_message(family, NEW_TABLE, attribute_text(1, NAME) + _number(2, OWNER))]
    for chain, hook in CHAINS.items():
        place = attribute(4 | NLA_F_NESTED, _number(1, hook) + _number(2, FIRST))
        body = attribute_text(1, NAME) + attribute_text(3, chain) + place + attribute_text(7, "filter")
        found.append(_message(family, NEW_CHAIN, body))
        found += [_message(family, NEW_RULE, _rule(chain, test)) for test in tests]
    return found


def _rule(chain: str, test: bytes) -> bytes:
    """Set nftrace on what passes a test."""
    expressions = (
        test,
        _expression("immediate", _number(1, REGISTER) + attribute(2 | NLA_F_NESTED, attribute(1, b"\1"))),
        _expression("meta", _number(2, META_NFTRACE) + _number(3, REGISTER)),
    )
    return attribute_text(1, NAME) + attribute_text(2, chain) + attribute(4 | NLA_F_NESTED, b"".join(expressions))


def _has_cookie(match: Match) -> bytes:
    """Compare the protocol, compare the number."""
    expressions = (
        _expression("meta", _number(2, META_L4PROTO) + _number(1, REGISTER)),
        _compare(bytes([match.protocol])),
        _expression("payload", _number(1, REGISTER) + _number(2, TRANSPORT) + _number(3, match.offset) + _number(4, 4)),
        _compare(match.expected),
    )
    return b"".join(expressions)


def _compare(value: bytes) -> bytes:
    return _expression("cmp", _number(1, REGISTER) + _number(2, 0) + attribute(3 | NLA_F_NESTED, attribute(1, value)))


def _expression(name: str, content: bytes) -> bytes:
    return attribute(1 | NLA_F_NESTED, attribute_text(1, name) + attribute(2 | NLA_F_NESTED, content))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!i", value))


def _message(family: int, kind: int, body: bytes) -> Message:
    return Message(SUBSYSTEM << 8 | kind, NLM_F_CREATE, struct.pack("!BBH", family, 0, 0) + body)


def _batch(kind: int) -> Message:
    return Message(kind, 0, struct.pack("!BBH", UNSPECIFIED, 0, SUBSYSTEM))


BEGIN, END = _batch(BATCH_BEGIN), _batch(BATCH_END)
