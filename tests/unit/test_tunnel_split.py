"""Super-packets taken apart, against packets that are built one by one: by the reference and by scapy."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from netlab.tunnel.packet import MAX_PAYLOAD
from netlab.tunnel.split import Splitter
from netlab.tunnel.vnet import VnetHeader
from tests.unit import tunnel_reference as reference
from tests.unit.tunnel_reference import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Packet

SPLITTER = Splitter()  # one for all tests: nothing of a packet may stay in its buffer for the next one
TIMESTAMP = bytes.fromhex("0101080a 00000001 00000002")
DESTINATION_OPTIONS = bytes.fromhex("00 00 01 04 00000000")  # next header, length, PadN
ROUTER_ALERT = bytes.fromhex("94040000")


def octets(length: int) -> bytes:
    """Bytes that differ from segment to segment, and in odd and even places."""
    return (b"".join(number.to_bytes(3, "big") for number in range(length // 3 + 1)))[:length]


def split(packet: Packet, gso_size: int) -> list[bytes]:
    """Split a super-packet; check that each train may be sent at once and that the input is as before."""
    header, whole = packet.super_packet(gso_size)
    found: list[bytes] = []
    for train in SPLITTER.split(VnetHeader(*header), memoryview(whole)):
        assert len(train.packets) <= MAX_PAYLOAD
        cuts = [*range(0, len(train.packets), train.size), len(train.packets)]
        assert len(cuts) - 1 <= 64  # UDP_MAX_SEGMENTS before Linux 6.9
        found += [bytes(train.packets[start:end]) for start, end in pairwise(cuts)]
    return found


def wanted(packet: Packet, gso_size: int) -> list[bytes]:
    return [bytes(segment) for segment in packet.segments(gso_size)]


CASES = {
    "tcp": (Packet(octets(5000), tcp_options=TIMESTAMP), 1420),
    "tcp, an even end": (Packet(octets(4200)), 1400),
    "tcp, one byte left": (Packet(octets(2801)), 1400),
    "tcp, odd segments": (Packet(octets(9000), tcp_options=TIMESTAMP), 1419),
    "tcp, odd segments, odd end": (Packet(octets(9001)), 1419),
    "tcp, one segment": (Packet(octets(1000), flags=ACK | PSH | CWR), 1400),
    "tcp, exactly one segment": (Packet(octets(1400)), 1400),
    "tcp, FIN and PSH": (Packet(octets(5000), flags=ACK | PSH | FIN), 1400),
    "tcp, CWR and ECE": (Packet(octets(5000), flags=ACK | CWR | ECE), 1400),
    "tcp, all flags": (Packet(octets(5000), flags=0xFF, urgent=77, reserved=1), 1400),
    "tcp, SYN": (Packet(octets(5000), flags=SYN), 1400),
    "tcp, RST and URG": (Packet(octets(5000), flags=ACK | RST | URG, urgent=9), 1400),
    "tcp, id wraps": (Packet(octets(9000), id=65533), 1000),
    "tcp, id 0 and DF clear": (Packet(octets(9000), fragment=0), 1000),
    "tcp, sequence wraps": (Packet(octets(9000), sequence=2**32 - 1500), 1000),
    "tcp, sequence wraps exactly": (Packet(octets(9000), sequence=2**32 - 2000), 1000),
    "tcp, ECN and DSCP": (Packet(octets(9000), tos=0xBB), 1000),
    "tcp, IP options": (Packet(octets(9000), ip_options=ROUTER_ALERT, tcp_options=TIMESTAMP), 1000),
    "tcp, longest headers": (Packet(octets(9000), ip_options=bytes([1]) * 40, tcp_options=bytes([1]) * 40), 1000),
    "tcp, jumbo": (Packet(octets(65000)), 8920),
    "tcp, as large as can be": (Packet(octets(65535 - 40)), 1432),
    "tcp, a segment as large as can be": (Packet(octets(65535 - 40)), 65507 - 40),
    "tcp, more than one send": (Packet(octets(60000), id=65530, flags=ACK | PSH | CWR, sequence=2**32 - 9), 536),
    "tcp, tiny": (Packet(octets(3000), flags=ACK | PSH | CWR), 1),
    "tcp, exactly two sends": (Packet(octets(128 * 48), flags=ACK | FIN), 48),
    "tcp6": (Packet(octets(5000), version=6, tcp_options=TIMESTAMP, tos=0x2E, flow_label=0xABCDE), 1400),
    "tcp6, odd": (Packet(octets(5001), version=6, flags=ACK | PSH | CWR), 1401),
    "tcp6, extension header": (Packet(octets(5001), version=6, extension=DESTINATION_OPTIONS), 1400),
    "udp": (Packet(octets(5000), protocol=17), 1400),
    "udp, an even end": (Packet(octets(4200), protocol=17), 1400),
    "udp, odd": (Packet(octets(5001), protocol=17, id=65535), 1401),
    "udp, more than one send": (Packet(octets(300), protocol=17), 3),
    "udp, IP options": (Packet(octets(5001), protocol=17, ip_options=ROUTER_ALERT), 1400),
    "udp6": (Packet(octets(5001), version=6, protocol=17), 1400),
    "udp6, extension header": (Packet(octets(5001), version=6, protocol=17, extension=DESTINATION_OPTIONS), 1399),
}


@pytest.mark.parametrize("name", CASES)
def test_split(name: str) -> None:
    packet, gso_size = CASES[name]
    assert split(packet, gso_size) == wanted(packet, gso_size)


@pytest.mark.parametrize("name", [name for name in CASES if "extension" not in name])
def test_scapy_would_write_the_same_lengths_and_checksums(name: str) -> None:
    for segment in split(*CASES[name])[-3:]:
        layers = IP(segment) if segment[0] >> 4 == 4 else IPv6(segment)
        transport = layers[TCP] if TCP in layers else layers[UDP]
        del transport.chksum
        if segment[0] >> 4 == 4:
            del layers.len, layers.chksum
        else:
            del layers.plen
        if UDP in layers:
            del transport.len
        assert bytes(layers) == segment


def test_tcp_as_scapy_builds_it() -> None:
    segments = [
        IP(src="10.244.1.5", dst="10.244.2.7", id=9 + number, flags="DF", tos=3)
        / TCP(sport=40000, dport=5201, seq=100 + number * 4, flags=flags, window=502)
        / payload
        for number, (flags, payload) in enumerate([("ACE", b"abcd"), ("AE", b"efgh"), ("FPAE", b"ij")])
    ]
    packet = Packet(b"abcdefghij", id=9, tos=3, sequence=100, flags=ACK | CWR | ECE | FIN | PSH)
    assert split(packet, 4) == [bytes(segment) for segment in segments]


def test_a_checksum_of_zero_is_sent_as_all_ones_in_udp_only() -> None:
    for protocol, zero in ((17, b"\xff\xff"), (6, b"\0\0")):
        packet = Packet(bytes(8), protocol=protocol)
        offset = 26 if protocol == 17 else 36
        lacking = bytes(packet.with_(payload=bytes(4)))[offset : offset + 2]
        packet = packet.with_(payload=lacking + bytes(2) + b"abcd")
        first, second = split(packet, 4)
        assert first[offset : offset + 2] == zero
        assert [first, second] == wanted(packet, 4)


PACKETS = st.builds(
    Packet,
    payload=st.integers(1, 3000).map(octets),
    version=st.sampled_from([4, 6]),
    protocol=st.sampled_from([6, 17]),
    tos=st.integers(0, 255),
    id=st.integers(0, 65535),
    fragment=st.sampled_from([0, 0x4000, 0x8000]),
    ttl=st.integers(0, 255),
    flow_label=st.integers(0, 0xFFFFF),
    ip_options=st.integers(0, 10).map(lambda words: bytes([1]) * 4 * words),
    extension=st.sampled_from([b"", DESTINATION_OPTIONS]),
    sequence=st.integers(0, 2**32 - 1),
    acknowledgment=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 255),
    reserved=st.integers(0, 15),
    window=st.integers(0, 65535),
    urgent=st.integers(0, 65535),
    tcp_options=st.integers(0, 10).map(lambda words: bytes([1]) * 4 * words),
)


@given(PACKETS, st.integers(1, 1500))
def test_any_super_packet(packet: Packet, gso_size: int) -> None:
    assert split(packet, gso_size) == wanted(packet, gso_size)


GOOD = Packet(octets(3000))
HEADER, WHOLE = GOOD.super_packet(1000)
HEADER_V6, WHOLE_V6 = GOOD.with_(version=6).super_packet(1000)
HEADER_UDP, WHOLE_UDP = GOOD.with_(protocol=17).super_packet(1000)


def changed(packet: bytes, offset: int, octet: int) -> bytes:
    return packet[:offset] + bytes([octet]) + packet[offset + 1 :]


@pytest.mark.parametrize(
    ("header", "packet"),
    [
        ((0, *HEADER[1:]), WHOLE),  # no partial checksum
        ((1, 0, *HEADER[2:]), WHOLE),
        ((1, 3, *HEADER[2:]), WHOLE),  # UFO
        ((1, 4, *HEADER[2:]), WHOLE),  # TCPv6, and the packet is IPv4
        ((1, 1, *HEADER_V6[2:]), WHOLE_V6),
        ((1, 5, *HEADER[2:]), WHOLE),  # UDP, and the packet is TCP
        ((1, 5, *HEADER[2:5], 6), WHOLE),
        ((1, 5, *HEADER_V6[2:5], 6), WHOLE_V6),
        ((1, 1, *HEADER_UDP[2:5], 16), WHOLE_UDP),
        ((*HEADER[:3], 0, *HEADER[4:]), WHOLE),  # gso_size
        ((*HEADER[:3], 65507 - 39, *HEADER[4:]), WHOLE),  # segments larger than a datagram
        ((*HEADER[:4], 0, 16), WHOLE),  # csum_start
        ((*HEADER[:4], 24, 16), WHOLE),
        ((*HEADER_V6[:4], 20, 16), WHOLE_V6),
        ((*HEADER[:4], 65535, 16), WHOLE),
        ((*HEADER[:5], 6), WHOLE),  # csum_offset
        (HEADER, b""),
        (HEADER, WHOLE[:40]),
        (HEADER, WHOLE[:-1]),
        (HEADER, WHOLE + b"x"),
        (HEADER_V6, WHOLE_V6[:-1]),
        (HEADER_V6, WHOLE_V6 + b"x"),
        (HEADER_UDP, WHOLE_UDP[:27]),
        (HEADER, bytes(Packet())),  # no payload
        (HEADER, changed(WHOLE, 0, 0x46)),
        (HEADER, changed(WHOLE, 0, 0x55)),
        (HEADER, changed(WHOLE, 6, 0x60)),  # more fragments
        (HEADER, changed(WHOLE, 7, 1)),
        (HEADER, changed(WHOLE, 32, 0x40)),  # TCP's data offset
        (HEADER, bytes(Packet(octets(10), tcp_options=bytes(40)))[:50]),
    ],
)
def test_what_contradicts_itself_gives_nothing(header: reference.Vnet, packet: bytes) -> None:
    assert list(SPLITTER.split(VnetHeader(*header), memoryview(packet))) == []


@given(st.binary(min_size=10, max_size=10), st.binary(max_size=200))
def test_noise_gives_nothing_and_raises_nothing(header: bytes, packet: bytes) -> None:
    for train in SPLITTER.split(VnetHeader.unpack(header), memoryview(packet)):
        assert 0 < len(train.packets) <= MAX_PAYLOAD


@given(PACKETS, st.integers(1, 1500), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), min_size=1))
def test_mutations_raise_nothing(packet: Packet, gso_size: int, mutations: list[tuple[int, int]]) -> None:
    header, whole = packet.super_packet(gso_size)
    frame = bytearray(VnetHeader(*header).pack() + whole)
    for offset, octet in mutations:
        frame[min(offset, len(frame) - 1)] = octet
    for train in SPLITTER.split(VnetHeader.unpack(frame), memoryview(frame)[10:]):
        assert 0 < len(train.packets) <= MAX_PAYLOAD


def test_memory_is_bounded() -> None:
    splitter = Splitter()
    for gso_size in range(1, 500):
        header, whole = GOOD.super_packet(gso_size)
        for _ in splitter.split(VnetHeader(*header), memoryview(whole)):
            pass
    assert len(splitter._segments) <= 64
