"""The answerer's bytes, read back with dnspython: header, letters, sizes, EDNS, and whatever a stranger sends."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from dns.rcode import Rcode
from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.dns.answer import answer
from netlab.dns.records import Endpoint, Kind, Port, Service
from netlab.dns.zone import Zone
from netlab.service.model import Protocol

NOW = 1_700_000_000
HTTP = (Port("http", Protocol.TCP, 80),)
WEB = "web.default.svc.cluster.local."
MANY = "many.default.svc.cluster.local."
SERVICES = (
    Service("default", "web", cluster_ips=(ip_address("10.96.0.50"), ip_address("fd00::50")), ports=HTTP),
    Service("default", "out", Kind.EXTERNAL_NAME, external_name="example.com"),
    Service(
        "default",
        "many",
        Kind.HEADLESS,
        endpoints=tuple(Endpoint((ip_address(0x0AF40000 + n),), ports=HTTP) for n in range(200)),
    ),
)
ZONE = Zone.of(SERVICES, (), ["default"])


def zone() -> Zone:
    """Return a zone that has answered nothing yet."""
    return Zone.of(SERVICES, (), ["default"])


def query(name: str = WEB, kind: str = "A", **options: object) -> dns.message.Message:
    return dns.message.make_query(name, kind, **{"id": 4711, **options})  # type: ignore[arg-type]


def reply_to(asked: dns.message.Message | bytes, *, udp: bool = True, now: int = NOW) -> dns.message.Message:
    wire = asked if isinstance(asked, bytes) else asked.to_wire()
    reply = answer(wire, zone(), udp=udp, now=now)
    assert reply is not None
    return dns.message.from_wire(reply)


def lines(section: list[dns.rrset.RRset]) -> list[str]:
    return [line for rrset in section for line in rrset.to_text().splitlines()]


def test_an_answer() -> None:
    reply = reply_to(query())
    assert reply.id == 4711
    assert dns.flags.to_text(reply.flags) == "QR AA RD"
    assert reply.rcode() == Rcode.NOERROR
    assert lines(reply.question) == [f"{WEB} IN A"]
    assert lines(reply.answer) == [f"{WEB} 5 IN A 10.96.0.50"]
    assert not reply.authority
    assert not reply.additional
    assert reply.edns == -1


@pytest.mark.parametrize(
    ("name", "kind", "want"),
    [
        (WEB, "AAAA", [f"{WEB} 5 IN AAAA fd00::50"]),
        ("dns-version.cluster.local.", "TXT", ['dns-version.cluster.local. 28800 IN TXT "1.1.0"']),
        ("50.0.96.10.in-addr.arpa.", "PTR", [f"50.0.96.10.in-addr.arpa. 5 IN PTR {WEB}"]),
        ("out.default.svc.cluster.local.", "A", ["out.default.svc.cluster.local. 5 IN CNAME example.com."]),
        (f"_http._tcp.{WEB}", "SRV", [f"_http._tcp.{WEB} 5 IN SRV 0 50 80 {WEB}"]),
    ],
)
def test_each_type_on_the_wire(name: str, kind: str, want: list[str]) -> None:
    assert lines(reply_to(query(name, kind)).answer) == want


def test_srv_brings_addresses() -> None:
    reply = reply_to(query(f"_http._tcp.{WEB}", "SRV"))
    assert lines(reply.additional) == [f"{WEB} 5 IN A 10.96.0.50", f"{WEB} 5 IN AAAA fd00::50"]


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [("no.default.svc.cluster.local.", "A", Rcode.NXDOMAIN), (WEB, "MX", Rcode.NOERROR), (WEB, "SOA", Rcode.NOERROR)],
)
def test_a_negative_answer_carries_the_soa(name: str, kind: str, rcode: Rcode) -> None:
    reply = reply_to(query(name, kind))
    assert (reply.rcode(), reply.flags & dns.flags.AA, reply.answer) == (rcode, dns.flags.AA, [])
    soa = f"5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. {NOW} 7200 1800 86400 5"
    assert lines(reply.authority) == [f"cluster.local. {soa}"]


def test_the_soa_of_a_reverse_zone_is_its_own() -> None:
    (soa,) = lines(reply_to(query("1.2.0.192.in-addr.arpa.", "PTR")).authority)
    assert soa.startswith("in-addr.arpa. 5 IN SOA ns.dns.in-addr.arpa. hostmaster.in-addr.arpa. ")


def test_the_soa_itself_is_an_answer_at_the_apex() -> None:
    reply = reply_to(query("cluster.local.", "SOA"))
    assert [rrset.rdtype for rrset in reply.answer] == [dns.rdatatype.SOA]
    assert not reply.authority


@pytest.mark.parametrize(("ttl", "soa_ttl"), [(0, 0), (5, 5), (300, 300), (3600, 300)])
def test_the_soas_ttl_is_at_most_five_minutes(ttl: int, soa_ttl: int) -> None:
    wire = answer(query(WEB, "MX").to_wire(), Zone.of(SERVICES, (), ["default"], ttl=ttl), udp=True, now=NOW)
    (rrset,) = dns.message.from_wire(wire or b"").authority
    assert (rrset.ttl, rrset[0].minimum) == (soa_ttl, ttl)


def test_the_serial_is_the_time_also_for_a_question_asked_before() -> None:
    same = zone()
    wire = query(WEB, "MX").to_wire()
    replies = [dns.message.from_wire(answer(wire, same, udp=True, now=now) or b"") for now in (7, 7, 8, 2**32 + 9)]
    assert [reply.authority[0][0].serial for reply in replies] == [7, 7, 8, 9]


@pytest.mark.parametrize("name", ["cluster.local.", f"{'x' * 63}.{'y' * 63}.{'z' * 63}.{'w' * 47}.cluster.local."])
@pytest.mark.parametrize("edns", [False, 0])
def test_the_soa_has_a_place_beside_the_longest_name(name: str, edns: bool | int) -> None:
    (rrset,) = reply_to(query(name, "MX", use_edns=edns)).authority
    assert rrset.to_text().endswith(f" {NOW} 7200 1800 86400 5")


def test_a_question_asked_before_gets_its_own_id_and_size() -> None:
    same = zone()
    first = answer(query(MANY, id=1).to_wire(), same, udp=True, now=NOW) or b""
    second = answer(query(MANY, id=2).to_wire(), same, udp=True, now=NOW) or b""
    stream = answer(query(MANY, id=3).to_wire(), same, udp=False, now=NOW) or b""
    assert (first[:2], second[:2], stream[:2]) == (b"\0\1", b"\0\2", b"\0\3")
    assert first[2:] == second[2:]
    assert len(first) <= 512 < len(stream)


def test_what_is_kept_is_bounded() -> None:
    same = zone()
    for number in range(5000):
        answer(query(f"n{number}.cluster.local.").to_wire(), same, udp=True, now=NOW)
    answer(query(MANY, "SRV").to_wire(), same, udp=False, now=NOW)
    assert len(same.replies) <= 4096
    assert max(len(kept.head) + len(kept.tail) for kept in same.replies.values()) <= 4096


@pytest.mark.parametrize(("flags", "want"), [(0, "QR AA"), ("RD", "QR AA RD"), ("RD AD CD", "QR AA RD CD")])
def test_rd_and_cd_are_repeated(flags: str | int, want: str) -> None:
    asked = query()
    asked.flags = dns.flags.from_text(flags) if isinstance(flags, str) else dns.flags.Flag(flags)
    assert dns.flags.to_text(reply_to(asked).flags) == want


@pytest.mark.parametrize("kind", ["A", "SRV", "MX"])
def test_the_letters_of_the_question_stay(kind: str) -> None:
    name = "wEb.DeFault.svc.Cluster.LOCAL."
    reply = reply_to(query(name, kind))
    assert reply.question[0].name.to_text() == name
    for rrset in reply.answer:
        assert rrset.name.to_text() == name
    for rrset in reply.authority:
        assert rrset.name.to_text() == "Cluster.LOCAL."
        assert rrset[0].mname.to_text() == "ns.dns.Cluster.LOCAL."


def test_a_targets_zone_has_the_letters_of_the_question() -> None:
    reply = reply_to(query("_HTTP._tcp.MANY.default.svc.CLUSTER.local.", "SRV"), udp=False)
    assert reply.answer[0][0].target.to_text() == "10-244-0-0.many.default.svc.CLUSTER.local."


def with_class(rdclass: str) -> dns.message.Message:
    return dns.message.make_query(WEB, "A", rdclass)


@pytest.mark.parametrize(
    "asked",
    [query("example.com."), query("."), query(WEB, "AXFR"), query(WEB, "IXFR"), with_class("CH"), with_class("ANY")],
    ids=["outside", "root", "AXFR", "IXFR", "CHAOS", "ANY"],
)
def test_refused(asked: dns.message.Message) -> None:
    reply = reply_to(asked)
    assert reply.rcode() == Rcode.REFUSED
    assert not reply.flags & dns.flags.AA
    assert not reply.answer + reply.authority + reply.additional
    assert lines(reply.question) == lines(asked.question)


@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    asked = query().to_wire()
    reply = answer(asked[:2] + bytes([opcode << 3 | 1]) + asked[3:], ZONE, udp=True, now=NOW)
    assert reply == asked[:2] + bytes([0x80 | opcode << 3 | 1, Rcode.NOTIMP]) + bytes(8)


QUERY = query().to_wire()
OPT_WIRE = bytes([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0])


def counted(wire: bytes, *counts: int) -> bytes:
    return wire[:4] + b"".join(count.to_bytes(2, "big") for count in counts) + wire[12:]


MALFORMED = {
    "a header alone": QUERY[:12],
    "no question": counted(QUERY[:12], 0, 0, 0, 0),
    "two questions": counted(QUERY + QUERY[12:], 2, 0, 0, 0),
    "a question cut": QUERY[:-1],
    "a name cut": QUERY[:20],
    "bytes after the end": QUERY + b"\0",
    "a pointer to itself": QUERY[:12] + b"\xc0\x0c\0\1\0\1",
    "a pointer ahead": QUERY[:12] + b"\xc0\x20\0\1\0\1",
    "a label type that is none": QUERY[:12] + b"\x80\0\0\1\0\1",
    "a name too long": QUERY[:12] + (b"\x3f" + b"x" * 63) * 4 + b"\0\0\1\0\1",
    "a record missing": counted(QUERY, 1, 0, 0, 1),
    "two OPT records": counted(QUERY + OPT_WIRE * 2, 1, 0, 0, 2),
    "an OPT record as an answer": counted(QUERY + OPT_WIRE, 1, 1, 0, 0),
    "an OPT record with a name": counted(QUERY + b"\1x" + OPT_WIRE, 1, 0, 0, 1),
    "an OPT record cut": counted(QUERY + OPT_WIRE[:-1], 1, 0, 0, 1),
    "an option cut": counted(QUERY + OPT_WIRE[:-1] + b"\3\0\x0a\0", 1, 0, 0, 1),
    "an option too long": counted(QUERY + OPT_WIRE[:-1] + b"\4\0\x0a\0\1", 1, 0, 0, 1),
}


@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED)
def test_malformed(wire: bytes) -> None:
    reply = answer(wire, ZONE, udp=True, now=NOW)
    assert reply is not None
    assert len(reply) == 12
    message = dns.message.from_wire(reply)
    assert (message.id, message.rcode()) == (4711, Rcode.FORMERR)
    assert message.flags & dns.flags.QR


@pytest.mark.parametrize(
    "wire", [b"", b"x", QUERY[:11], reply_to(query()).to_wire()], ids=["nothing", "a byte", "half a header", "a reply"]
)
def test_no_reply(wire: bytes) -> None:
    assert answer(wire, ZONE, udp=True, now=NOW) is None


def test_edns_is_answered_with_edns() -> None:
    reply = reply_to(query(use_edns=0, want_dnssec=True, options=[dns.edns.NSIDOption(b"")]))
    assert (reply.edns, reply.payload, reply.ednsflags & dns.flags.DO) == (0, 1232, dns.flags.DO)
    assert not reply.options
    assert not reply_to(query(use_edns=0)).ednsflags & dns.flags.DO
    assert reply_to(query("example.com.", use_edns=0)).edns == 0


def test_an_unknown_edns_version_is_badvers() -> None:
    reply = reply_to(query(use_edns=1))
    assert (reply.rcode(), reply.edns, reply.answer) == (Rcode.BADVERS, 0, [])


@pytest.mark.parametrize("kind", ["A", "SRV"])
@pytest.mark.parametrize("payload", [None, 0, 511, 512, 1232, 4096, 65535])
def test_udp_keeps_to_the_size_and_says_what_is_missing(kind: str, payload: int | None) -> None:
    edns = {} if payload is None else {"use_edns": 0, "payload": payload}
    wire = answer(query(MANY, kind, **edns).to_wire(), zone(), udp=True, now=NOW) or b""
    reply = dns.message.from_wire(wire)
    limit = max(512, payload or 0)
    whole = 12 + len(MANY) + 1 + 4 + 200 * 16 + 11 if kind == "A" else 200 * 150
    assert len(wire) <= limit
    assert bool(reply.flags & dns.flags.TC) is (limit < whole)
    assert (reply.edns == 0) is (payload is not None)
    if reply.flags & dns.flags.TC:
        assert len(wire) > limit - (100 if kind == "SRV" else 27)  # as many as there is place for
    else:
        assert len(reply.answer[0]) == 200


def test_tcp_has_all_of_it() -> None:
    reply = reply_to(query(MANY), udp=False)
    assert not reply.flags & dns.flags.TC
    assert [record.address for record in reply.answer[0]] == [str(ip_address(0x0AF40000 + n)) for n in range(200)]


def test_addresses_that_have_no_place_beside_srv_are_said_to_be_missing() -> None:
    """RFC 2181, 9, would not ask for TC here; CoreDNS sets it for any record left out."""
    services = [
        Service("a", "b", Kind.HEADLESS, endpoints=tuple(Endpoint((ip_address(n + 1),), ports=HTTP) for n in range(7)))
    ]
    wire = answer(
        query("_http._tcp.b.a.svc.cluster.local.", "SRV").to_wire(), Zone.of(services, (), "a"), udp=True, now=1
    )
    reply = dns.message.from_wire(wire or b"")
    assert reply.flags & dns.flags.TC
    assert len(reply.answer[0]) == 7
    assert 0 < len(reply.additional) < 7


# strangers


def check(wire: bytes) -> None:
    for udp in (True, False):
        reply = answer(wire, ZONE, udp=udp, now=NOW)
        if len(wire) < 12 or wire[2] & 0x80:
            assert reply is None
            continue
        assert reply is not None
        message = dns.message.from_wire(reply)  # what goes out can be read
        assert reply[:2] == wire[:2]
        assert message.flags & dns.flags.QR
        assert answer(reply, ZONE, udp=udp, now=NOW) is None
        assert not udp or len(reply) <= 65507


SEEDS = [
    QUERY,
    query(use_edns=0, options=[dns.edns.NSIDOption(b"abc")]).to_wire(),
    query(MANY, "SRV", use_edns=0, payload=4096).to_wire(),
    query("no.default.svc.cluster.local.", "PTR").to_wire(),
    query("f.0.ip6.arpa.", "PTR").to_wire(),
    query("10-0-0-1.default.pod.cluster.local.", "AAAA").to_wire(),
    reply_to(query(WEB, "SRV")).to_wire(),
]


@given(st.binary(max_size=80))
def test_random_bytes(wire: bytes) -> None:
    check(wire)


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 3))
def test_random_bytes_under_a_good_header(rest: bytes, questions: int, others: int) -> None:
    check(counted(QUERY[:12], questions, 0, 0, others) + rest)


@settings(max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.integers(0, 120) | st.none(),
    st.binary(max_size=8),
)
def test_mutated_queries(seed: bytes, changes: list[tuple[int, int]], cut: int | None, tail: bytes) -> None:
    wire = bytearray(seed)
    for place, value in changes:
        wire[place % len(wire)] = value
    check(bytes(wire[:cut]) + tail)


@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=4),
    st.sampled_from(["svc.cluster.local.", "default.svc.cluster.local.", "default.pod.cluster.local.", "ip6.arpa."]),
    st.integers(0, 65535),
)
def test_any_labels_and_type(labels: list[bytes], under: str, kind: int) -> None:
    name = dns.name.Name([*labels, *dns.name.from_text(under).labels])
    check(QUERY[:12] + name.to_wire() + kind.to_bytes(2, "big") + b"\0\1")  # type: ignore[operator]


def addresses_in(reply: dns.message.Message) -> list[str]:
    return [record.address for rrset in reply.answer for record in rrset]  # type: ignore[attr-defined]


def test_addresses_come_in_a_new_order_each_time() -> None:
    same, order, wire = zone(), Random(1), query(MANY, payload=4096).to_wire()
    replies = [dns.message.from_wire(answer(wire, same, udp=True, now=NOW, order=order) or b"") for _ in range(3)]
    found = [addresses_in(reply) for reply in replies]
    assert len({tuple(addresses) for addresses in found}) == 3
    assert {frozenset(addresses) for addresses in found} == {
        frozenset(addresses_in(reply_to(query(MANY, payload=4096))))
    }
    assert all(len(addresses) == 200 and reply.edns == 0 for addresses, reply in zip(found, replies, strict=True))


def test_a_truncated_answer_has_other_addresses_each_time() -> None:
    same, order, seen = zone(), Random(1), set()
    for _ in range(200):
        wire = answer(query(MANY).to_wire(), same, udp=True, now=NOW, order=order) or b""
        reply = dns.message.from_wire(wire)
        assert reply.flags & dns.flags.TC
        assert len(wire) <= 512
        assert len(set(addresses_in(reply))) == len(addresses_in(reply)) == 29
        seen |= set(addresses_in(reply))
    assert len(seen) == 200  # each has its chance


@given(st.data())
def test_an_order_changes_nothing_else(data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from([WEB, MANY, "out.default.svc.cluster.local.", "cluster.local.", "no.cluster.local."])
    )
    kind = data.draw(st.sampled_from(["A", "AAAA", "SRV", "NS", "MX", "SOA"]))
    udp, edns = data.draw(st.booleans()), data.draw(st.sampled_from([-1, 0]))
    wire = query(name, kind, use_edns=edns).to_wire()
    plain, mixed = (answer(wire, zone(), udp=udp, now=NOW, order=order) or b"" for order in (None, Random(2)))
    assert len(plain) == len(mixed)
    if not plain[2] & 2:  # TC
        assert dns.message.from_wire(plain) == dns.message.from_wire(mixed)


def test_the_name_server_is_the_service_in_front() -> None:
    server = Service("kube-system", "kube-dns", cluster_ips=(ip_address("10.96.0.10"), ip_address("fd00::10")))
    own = Zone.of((server,), (), ["kube-system"])

    def ask(name: str, kind: str) -> dns.message.Message:
        return dns.message.from_wire(answer(query(name, kind).to_wire(), own, udp=True, now=NOW) or b"")

    reply = ask("cluster.local.", "NS")
    assert lines(reply.answer) == ["cluster.local. 5 IN NS kube-dns.kube-system.svc.cluster.local."]
    assert lines(reply.additional) == [
        "kube-dns.kube-system.svc.cluster.local. 5 IN A 10.96.0.10",
        "kube-dns.kube-system.svc.cluster.local. 5 IN AAAA fd00::10",
    ]
    assert lines(ask("ns.dns.cluster.local.", "A").answer) == ["ns.dns.cluster.local. 5 IN A 10.96.0.10"]
    assert lines(ask("in-addr.arpa.", "NS").answer) == ["in-addr.arpa. 5 IN NS kube-dns.kube-system.svc.in-addr.arpa."]
    assert ask("svc.cluster.local.", "NS").answer == []
    assert ask("cluster.local.", "A").answer == []
