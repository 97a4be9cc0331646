"""How a trace ended: by what the sender heard, then by where the packet was seen last."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from ipaddress import ip_address

import pytest

from netlab.trace.correlate import Role
from netlab.trace.headers import ICMP, ICMPV6, Headers, Icmp, Quote
from netlab.trace.model import Drop, Event, Hop, Verdict, Way
from netlab.trace.probe import Heard, Reply
from netlab.trace.verdict import UNSENT, judge
from tests.unit.traced_hops import PACKET, QUESTION, A, B, FakeTables, hop, ip, route

DROP = Drop("NO_SOCKET", "udp", "nobody on q listens on UDP port 53", "ss")
SILENCE = Heard(Reply.NONE)
BACK = route("10.244.1.0/24", "eth0")
TABLES = {
    "lab.q": FakeTables(routes=[route("10.244.2.2/32", "lo", kind="local"), BACK]),
    "lab.n2": FakeTables(),
    "lab.n1": FakeTables(routes=[route("10.244.2.0/24", "eth0")]),
}


def way(last: Hop, drop: Drop | None = None, role: Role = Role.PROBE) -> Way:
    return Way(role, (hop("p/eth0", Event.OUT), last), drop=drop)


def words(heard: Heard, *ways: Way) -> tuple[Verdict, str]:
    return judge(QUESTION, heard, ways, TABLES)


def error(kind: int, code: int, *, mtu: int = 0, version: int = 4, comes_to: str = "p") -> Way:
    """Return the way of an ICMP error of n1's."""
    if version == 4:
        headers: Headers = (ip(B, A, ICMP), Icmp(kind, code, mtu=mtu), Quote(), *PACKET)
    else:
        around = ip(ip_address("fd00::2"), ip_address("fd00::1"), ICMPV6)
        headers = (around, Icmp(kind, code, mtu=mtu), Quote(), *PACKET)
    return Way(Role.ERROR, (hop("n1/cni0", Event.OUT, headers=headers), hop(f"{comes_to}/eth0", headers=headers)))


DROPPED = way(hop("q/eth0", Event.DROPPED), DROP)


def test_an_answer_counts_most() -> None:
    assert words(Heard(Reply.ANSWER), DROPPED) == (Verdict.ANSWERED, "q answered")


def test_a_refusal_says_why() -> None:
    heard = Heard(Reply.REFUSED, "Connection refused")
    refused = (Verdict.REFUSED, f"refused on q, eth0: {DROP.sentence}; p heard: Connection refused")
    assert words(heard, DROPPED) == refused
    assert words(heard, way(hop("q/eth0"))) == (Verdict.REFUSED, "q refused it; p heard: Connection refused")


def test_a_drop_is_told_with_its_place() -> None:
    assert words(SILENCE, DROPPED) == (Verdict.DROPPED, f"dropped on q, eth0: {DROP.sentence}")
    nowhere = way(replace(hop("q/eth0", Event.DROPPED), device=""), DROP)
    assert words(SILENCE, nowhere) == (Verdict.DROPPED, f"dropped on q: {DROP.sentence}")
    heard = words(Heard(Reply.ERROR, "No route to host"), DROPPED)
    assert heard == (Verdict.DROPPED, f"dropped on q, eth0: {DROP.sentence}; p heard: No route to host")


# --- what the sender was told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "kind", "code", "meaning"),
    [
        (4, 3, 1, "Destination host unreachable"),
        (4, 3, 3, "Destination port unreachable"),
        (4, 11, 0, "Time to live exceeded"),
        (6, 1, 0, "Destination unreachable: no route"),
        (6, 2, 0, "Packet too big"),
        (6, 3, 0, "Hop limit exceeded"),
    ],
)
def test_who_told_the_sender_what(version: int, kind: int, code: int, meaning: str) -> None:
    _, said = words(Heard(Reply.ERROR, "words"), DROPPED, error(kind, code, version=version))
    assert said == f"dropped on q, eth0: {DROP.sentence}; n1 told p: {meaning}"


def test_an_mtu_is_told_too() -> None:
    assert words(SILENCE, DROPPED, error(3, 4, mtu=1400))[1].endswith("n1 told p: Frag needed and DF set, MTU 1400")
    assert words(SILENCE, DROPPED, error(3, 99))[1].endswith("n1 told p: ICMP type 3 code 99")


def test_an_error_that_does_not_come_to_the_sender_is_not_told() -> None:
    for lost in (error(3, 3, comes_to="n1"), replace(error(3, 3), drop=DROP)):
        assert words(SILENCE, DROPPED, lost)[1] == f"dropped on q, eth0: {DROP.sentence}"


# --- no answer -------------------------------------------------------------------------------------------------------


def test_a_packet_that_nobody_answers_was_delivered() -> None:
    delivered = (Verdict.DELIVERED, "it came to q, and no answer was heard")
    assert words(SILENCE, way(hop("q/eth0", Event.DELIVERED))) == delivered
    assert words(SILENCE, way(hop("q/eth0"))) == delivered  # it waits for its reader


def test_an_answer_that_was_dropped() -> None:
    answer = Way(Role.ANSWER, (hop("q/eth0", Event.OUT), hop("n2/cni0", Event.DROPPED)), drop=DROP)
    said = f"it came to q, whose answer was dropped on n2, cni0: {DROP.sentence}"
    assert words(SILENCE, way(hop("q/eth0")), answer) == (Verdict.DROPPED, said)
    assert words(SILENCE, way(hop("q/eth0")), replace(answer, drop=None))[0] is Verdict.DELIVERED


@pytest.mark.parametrize("routes", [[], [route("10.244.1.0/24", "", kind="blackhole")]])
def test_a_receiver_without_a_way_back(routes: list[object]) -> None:
    tables = {"lab.q": FakeTables(routes=routes)}  # type: ignore[arg-type]
    found = judge(QUESTION, SILENCE, [way(hop("q/eth0", Event.DELIVERED))], tables)
    assert found == (Verdict.DELIVERED, f"it came to q, and no answer was heard: q has no route back to {A}")


@pytest.mark.parametrize("last", [hop("n1/eth0"), hop("n2/eth0"), hop("x/eth0"), hop("q/eth0", Event.OUT)])
def test_a_packet_seen_last_on_its_way_is_lost(last: Hop) -> None:
    verdict, said = words(SILENCE, way(last))
    assert verdict is Verdict.LOST
    assert said == f"it was last seen on {last.member}, eth0, going {last.event}"


def test_a_packet_without_ip_is_lost() -> None:
    assert words(SILENCE, way(replace(hop("q/eth0"), headers=())))[0] is Verdict.LOST


# --- nothing sent ----------------------------------------------------------------------------------------------------


def test_without_a_packet_nothing_was_sent() -> None:
    assert words(SILENCE) == (Verdict.NOT_SENT, "p sent nothing: no packet was seen")
    assert words(Heard(Reply.ERROR, "Oh no"), way(hop(), role=Role.ANSWER)) == (
        Verdict.NOT_SENT,
        "p sent nothing: Oh no",
    )


@pytest.mark.parametrize("number", UNSENT, ids=errno.errorcode.get)
def test_what_the_senders_kernel_meant(number: int) -> None:
    verdict, said = words(Heard(Reply.ERROR, os.strerror(number), number))
    assert verdict is Verdict.NOT_SENT
    assert said.endswith(f" ({os.strerror(number)})")
    assert not {"{", "}"} & set(said)
    assert "p" in said.split()
