"""The table that marks a probe: where it looks for the cookie, and the messages that make it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from netlab.kernel.netlink import NLA_TYPE_MASK, Message
from netlab.trace.headers import ICMP, ICMPV6, IPIP, IPV6, TCP, UDP
from netlab.trace.mark import BEGIN, END, NAME, Match, matches, table

COOKIE = bytes.fromhex("deadbeef") + bytes(range(12))
FOLLOWING = bytes.fromhex("deadbef0")


def probes(version: int, cookie: bytes = COOKIE) -> Iterator[tuple[str, object]]:
    """Yield each kind of probe and its answer as scapy builds it, by IP version."""
    from scapy.layers import inet, inet6

    number = int.from_bytes(cookie[:4], "big")
    there = inet.IP(src="10.244.1.2", dst="10.244.2.2") if version == 4 else inet6.IPv6(src="fd00::1", dst="fd00::2")
    back = inet.IP(src="10.244.2.2", dst="10.244.1.2") if version == 4 else inet6.IPv6(src="fd00::2", dst="fd00::1")
    request, reply = (
        (inet.ICMP(id=1, seq=1), inet.ICMP(type=0, id=1, seq=1))
        if version == 4
        else (inet6.ICMPv6EchoRequest(id=1, seq=1), inet6.ICMPv6EchoReply(id=1, seq=1))
    )
    yield "udp", there / inet.UDP(sport=40000, dport=53) / cookie
    yield "echo", there / request / cookie
    yield "echo reply", back / reply / cookie
    yield "syn", there / inet.TCP(sport=40000, dport=80, flags="S", seq=number)
    yield "syn, ack", back / inet.TCP(sport=80, dport=40000, flags="SA", seq=7, ack=(number + 1) % (1 << 32))


def wrapped(inside: object, carrier: str, version: int) -> object:
    """Put a packet into another one."""
    from scapy.layers import inet, inet6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    around = inet.IP(src="172.18.0.2", dst="172.18.0.3") if version == 4 else inet6.IPv6(src="fd01::2", dst="fd01::3")
    match carrier:
        case "vxlan":
            frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
            return around / inet.UDP(sport=50000, dport=8472) / VXLAN(vni=1) / frame / inside
        case "udp":
            return around / inet.UDP(sport=8285, dport=8285) / inside
        case "ip":
            return around / inside
    return inside


def packets(cookie: bytes = COOKIE) -> dict[str, bytes]:
    """Return each probe in each tunnel, by name."""
    found = {}
    for inner in (4, 6):
        for name, packet in probes(inner, cookie):
            found[f"{name} {inner}"] = bytes(packet)  # type: ignore[call-overload]
            for carrier in ("vxlan", "udp", "ip"):
                for outer in (4, 6):
                    whole = wrapped(packet, carrier, outer)
                    found[f"{name} {inner} in {carrier} {outer}"] = bytes(whole)  # type: ignore[call-overload]
    return found


def hits(packet: bytes, cookie: bytes = COOKIE) -> set[Match]:
    """Return the matches that the kernel would find in a packet: behind the outermost IP header."""
    protocol, start = (packet[9], (packet[0] & 15) * 4) if packet[0] >> 4 == 4 else (packet[6], 40)
    rest = packet[start:]
    return {one for one in matches(cookie) if one.protocol == protocol and rest[one.offset :][:4] == one.expected}


PACKETS = packets()


@pytest.mark.parametrize("name", PACKETS)
def test_every_probe_is_marked_in_every_tunnel(name: str) -> None:
    assert len(hits(PACKETS[name])) == 1


def test_every_place_is_that_of_some_packet() -> None:
    met = {match for packet in PACKETS.values() for match in hits(packet)}
    assert [match for match in matches(COOKIE) if match not in met] == []


def test_no_place_is_looked_at_twice() -> None:
    found = list(matches(COOKIE))
    assert len(found) == len(set(found)) < 60


def test_packets_without_the_cookie_are_left_alone() -> None:
    assert not any(hits(packet) for packet in packets(bytes(range(100, 116))).values())


def test_a_number_that_goes_round() -> None:
    cookie = b"\xff" * 16
    assert len(hits(packets(cookie)["syn, ack 4"], cookie)) == 1


# --- messages --------------------------------------------------------------------------------------------------------

Attributes = list[tuple[int, bytes]]


def attributes(payload: bytes) -> Attributes:
    """Unpack attributes in their order, also those of one type."""
    found, at = [], 0
    while at < len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        assert 4 <= length <= len(payload) - at
        found.append((kind & NLA_TYPE_MASK, payload[at + 4 : at + length]))
        at += (length + 3) & ~3
    return found


def number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def expressions(message: Message) -> list[tuple[str, dict[int, bytes]]]:
    """Return a rule's expressions: names with their attributes."""
    (listed,) = [payload for kind, payload in attributes(message.body[4:]) if kind == 4]
    found = []
    for kind, payload in attributes(listed):
        assert kind == 1
        parts = dict(attributes(payload))
        found.append((parts[1].decode().rstrip("\0"), dict(attributes(parts[2]))))
    return found


def test_one_transaction_of_a_table_its_chains_and_rules() -> None:
    made = table(COOKIE)
    count = len(list(matches(COOKIE)))
    rules = [10 << 8 | 6] * count
    assert [message.type for message in made] == [10 << 8, 10 << 8 | 3, *rules, 10 << 8 | 3, *rules]
    assert {message.body[:4] for message in made} == {bytes([1, 0, 0, 0])}  # inet
    assert [(message.type, message.body) for message in (BEGIN, END)] == [
        (0x10, bytes([0, 0, 0, 10])),
        (0x11, bytes([0, 0, 0, 10])),
    ]


def test_the_table_goes_with_its_owner() -> None:
    found = dict(attributes(table(COOKIE)[0].body[4:]))
    assert (found[1], number(found[2])) == (NAME.encode() + b"\0", 2)


def test_the_chains_are_in_front_of_all_others_where_packets_come_from() -> None:
    chains = [message for message in table(COOKIE) if message.type == 10 << 8 | 3]
    found = [dict(attributes(message.body[4:])) for message in chains]
    hooks = [{kind: struct.unpack("!i", value)[0] for kind, value in attributes(one[4])} for one in found]
    assert [one[3] for one in found] == [b"prerouting\0", b"output\0"]
    assert hooks == [{1: 0, 2: -450}, {1: 3, 2: -450}]
    assert {one[7] for one in found} == {b"filter\0"}


def test_each_rule_compares_protocol_and_number_and_sets_the_bit() -> None:
    rules = [message for message in table(COOKIE) if message.type == 10 << 8 | 6]
    found = []
    for message in rules:
        names = [name for name, _ in expressions(message)]
        assert names == ["meta", "cmp", "payload", "cmp", "immediate", "meta"]
        (_, key), (_, protocol), (_, place), (_, expected), (_, one), (_, trace) = expressions(message)
        assert number(key[2]) == 16  # NFT_META_L4PROTO
        assert [number(compare[2]) for compare in (protocol, expected)] == [0, 0]  # NFT_CMP_EQ
        assert (number(place[2]), number(place[4])) == (2, 4)  # the transport header, 4 bytes
        assert dict(attributes(one[2])) == {1: b"\1"}
        assert number(trace[2]) == 12  # NFT_META_NFTRACE
        assert {number(each[1]) for each in (protocol, place, expected, one)} == {1}  # one register
        assert number(trace[3]) == 1
        compared = (dict(attributes(compare[3]))[1] for compare in (protocol, expected))
        found.append(Match(next(compared)[0], number(place[3]), next(compared)))
    assert found == [*matches(COOKIE)] * 2


def test_the_numbers_looked_for() -> None:
    assert {match.expected for match in matches(COOKIE)} == {COOKIE[:4], FOLLOWING}
    assert {match.protocol for match in matches(COOKIE)} == {ICMP, IPIP, TCP, UDP, IPV6, ICMPV6}
