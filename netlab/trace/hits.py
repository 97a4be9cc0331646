"""Which rules a packet met: the kernel's reports as values, and where each belongs on its way. Pure.

Two kinds of reports, for rules of nftables (and so of iptables-nft) and of iptables' legacy tables. Both carry the IP
header that the packet had then. Sources: linux/netfilter/nf_tables.h (NFTA_TRACE_*), nfnetlink_log.h (NFULA_*),
net/ipv4/netfilter/ip_tables.c (trace_packet).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from netlab.kernel.netlink import attributes, nested
from netlab.trace.mark import NAME as MARK_TABLE

TABLE, CHAIN, HANDLE, TYPE, VERDICT, NETWORK_HEADER, IIF, OIF, FAMILY, POLICY = 1, 2, 3, 4, 5, 8, 10, 12, 15, 16
KINDS = {1: "policy", 2: "return", 3: "rule"}  # enum nft_trace_types
VERDICTS = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", 0xFFFFFFFF: "continue", 0xFFFFFFFD: "jump"}
VERDICTS |= {0xFFFFFFFC: "goto", 0xFFFFFFFB: "return", 0xFFFFFFFE: "break"}
FAMILIES = {1: "inet", 2: "ip", 7: "bridge", 10: "ip6"}
PACKET_HEADER, LOG_IIF, LOG_OIF, PAYLOAD, PREFIX = 1, 4, 5, 9, 10
LEGACY = re.compile(r"TRACE: (?P<table>[^:]+):(?P<chain>.+):(?P<kind>rule|return|policy):(?P<number>\d+)")


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule, or the end of a chain, that a packet met.

    A rule is named by its `handle` in nftables, by its `number` from 1 on in a legacy chain; the other is 0. `ident`
    and `protocol` are those of the packet's IP header, as far as they were reported.
    """

    family: str
    table: str
    chain: str
    kind: str
    handle: int = 0
    number: int = 0
    verdict: str = ""
    target: str = ""  # the chain that it goes to
    iif: int = 0
    oif: int = 0
    ident: int = 0
    protocol: int = 0
    src: bytes = b""

    @property
    def is_end(self) -> bool:
        """Whether it is the end of a chain in which no rule decided."""
        return self.kind == "return" or (self.kind == "rule" and not self.handle and not self.number)

    @property
    def place(self) -> tuple[str, str, str]:
        """Return family, table and chain."""
        return self.family, self.table, self.chain


def read_nftables(body: bytes) -> Hit:
    """Take a message of group NFNLGRP_NFTRACE apart; `body` begins with its nfgenmsg.

    A rule that returns is a rule here; older kernels report it as if its chain had ended (seen in Linux 6.1).
    """
    found = attributes(body, 4, len(body))
    handle = int.from_bytes(found.get(HANDLE, b""), "big")
    kind = KINDS.get(_number(found[TYPE]) if TYPE in found else 0, "")
    verdict = nested(found.get(VERDICT, b""))
    code = _number(verdict.get(1, b"\0\0\0\0")) if verdict else _number(found.get(POLICY, b"\0\0\0\1"))
    header = found.get(NETWORK_HEADER, b"")
    return Hit(
        FAMILIES.get(body[0], str(body[0])),
        _text(found.get(TABLE, b"")),
        _text(found.get(CHAIN, b"")),
        "rule" if handle else kind,
        handle,
        0,
        VERDICTS.get(code, str(code)),
        _text(verdict.get(2, b"")),
        _number(found.get(IIF, b"")),
        _number(found.get(OIF, b"")),
        *_identity(header),
    )


def read_legacy(body: bytes) -> Hit | None:
    """Take a message of nfnetlink_log apart; None when it is not one of a trace."""
    found = attributes(body, 4, len(body))
    match = LEGACY.match(_text(found.get(PREFIX, b"")))
    if match is None:
        return None
    ident, protocol, src = _identity(found.get(PAYLOAD, b""))
    return Hit(
        FAMILIES.get(body[0], str(body[0])),
        match["table"],
        match["chain"],
        match["kind"],
        number=int(match["number"]),
        iif=_number(found.get(LOG_IIF, b"")),
        oif=_number(found.get(LOG_OIF, b"")),
        ident=ident,
        protocol=protocol,
        src=src,
    )


def _identity(header: bytes) -> tuple[int, int, bytes]:
    """Return identification, protocol and source of an IP header."""
    if len(header) >= 20 and header[0] >> 4 == 4:
        return struct.unpack_from("!H", header, 4)[0], header[9], header[12:16]
    if len(header) >= 40 and header[0] >> 4 == 6:
        return 0, header[6], header[8:24]
    return 0, 0, b""


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class Section:
    """The rules that a packet met at one hook in one table; `first` has its devices and identity."""

    namespace: str
    first: Hit
    hits: tuple[Hit, ...]


def sections(namespace: str, hits: Iterable[Hit]) -> list[Section]:
    """Cut a namespace's reports, in their order, where another hook or table begins: there the header is said again."""
    found: list[list[Hit]] = []
    for hit in hits:
        if hit.table == MARK_TABLE:
            continue
        begins = bool(hit.iif or hit.oif or hit.src)
        is_legacy_sequel = found and hit.number and _same_legacy_section(found[-1][-1], hit)
        if not found or (begins and not is_legacy_sequel):
            found.append([])
        found[-1].append(hit)
    return [Section(namespace, one[0], tuple(significant(one))) for one in found]


def _same_legacy_section(before: Hit, hit: Hit) -> bool:
    """Say whether two reports about legacy tables, each of which has the header, are of one hook."""
    same = ("table", "iif", "oif", "ident", "protocol", "src")
    return before.kind != "policy" and all(getattr(before, name) == getattr(hit, name) for name in same)


def significant(hits: Sequence[Hit]) -> list[Hit]:
    """Leave out what decided nothing: chains that a packet only went through, ends of chains, policies that accept."""
    kept: list[Hit] = []
    for hit in hits:
        if hit.is_end:
            if kept and _went_to(kept[-1], hit.chain):
                kept.pop()
        elif hit.kind == "rule" or hit.verdict != "accept":
            kept.append(hit)
    return kept


def _went_to(hit: Hit, chain: str) -> bool:
    """Say whether a rule was what led to the chain that ends next: legacy reports do not name it."""
    return hit.chain != chain if hit.number else hit.target == chain
