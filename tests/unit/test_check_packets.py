"""ICMP as bytes: scapy is the judge of what is packed, and the maker of what is parsed."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, ICMPerror, IPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)

from netlab.check import packets
from netlab.check.packets import Echo, IcmpError

WORD = st.integers(0, 0xFFFF)
HERE, THERE = "10.244.1.2", "10.244.2.2"
HERE6, THERE6 = "fd00::1", "fd00::2"


@given(WORD, WORD, st.integers(28, 1500))
def test_an_ipv4_request_is_what_scapy_makes(ident: int, sequence: int, size: int) -> None:
    packed = packets.echo_request(4, Echo(ident, sequence), size)
    assert packed == bytes(ICMP(type=8, id=ident, seq=sequence) / bytes(size - 28))
    assert len(packed) + 20 == size


@given(WORD, WORD, st.integers(48, 1500))
def test_an_ipv6_request_leaves_the_checksum_to_the_kernel(ident: int, sequence: int, size: int) -> None:
    packed = packets.echo_request(6, Echo(ident, sequence), size)
    assert packed == bytes(ICMPv6EchoRequest(id=ident, seq=sequence, data=bytes(size - 48), cksum=0))
    assert len(packed) + 40 == size


def test_a_request_is_never_shorter_than_its_headers() -> None:
    assert len(packets.echo_request(6, Echo(1, 1), 28)) == 8


def test_replies_are_read_with_ip_options_or_without() -> None:
    reply = ICMP(type=0, id=7, seq=9) / b"abc"
    assert packets.parse(4, bytes(IP(src=THERE, dst=HERE) / reply)) == Echo(7, 9)
    assert packets.parse(4, bytes(IP(src=THERE, dst=HERE, options=[b"\x94\x04\0\0"]) / reply)) == Echo(7, 9)
    assert packets.parse(6, bytes(ICMPv6EchoReply(id=7, seq=9))) == Echo(7, 9)


def _error4(kind: int, code: int, mtu: int = 0, options: list[bytes] | None = None) -> bytes:
    quoted = IPerror(src=HERE, dst=THERE, options=options or []) / ICMPerror(type=8, id=7, seq=9)
    return bytes(IP(src="10.0.0.1", dst=HERE) / ICMP(type=kind, code=code, nexthopmtu=mtu) / quoted)


@pytest.mark.parametrize(
    ("kind", "code", "mtu", "words"),
    [
        (3, 0, 0, "Destination net unreachable"),
        (3, 1, 0, "Destination host unreachable"),
        (3, 4, 1400, "Frag needed and DF set, mtu=1400"),
        (3, 13, 0, "Packet filtered"),
        (11, 0, 0, "Time to live exceeded"),
        (3, 77, 0, "ICMP type 3 code 77"),
    ],
)
def test_ipv4_errors_are_tied_to_the_request_that_they_quote(kind: int, code: int, mtu: int, words: str) -> None:
    error = packets.parse(4, _error4(kind, code, mtu))
    assert error == IcmpError(Echo(7, 9), ip_address(THERE).packed, 4, kind, code, mtu)
    assert isinstance(error, IcmpError)
    assert error.words() == words
    assert error.is_too_big is (code == 4)


def test_a_quoted_header_may_have_options() -> None:
    error = packets.parse(4, _error4(3, 1, options=[b"\x94\x04\0\0"]))
    assert isinstance(error, IcmpError)
    assert error.echo == Echo(7, 9)


@pytest.mark.parametrize(
    ("outer", "words"),
    [
        (ICMPv6DestUnreach(code=0), "Destination unreachable: no route"),
        (ICMPv6DestUnreach(code=3), "Destination unreachable: address unreachable"),
        (ICMPv6PacketTooBig(mtu=1400), "Packet too big, mtu=1400"),
        (ICMPv6PacketTooBig(mtu=100_000), "Packet too big, mtu=100000"),
        (ICMPv6TimeExceeded(code=0), "Hop limit exceeded"),
    ],
)
def test_ipv6_errors_are_tied_to_the_request_that_they_quote(outer: ICMPv6DestUnreach, words: str) -> None:
    quoted = IPv6(src=HERE6, dst=THERE6) / ICMPv6EchoRequest(id=7, seq=9)
    error = packets.parse(6, bytes(outer) + bytes(quoted))
    assert isinstance(error, IcmpError)
    assert error.echo == Echo(7, 9)
    assert error.destination == ip_address(THERE6).packed
    assert error.words() == words
    assert error.is_too_big is words.startswith("Packet too big")


def test_what_is_not_about_a_request_is_nothing() -> None:
    tcp_quoted = IP(src="10.0.0.1", dst=HERE) / ICMP(type=3, code=1) / IPerror(src=HERE, dst=THERE) / TCP()
    reply_quoted = IPerror(src=HERE, dst=THERE) / ICMPerror(type=0, id=7, seq=9)
    assert packets.parse(4, bytes(tcp_quoted)) is None
    assert packets.parse(4, bytes(IP(src="10.0.0.1", dst=HERE) / ICMP(type=3, code=1) / reply_quoted)) is None
    assert packets.parse(4, bytes(IP(src=THERE, dst=HERE) / ICMP(type=8, id=7, seq=9))) is None
    assert packets.parse(4, bytes(IP(src=THERE, dst=HERE) / ICMP(type=5))) is None


@given(st.binary(max_size=120), st.sampled_from((4, 6)))
def test_any_bytes_can_be_parsed(packet: bytes, version: int) -> None:
    packets.parse(version, packet)
    packets.parse_extended_error(packet)


@given(st.integers(0, 200))
def test_a_cut_off_error_is_nothing_or_right(length: int) -> None:
    error = packets.parse(4, _error4(3, 1)[:length])
    assert error is None or (isinstance(error, IcmpError) and error.echo == Echo(7, 9))


def test_the_socket_filters_let_in_answers_and_errors_only() -> None:
    (blocked,) = struct.unpack("=I", packets.socket_filter(4))
    assert {kind for kind in range(32) if not blocked >> kind & 1} == {0, 3, 11, 12}
    words = struct.unpack("=8I", packets.socket_filter(6))
    assert {kind for kind in range(256) if not words[kind // 32] >> kind % 32 & 1} == {1, 2, 3, 4, 129}


def test_extended_errors_name_who_said_it() -> None:
    entry = struct.pack("=IBBBBII", 113, 2, 3, 1, 0, 0, 0)
    offender4 = struct.pack("=HH", socket.AF_INET, 0) + ip_address(HERE).packed + bytes(8)
    offender6 = struct.pack("=HHI", socket.AF_INET6, 0, 0) + ip_address(HERE6).packed + bytes(4)
    assert packets.parse_extended_error(entry + offender4) == (113, 3, 1, 0, ip_address(HERE))
    assert packets.parse_extended_error(entry + offender6) == (113, 3, 1, 0, ip_address(HERE6))
    local = struct.pack("=IBBBBII", 90, 1, 0, 0, 0, 1450, 0) + bytes(16)
    assert packets.parse_extended_error(local) == (90, 0, 0, 1450, None)
