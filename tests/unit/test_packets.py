"""Frames in words: one line for each encapsulation."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scapy.contrib.bgp import (
    BGPHeader,
    BGPNLRI_IPv4,
    BGPNotification,
    BGPOpen,
    BGPPAOrigin,
    BGPPathAttr,
    BGPUpdate,
)
from scapy.contrib.geneve import GENEVE
from scapy.contrib.wireguard import Wireguard, WireguardTransport
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from netlab.packets import describe, fields

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


def tcp_to_179(payload: Packet) -> bytes:
    return bytes(ETHER / OUTER / TCP(sport=40000, dport=179, flags="PA") / payload)


def udp(sport: int, dport: int, payload: Packet) -> bytes:
    return bytes(ETHER / OUTER / UDP(sport=sport, dport=dport) / payload)


QUESTION = DNSQR(qname="web.default.svc.cluster.local", qtype="AAAA")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (DNS(qd=QUESTION), "DNS AAAA web.default.svc.cluster.local?"),
        (DNS(qr=1, rcode=3, qd=QUESTION), "DNS AAAA web.default.svc.cluster.local: NXDOMAIN"),
        (DNS(qr=1, rcode=2, qd=QUESTION), "DNS AAAA web.default.svc.cluster.local: server-failure"),
        (DNS(qr=1, qd=QUESTION, an=[]), "DNS AAAA web.default.svc.cluster.local: no data"),
        (
            DNS(qr=1, qd=DNSQR(qname="web"), an=[DNSRR(rrname="web", rdata=f"10.0.0.{n}") for n in range(6)]),
            "DNS A web: 10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3 and 2 more",
        ),
    ],
)
def test_names_are_asked_for(message: Packet, words: str) -> None:
    sport, dport = (53, 40000) if message.qr else (40000, 53)
    (line,) = describe(udp(sport, dport, message))
    assert line.endswith(f"UDP {sport}>{dport} {words}")


def test_what_is_no_dns_message_is_only_its_carriers() -> None:
    (line,) = describe(udp(40000, 53, Raw(b"x")))
    assert line.endswith("UDP 40000>53")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (BGPHeader(type=4), "BGP KEEPALIVE"),
        (
            BGPHeader(type=1) / BGPOpen(my_as=64512, hold_time=90, bgp_id="172.18.0.2"),
            "BGP OPEN AS 64512 id 172.18.0.2",
        ),
        (BGPHeader(type=3) / BGPNotification(error_code=6, error_subcode=2), "BGP NOTIFICATION 6/2"),
        (
            BGPHeader(type=2)
            / BGPUpdate(
                withdrawn_routes=[BGPNLRI_IPv4(prefix="10.244.3.0/24")],
                path_attr=[BGPPathAttr(type_flags=0x40, type_code=1, attribute=BGPPAOrigin(origin="IGP"))],
                nlri=[BGPNLRI_IPv4(prefix=f"10.244.{n}.0/24") for n in range(5)],
            ),
            "BGP UPDATE -10.244.3.0/24 +10.244.0.0/24 +10.244.1.0/24 +10.244.2.0/24 and 2 more",
        ),
    ],
)
def test_routes_are_told(message: Packet, words: str) -> None:
    (line,) = describe(tcp_to_179(message))
    assert words in line


def test_geneve_takes_two_lines() -> None:
    outer, inner = describe(udp(40000, 6081, GENEVE(vni=7) / ETHER / INNER))
    assert outer.endswith("UDP 40000>6081 Geneve VNI 7")
    assert inner.endswith(WORDS)


def test_of_wireguard_only_the_outside_is_seen() -> None:
    (line,) = describe(udp(51820, 51820, Wireguard(message_type=4) / WireguardTransport(receiver_index=1)))
    assert line.endswith("UDP 51820>51820 WireGuard data")


def test_a_packet_in_a_tunnel_is_known_to_its_end() -> None:
    inside = ETHER / OUTER / UDP(sport=40000, dport=53) / DNS(qd=QUESTION)
    _, inner = describe(udp(40000, 8472, VXLAN(vni=1) / inside))
    assert inner.endswith("DNS AAAA web.default.svc.cluster.local?")


def test_field_by_field() -> None:
    found = dict(fields(bytes(ETHER / OUTER / UDP(sport=40000, dport=8472) / VXLAN(vni=1) / ETHER / INNER)))
    assert list(found) == ["Ethernet", "IP", "UDP", "VXLAN", "ICMP"]  # the inner ones, where there are two
    assert {"ttl=63", "src=10.244.1.2"} <= set(found["IP"])
    assert "vni=0x1" in found["VXLAN"]


def test_what_few_frames_have_is_loaded_with_the_first_of_them() -> None:
    """And `scapy.all` never, nor the machine's routes."""
    code = f"""
import sys
import netlab.packets as packets
def loaded():
    return sorted(name for name in {{*packets.MODULES.values(), "scapy.all"}} if name in sys.modules)
before = loaded()
packets.describe(bytes.fromhex("{tcp_to_179(Raw(b"x")).hex()}"))
print(sorted(set(loaded()) - set(before)), "scapy.all" in loaded())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("['scapy.contrib.bgp'] False\n", "")
