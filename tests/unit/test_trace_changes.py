"""How a packet was changed, in words."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

import pytest

from netlab.trace.changes import changes, describe
from netlab.trace.headers import ICMP, IPIP, TCP, Ethernet, Headers, Icmp, Ip, Quote, Tcp, Udp, Vxlan
from tests.unit.recorded_traces import load
from tests.unit.traced_hops import FRAME, MAC1, MAC2, NODE1, NODE2, PACKET, A, B, ip

AROUND: Headers = (Ethernet(MAC1, MAC2, 0x0800), ip(NODE1, NODE2), Udp(50000, 8472), Vxlan(7))
VXLAN = (*AROUND, *FRAME)
A6, B6 = ip_address("fd00::1"), ip_address("fd00::2")
IPV6: Headers = (ip(A6, B6), Udp(40000, 53))


def with_ip(headers: Headers, **fields: object) -> Headers:
    return tuple(replace(one, **fields) if isinstance(one, Ip) else one for one in headers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (FRAME, FRAME, ()),
        (PACKET, FRAME, ()),
        ((), (), ()),
        (PACKET, with_ip(PACKET, ttl=63), ("ttl 64 -> 63",)),
        (PACKET, with_ip(PACKET, dst=NODE2), ("destination 10.244.2.2:53 -> 172.18.0.3:53",)),
        (PACKET, (PACKET[0], Udp(9, 53)), ("source 10.244.1.2:40000 -> 10.244.1.2:9",)),
        (FRAME, VXLAN, ("wrapped in VXLAN VNI 7 172.18.0.2 > 172.18.0.3",)),
        (VXLAN, FRAME, ("unwrapped",)),
        (FRAME, (ip(NODE1, NODE2), Udp(8285, 8285), *PACKET), ("wrapped in UDP 172.18.0.2 > 172.18.0.3",)),
        (FRAME, (ip(NODE1, NODE2, IPIP), *PACKET), ("wrapped in IP 172.18.0.2 > 172.18.0.3",)),
        (VXLAN, (*AROUND[:1], ip(A, NODE2), *VXLAN[2:]), ("wrapped in VXLAN VNI 7 10.244.1.2 > 172.18.0.3",)),
        (
            FRAME,
            (*AROUND, *with_ip(FRAME, ttl=63)),
            ("wrapped in VXLAN VNI 7 172.18.0.2 > 172.18.0.3", "ttl 64 -> 63"),
        ),
        (IPV6, with_ip(IPV6, src=B6), ("source [fd00::1]:40000 -> [fd00::2]:40000",)),
        (VXLAN, (*AROUND[:1], replace(AROUND[1], ttl=9), *VXLAN[2:]), ()),  # the outer TTL decides nothing
    ],
)
def test_changes(before: Headers, after: Headers, words: tuple[str, ...]) -> None:
    assert changes(before, after) == words


def test_a_double_wrapping_tells_only_what_is_new() -> None:
    twice = (ip(NODE2, NODE1, IPIP), *VXLAN[1:])
    once = VXLAN[1:]
    assert changes(FRAME, twice) == ("wrapped in IP 172.18.0.3 > 172.18.0.2 VXLAN VNI 7 172.18.0.2 > 172.18.0.3",)
    assert changes(once, twice) == ("wrapped in IP 172.18.0.3 > 172.18.0.2",)
    assert changes(twice, once) == ("unwrapped",)


def test_a_recorded_packet_through_nat_and_vxlan() -> None:
    way = [one for one in load("cluster-ip").sightings if one.buffer == 2 and one.headers[-1].flags == "S"]  # type: ignore[union-attr]
    found = [changes(before.headers, after.headers) for before, after in pairwise(way)]
    said = [words for words in found if words]
    assert said[0] == ("destination 10.96.0.80:80 -> 10.244.3.2:8080",)
    assert said[1:] == [
        ("ttl 64 -> 63",),
        ("wrapped in VXLAN VNI 1 172.18.0.2 > 172.18.0.4",),
        ("unwrapped",),
        ("ttl 63 -> 62",),
    ]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (VXLAN, "10.244.1.2:40000 > 10.244.2.2:53 ttl 64 udp"),
        ((ip(protocol=TCP), Tcp(1, 80, 0, 0, "SA")), "10.244.1.2:1 > 10.244.2.2:80 ttl 64 tcp SA"),
        ((ip(protocol=ICMP), Icmp(3, 1), Quote(), ip(B, A)), "10.244.1.2 > 10.244.2.2 ttl 64 icmp 3/1"),
        ((ip(),), "10.244.1.2 > 10.244.2.2 ttl 64"),
        (IPV6, "[fd00::1]:40000 > [fd00::2]:53 ttl 64 udp"),
        ((), "no IP packet"),
        (FRAME[:1], "no IP packet"),
    ],
)
def test_a_packet_in_one_line(headers: Headers, words: str) -> None:
    assert describe(headers) == words
