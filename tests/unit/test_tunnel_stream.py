"""Any stream of packets through split and join is the stream that the simple forwarder carries, byte for byte.

The simple way: the kernel segments (the reference does), each packet loses two hops. The batched way: super-packets
lose one hop and are split, datagrams travel in trains as UDP_GRO makes them, what can be joined is and loses one hop,
and the receiving kernel segments again. The order is the same over all flows, more than the same for each flow.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, target
from hypothesis import strategies as st

from netlab.tunnel.join import Joiner
from netlab.tunnel.packet import MAX_PAYLOAD, MutableBuffer, check, take_hop
from netlab.tunnel.split import Splitter
from netlab.tunnel.vnet import PLAIN, VnetHeader
from tests.unit import tunnel_reference as reference
from tests.unit.tunnel_reference import ACK, Packet

SPLITTER, JOINER = Splitter(), Joiner()
Frame = tuple[bytes, bytes]  # as TUN gives it and takes it
SIZES = st.sampled_from([7, 100, 101, 500])
PAYLOADS = st.integers(1, 1500).map(lambda length: bytes(number % 251 for number in range(length)))
FLAGS = st.one_of(
    st.just(ACK), st.sampled_from([0x18, 0x11, 0x19, 0x90, 0xD0, 0x50, 0x02, 0x14, 0x30]), st.integers(0, 255)
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "tos": st.integers(0, 255),
        "ttl": st.integers(0, 66),
        "id": st.integers(0, 65535),
        "fragment": st.sampled_from([0, 0x4000, 0x8000, 0x2000, 0x0010]),
        "ports": st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
        "sequence": st.integers(0, 2**32 - 1),
        "acknowledgment": st.integers(0, 2**32 - 1),
        "flags": FLAGS,
        "reserved": st.integers(0, 15),
        "window": st.integers(0, 65535),
        "urgent": st.integers(0, 65535),
        "flow_label": st.integers(0, 0xFFFFF),
        "tcp_options": st.sampled_from([b"", bytes([1]) * 4, bytes([1]) * 12, bytes([1]) * 8 + b"\1\1\1\0"]),
        "ip_options": st.sampled_from([b"", bytes([1]) * 4]),
        "has_checksum": st.booleans(),
    },
)
FLOWS = st.builds(
    Packet,
    version=st.sampled_from([4, 4, 6]),
    protocol=st.sampled_from([6, 6, 17]),
    source=st.sampled_from([b"\x0a\xf4\x01\x05", b"\x0a\xf4\x01\x06"]),
    id=st.sampled_from([0, 7, 65530]),
    sequence=st.sampled_from([0, 2**32 - 1000]),
    ttl=st.sampled_from([3, 64]),
    tcp_options=st.sampled_from([b"", bytes([1]) * 12]),
)


@st.composite
def frames(draw: st.DrawFn) -> list[Frame]:
    """Frames that a TUN device could give: super-packets and single packets of a few flows, right and odd ones."""
    flows = draw(st.lists(FLOWS, min_size=1, max_size=3))
    found: list[Frame] = []
    for _ in range(draw(st.integers(1, 8))):
        number = draw(st.integers(0, len(flows) - 1))
        whole = flows[number].with_(payload=draw(PAYLOADS), **draw(st.just({}) | CHANGES))
        gso_size = draw(SIZES)
        segments = whole.segments(gso_size)
        is_fragment = whole.version == 4 and whole.fragment & 0x3FFF
        if draw(st.booleans()) and not is_fragment and whole.has_checksum:
            header, packet = whole.super_packet(gso_size)
            found.append((VnetHeader(*header).pack(), packet))
        else:
            found += [(PLAIN, draw(singles(segment))) for segment in segments[:20]]
        last = segments[-1]
        flows[number] = flows[number].with_(id=last.id + 1, sequence=last.sequence + len(last.payload))
    return found


@st.composite
def singles(draw: st.DrawFn, segment: Packet) -> bytes:
    """One packet: mostly as it should be, sometimes with another field, with damage or nothing but noise."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return bytes(segment.with_(**draw(CHANGES)))
    packet = bytes(segment)
    if kind == 1:
        at = draw(st.integers(0, len(packet) - 1))
        return packet[:at] + bytes([draw(st.integers(0, 255))]) + packet[at + 1 :]
    return draw(st.binary(min_size=20, max_size=60)) if kind == 2 else packet


def is_forwarded(packet: MutableBuffer) -> bool:
    return check(packet) is None and take_hop(packet)


def simple(stream: Iterable[Frame]) -> list[bytes]:
    """What reaches the far TUN device packet by packet."""
    found: list[bytes] = []
    for header, packet in stream:
        segments = [packet] if header == PLAIN else [bytes(each) for each in segments_of(header, packet)]
        for segment in segments:
            once = reference.hop(segment)
            twice = reference.hop(once) if once else None
            found += [twice] if twice else []
    return found


def segments_of(header: bytes, packet: bytes) -> list[Packet]:
    return reference.parse(packet).segments(VnetHeader.unpack(header).gso_size)


def sent(stream: Iterable[Frame]) -> list[bytes]:
    """The datagrams that the sending forwarder makes."""
    found: list[bytes] = []
    for header, packet in stream:
        buffer = bytearray(packet)
        if not is_forwarded(buffer):
            continue
        if header == PLAIN:
            found.append(bytes(buffer))
        for train in SPLITTER.split(VnetHeader.unpack(header), memoryview(buffer)):
            cuts = [*range(0, len(train.packets), train.size), len(train.packets)]
            found += [bytes(train.packets[start:end]) for start, end in pairwise(cuts)]
    return found


def trains(datagrams: Iterable[bytes]) -> list[list[bytes]]:
    """Datagrams as UDP_GRO delivers them: of one size, until one is shorter, 64 or a datagram's bytes at most."""
    found: list[list[bytes]] = []
    for datagram in datagrams:
        last = found[-1] if found else []
        is_room = last and len(last) < 64 and sum(map(len, last)) + len(datagram) <= MAX_PAYLOAD
        if is_room and len(datagram) <= len(last[0]) and len(last[-1]) == len(last[0]):
            last.append(datagram)
        else:
            found.append([datagram])
    return found


def received(datagrams: Iterable[bytes]) -> tuple[list[bytes], int]:
    """What the receiving forwarder's kernel makes of its frames, and how many frames there were."""
    found: list[bytes] = []
    frames = 0
    for train in trains(datagrams):
        octets = b"".join(train)
        JOINER.room[: len(octets)] = octets
        for header, packet in JOINER.join(len(octets), len(train[0])):
            frames += 1
            if is_forwarded(packet):
                found += reference.gso(header, bytes(packet))
    return found, frames


@given(frames())
def test_split_and_join_as_the_simple_forwarder(stream: list[Frame]) -> None:
    datagrams = sent(stream)
    packets, written = received(datagrams)
    target(float(len(datagrams) - written))  # look for streams in which much is joined
    assert packets == simple(stream)


@given(frames(), st.randoms(use_true_random=False), st.integers(0, 30), st.integers(0, 5))
def test_with_loss_and_reordering_on_the_way(stream: list[Frame], chance, lost: int, moved: int) -> None:  # type: ignore[no-untyped-def]
    datagrams = [datagram for datagram in sent(stream) if chance.randrange(100) >= lost]
    for _ in range(moved if datagrams else 0):
        datagrams.insert(chance.randrange(len(datagrams)), datagrams.pop(chance.randrange(len(datagrams))))
    packets, _ = received(datagrams)
    assert packets == [after for datagram in datagrams if (after := reference.hop(datagram))]


@given(frames(), st.lists(st.tuples(st.integers(0, 10000), st.integers(0, 255)), min_size=1, max_size=5))
def test_with_damage_on_the_way(stream: list[Frame], damage: list[tuple[int, int]]) -> None:
    damaged = [bytearray(datagram) for datagram in sent(stream)]
    for at, octet in damage if damaged else []:
        datagram = damaged[at % len(damaged)]
        datagram[at % len(datagram)] = octet
    datagrams = [bytes(datagram) for datagram in damaged]
    packets, _ = received(datagrams)
    assert packets == [after for datagram in datagrams if (after := reference.hop(datagram))]


def test_a_transfer_travels_in_few_frames() -> None:
    """The property would hold as well if nothing were ever joined."""
    whole = Packet(bytes(62480), ttl=9, flags=ACK | 0x08, tcp_options=bytes([1]) * 12)
    header, packet = whole.super_packet(1420)
    stream = [(VnetHeader(*header).pack(), packet)] * 3
    datagrams = sent(stream)
    assert (len(datagrams), received(datagrams)[1]) == (132, 3)
    assert received(datagrams)[0] == simple(stream)
    assert {packet[8] for packet in received(datagrams)[0]} == {7}
