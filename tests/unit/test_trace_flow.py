"""A packet of real traffic: when there is nothing to wait for, which sightings are its own, what it comes to."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netlab.trace.flow import Flow, asked, first_packets, first_reports, from_sender, has_ended, heard_by
from netlab.trace.headers import Headers, Icmp, Ip, Quote, Tcp, Udp
from netlab.trace.hits import Hit
from netlab.trace.layout import Direction, Kind
from netlab.trace.netfilter_watch import Report
from netlab.trace.probe import Heard, Reply
from netlab.trace.question import Options, Protocol, Question
from netlab.trace.sighting import Sighting
from tests.unit.traced_hops import FRAME, A, B, ip, seen

FLOW = Flow("udp port 53", ())
SENT = replace(seen("p/eth0", Kind.OUT), direction=Direction.THERE, buffer=1)
ANSWER = replace(seen("p/eth0", headers=(ip(B, A), Udp(53, 40000)), time=9), direction=Direction.BACK, buffer=2)


def tcp(flags: str, src: object = B, dst: object = A) -> Headers:
    return (ip(src, dst, 6), Tcp(80, 40000, 1, 1, flags))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sightings", "age", "quiet", "ended"),
    [
        ([SENT], 0.5, 0.4, False),
        ([SENT], 1.1, 0.0, True),  # nobody answers
        ([SENT, ANSWER], 0.1, 0.01, False),  # the rest of its way is to be seen
        ([SENT, ANSWER], 0.1, 0.03, True),
        ([SENT, ANSWER], 1.1, 0.0, True),  # of busy traffic
        ([SENT, replace(ANSWER, namespace="lab.n1")], 0.5, 0.4, False),  # on its way back
        ([SENT, replace(SENT, kind=Kind.DROPPED)], 0.15, 0.05, False),  # somebody may tell
        ([SENT, replace(SENT, kind=Kind.DROPPED)], 0.15, 0.11, True),
        ([SENT, replace(SENT, kind=Kind.DROPPED, buffer=7)], 0.15, 0.11, False),  # a copy
    ],
)
def test_when_there_is_nothing_to_wait_for(sightings: list[Sighting], age: float, quiet: float, ended: bool) -> None:
    assert has_ended(sightings, age, quiet) is ended


def test_of_packets_that_look_alike_the_first_counts() -> None:
    """Its end is often seen when the next one is on its way."""
    came = replace(SENT, namespace="lab.q", kind=Kind.IN, time=1)
    again = replace(SENT, time=2, buffer=5)
    read = replace(came, kind=Kind.CONSUMED, time=3)
    came_again = replace(came, time=4, buffer=5)
    read_again = replace(read, time=5, buffer=5)
    answer = replace(ANSWER, time=6)
    assert first_packets([read, SENT, came, again, came_again, read_again, answer]) == [SENT, came, read, answer]


def test_a_packet_is_followed_to_its_end_though_the_next_is_under_way() -> None:
    again = replace(SENT, time=1, buffer=5)
    came = replace(SENT, namespace="lab.q", kind=Kind.IN, time=2)
    came_again = replace(came, time=3, buffer=5)
    read = replace(came, kind=Kind.CONSUMED, time=4)
    reused = replace(SENT, time=5)  # the same memory
    assert first_packets([SENT, again, came, came_again, read, reused]) == [SENT, came, read]


def test_a_packet_may_get_a_larger_place_in_memory() -> None:
    """In front of a tunnel, and before it leaves its sender (skb_expand_head)."""
    given_up = replace(SENT, kind=Kind.CONSUMED, time=0)
    sent = replace(SENT, time=1, buffer=2)
    again = replace(SENT, time=2, buffer=3)
    wrapped = [
        replace(SENT, namespace="lab.n1", device="flannel.1", kind=kind, time=time, buffer=buffer)
        for time, (kind, buffer) in enumerate(((Kind.CONSUMED, 2), (Kind.OUT, 4), (Kind.OUT, 3)), start=3)
    ]
    assert first_packets([given_up, sent, again, *wrapped]) == [given_up, sent, *wrapped[:2]]


def test_a_packet_that_was_on_its_way_already_is_not_the_one() -> None:
    passing = replace(SENT, namespace="lab.n1")
    owners = {("lab.p", A)}
    assert from_sender([passing, ANSWER, SENT, ANSWER], lambda *held: held in owners) == [SENT, ANSWER]
    assert from_sender([passing, ANSWER], lambda *held: held in owners) == []


def test_a_packet_may_pass_a_device_twice() -> None:
    """As one does that leaves by the port of a bridge by which it came: only where it began it does not."""
    way = [SENT, *(replace(SENT, namespace="lab.n1", time=time, buffer=1) for time in (1, 2))]
    assert first_packets(way) == way


def report(chain: str, *, ident: int = 7, handle: int = 1, number: int = 0, iif: int = 3, member: str = "n1") -> Report:
    begins = {"iif": iif, "ident": ident, "protocol": 17, "src": b"abcd"} if iif else {}
    return Report(f"lab.{member}", Hit("ip", "nat", chain, "rule", handle, number, **begins))  # type: ignore[arg-type]


def test_rules_that_a_later_packet_met_are_left_out() -> None:
    first = [report("PREROUTING"), report("SERVICES", iif=0), report("POSTROUTING"), report("PREROUTING", member="n2")]
    later = [report("PREROUTING", ident=8), report("SERVICES", iif=0), report("POSTROUTING", ident=8)]
    assert first_reports([*first, *later]) == first


def test_every_rule_of_a_legacy_table_is_reported_with_its_packet() -> None:
    first = [report("PREROUTING", handle=0, number=number) for number in (1, 2)]
    later = [report("PREROUTING", handle=0, number=number, ident=8) for number in (1, 2)]
    assert first_reports([*first, *later]) == first


@pytest.mark.parametrize(
    ("headers", "protocol", "port"),
    [
        (FRAME, Protocol.UDP, 53),
        ((ip(protocol=6), Tcp(40000, 80, 1, 0, "S")), Protocol.TCP, 80),
        ((ip(protocol=1), Icmp(8, 0, 7, 1)), Protocol.ICMP, 0),
    ],
)
def test_what_would_have_sent_it(headers: Headers, protocol: Protocol, port: int) -> None:
    first = replace(SENT, namespace="nl-lab.p", headers=headers)
    assert asked(first, FLOW) == Question("p", str(B), B, protocol, port, Options(44, False, 64, 60.0))


def test_what_the_sender_heard() -> None:
    quoted: Headers = (Ip(4, ip_address("10.244.1.1"), A, 1, 64, 72), Icmp(3, 3), Quote(), *FRAME[1:])
    told = replace(ANSWER, headers=quoted, direction=Direction.THERE)
    for sightings, heard in (
        ([SENT], Reply.NONE),
        ([SENT, told], Reply.NONE),
        ([SENT, ANSWER], Reply.ANSWER),
        ([SENT, replace(ANSWER, headers=tcp("SA"))], Reply.ANSWER),
        ([SENT, replace(ANSWER, headers=tcp("RA"))], Reply.REFUSED),
        ([SENT, replace(ANSWER, namespace="lab.n1")], Reply.NONE),
    ):
        assert heard_by(sightings, "lab.p") == Heard(heard)
