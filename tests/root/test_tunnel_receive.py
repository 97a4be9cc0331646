"""The receiving program on bytes: every way through it, by the kernel's own test runner. Nothing is sent.

Reads as a table: a datagram, what the program answers, what it counts, and the frame that it leaves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netlab.bpf import loader
from netlab.bpf.loader import Answer, Map, MapType, ProgramType
from netlab.tunnel import maps
from netlab.tunnel.blocks import TCX_NEXT
from netlab.tunnel.maps import Counter
from netlab.tunnel.programs import receive_program

pytestmark = pytest.mark.root

LOCAL, PEER, OTHER = "192.168.77.1", "192.168.77.2", "192.168.77.3"
PORT = 8285
MACS = {"src": "02:00:00:00:00:02", "dst": "02:00:00:00:00:01"}
PASSED, REDIRECTED = TCX_NEXT & 0xFFFF_FFFF, 7  # TCX_REDIRECT
FROM_PEER, FROM_OTHER, FROM_NOBODY = "10.244.2.5", "10.244.3.5", "10.9.9.9"


@dataclass
class Loaded:
    """The program and its maps."""

    program: int
    counters: Map

    def run(self, frame: Any) -> Answer:
        return loader.run(self.program, bytes(frame))

    def counted(self) -> dict[Counter, tuple[int, int, int]]:
        rows = {counter: maps.COUNT.iter_unpack(self.counters[maps.COUNTER_KEY.pack(counter)]) for counter in Counter}
        sums = {counter: tuple(map(sum, zip(*row, strict=True))) for counter, row in rows.items()}
        return {counter: found for counter, found in sums.items() if any(found)}  # type: ignore[misc]


@pytest.fixture
def receiving() -> Iterator[Loaded]:
    with (
        Map("routes", MapType.LPM_TRIE, key_size=8, value_size=8, entries=8) as routes,
        Map("counters", MapType.PERCPU_ARRAY, key_size=4, value_size=24, entries=len(Counter)) as counters,
    ):
        for address, cidr in ((PEER, "10.244.2.0/24"), (OTHER, "10.244.3.0/24")):
            key, value = maps.route(IPv4Network(cidr), IPv4Address(address), longest=1472)
            routes[key] = value
        used = {"routes": routes, "counters": counters}
        source = receive_program(IPv4Address(LOCAL), PORT, tun=1)
        program = loader.load(source, ProgramType.SCHED_CLS, name="nlu_b", maps=used, licence="Apache-2.0")
        yield Loaded(program, counters)
        os.close(program)


def inner(**fields: Any) -> Any:
    return IP(**{"src": FROM_PEER, "dst": "10.244.1.5", "ttl": 9, **fields}) / ICMP() / Raw(b"x" * 40)


def outer(payload: Any, *, checksum: int | None = 0, udp: dict[str, Any] | None = None, **fields: Any) -> Any:
    header = IP(**{"src": PEER, "dst": LOCAL, **fields})
    return (
        Ether(**MACS, type=0x800)
        / header
        / UDP(**{"sport": PORT, "dport": PORT, "chksum": checksum, **(udp or {})})
        / payload
    )


def test_an_inner_packet_is_taken_out_and_has_paid_one_ttl(receiving: Loaded) -> None:
    frame = outer(inner())
    answer = receiving.run(frame)
    assert answer.value == REDIRECTED
    assert answer.packet[:14] == bytes(frame)[:14]
    assert answer.packet[14:] == bytes(inner(ttl=8))  # scapy computed this checksum
    assert receiving.counted() == {Counter.RECEIVED: (1, len(inner()), 1)}


def test_the_checksum_follows_every_ttl(receiving: Loaded) -> None:
    for ttl in range(2, 256):
        for number in range(ttl, 0x10000, 0x3FFF):
            answer = receiving.run(outer(inner(ttl=ttl, id=number)))
            assert answer.packet[14:] == bytes(inner(ttl=ttl - 1, id=number)), (ttl, number)


TRAIN = Raw(bytes(inner()) * 2)
PASSED_UP = {
    "a TTL that would become 0": (outer(inner(ttl=1)), Counter.UP_TTL),
    "a TTL that is 0": (outer(inner(ttl=0)), Counter.UP_TTL),
    "options": (outer(inner(options=[IPOption_NOP()] * 4)), Counter.UP_OPTIONS),
    "IPv6": (outer(IPv6(src="fd00::1", dst="fd00::2") / UDP() / Raw(b"x" * 40)), Counter.UP_NOT_IPV4),
    "no IP": (outer(Raw(bytes(60))), Counter.UP_NOT_IPV4),
    "a datagram with a checksum": (outer(inner(), checksum=None), Counter.UP_CHECKSUM),
    "a first fragment": (outer(inner(), flags="MF"), Counter.UP_FRAGMENT),
    "two inner packets": (outer(TRAIN), Counter.UP_LENGTH),
    "less than the inner packet": (outer(Raw(bytes(inner())[:-1])), Counter.UP_LENGTH),
    "a UDP length of its own": (outer(inner(), udp={"len": 40}), Counter.UP_LENGTH),
    "a sender that is no peer": (outer(inner(), src="192.168.77.9"), Counter.UP_NOT_ADMITTED),
    "a peer with another's source": (outer(inner(src=FROM_OTHER)), Counter.UP_NOT_ADMITTED),
    "a peer with nobody's source": (outer(inner(src=FROM_NOBODY)), Counter.UP_NOT_ADMITTED),
}


@pytest.mark.parametrize(("frame", "counter"), PASSED_UP.values(), ids=PASSED_UP)
def test_what_it_cannot_do_or_admit_is_passed_up_untouched(receiving: Loaded, frame: Any, counter: Counter) -> None:
    assert receiving.run(frame) == (PASSED, bytes(frame))
    assert receiving.counted() == {counter: (1, len(frame) - 42, 1)}


NOT_OURS = {
    "another port": outer(inner(), udp={"dport": PORT + 1}),
    "another address": outer(inner(), dst="192.168.77.4"),
    "TCP": Ether(**MACS, type=0x800) / IP(src=PEER, dst=LOCAL) / TCP(dport=PORT) / Raw(b"x" * 60),
    "a later fragment": outer(inner(), frag=185),
    "outer options": outer(inner(), options=[IPOption_NOP()] * 4),
    "a wrong outer checksum": Ether(**MACS, type=0x800)
    / IP(src=PEER, dst=LOCAL, chksum=0x1234)
    / UDP(sport=PORT, dport=PORT, chksum=0)
    / inner(),
    "IPv6": Ether(**MACS, type=0x86DD) / IPv6() / UDP(dport=PORT) / Raw(b"x" * 60),
    "too short": outer(Raw(b"x" * 4)),
}


@pytest.mark.parametrize("frame", NOT_OURS.values(), ids=NOT_OURS)
def test_the_rest_of_the_underlays_traffic_is_left_alone(receiving: Loaded, frame: Any) -> None:
    assert receiving.run(frame) == (PASSED, bytes(frame))
    assert receiving.counted() == {}


def test_a_frame_may_be_padded(receiving: Loaded) -> None:
    """Ethernet frames have 60 bytes at least; the kernel trims the packet by its own length later."""
    small = IP(src=FROM_PEER, dst="10.244.1.5", ttl=9)
    assert receiving.run(bytes(outer(small)) + bytes(6)).value == REDIRECTED
