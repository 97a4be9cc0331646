"""Inner packets against scapy: hops, ICMP errors, and what is no packet at all."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_Redirect,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from netlab.tunnel import packet as inner
from netlab.tunnel import vnet
from netlab.tunnel.packet import Drop
from netlab.tunnel.vnet import VnetHeader
from tests.unit import tunnel_reference as reference

V4 = IP(src="10.244.1.5", dst="10.244.2.7", ttl=7)
V6 = IPv6(src="fd00:1::5", dst="fd00:2::7", hlim=7)
SPEAKER_V4, SPEAKER_V6 = IPv4Address("10.244.1.0"), IPv6Address("fd00:1::")


def rebuilt(packet: bytes) -> bytes:
    """Let scapy compute the IP checksum again."""
    layers = IP(packet)
    del layers.chksum
    return bytes(layers)


@pytest.mark.parametrize("layers", [V4 / UDP() / "x", V4 / TCP(), IP(options=[IPOption_Router_Alert()]) / ICMP()])
@pytest.mark.parametrize("ttl", [2, 3, 64, 128, 255])
def test_a_hop_keeps_the_checksum_right(layers: Packet, ttl: int) -> None:
    layers = layers.copy()
    layers.ttl = ttl
    before = bytes(layers)
    packet = bytearray(before)
    assert inner.take_hop(packet)
    assert packet[8] == ttl - 1
    assert bytes(packet) == rebuilt(bytes(packet))
    assert bytes(packet[:8] + packet[12:]) == before[:8] + before[12:]


def test_a_hop_for_every_checksum() -> None:
    """Also where adding 0x0100 carries, and 0xFEFF, where careless code writes 0xFFFF."""
    header = bytearray(bytes(V4 / UDP()))
    for checksum in range(0x10000):
        struct.pack_into(">H", header, 10, checksum)
        packet = bytearray(header)
        assert inner.take_hop(memoryview(packet))
        assert packet == reference.hop(bytes(header))


@pytest.mark.parametrize("layers", [V4 / UDP(), V6 / UDP()])
@pytest.mark.parametrize("left", [0, 1])
def test_the_last_hop_is_refused_and_nothing_wraps(layers: Packet, left: int) -> None:
    layers = layers.copy()
    setattr(layers, "ttl" if layers.version == 4 else "hlim", left)
    packet = bytearray(bytes(layers))
    assert not inner.take_hop(packet)
    assert packet == bytes(layers)


def test_a_hop_of_ipv6() -> None:
    packet = bytearray(bytes(V6 / UDP() / "abc"))
    assert inner.take_hop(packet)
    after = V6.copy()
    after.hlim = 6
    assert packet == bytes(after / UDP() / "abc")


def test_addresses() -> None:
    packet = memoryview(bytes(V4 / UDP()))
    assert (inner.version(packet), inner.source(packet)) == (4, IPv4Address("10.244.1.5").packed)
    assert inner.destination(packet) == IPv4Address("10.244.2.7").packed
    packet = memoryview(bytes(V6 / UDP()))
    assert (inner.version(packet), inner.source(packet)) == (6, IPv6Address("fd00:1::5").packed)
    assert inner.destination(packet) == IPv6Address("fd00:2::7").packed


@pytest.mark.parametrize(
    ("packet", "drop"),
    [
        (b"", Drop.MALFORMED),
        (b"\x45" + bytes(18), Drop.MALFORMED),
        (bytes(40), Drop.MALFORMED),  # version 0
        (b"\x55" + bytes(60), Drop.MALFORMED),
        (b"\x44\0\0\x14" + bytes(16), Drop.MALFORMED),  # 16 bytes of header
        (b"\x46\0\0\x14" + bytes(16), Drop.MALFORMED),  # a header longer than the packet
        (b"\x45\0\0\x15" + bytes(16), Drop.TRUNCATED),
        (b"\x60" + bytes(19), Drop.TRUNCATED),
        (b"\x60\0\0\0\0\x01" + bytes(34), Drop.TRUNCATED),
        (bytes(V4 / UDP() / "abc")[:-1], Drop.TRUNCATED),
        (bytes(V6 / UDP() / "abc")[:-1], Drop.TRUNCATED),
        (bytes(V4), None),
        (bytes(V6), None),
        (bytes(V4 / UDP()) + b"padding", None),
        (bytes(IP(options=[IPOption_Router_Alert()]) / ICMP()), None),
    ],
)
def test_check(packet: bytes, drop: Drop | None) -> None:
    assert inner.check(packet) is drop
    assert inner.check(memoryview(packet)) is drop


ERRORS = [(inner.time_exceeded, 11, ICMPv6TimeExceeded, 3), (inner.net_unreachable, 3, ICMPv6DestUnreach, 1)]


@pytest.mark.parametrize(("make", "v4_type", "v6_layer", "v6_type"), ERRORS)
@pytest.mark.parametrize("size", [0, 1, 20, 519, 520, 521, 1400])
def test_errors_as_scapy_reads_them(make, v4_type, v6_layer, v6_type, size: int) -> None:  # type: ignore[no-untyped-def]
    cause = bytes(V4 / UDP(sport=5) / bytes(size))
    error = make(memoryview(cause), SPEAKER_V4)
    quoted = cause[: 576 - 28]
    wanted = IP(src="10.244.1.0", dst="10.244.1.5", ttl=64, tos=0xC0, id=0, flags="DF")
    assert error == bytes(wanted / ICMP(type=v4_type, code=0) / Raw(quoted))
    assert inner.check(error) is None

    cause = bytes(V6 / UDP(sport=5) / bytes(size))
    error = make(memoryview(cause), SPEAKER_V6)
    wanted = IPv6(src="fd00:1::", dst="fd00:1::5", hlim=64)
    assert error == bytes(wanted / v6_layer(type=v6_type, code=0) / Raw(cause[: 1280 - 48]))
    assert inner.check(error) is None


def icmp(kind: int) -> Packet:
    return ICMP(type=kind) / bytes(28)


NO_ERROR = {
    "about unreachable": V4 / icmp(3),
    "about source quench": V4 / icmp(4),
    "about a redirect": V4 / icmp(5),
    "about time exceeded": V4 / icmp(11),
    "about a parameter problem": V4 / icmp(12),
    "about an unknown ICMP type": V4 / icmp(77),
    "about ICMP without a type": V4.copy() / Raw(b""),
    "behind IP options": IP(src="10.244.1.5", dst="10.244.2.7", options=[IPOption_Router_Alert()]) / icmp(3),
    "about a later fragment": IP(src="10.244.1.5", dst="10.244.2.7", frag=185) / Raw(bytes(20)),
    "about a far fragment": IP(src="10.244.1.5", dst="10.244.2.7", frag=0x1F00) / Raw(bytes(20)),
    "from no address": IP(src="0.0.0.0", dst="10.244.2.7") / UDP(),
    "from loopback": IP(src="127.0.0.1", dst="10.244.2.7") / UDP(),
    "from multicast": IP(src="224.0.0.1", dst="10.244.2.7") / UDP(),
    "from class E": IP(src="240.0.0.1", dst="10.244.2.7") / UDP(),
    "from broadcast": IP(src="255.255.255.255", dst="10.244.2.7") / UDP(),
    "to multicast": IP(src="10.244.1.5", dst="239.1.2.3") / UDP(),
    "to broadcast": IP(src="10.244.1.5", dst="255.255.255.255") / UDP(),
    "v6 about unreachable": V6 / ICMPv6DestUnreach() / Raw(bytes(48)),
    "v6 about time exceeded": V6 / ICMPv6TimeExceeded() / Raw(bytes(48)),
    "v6 about a redirect": V6 / ICMPv6ND_Redirect(),
    "v6 behind extensions": V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / ICMPv6DestUnreach(),
    "v6 behind AH": V6 / AH(nh=58, payloadlen=4, icv=bytes(12)) / ICMPv6DestUnreach(),
    "v6 behind the first fragment": V6 / IPv6ExtHdrFragment(offset=0, m=1) / ICMPv6DestUnreach(),
    "v6 a later fragment of ICMPv6": V6 / IPv6ExtHdrFragment(offset=90, nh=58) / Raw(b"\x80" * 20),
    "v6 a near fragment of ICMPv6": V6 / IPv6ExtHdrFragment(offset=16, nh=58) / Raw(b"\x80" * 20),
    "v6 extensions that run out": V6.copy() / Raw(bytes(IPv6ExtHdrHopByHop(nh=60))),
    "v6 from multicast": IPv6(src="ff02::1", dst="fd00:2::7") / UDP(),
    "v6 from nothing": IPv6(src="::", dst="fd00:2::7") / UDP(),
    "v6 from loopback": IPv6(src="::1", dst="fd00:2::7") / UDP(),
    "v6 to multicast": IPv6(src="fd00:1::5", dst="ff05::2") / UDP(),
}
NO_ERROR["about ICMP without a type"].proto = 1
NO_ERROR["v6 extensions that run out"].nh = 0
AN_ERROR = {
    "about an echo": V4 / ICMP(type=8),
    "about an echo reply": V4 / ICMP(type=0),
    "about a timestamp request": V4 / ICMP(type=13),
    "about the first fragment": IP(src="10.244.1.5", dst="10.244.2.7", flags="MF") / UDP() / bytes(24),
    "with options": IP(src="10.244.1.5", dst="10.244.2.7", options=[IPOption_Router_Alert()]) / UDP(),
    "about an unknown protocol": V4.copy() / Raw(b"x"),
    "v6 about an echo": V6 / ICMPv6EchoRequest(),
    "v6 about an echo reply": V6 / ICMPv6EchoReply(),
    "v6 behind extensions": V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(),
    "v6 behind AH": V6 / AH(nh=58, payloadlen=4, icv=bytes(12)) / ICMPv6EchoRequest(),
    "v6 the first fragment": V6 / IPv6ExtHdrFragment(offset=0, m=1) / ICMPv6EchoRequest(),
    "v6 a later fragment of UDP": V6 / IPv6ExtHdrFragment(offset=90, nh=17) / Raw(b"\x03" * 20),
    "v6 from a link-local address": IPv6(src="fe80::1", dst="fd00:2::7") / UDP(),
}


@pytest.mark.parametrize("make", [inner.time_exceeded, inner.net_unreachable])
@pytest.mark.parametrize("name", NO_ERROR)
def test_where_no_error_may_be_sent(make, name: str) -> None:  # type: ignore[no-untyped-def]
    packet = bytes(NO_ERROR[name])
    assert inner.check(packet) is None
    assert make(packet, SPEAKER_V4 if packet[0] >> 4 == 4 else SPEAKER_V6) is None


@pytest.mark.parametrize("make", [inner.time_exceeded, inner.net_unreachable])
@pytest.mark.parametrize("name", AN_ERROR)
def test_where_an_error_is_due(make, name: str) -> None:  # type: ignore[no-untyped-def]
    packet = bytes(AN_ERROR[name])
    assert make(packet, SPEAKER_V4 if packet[0] >> 4 == 4 else SPEAKER_V6) is not None
    assert make(packet, SPEAKER_V6 if packet[0] >> 4 == 4 else SPEAKER_V4) is None


@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45\0\0\x14", b"\x4f\0\0\x3c", b"\x60\0\0\0\0\0"]))
def test_nothing_that_passes_the_check_raises(noise: bytes, start: bytes) -> None:
    packet = bytearray(start + noise)
    if inner.check(packet) is not None:
        return
    assert len(inner.source(packet)) == len(inner.destination(packet)) == {4: 4, 6: 16}[inner.version(packet)]
    for speaker in (SPEAKER_V4, SPEAKER_V6):
        for make in (inner.time_exceeded, inner.net_unreachable):
            error = make(packet, speaker)
            assert error is None or inner.check(error) is None
    assert inner.take_hop(bytearray(packet)) == (reference.hop(bytes(packet)) is not None)


@given(st.binary(max_size=64), st.sampled_from([TCP, UDP]), st.sampled_from([V4, V6]))
def test_partial_checksums_are_finished(payload: bytes, protocol: type[Packet], ip: Packet) -> None:
    number = 6 if protocol is TCP else 17
    packet = reference.Packet(payload, version=ip.version, protocol=number)
    header, partial = packet.super_packet(0)
    finished = bytearray(partial)
    assert vnet.finish_checksum(VnetHeader(*header).pack(), memoryview(finished))
    assert finished == bytes(packet)
    layers = IP(finished) if ip.version == 4 else IPv6(finished)
    del layers[protocol].chksum
    assert finished == bytes(layers)


def test_a_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    packet = reference.Packet(b"\0\0", protocol=17)
    lacking = struct.unpack_from(">H", bytes(packet), 26)[0]
    packet = packet.with_(payload=struct.pack(">H", lacking))
    header, partial = packet.super_packet(0)
    finished = bytearray(partial)
    assert vnet.finish_checksum(VnetHeader(*header).pack(), finished)
    assert finished[26:28] == b"\xff\xff"
    assert finished == bytes(packet)


@given(st.binary(max_size=60), st.integers(0, 65535), st.integers(0, 65535))
def test_a_partial_checksum_elsewhere_is_refused(packet: bytes, start: int, offset: int) -> None:
    buffer = bytearray(packet)
    done = vnet.finish_checksum(VnetHeader(vnet.NEEDS_CSUM, csum_start=start, csum_offset=offset).pack(), buffer)
    assert done == (start + offset + 2 <= len(packet))
    assert done or buffer == packet
    assert len(buffer) == len(packet)


def test_the_vnet_header_as_in_the_kernel() -> None:
    header = VnetHeader(1, 0x81, 0x0102, 0x0304, 0x0506, 0x0708)
    assert header.pack() == bytes.fromhex("0181 0201 0403 0605 0807")
    assert VnetHeader.unpack(memoryview(header.pack() + b"rest")) == header
    assert bytes(10) == vnet.PLAIN
    assert len(vnet.PLAIN) == vnet.LENGTH
