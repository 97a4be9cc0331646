"""Frames in words: one line for each encapsulation."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from netlab.packets import describe

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
OUTER = IP(src="172.18.0.2", dst="172.18.0.3", ttl=63)
INNER = IP(src="10.244.1.2", dst="10.244.2.2", ttl=63) / ICMP()
WORDS = "10.244.1.2 > 10.244.2.2 ttl 63 len 28 ICMP echo request"


def test_vxlan_takes_two_lines() -> None:
    outer, inner = describe(bytes(ETHER / OUTER / UDP(sport=40000, dport=8472) / VXLAN(vni=1) / ETHER / INNER))
    assert outer.endswith("172.18.0.2 > 172.18.0.3 ttl 63 len 78 UDP 40000>8472 VXLAN VNI 1")
    assert inner == f"02:00:00:00:00:01 > 02:00:00:00:00:02 {WORDS}"


def test_ip_in_ip_takes_two_lines() -> None:
    outer, inner = describe(bytes(ETHER / OUTER / INNER))
    assert outer == "02:00:00:00:00:01 > 02:00:00:00:00:02 172.18.0.2 > 172.18.0.3 ttl 63 len 48"
    assert inner == WORDS


def test_ip_in_udp_takes_two_lines() -> None:
    outer, inner = describe(bytes(ETHER / OUTER / UDP(sport=8285, dport=8285) / INNER))
    assert outer.endswith("172.18.0.2 > 172.18.0.3 ttl 63 len 56 UDP 8285>8285")
    assert inner == WORDS


def test_a_tunnels_packets_have_no_ethernet_header() -> None:
    assert describe(bytes(INNER), bare=True) == [WORDS]


def test_what_an_icmp_error_quotes_is_no_encapsulation() -> None:
    (line,) = describe(bytes(ETHER / OUTER / ICMP(type=3, code=1) / INNER))
    assert "ICMP unreachable" in line
