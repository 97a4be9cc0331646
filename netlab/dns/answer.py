"""The DNS answerer without its sockets: the bytes of a query become the bytes of the reply. Pure.

dnspython reads and writes the wire format (RFC 1035; EDNS is RFC 6891); zone.py knows what there is to answer. The
header is CoreDNS's: AA set, RA not, RD and CD as asked. A lab has no upstream, and other names are REFUSED, as
by a CoreDNS that does not serve their zone. Several addresses come in a new order each time (its plugin loadbalance).
"""

# mypy: disable-error-code="no-untyped-call"
# (dnspython 2.9 says that it is typed, but its records and its renderer are not.)

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.renderer
import dns.rrset
import dns.wire
from dns.rcode import Rcode
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.OPT import OPT
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from netlab.dns.names import Name
from netlab.dns.records import Found, Outcome, Record, Srv, Type
from netlab.dns.zone import Zone

QR, AA, TC, RD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0010  # header flags
OPCODE = 0x7800
DO = 0x8000  # of the OPT record's flags
PAYLOAD = 1232  # bytes that this side takes by UDP: no fragments at IPv6's smallest MTU
SMALLEST, LARGEST_UDP, LARGEST_TCP = 512, 65507, 65535  # bytes
OPT_SIZE = 11
HEADER = 12  # bytes
SMALLEST_RECORD = 12  # bytes: a pointer to its name, and 10 of header
ADDRESS_SIZES = {Type.A: 4, Type.AAAA: 16}  # bytes
REPLIES_KEPT, REPLY_KEPT, QUERY_KEPT = 4096, 4096, 512  # how many, and how large
SOA_NUMBERS = 20  # bytes: the serial and the four times, at the record's end
OPCODE_QUERY = 0
SOA_TTL, REFRESH, RETRY, EXPIRE = 300, 7200, 1800, 86400  # seconds; the TTL is at most that
IN = dns.rdataclass.IN
TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)
QUESTION, ANSWER, AUTHORITY, ADDITIONAL = range(4)


@dataclass(frozen=True, slots=True)
class _Edns:
    version: int
    payload: int
    dnssec_ok: bool


@dataclass(frozen=True, slots=True)
class _Query:
    id: int
    flags: int  # those that a reply repeats
    name: dns.name.Name
    labels: Name  # the same as zone.py has it; bytes outside ASCII become letters that no record has
    kind: int
    rdclass: int
    edns: _Edns | None

    def limit(self, *, udp: bool) -> int:
        """Return how many bytes the reply may have."""
        if not udp:
            return LARGEST_TCP
        return min(max(self.edns.payload, SMALLEST), LARGEST_UDP) if self.edns else SMALLEST


class _Kept(NamedTuple):
    """A reply without its id that holds at any time: `head`, then what is new each time, then `tail`.

    That is the SOA's serial where it is dated, or as many of the addresses as there is room for.
    """

    head: bytes
    dated: bool = False
    addresses: tuple[Record, ...] = ()
    room: int = 0
    before: bytes = b""  # each address
    tail: bytes = b""


def answer(query: bytes, zone: Zone, *, udp: bool, now: int, order: Random | None = None) -> bytes | None:
    """Return the reply to a query, None for bytes that get none; `now` in seconds (Unix) is the SOA's serial.

    Never raises: what cannot be read is answered with FORMERR. A reply by UDP keeps to the size that the query allows.
    Without `order` several addresses stay in the zone's order.
    """
    if len(query) < HEADER or query[2] & QR >> 8:
        return None
    key = (query[2:], udp)
    kept: _Kept | None = zone.replies.get(key)
    if kept is None:
        kept = _reply(query, zone, udp=udp)
        if len(query) <= QUERY_KEPT and len(kept.head) + len(kept.tail) <= REPLY_KEPT:
            if len(zone.replies) >= REPLIES_KEPT:
                zone.replies.clear()
            zone.replies[key] = kept
    if not kept.tail and not kept.addresses:
        return query[:2] + kept.head
    if kept.dated:
        return query[:2] + kept.head + (now & 0xFFFFFFFF).to_bytes(4, "big") + kept.tail
    chosen = order.sample(kept.addresses, kept.room) if order else kept.addresses[: kept.room]
    return query[:2] + kept.head + b"".join(kept.before + _packed(record) for record in chosen) + kept.tail


def _packed(record: Record) -> bytes:
    assert isinstance(record.value, (IPv4Address, IPv6Address))
    return record.value.packed


def _reply(query: bytes, zone: Zone, *, udp: bool) -> _Kept:
    if query[2] & OPCODE >> 8 != OPCODE_QUERY:
        return _Kept(_header_only(query, Rcode.NOTIMP)[2:])
    try:
        asked = _read(query)
    except dns.exception.DNSException:
        return _Kept(_header_only(query, Rcode.FORMERR)[2:])
    if asked.edns and asked.edns.version != 0:
        return _Kept(_write(asked, Rcode.BADVERS, limit=SMALLEST)[2:])
    if asked.rdclass != IN or asked.kind in TRANSFERS:
        return _Kept(_write(asked, Rcode.REFUSED, limit=SMALLEST)[2:])
    found = zone.look_up(asked.labels, asked.kind)
    if found.outcome is Outcome.OUTSIDE:
        return _Kept(_write(asked, Rcode.REFUSED, limit=SMALLEST)[2:])
    if found.outcome is Outcome.ANSWER:
        return _positive(asked, found, limit=asked.limit(udp=udp))
    return _negative(asked, found, zone, limit=asked.limit(udp=udp))


def _read(query: bytes) -> _Query:
    """Read a query; raise DNSException for one that is malformed or has not just one question."""
    parser = dns.wire.Parser(query)
    number, flags, *counts = parser.get_struct("!HHHHHH")
    if counts[QUESTION] != 1:
        raise dns.exception.FormError
    name = parser.get_name()
    kind, rdclass = parser.get_struct("!HH")
    edns = None
    for section in (ANSWER, AUTHORITY, ADDITIONAL):
        for _ in range(counts[section]):
            owner = parser.get_name()
            record_type, record_class, ttl, size = parser.get_struct("!HHIH")
            with parser.restrict_to(size):
                if record_type != dns.rdatatype.OPT:
                    parser.get_remaining()
                    continue
                if edns or section != ADDITIONAL or owner != dns.name.root:
                    raise dns.exception.FormError
                _skip_options(parser)
                edns = _Edns(version=ttl >> 16 & 0xFF, payload=record_class, dnssec_ok=bool(ttl & DO))
    if parser.remaining():
        raise dns.exception.FormError
    labels = tuple(label.lower().decode("latin-1") for label in name.labels[:-1])
    return _Query(number, flags & (RD | CD), name, labels, kind, rdclass, edns)


def _skip_options(parser: dns.wire.Parser) -> None:
    while parser.remaining():
        _, size = parser.get_struct("!HH")
        parser.get_bytes(size)


def _header_only(query: bytes, rcode: Rcode) -> bytes:
    flags = int.from_bytes(query[2:4], "big") & (OPCODE | RD | CD) | QR | rcode
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


def _positive(asked: _Query, found: Found, *, limit: int) -> _Kept:
    """Return the reply with what the zone has. Addresses are the last of the answers, each as long as the others."""
    reply = _write(asked, Rcode.NOERROR, limit=limit, found=found)
    addresses = tuple(record for record in found.answers if record.type in ADDRESS_SIZES)
    others = len(found.answers) - len(addresses)  # CNAMEs that lead there
    room = int.from_bytes(reply[6:8], "big") - others
    if len(addresses) < 2 or room < 1:
        return _Kept(reply[2:])
    end = len(reply) - (OPT_SIZE if asked.edns else 0)
    start = end - room * (SMALLEST_RECORD + ADDRESS_SIZES[addresses[0].type])
    before = reply[start : start + SMALLEST_RECORD]
    return _Kept(reply[2:start], addresses=addresses, room=room, before=before, tail=reply[end:])


def _negative(asked: _Query, found: Found, zone: Zone, *, limit: int) -> _Kept:
    """Return the reply with an SOA, whose serial is filled in later."""
    origin = found.origin
    owner = _zoned(origin, asked, origin)
    rdata = SOA(
        IN,
        dns.rdatatype.SOA,
        _zoned(("ns", "dns", *origin), asked, origin),
        _zoned(("hostmaster", *origin), asked, origin),
        0,
        REFRESH,
        RETRY,
        EXPIRE,
        zone.ttl,
    )
    soa = owner, dns.rdataset.from_rdata(min(zone.ttl, SOA_TTL), rdata)
    rcode = Rcode.NXDOMAIN if found.outcome is Outcome.NXDOMAIN else Rcode.NOERROR
    section = ANSWER if asked.kind == Type.SOA and asked.labels == origin else AUTHORITY  # at the apex
    reply = _write(asked, rcode, limit=limit, found=found, soa=(section, *soa))
    serial_at = len(reply) - (OPT_SIZE if asked.edns else 0) - SOA_NUMBERS
    return _Kept(reply[2:serial_at], dated=True, tail=reply[serial_at + 4 :])


def _write(
    asked: _Query,
    rcode: Rcode,
    *,
    limit: int,
    found: Found | None = None,
    soa: tuple[int, dns.name.Name, dns.rdataset.Rdataset] | None = None,
) -> bytes:
    """Write a reply with as many records as the limit in bytes allows, and TC where one is left out."""
    flags = QR | asked.flags | rcode & 0xF | (AA if found else 0)
    renderer = dns.renderer.Renderer(asked.id, flags, limit)
    if asked.edns:
        renderer.reserve(OPT_SIZE)
    renderer.add_question(
        asked.name, dns.rdatatype.RdataType.make(asked.kind), dns.rdataclass.RdataClass.make(asked.rdclass)
    )
    try:
        if found:
            _add(renderer, ANSWER, found.answers[: limit // SMALLEST_RECORD], asked, found.origin)
        if soa:
            renderer.add_rdataset(*soa, want_shuffle=False)
        if found:
            _add(renderer, ADDITIONAL, found.additional[: limit // SMALLEST_RECORD], asked, found.origin)
    except dns.exception.TooBig:
        renderer.flags |= TC
    if asked.edns:
        renderer.release_reserved()
        renderer.add_opt(_opt(rcode >> 4, asked.edns.dnssec_ok))
    renderer.write_header()
    return bytes(renderer.get_wire())


def _add(renderer: dns.renderer.Renderer, section: int, records: Iterable[Record], asked: _Query, origin: Name) -> None:
    """Write records one by one; raise TooBig at the first that has no place."""
    for record in records:
        rdataset = dns.rdataset.from_rdata(record.ttl, _rdata(record, asked, origin))
        if section == ADDITIONAL:
            owner = _zoned(record.name, asked, origin)
        else:  # another name than the question's is where a CNAME leads
            owner = asked.name if record.name == asked.labels else _written(record.name)
        renderer.add_rdataset(section, owner, rdataset, want_shuffle=False)


def _rdata(record: Record, asked: _Query, origin: Name) -> dns.rdata.Rdata:
    match record.type, record.value:
        case Type.A, address:
            return A(IN, dns.rdatatype.A, str(address))
        case Type.AAAA, address:
            return AAAA(IN, dns.rdatatype.AAAA, str(address))
        case _, Srv(priority, weight, port, target):
            return SRV(IN, dns.rdatatype.SRV, priority, weight, port, _zoned(target, asked, origin))
        case Type.NS, tuple(target):
            return NS(IN, dns.rdatatype.NS, _zoned(target, asked, origin))
        case Type.CNAME, tuple(target):
            return CNAME(IN, dns.rdatatype.CNAME, _written(target))
        case Type.PTR, tuple(target):
            return PTR(IN, dns.rdatatype.PTR, _written(target))
        case _, text:
            return TXT(IN, dns.rdatatype.TXT, [str(text).encode()])


def _zoned(labels: Name, asked: _Query, origin: Name) -> dns.name.Name:
    """Return a name below a zone, its zone part in the letters of the question (CoreDNS, plugin/kubernetes)."""
    own = [label.encode() for label in labels[: -len(origin)]]
    return dns.name.Name([*own, *asked.name.labels[-len(origin) - 1 :]])


def _written(labels: Name) -> dns.name.Name:
    return dns.name.Name([*(label.encode() for label in labels), b""])


@lru_cache(maxsize=8)
def _opt(extended_rcode: int, dnssec_ok: bool) -> dns.rrset.RRset:
    flags = extended_rcode << 24 | (DO if dnssec_ok else 0)
    return dns.rrset.from_rdata(dns.name.root, flags, OPT(PAYLOAD, dns.rdatatype.OPT, ()))
