"""Trains joined to super-packets: which may be, what comes out, and that the kernel's GSO gives the same bytes back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP

from netlab.tunnel.join import ROOM, Joiner
from netlab.tunnel.vnet import PLAIN, VnetHeader
from tests.unit import tunnel_reference as reference
from tests.unit.tunnel_reference import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Packet

JOINER = Joiner()  # one for all tests: nothing of a train may stay in its buffers for the next one
TIMESTAMP = bytes.fromhex("0101080a 00000001 00000002")
ROUTER_ALERT = bytes.fromhex("94040000")
LENGTH = 100  # of each segment's payload


def octets(length: int) -> bytes:
    return bytes(number * 7 & 0xFF for number in range(length))


def join(datagrams: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Receive one train: datagrams of one size, of which the last may be shorter."""
    train = b"".join(datagrams)
    assert {len(datagram) for datagram in datagrams[:-1]} <= {len(datagrams[0])}
    JOINER.room[: len(train)] = train
    frames = [(header, bytes(packet)) for header, packet in JOINER.join(len(train), len(datagrams[0]))]
    assert [segment for frame in frames for segment in reference.gso(*frame)] == datagrams
    return frames


def sizes(datagrams: list[bytes]) -> list[int]:
    """How many datagrams went into each packet that came out; one by itself is as it came."""
    counts = [(len(reference.gso(*frame)), frame[0] == PLAIN) for frame in join(datagrams)]
    assert all((count == 1) == is_plain for count, is_plain in counts)
    return [count for count, _ in counts]


WHOLE = {
    "tcp": (Packet(octets(1000)), 100),
    "tcp, options": (Packet(octets(1000), tcp_options=TIMESTAMP), 100),
    "tcp, odd": (Packet(octets(1001)), 101),
    "tcp, a short end": (Packet(octets(1001)), 100),
    "tcp, an odd short end": (Packet(octets(1002), tcp_options=TIMESTAMP), 101),
    "tcp, PSH": (Packet(octets(1000), flags=ACK | PSH), 100),
    "tcp, PSH and a short end": (Packet(octets(950), flags=ACK | PSH), 100),
    "tcp, FIN": (Packet(octets(1000), flags=ACK | FIN), 100),
    "tcp, CWR": (Packet(octets(1000), flags=ACK | CWR), 100),
    "tcp, CWR and ECE": (Packet(octets(1000), flags=ACK | CWR | ECE | PSH), 100),
    "tcp, no ACK": (Packet(octets(1000), flags=0), 100),
    "tcp, AE": (Packet(octets(1000), reserved=1), 100),
    "tcp, id wraps": (Packet(octets(1000), id=65530), 100),
    "tcp, sequence wraps": (Packet(octets(1000), sequence=2**32 - 450), 100),
    "tcp, DF clear": (Packet(octets(1000), fragment=0), 100),
    "tcp, ECN": (Packet(octets(1000), tos=0xBB), 100),
    "tcp, two": (Packet(octets(101)), 100),
    "tcp, jumbo": (Packet(octets(62000)), 8920),
    "tcp, full": (Packet(octets(44 * 1420), tcp_options=TIMESTAMP), 1420),
    "tcp, many": (Packet(octets(1400)), 1),
    "tcp6": (Packet(octets(1001), version=6, tos=0x2E, flow_label=0xABCDE, flags=ACK | PSH), 100),
    "tcp6, odd": (Packet(octets(1001), version=6), 101),
    "udp": (Packet(octets(1000), protocol=17), 100),
    "udp, odd": (Packet(octets(1001), protocol=17), 101),
    "udp, a short end": (Packet(octets(1001), protocol=17), 100),
    "udp, as many as can be": (Packet(octets(64), protocol=17), 1),
    "udp6": (Packet(octets(1001), version=6, protocol=17), 100),
    "a short end near the buffer's": (Packet(octets(60000), protocol=17), 45000),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_train_becomes_the_super_packet_that_it_was(name: str) -> None:
    packet, gso_size = WHOLE[name]
    header, whole = packet.super_packet(gso_size)
    assert join([bytes(segment) for segment in packet.segments(gso_size)]) == [(VnetHeader(*header).pack(), whole)]


def flow(count: int = 6, **fields: object) -> list[Packet]:
    """Segments that may all be joined."""
    return Packet(octets(count * LENGTH)).with_(**fields).segments(LENGTH)


def with_change(at: int, segments: list[Packet] | None = None, **fields: object) -> list[bytes]:
    segments = segments or flow()
    return [bytes(each.with_(**fields) if index == at else each) for index, each in enumerate(segments)]


IN_THE_MIDDLE = {
    "tos": ({"tos": 1}, [3, 1, 2]),
    "ttl": ({"ttl": 63}, [3, 1, 2]),
    "id": ({"id": 9}, [3, 1, 2]),
    "DF": ({"fragment": 0}, [3, 1, 2]),
    "reserved bit": ({"fragment": 0xC000}, [3, 1, 2]),
    "first fragment": ({"fragment": 0x2000}, [3, 1, 2]),
    "later fragment": ({"fragment": 0x2001}, [3, 1, 2]),
    "last fragment": ({"fragment": 0x0101}, [3, 1, 2]),
    "source": ({"source": b"\x0a\xf4\x01\x06"}, [3, 1, 2]),
    "destination": ({"destination": b"\x0a\xf4\x02\x08"}, [3, 1, 2]),
    "source port": ({"ports": (40001, 5201)}, [3, 1, 2]),
    "destination port": ({"ports": (40000, 5202)}, [3, 1, 2]),
    "protocol": ({"protocol": 17, "payload": octets(112)}, [3, 1, 2]),
    "sequence": ({"sequence": 299}, [3, 1, 2]),
    "acknowledgment": ({"acknowledgment": 5}, [3, 1, 2]),
    "window": ({"window": 501}, [3, 1, 2]),
    "reserved": ({"reserved": 1}, [3, 1, 2]),
    "urgent pointer": ({"urgent": 1}, [3, 1, 2]),
    "PSH": ({"flags": ACK | PSH}, [4, 2]),
    "FIN": ({"flags": ACK | FIN}, [4, 2]),
    "PSH and FIN": ({"flags": ACK | PSH | FIN}, [4, 2]),
    "CWR": ({"flags": ACK | CWR}, [3, 3]),
    "CWR and PSH": ({"flags": ACK | CWR | PSH}, [3, 1, 2]),
    "ECE": ({"flags": ACK | ECE}, [3, 1, 2]),
    "SYN": ({"flags": ACK | SYN}, [3, 1, 2]),
    "RST": ({"flags": ACK | RST}, [3, 1, 2]),
    "URG": ({"flags": ACK | URG}, [3, 1, 2]),
    "no ACK": ({"flags": 0}, [3, 1, 2]),
    "options": ({"tcp_options": bytes([1]) * 4, "payload": octets(96)}, [3, 1, 2]),
    "IP options": ({"ip_options": ROUTER_ALERT, "payload": octets(96)}, [3, 1, 2]),
}


@pytest.mark.parametrize("name", IN_THE_MIDDLE)
def test_what_ends_a_run(name: str) -> None:
    fields, expected = IN_THE_MIDDLE[name]
    assert sizes(with_change(3, **fields)) == expected


def test_a_change_of_timestamps_begins_another_run() -> None:
    late = TIMESTAMP[:-1] + b"\x09"
    segments = flow(tcp_options=TIMESTAMP)
    assert sizes([bytes(each.with_(tcp_options=late) if i > 3 else each) for i, each in enumerate(segments)]) == [4, 2]


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("name", ["tos", "ttl", "window", "SYN", "first fragment"])
def test_at_the_ends(name: str, at: int) -> None:
    expected = {0: [1, 5], 1: [1, 1, 4], 5: [5, 1]}
    assert sizes(with_change(at, **IN_THE_MIDDLE[name][0])) == expected[at]


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": ACK | SYN},
        {"flags": ACK | RST},
        {"flags": ACK | URG},
        {"flags": ACK | URG, "urgent": 5},
        {"fragment": 0x2000},
        {"fragment": 0x0001},
        {"fragment": 0x2000, "protocol": 17},
        {"fragment": 0x8000},
        {"ip_options": ROUTER_ALERT},
        {"ip_options": ROUTER_ALERT, "protocol": 17},
        {"version": 6, "extension": bytes.fromhex("0000010400000000")},
        {"protocol": 17, "has_checksum": False},
        {"protocol": 17, "version": 6, "has_checksum": False},
    ],
)
def test_what_is_never_joined(fields: dict[str, object]) -> None:
    assert sizes([bytes(each) for each in flow(**fields)]) == [1] * 6


def test_segments_of_which_each_pushes() -> None:
    assert sizes([bytes(each.with_(flags=ACK | PSH)) for each in flow()]) == [1] * 6


def test_packets_without_payload() -> None:
    for protocol in (6, 17):
        assert sizes([bytes(Packet(protocol=protocol, id=number)) for number in range(6)]) == [1] * 6
        tail = bytes(Packet(protocol=protocol, id=2, sequence=200))
        assert sizes([*map(bytes, flow(2, protocol=protocol)), tail]) == [2, 1]


def test_ids_that_stand_still() -> None:
    """GSO would count them up: linux sends id 0 with DF from a UDP socket that is not connected."""
    assert sizes([bytes(each.with_(id=0)) for each in flow(protocol=17)]) == [1] * 6


def test_lost_repeated_and_reordered_segments() -> None:
    packets = [bytes(each) for each in flow(8)]
    assert sizes(packets[:3] + packets[4:]) == [3, 4]
    assert sizes(packets[:4] + packets[3:]) == [4, 5]
    assert sizes(packets[:3] + packets[5:] + packets[3:5]) == [3, 3, 2]
    assert sizes(packets[::-1]) == [1] * 8


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [6, 17])
def test_a_wrong_checksum_is_passed_on_for_the_receiver_to_see(version: int, protocol: int) -> None:
    packets = [bytes(each) for each in flow(8, version=version, protocol=protocol)]
    for at, expected in ((0, [1, 7]), (3, [3, 1, 4]), (6, [6, 1, 1]), (7, [7, 1])):
        broken = bytearray(packets[at])
        broken[-1] ^= 0x40  # in the payload
        assert sizes([*packets[:at], bytes(broken), *packets[at + 1 :]]) == expected
    short = packets[7][:-1]
    assert sizes([*packets[:7], short]) == [7, 1]  # its lengths are wrong
    many = [bytes([*packet[:-1], packet[-1] ^ 1]) for packet in packets]
    assert sizes(many) == [1] * 8


@pytest.mark.parametrize("protocol", [6, 17])
def test_a_wrong_checksum_of_a_short_end(protocol: int) -> None:
    packets = [bytes(each) for each in Packet(octets(350), protocol=protocol).segments(LENGTH)]
    assert sizes(packets) == [4]
    assert sizes([*packets[:3], packets[3][:-1] + b"\0"]) == [3, 1]


def test_a_wrong_ip_checksum() -> None:
    packets = [bytes(each) for each in flow()]
    for at, expected in ((0, [1, 5]), (3, [3, 1, 2]), (5, [5, 1])):
        broken = bytearray(packets[at])
        broken[10] ^= 1
        assert sizes([*packets[:at], bytes(broken), *packets[at + 1 :]]) == expected


@pytest.mark.parametrize(("offset", "value"), [(2, 1), (24, 1)])
def test_wrong_lengths_of_ip_and_udp(offset: int, value: int) -> None:
    packets = [bytes(each) for each in flow(protocol=17)]
    for at, expected in ((0, [1, 5]), (3, [3, 1, 2]), (5, [5, 1])):
        broken = bytearray(packets[at])
        struct.pack_into(">H", broken, offset, struct.unpack_from(">H", broken, offset)[0] - value)
        layers = IP(bytes(broken))
        del layers.chksum, layers[UDP].chksum
        assert sizes([*packets[:at], bytes(layers), *packets[at + 1 :]]) == expected


@pytest.mark.parametrize("version", [4, 6])
def test_bytes_behind_the_packet(version: int) -> None:
    """The last word makes up for two more bytes of length, so that only IP's own length tells."""
    assert sizes([bytes(each) + b"\xff\xfd" for each in flow(version=version, protocol=17)]) == [1] * 6


@pytest.mark.parametrize(("protocol", "zero"), [(6, b"\xff\xff"), (17, b"\0\0")])
def test_the_zero_that_gso_does_not_write(protocol: int, zero: bytes) -> None:
    """In UDP a checksum of 0 means none; in TCP 0xFFFF is valid, but would not come back."""
    offset = 36 if protocol == 6 else 26
    packets = []
    for each in flow(protocol=protocol):
        lacking = bytes(each.with_(payload=bytes(2) + each.payload[2:]))[offset : offset + 2]
        packets.append(bytes(each.with_(payload=lacking + each.payload[2:])))
    assert sizes(packets) == [6]
    assert sizes([packet[:offset] + zero + packet[offset + 2 :] for packet in packets]) == [1] * 6


def test_a_tcp_header_that_is_too_short() -> None:
    packets = [IP(id=number) / TCP(dataofs=4, flags="A", seq=104 * number) / bytes(100) for number in range(6)]
    assert sizes([bytes(packet) for packet in packets]) == [1] * 6


def test_two_flows_in_turn_and_in_blocks() -> None:
    first, second = flow(), flow(ports=(1, 2))
    in_turn = [bytes(each) for pair in zip(first, second, strict=True) for each in pair]
    assert sizes(in_turn) == [1] * 12
    assert sizes([bytes(each) for each in first + second]) == [6, 6]


def test_other_protocols_and_noise() -> None:
    for datagram in (bytes(IP() / ICMP() / bytes(100)), bytes(128), b"\xff" * 128, b"\x45" * 128, b"\x60" * 128):
        assert sizes([datagram] * 6) == [1] * 6
    assert sizes([b"E"] * 6) == [1] * 6


def test_one_packet_is_passed_on() -> None:
    packet = bytes(IP() / TCP() / "x")
    assert join([packet]) == [(PLAIN, packet)]


@pytest.mark.parametrize("version", [4, 6])
def test_a_udp_super_packet_has_at_most_64_segments(version: int) -> None:
    """The kernel refuses more: EINVAL. TCP has no such limit."""
    packet = Packet(octets(2 * 150 - 1), version=version, protocol=17)
    assert sizes([bytes(each) for each in packet.segments(2)]) == [64, 64, 22]
    assert sizes([bytes(each) for each in packet.with_(payload=octets(65)).segments(1)]) == [64, 1]
    assert sizes([bytes(each) for each in packet.with_(protocol=6).segments(2)]) == [150]


def test_the_most_rows_that_fit() -> None:
    packet = Packet(octets(2259), protocol=17)
    assert sizes([bytes(each) for each in packet.segments(1)]) == [64] * 35 + [19]


def test_protocols_that_the_kernel_does_not_take() -> None:
    joiner = Joiner(protocols=[6])
    for protocol, expected in ((17, 6), (6, 1)):
        train = b"".join(bytes(each) for each in flow(protocol=protocol))
        joiner.room[: len(train)] = train
        assert len(joiner.join(len(train), len(train) // 6)) == expected


def test_the_largest_train() -> None:
    """What comes out has at most 65535 bytes: `reference.gso` insists."""
    for packet, gso_size in (
        (Packet(octets(65480), protocol=17), 32740),
        (Packet(octets(62000), protocol=17), 1024),
        (Packet(octets(60000), version=6), 1427),
    ):
        packets = [bytes(each) for each in packet.segments(gso_size)]
        assert ROOM - 3000 < sum(map(len, packets)) <= ROOM
        assert sizes(packets) == [len(packets)]


@given(st.binary(max_size=2000), st.integers(-1, 2100))
def test_noise_comes_out_as_it_came(train: bytes, size: int) -> None:
    JOINER.room[: len(train)] = train
    frames = JOINER.join(len(train), size)
    assert b"".join(packet for frame in frames for packet in reference.gso(frame[0], bytes(frame[1]))) == train


def test_the_whole_room_of_noise() -> None:
    JOINER.room[:] = b"\x45\0\0\x1d" * (ROOM // 4)
    for size in (1, 28, 29, 30, 1472, 40000, ROOM - 1, ROOM):
        assert sum(len(packet) for _, packet in JOINER.join(ROOM, size)) == ROOM


def test_memory_is_bounded() -> None:
    for gso_size in range(1, 300):
        assert sizes([bytes(each) for each in Packet(octets(gso_size * 2)).segments(gso_size)]) == [2]
    assert len(JOINER._views) <= 64
