"""The kernel's reports about rules: recorded netlink messages, and what of them decided something."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.kernel.netlink import NLA_F_NESTED, attribute, attribute_text
from netlab.trace.hits import Hit, read_legacy, read_nftables, sections, significant
from netlab.trace.mark import NAME as MARK_TABLE
from tests.unit.recorded_traces import load

NFGENMSG = struct.pack("!BBH", 2, 0, 0)
SERVICES = "nl-services.n1"
VXLAN2 = "nl-vxlan.n2"


def short(hit: Hit) -> str:
    """Return a hit in words: chain, rule and what came of it."""
    return f"{hit.chain} {hit.handle or hit.number} {hit.verdict} {hit.target}".strip()


def told(hits: list[Hit]) -> list[tuple[str, list[str]]]:
    found = sections("n1", hits)
    return [(f"{one.first.table} {one.first.iif}>{one.first.oif}", [short(hit) for hit in one.hits]) for one in found]


# --- recorded --------------------------------------------------------------------------------------------------------


def test_a_service_in_iptables_nft() -> None:
    found = told(load("cluster-ip").hits("nftables", SERVICES))
    name, chains = found[0]
    assert name == "nat 100>0"
    assert [line.split()[0][:8] for line in chains] == ["PREROUTI", "KUBE-SER", "KUBE-SVC", "KUBE-SEP"]
    assert chains[0] == "PREROUTING 88 jump KUBE-SERVICES"
    assert chains[-1].endswith("83 accept")
    # Nine chains that it only went through are left out of this one.
    assert found[1] == ("filter 100>105", ["FORWARD 5 jump FLANNEL-FWD", "FLANNEL-FWD 2 accept"])
    assert [name for name, _ in found[2:4]] == ["nat 100>105", "nat 0>101"]


def test_a_service_in_nftables() -> None:
    found = told(load("nftables").hits("nftables", SERVICES))
    assert found[0] == ("kube-proxy 100>0", [])  # nothing there decided
    name, chains = found[1]
    assert name == "kube-proxy 100>0"
    assert chains[:2] == ["nat-prerouting 49 jump services", chains[1]]
    assert " goto service-" in chains[1]
    assert chains[-1].endswith("10.244.1.2/8080 86 accept")


def test_reports_carry_the_packets_identity_where_a_hook_begins() -> None:
    for hit in load("vxlan").hits("nftables", VXLAN2):
        assert hit.family in ("inet", "ip")
        if hit.iif and hit.table == "filter":
            assert hit.protocol == 1
            assert hit.src in (ip_address("10.244.1.2").packed, ip_address("10.244.2.2").packed)
            assert hit.ident
        assert bool(hit.src) == bool(hit.iif or hit.oif)


def test_legacy_tables() -> None:
    hits = load("legacy-drop").hits("log", "nl-vxlan.n1")
    assert [(hit.chain, hit.kind, hit.number) for hit in hits] == [
        ("FORWARD", "rule", 1),
        ("CHECKED", "return", 2),
        ("FORWARD", "rule", 2),
    ]
    assert {(hit.family, hit.table, hit.iif, hit.oif, hit.protocol) for hit in hits} == {("ip", "filter", 100, 105, 17)}
    (one,) = sections("n1", hits)
    assert [short(hit) for hit in one.hits] == ["FORWARD 2"]  # CHECKED only sent it back


@pytest.mark.parametrize("reader", [read_nftables, read_legacy])
@given(body=st.binary(max_size=80))
def test_any_message_is_read(reader: object, body: bytes) -> None:
    reader(NFGENMSG + body)  # type: ignore[operator]


@given(st.integers(0, 400))
def test_recorded_messages_may_be_cut_off(end: int) -> None:
    for _, reader, body in load("legacy-drop").messages:
        {"log": read_legacy, "nftables": read_nftables}[reader](body[: max(4, end)])


# --- made by hand ----------------------------------------------------------------------------------------------------


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def test_an_nftables_report_in_full() -> None:
    header = bytes.fromhex("6000000000083a40") + ip_address("fd00::1").packed + ip_address("fd00::2").packed
    verdict = attribute(5 | NLA_F_NESTED, number(1, 0xFFFFFFFD) + attribute_text(2, "services"))
    body = attribute_text(1, "nat") + attribute_text(2, "PREROUTING") + attribute(3, (7).to_bytes(8, "big"))
    body += number(4, 3) + verdict + attribute(8, header) + number(10, 4) + number(12, 5)
    wanted = Hit("ip6", "nat", "PREROUTING", "rule", 7, 0, "jump", "services", 4, 5, 0, 58, header[8:24])
    assert read_nftables(struct.pack("!BBH", 10, 0, 0) + body) == wanted


@pytest.mark.parametrize(("value", "word"), [(0, "drop"), (1, "accept"), (99, "99")])
def test_a_policy(value: int, word: str) -> None:
    body = attribute_text(1, "filter") + attribute_text(2, "INPUT") + number(4, 1) + number(16, value)
    assert read_nftables(NFGENMSG + body) == Hit("ip", "filter", "INPUT", "policy", verdict=word)


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        ("TRACE: nat:KUBE-SVC:rule:2 ", Hit("ip", "nat", "KUBE-SVC", "rule", number=2)),
        ("TRACE: raw:a:b:return:1", Hit("ip", "raw", "a:b", "return", number=1)),
        ("TRACE: filter:INPUT:policy:1", Hit("ip", "filter", "INPUT", "policy", number=1)),
        ("denied: ", None),
        ("TRACE: filter:INPUT:jump:1", None),
    ],
)
def test_a_legacy_prefix(prefix: str, wanted: Hit | None) -> None:
    assert read_legacy(NFGENMSG + attribute_text(10, prefix)) == wanted


def rule(chain: str, handle: int = 1, verdict: str = "continue", target: str = "", **fields: object) -> Hit:
    return replace(Hit("ip", "nat", chain, "rule", handle, 0, verdict, target), **fields)  # type: ignore[arg-type]


def end(chain: str) -> Hit:
    return Hit("ip", "nat", chain, "rule", verdict="continue")


def policy(verdict: str) -> Hit:
    return Hit("ip", "nat", "PRE", "policy", verdict=verdict)


A_JUMP, B_JUMP = rule("PRE", 1, "jump", "A"), rule("A", 2, "jump", "B")


@pytest.mark.parametrize(
    ("hits", "kept"),
    [
        ([], []),
        ([A_JUMP, end("A"), policy("accept")], []),
        ([A_JUMP, end("A"), policy("drop")], [policy("drop")]),
        ([A_JUMP, B_JUMP, end("B"), end("A"), policy("accept")], []),
        ([A_JUMP, B_JUMP, rule("B", 3, "accept")], [A_JUMP, B_JUMP, rule("B", 3, "accept")]),
        ([A_JUMP, rule("A", 2), end("A")], [A_JUMP, rule("A", 2)]),  # it did something there: a mark, a counter
        ([rule("PRE", 9), A_JUMP, end("A"), end("PRE")], [rule("PRE", 9)]),
        ([A_JUMP, rule("A", 4, "return"), policy("accept")], [A_JUMP, rule("A", 4, "return")]),
    ],
)
def test_what_decided_nothing_is_left_out(hits: list[Hit], kept: list[Hit]) -> None:
    assert significant(hits) == kept


def legacy(chain: str, number_: int, kind: str = "rule", **fields: object) -> Hit:
    hit = Hit("ip", "filter", chain, kind, number=number_, iif=1, oif=2, ident=7, protocol=17, src=b"abcd")
    return replace(hit, **fields)  # type: ignore[arg-type]


def test_legacy_chains_that_sent_a_packet_back_are_left_out() -> None:
    nested = [legacy("IN", 1), legacy("A", 1), legacy("B", 1, "return"), legacy("A", 2, "return"), legacy("IN", 2)]
    assert significant(nested) == [legacy("IN", 2)]
    marked = [legacy("IN", 1), legacy("A", 1), legacy("A", 2, "return"), legacy("IN", 2)]
    assert significant(marked) == [legacy("IN", 1), legacy("A", 1), legacy("IN", 2)]


def test_the_marking_table_itself_is_left_out() -> None:
    assert sections("n1", [rule("prerouting", table=MARK_TABLE, iif=1)]) == []


def test_a_section_begins_where_the_header_is_said_again() -> None:
    first, second = rule("PRE", 1, iif=3, src=b"abcd"), rule("POST", 2, oif=4, src=b"abcd")
    found = sections("n1", [first, rule("A", 5), second])
    assert [(one.namespace, one.first, one.hits) for one in found] == [
        ("n1", first, (first, rule("A", 5))),
        ("n1", second, (second,)),
    ]


@pytest.mark.parametrize("field", ["table", "iif", "oif", "ident", "protocol", "src"])
def test_a_legacy_section_ends_where_anything_else_is_said(field: str) -> None:
    other = replace(legacy("IN", 2), **{field: "nat" if field == "table" else b"dcba" if field == "src" else 9})
    assert len(sections("n1", [legacy("IN", 1), legacy("IN", 2)])) == 1
    assert len(sections("n1", [legacy("IN", 1), other])) == 2


def test_a_legacy_section_ends_with_its_policy() -> None:
    hits = [legacy("IN", 3, "policy"), legacy("IN", 1)]
    assert len(sections("n1", hits)) == 2


def test_reports_whose_beginning_was_lost_are_a_section_too() -> None:
    (one,) = sections("n1", [rule("A", 5)])
    assert one.first == rule("A", 5)


def test_a_rule_that_returns_is_a_rule_where_the_kernel_calls_it_a_return() -> None:
    body = bytes([2, 0, 0, 0]) + attribute_text(1, "nat") + attribute_text(2, "KUBE-POSTROUTING")
    body += attribute(3, (15).to_bytes(8, "big")) + attribute(4, (2).to_bytes(4, "big"))
    found = read_nftables(body)
    assert (found.kind, found.handle, found.is_end) == ("rule", 15, False)
    assert read_nftables(bytes([2, 0, 0, 0]) + attribute(4, (2).to_bytes(4, "big"))).is_end
