"""What packet sockets let through and recognize: the filter run on scapy's packets, recorded ways seen by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netlab.trace.correlate import Role, correlate
from netlab.trace.headers import ICMP, Headers, Icmp, Ports, Quote, Tcp, Udp, parse
from netlab.trace.layout import Direction, Kind
from netlab.trace.sighting import Sighting
from netlab.trace.sockets import NETWORK_HEADER, Known, filter_program
from tests.unit.recorded_traces import NAMES, load, steps
from tests.unit.test_trace_mark import COOKIE, PACKETS
from tests.unit.traced_hops import A, B, ip

FIRST = COOKIE[:4]


def passes(packet: bytes, program: list[tuple[int, int, int, int]]) -> bool:
    """Run a program of classic BPF; what is loaded from behind the end refuses the packet (filter.rst)."""
    at = register = 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case 0x20 | 0x28:
                size, place = (4 if code == 0x20 else 2), operand - NETWORK_HEADER
                if place + size > len(packet):
                    return False
                register = int.from_bytes(packet[place : place + size], "big")
            case 0x15:
                at += if_true if register == operand else if_false
            case 0x06:
                return operand > 0


@pytest.mark.parametrize("name", PACKETS)
def test_the_filter_lets_every_probe_and_its_answers_through(name: str) -> None:
    assert passes(PACKETS[name], filter_program(FIRST, 0))


@pytest.mark.parametrize("name", PACKETS)
def test_the_filter_refuses_others(name: str) -> None:
    assert not passes(PACKETS[name], filter_program(b"\x8f\x4b\xc3\x17", 0))


def test_an_answer_without_the_cookie_comes_by_its_port() -> None:
    from scapy.layers import inet

    answer = bytes(inet.IP(src="10.244.2.2", dst="10.244.1.2") / inet.UDP(sport=53, dport=40000) / b"!")
    assert passes(answer, filter_program(FIRST, 40000))
    assert not passes(answer, filter_program(FIRST, 0))
    assert not passes(answer, filter_program(FIRST, 40001))


def test_the_filter_is_not_longer_than_the_kernel_takes() -> None:
    assert len(filter_program(FIRST, 40000)) <= 4096  # BPF_MAXINSNS


# --- recognized ------------------------------------------------------------------------------------------------------


def seen(headers: Headers, packet: bytes = b"") -> Sighting:
    return Sighting(1, Kind.IN, "n1", "eth0", 0, headers, b"", packet, 60)


def datagram(*, back: bool = False) -> Headers:
    return (ip(B, A), Udp(53, 40000)) if back else (ip(A, B), Udp(40000, 53))


def directions(*found: Sighting) -> list[Direction | None]:
    known = Known(FIRST)
    return [one.direction if (one := known.recognize(each)) else None for each in found]


def test_a_datagram_is_known_by_its_cookie_then_by_its_ports() -> None:
    assert directions(
        seen(datagram()), seen(datagram(), FIRST), seen(datagram()), seen(datagram(back=True)), seen((ip(A, B),))
    ) == [None, Direction.COOKIE, Direction.THERE, Direction.BACK, None]


def test_a_connection_is_known_by_its_first_number_and_what_acknowledges_it() -> None:
    number = int.from_bytes(FIRST, "big")
    syn, answer = Tcp(40000, 80, number, 0, "S"), Tcp(8080, 40000, 9, number + 1, "SA")
    assert directions(seen((ip(A, B, 6), syn)), seen((ip(B, A, 6), replace(answer, sport=80)))) == [
        Direction.COOKIE,
        Direction.BACK,
    ]
    assert directions(seen((ip(B, A, 6), answer))) == [Direction.BACK]  # its probe was translated meanwhile
    assert directions(seen((ip(A, B, 6), replace(syn, seq=1)))) == [None]


def test_an_error_is_known_by_what_it_quotes() -> None:
    error: Headers = (ip(B, A, ICMP), Icmp(3, 3), Quote(), *datagram())
    assert directions(seen(error), seen(datagram(), FIRST), seen(error)) == [None, Direction.COOKIE, Direction.THERE]
    cut: Headers = (ip(B, A, ICMP), Icmp(3, 3), Quote())
    assert directions(seen(cut)) == [None]


def test_fragments_are_known_by_the_first() -> None:
    whole, ports = datagram()
    first: Headers = (replace(whole, more_fragments=True), ports)  # type: ignore[type-var]
    rest: Headers = (replace(whole, offset=1480),)  # type: ignore[type-var]
    other: Headers = (replace(whole, offset=1480, ident=8),)  # type: ignore[type-var]
    assert directions(seen(rest), seen(first, FIRST), seen(rest), seen(other)) == [
        None,
        Direction.COOKIE,
        Direction.COOKIE,
        None,
    ]


def test_numbers_go_round() -> None:
    known = Known(b"\xff" * 4)
    assert known.recognize(seen((ip(B, A, 6), Tcp(80, 40000, 9, 0, "SA"))))


@pytest.mark.parametrize("name", sorted(PACKETS))
def test_every_probe_and_answer_is_recognized(name: str) -> None:
    headers = parse(PACKETS[name], b"", Ports())
    assert directions(seen(headers, PACKETS[name])) == [Direction.BACK if "ack" in name else Direction.COOKIE]


@pytest.mark.parametrize("name", NAMES)
def test_recorded_ways_are_the_same_without_memory_and_ends(name: str) -> None:
    """What sockets cannot see left out, and recognized anew, the probe still goes the same way."""
    recorded = load(name)
    sent = recorded.sightings[0]
    first = next((header for header in sent.headers if isinstance(header, Tcp)), None)
    cookie = first.seq.to_bytes(4, "big") if first else sent.packet[28:32]
    known = Known(cookie)
    bare = (
        replace(one, buffer=0, mark=0, reason=0, location=0, direction=Direction.COOKIE)
        for one in recorded.sightings
        if one.kind in (Kind.IN, Kind.OUT)
    )
    journeys = correlate([one for each in bare if (one := known.recognize(each))], recorded.find_device)
    probe = next(journey for journey in journeys if journey.role is Role.PROBE)
    (whole,) = [one for one in correlate(recorded.sightings, recorded.find_device) if one.role is Role.PROBE]
    expected = [one for one in steps(whole.way) if one.endswith((" in", " out"))]
    if name != "flooded":  # which of three equal copies is meant, only their ends say
        assert steps(probe.way) == expected
