"""Conntrack's messages: recorded and packed by hand; whose packets they are of."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.kernel.netlink import NLA_F_NESTED, attribute
from netlab.trace.connections import Connection, Ends, read
from netlab.trace.headers import ICMP, ICMPV6, TCP, UDP, Ethernet, Headers, Icmp, Ip, Tcp, Udp, Vxlan
from tests.unit.recorded_traces import load
from tests.unit.traced_hops import NODE1, NODE2, A, B, ip

CLUSTER_IP = ip_address("10.96.0.80")
A6, B6 = ip_address("fd00::1"), ip_address("fd00::2")
NAT = Connection(TCP, Ends(A, 40000, CLUSTER_IP, 80), Ends(B, 8080, A, 40000))
MASQUERADED = Connection(TCP, Ends(A, 40000, CLUSTER_IP, 80), Ends(B, 8080, NODE1, 50000))
PLAIN = Connection(UDP, Ends(A, 40000, B, 53), Ends(B, 53, A, 40000))


# --- recorded --------------------------------------------------------------------------------------------------------


def test_a_recorded_service_is_translated() -> None:
    (found,) = [one for one in load("cluster-ip").connections("nl-services.n1") if one.is_translated]
    assert found.protocol == TCP
    assert str(found) == "10.244.1.3:45570 > 10.96.0.80:80, answers 10.244.3.2:8080 > 10.244.1.3:45570"


def test_a_recorded_service_is_translated_where_its_rules_are_only() -> None:
    found = load("cluster-ip").connections("nl-services.n3")
    assert found
    assert not any(one.is_translated for one in found)


def test_a_recorded_echo_is_known_by_its_identifier() -> None:
    recorded = load("vxlan")
    (found,) = [one for one in recorded.connections("nl-vxlan.n2") if one.protocol == ICMP]
    assert found.original.sport == found.original.dport != 0
    assert not found.is_translated
    assert all(found.is_of(one.headers) for one in recorded.sightings if one.headers[-1].type == 8)  # type: ignore[union-attr]


def test_a_recorded_connection_is_of_its_packets_everywhere() -> None:
    recorded = load("cluster-ip")
    (found,) = [one for one in recorded.connections("nl-services.n1") if one.is_translated]
    flags = {one.headers[-1].flags: found.is_of(one.headers) for one in recorded.sightings}  # type: ignore[union-attr]
    assert flags == {"S": True, "A": True, "SA": False}


# --- packed by hand --------------------------------------------------------------------------------------------------


def nest(kind: int, payload: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, payload)


def half(kind: int, ends: Ends, protocol: int, echo: int = 0) -> bytes:
    """Pack one direction; `echo` is the attribute of an echo's identifier."""
    places = (1, 2) if ends.src.version == 4 else (3, 4)
    addresses = attribute(places[0], ends.src.packed) + attribute(places[1], ends.dst.packed)
    numbers = {echo: ends.sport} if echo else {2: ends.sport, 3: ends.dport}
    rest = b"".join(attribute(number, struct.pack("!H", value)) for number, value in numbers.items())
    return nest(kind, nest(1, addresses) + nest(2, attribute(1, bytes([protocol])) + rest))


def message(one: Connection, echo: int = 0) -> bytes:
    return bytes(4) + half(1, one.original, one.protocol, echo) + half(2, one.reply, one.protocol, echo)


@pytest.mark.parametrize("connection", [NAT, MASQUERADED, PLAIN])
def test_a_message_in_full(connection: Connection) -> None:
    assert read(message(connection)) == connection


@pytest.mark.parametrize(("protocol", "echo", "ends"), [(ICMP, 4, (A, B)), (ICMPV6, 7, (A6, B6))])
def test_echoes_have_an_identifier_for_ports(protocol: int, echo: int, ends: tuple[object, object]) -> None:
    there, back = Ends(ends[0], 5, ends[1], 5), Ends(ends[1], 5, ends[0], 5)  # type: ignore[arg-type]
    assert read(message(Connection(protocol, there, back), echo)) == Connection(protocol, there, back)


def test_a_protocol_without_ports() -> None:
    addresses = nest(1, attribute(1, A.packed) + attribute(2, B.packed))
    body = bytes(4) + nest(1, addresses + nest(2, attribute(1, b"\x59"))) + nest(2, addresses + nest(2, b""))
    assert read(body) is None
    assert read(bytes(4)) is None


@given(st.binary(max_size=120))
def test_any_message_is_read_or_none(body: bytes) -> None:
    try:
        read(bytes(4) + body)
    except ValueError as exc:
        pytest.fail(str(exc))


@pytest.mark.parametrize(
    ("connection", "translated"),
    [(NAT, True), (MASQUERADED, True), (PLAIN, False), (Connection(UDP, PLAIN.original, PLAIN.original), True)],
)
def test_translated_is_what_is_not_turned_round(connection: Connection, translated: bool) -> None:
    assert connection.is_translated is translated


FRAME = Ethernet("a", "b", 0x0800)


@pytest.mark.parametrize(
    ("headers", "is_of"),
    [
        ((ip(A, CLUSTER_IP, TCP), Tcp(40000, 80, 0, 0, "S")), True),  # as it came in
        ((ip(NODE1, B, TCP), Tcp(50000, 8080, 0, 0, "S")), True),  # as it went out
        ((ip(A, B, TCP), Tcp(40000, 8080, 0, 0, "S")), True),  # in between
        ((ip(NODE1, NODE2), Udp(1, 8472), Vxlan(1), FRAME, ip(A, B, TCP), Tcp(40000, 8080, 0, 0, "S")), True),
        ((ip(B, NODE1, TCP), Tcp(8080, 50000, 0, 0, "SA")), False),  # its answer
        ((ip(A, CLUSTER_IP, TCP), Tcp(40001, 80, 0, 0, "S")), False),
        ((ip(A, CLUSTER_IP, TCP), Tcp(40000, 81, 0, 0, "S")), False),
        ((ip(A, CLUSTER_IP, UDP), Udp(40000, 80)), False),
        ((ip(A, CLUSTER_IP, TCP),), False),
        ((ip(A, CLUSTER_IP, ICMP), Icmp(8, 0, 5)), False),
        ((), False),
    ],
)
def test_whose_packet_it_is(headers: Headers, is_of: bool) -> None:
    assert MASQUERADED.is_of(headers) is is_of


def test_an_echos_packets() -> None:
    echo = Connection(ICMP, Ends(A, 5, B, 5), Ends(B, 5, A, 5))
    assert echo.is_of((ip(A, B, ICMP), Icmp(8, 0, 5)))
    assert not echo.is_of((ip(A, B, ICMP), Icmp(8, 0, 6)))


@pytest.mark.parametrize(
    ("headers", "begins"),
    [
        ((ip(A, CLUSTER_IP, TCP), Tcp(0, 80, 0, 0, "S")), True),
        ((ip(A, CLUSTER_IP, TCP), Tcp(0, 81, 0, 0, "S")), False),
        ((ip(A, B, TCP), Tcp(0, 80, 0, 0, "S")), False),
        ((ip(A, CLUSTER_IP, UDP), Udp(0, 80)), False),
        ((), False),
    ],
)
def test_what_may_begin_it(headers: Headers, begins: bool) -> None:
    assert NAT.begins(headers) is begins


def test_ends_in_words() -> None:
    assert str(Ends(A6, 1, B6, 2)) == "[fd00::1]:1 > [fd00::2]:2"
    assert isinstance(ip(A6, B6), Ip)
