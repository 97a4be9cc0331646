"""Headers from bytes: packets that scapy built, cut off and made up."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.trace.headers import (
    ICMP,
    ICMPV6,
    IPIP,
    IPV6,
    TCP,
    UDP,
    Ethernet,
    Header,
    Headers,
    Icmp,
    Ip,
    Ports,
    Quote,
    Tcp,
    Udp,
    Vxlan,
    first,
    fragment_offset,
    innermost,
    outer,
    parse,
)
from tests.unit.recorded_traces import NAMES, load

PORTS = Ports()
A, B = "10.244.1.2", "10.244.2.2"
A6, B6 = "fd00:10:244:1::2", "fd00:10:244:2::2"
NODE1, NODE2 = "172.18.0.2", "172.18.0.3"
NODE1_6, NODE2_6 = "fd00:172:18::2", "fd00:172:18::3"
MAC1, MAC2 = "02:00:00:00:00:01", "02:00:00:00:00:02"
INNER_FRAME = Ethernet(MAC1, MAC2, 0x0800)


def packets() -> dict[str, tuple[bytes, Headers]]:
    """Return packets and what they are, by name."""
    from scapy.layers import inet, inet6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    v4, v6 = inet.IP(src=A, dst=B, ttl=63, id=7), inet6.IPv6(src=A6, dst=B6, hlim=63)
    out4, out6 = inet.IP(src=NODE1, dst=NODE2, id=9, ttl=62), inet6.IPv6(src=NODE1_6, dst=NODE2_6, hlim=62)
    datagram, frame = inet.UDP(sport=40000, dport=53) / b"payload!", Ether(src=MAC1, dst=MAC2)
    syn = inet.TCP(sport=40000, dport=80, seq=11, ack=12, flags="SA")
    vxlan = inet.UDP(sport=50000, dport=8472) / VXLAN(vni=0x123456)
    ip4, ip6, udp = ip(A, B, UDP, 36), ip(A6, B6, UDP, 56), Udp(40000, 53)
    wrapped = (Udp(50000, 8472), Vxlan(0x123456), INNER_FRAME)
    around4, around6 = Ip(4, *ends(NODE1, NODE2), UDP, 62, 86, 9), Ip(6, *ends(NODE1_6, NODE2_6), UDP, 62, 106)
    error = inet.ICMP(type=3, code=4, nexthopmtu=1450)
    found = {
        "udp": (v4 / datagram, (ip4, udp)),
        "udp6": (v6 / datagram, (ip6, udp)),
        "tcp": (v4 / syn, (ip(A, B, TCP, 40), Tcp(40000, 80, 11, 12, "SA"))),
        "all flags": (v4 / inet.TCP(sport=1, dport=2, flags=255), (ip(A, B, TCP, 40), Tcp(1, 2, 0, 0, "FSRPAUEC"))),
        "options": (inet.IP(src=A, dst=B, ttl=63, id=7, options=[inet.IPOption_NOP()]) / datagram, None),
        "echo": (v4 / inet.ICMP(id=5, seq=6), (ip(A, B, ICMP, 28), Icmp(8, 0, 5, 6))),
        "echo reply": (v4 / inet.ICMP(type=0, id=5, seq=6), (ip(A, B, ICMP, 28), Icmp(0, 0, 5, 6))),
        "echo6": (v6 / inet6.ICMPv6EchoRequest(id=5, seq=6), (ip(A6, B6, ICMPV6, 48), Icmp(128, 0, 5, 6))),
        "vxlan": (out4 / vxlan / frame / v4 / datagram, (around4, *wrapped, ip4, udp)),
        "vxlan over 6": (out6 / vxlan / frame / v4 / datagram, (around6, *wrapped, ip4, udp)),
        "vxlan, iana's port": (
            out4 / inet.UDP(sport=1, dport=4789) / VXLAN(vni=5) / frame / v4 / datagram,
            (around4, Udp(1, 4789), Vxlan(5), INNER_FRAME, ip4, udp),
        ),
        "ip in udp": (
            out4 / inet.UDP(sport=8285, dport=8285) / v4 / datagram,
            (Ip(4, *ends(NODE1, NODE2), UDP, 62, 64, 9), Udp(8285, 8285), ip4, udp),
        ),
        "ip in ip": (out4 / v4 / datagram, (Ip(4, *ends(NODE1, NODE2), IPIP, 62, 56, 9), ip4, udp)),
        "6 in 4": (out4 / v6 / datagram, (Ip(4, *ends(NODE1, NODE2), IPV6, 62, 76, 9), ip6, udp)),
        "4 in 6": (out6 / v4 / datagram, (Ip(6, *ends(NODE1_6, NODE2_6), IPIP, 62, 76), ip4, udp)),
        "icmp error": (
            inet.IP(src=B, dst=A, id=8) / error / v4 / datagram,
            (Ip(4, *ends(B, A), ICMP, 64, 64, 8), Icmp(3, 4, mtu=1450), Quote(), ip4, udp),
        ),
        "too big": (
            inet6.IPv6(src=B6, dst=A6) / inet6.ICMPv6PacketTooBig(mtu=70000) / v6 / datagram,
            (Ip(6, *ends(B6, A6), ICMPV6, 64, 104), Icmp(2, 0, mtu=70000), Quote(), ip6, udp),
        ),
        "error about vxlan": (
            inet.IP(src=NODE2, dst=NODE1, id=8) / inet.ICMP(type=3, code=3) / out4 / vxlan / frame / v4 / datagram,
            (Ip(4, *ends(NODE2, NODE1), ICMP, 64, 114, 8), Icmp(3, 3), Quote(), around4, *wrapped, ip4, udp),
        ),
        "neighbour solicitation": (
            inet6.IPv6(src=A6, dst=B6, hlim=255) / inet6.ICMPv6ND_NS(tgt=B6),
            (Ip(6, *ends(A6, B6), ICMPV6, 255, 64), Icmp(135, 0)),
        ),
        "first fragment": (
            inet.IP(src=A, dst=B, ttl=63, id=7, flags="MF") / datagram,
            (Ip(4, *ends(A, B), UDP, 63, 36, 7, more_fragments=True), udp),
        ),
        "last fragment": (
            inet.IP(src=A, dst=B, ttl=63, id=7, frag=185, proto=UDP) / b"\x9c\x40\x00\x35more",
            (Ip(4, *ends(A, B), UDP, 63, 28, 7, offset=1480),),
        ),
        "do not fragment": (
            inet.IP(src=A, dst=B, ttl=63, id=7, flags="DF") / datagram,
            (Ip(4, *ends(A, B), UDP, 63, 36, 7, dont_fragment=True), udp),
        ),
        "another protocol": (inet.IP(src=A, dst=B, ttl=63, id=7, proto=89) / b"x" * 8, None),
    }
    found["options"] = (found["options"][0], (ip(A, B, UDP, 40), udp))
    found["another protocol"] = (inet.IP(src=A, dst=B, ttl=63, id=7, proto=89) / b"OSPF", (ip(A, B, 89, 24),))
    return {name: (bytes(built), headers) for name, (built, headers) in found.items() if headers}


def ends(src: str, dst: str) -> tuple[object, object]:
    return ip_address(src), ip_address(dst)


def ip(src: str, dst: str, protocol: int, length: int) -> Ip:
    version = ip_address(src).version
    return Ip(version, ip_address(src), ip_address(dst), protocol, 63, length, 7 if version == 4 else 0)


PACKETS = packets()


@pytest.mark.parametrize("name", PACKETS)
def test_scapys_packets_are_taken_apart(name: str) -> None:
    packet, headers = PACKETS[name]
    assert parse(packet, b"", PORTS) == headers


def test_the_frame_stands_in_front() -> None:
    packet, headers = PACKETS["udp"]
    frame = bytes.fromhex("020000000002" + "020000000001" + "0800")
    assert parse(packet, frame, PORTS) == (Ethernet(MAC1, MAC2, 0x0800), *headers)
    assert parse(packet, frame[:13], PORTS) == headers
    assert parse(b"", frame, PORTS) == (Ethernet(MAC1, MAC2, 0x0800),)


def test_what_is_behind_a_port_is_a_matter_of_the_lab() -> None:
    vxlan, tunnel = PACKETS["vxlan"], PACKETS["ip in udp"]
    assert parse(vxlan[0], b"", Ports(vxlan=(4789,))) == vxlan[1][:2]
    assert parse(tunnel[0], b"", Ports(tunnel=(8286,))) == tunnel[1][:2]
    moved = tunnel[0][:20] + (9999).to_bytes(2, "big") * 2 + tunnel[0][24:]
    assert parse(moved, b"", Ports(tunnel=(9999,))) == (tunnel[1][0], Udp(9999, 9999), *tunnel[1][2:])


@pytest.mark.parametrize("name", PACKETS)
def test_a_packet_that_is_cut_off_has_the_headers_that_are_whole(name: str) -> None:
    packet, headers = PACKETS[name]
    for end in range(len(packet) + 1):
        cut = parse(packet[:end], b"", PORTS)
        assert cut == headers[: len(cut)], end


def is_beginning(part: Headers, whole: Headers) -> bool:
    return part == whole[: len(part)]


@given(st.binary(max_size=200), st.binary(max_size=20), st.integers(0, 200))
def test_no_bytes_are_too_much(packet: bytes, frame: bytes, end: int) -> None:
    assert is_beginning(parse(packet[:end], frame, PORTS), parse(packet, frame, PORTS))


@given(st.sampled_from(sorted(PACKETS)), st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4))
def test_nor_are_packets_with_wrong_octets(name: str, changed: list[tuple[int, int]]) -> None:
    octets = bytearray(PACKETS[name][0])
    for place, value in changed:
        octets[place % len(octets)] = value
    whole = parse(bytes(octets), b"", PORTS)
    for end in range(0, len(octets), 3):
        assert is_beginning(parse(bytes(octets[:end]), b"", PORTS), whole)


@pytest.mark.parametrize("octet", [0x40, 0x44])
def test_an_ip_header_that_says_it_is_none_does_not_carry_itself(octet: int) -> None:
    packet = bytes([octet]) + PACKETS["ip in ip"][0][1:]
    assert len(parse(packet, b"", PORTS)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_recorded_packets_have_a_probe_inside(name: str) -> None:
    for one in load(name).sightings:
        inner = innermost(one.headers)
        assert isinstance(inner[0], Ip)
        assert len(inner) > 1 or fragment_offset(one.headers)


# --- what is asked of them -------------------------------------------------------------------------------------------

IP, WRAPPING = ip(A, B, UDP, 36), Ip(4, *ends(NODE1, NODE2), UDP, 62, 86, 9)
FRAME, OTHER_FRAME = Ethernet("a", "b", 0x0800), Ethernet("c", "d", 0x0800)
PORTS_OF_IT, CARRIER = Udp(1, 2), Udp(3, 8472)
VXLAN: tuple[Header, ...] = (FRAME, WRAPPING, CARRIER, Vxlan(1), OTHER_FRAME, IP, PORTS_OF_IT)


@pytest.mark.parametrize(
    ("headers", "inner", "around"),
    [
        ((), (), ()),
        ((FRAME,), (), (FRAME,)[:0]),
        ((IP, PORTS_OF_IT), (IP, PORTS_OF_IT), ()),
        ((FRAME, IP, PORTS_OF_IT), (IP, PORTS_OF_IT), ()),
        (VXLAN, (IP, PORTS_OF_IT), (FRAME, WRAPPING, CARRIER, Vxlan(1))),
        ((WRAPPING, IP), (IP,), (WRAPPING,)),
        ((IP, Icmp(3, 3), Quote(), WRAPPING, CARRIER), (IP, Icmp(3, 3), Quote(), WRAPPING, CARRIER), ()),
        ((WRAPPING, IP, Icmp(3, 3), Quote(), IP), (IP, Icmp(3, 3), Quote(), IP), (WRAPPING,)),
    ],
)
def test_inner_and_outer(headers: Headers, inner: Headers, around: Headers) -> None:
    assert innermost(headers) == inner
    assert outer(headers) == around


def test_the_first_ip_header_is_the_outermost() -> None:
    assert first(VXLAN, Ip) is WRAPPING
    assert first((FRAME,), Ip) is None


def test_a_fragment_is_one_wherever_it_is() -> None:
    assert fragment_offset(VXLAN) == 0
    assert fragment_offset(PACKETS["first fragment"][1]) == 0
    assert fragment_offset((WRAPPING, *PACKETS["last fragment"][1])) == 1480
    assert fragment_offset(()) == 0
