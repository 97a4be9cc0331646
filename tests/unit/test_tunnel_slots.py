"""Packets prepared many at once are, byte for byte, what the simple forwarder sends one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import cast

import pytest
from hypothesis import given, target
from hypothesis import strategies as st

from netlab.tunnel.endpoint import Endpoint
from netlab.tunnel.packet import Drop
from netlab.tunnel.routes import Peer, Routes
from netlab.tunnel.simple import find_way
from netlab.tunnel.slots import SLOT, SLOTS, Run, Slots
from netlab.tunnel.vnet import GSO_NONE, LENGTH, NEEDS_CSUM, PLAIN, VnetHeader, finish_checksum
from tests.unit.tunnel_reference import UDP, Packet

PEERS = [Peer(IPv4Address(f"172.18.0.{number}"), (IPv4Network(f"10.244.{number}.0/24"),)) for number in (2, 3)]
SOURCE = IPv4Address("10.244.1.0")
ALL = Slots()  # one for all tests: nothing of a packet may stay in it for the next one
ONE, TWO, NOBODY = b"\x0a\xf4\x02\x07", b"\x0a\xf4\x03\x07", b"\x0a\xf4\x63\x07"

Frame = tuple[bytes, bytes]  # a virtio_net_hdr and a packet
Sent = tuple[Peer, bytes]


@dataclass
class Drops:
    """What `find_way` needs of an endpoint: the routes, and somewhere to count."""

    routes: Routes = field(default_factory=lambda: Routes(PEERS))
    source: IPv4Address = SOURCE
    dropped: list[Drop] = field(default_factory=list)

    def drop(self, reason: Drop, _error: bytes | None = None) -> None:
        self.dropped.append(reason)


def send(end: Drops, frames: Sequence[Frame]) -> list[Sent]:
    """Do as the simple forwarder: one packet after another."""
    found: list[Sent] = []
    for octets, packet in frames:
        header, buffer = VnetHeader.unpack(octets), bytearray(packet)
        if header.flags & NEEDS_CSUM and not finish_checksum(header.pack(), buffer):
            end.drop(Drop.MALFORMED)
        elif peer := find_way(cast("Endpoint", end), buffer):
            found.append((peer, bytes(buffer)))
    return found


def send_by_runs(end: Drops, frames: Sequence[Frame]) -> tuple[list[Sent], list[Run]]:
    """Do as the batched forwarder, and return the runs that were prepared at once too."""
    for room, (header, packet) in zip(ALL.rooms, frames, strict=False):
        room[: LENGTH + len(packet)] = header + packet
    sizes = [len(packet) for _, packet in frames]
    found: list[Sent] = []
    prepared: list[Run] = []
    for run in ALL.runs(sizes, end.routes.find_ipv4):
        packets = ALL.prepare(run) if run.peer else None
        if run.peer is None or packets is None:
            rooms = [bytes(ALL.rooms[number]) for number in range(run.first, run.end)]
            found += send(end, [(room[:LENGTH], room[LENGTH : LENGTH + run.size]) for room in rooms])
        else:
            assert len(packets) == (run.end - run.first) * run.size
            prepared.append(run)
            found += [(run.peer, bytes(packets[at : at + run.size])) for at in range(0, len(packets), run.size)]
    return found, prepared


# --- any packets ------------------------------------------------------------------------------------------------------

PACKETS = st.builds(
    Packet,
    payload=st.one_of(st.sampled_from([0, 1, 22, 100, 101]), st.integers(0, 1990)).map(
        lambda length: bytes(number * 7 % 251 for number in range(length))
    ),
    version=st.sampled_from([4, 4, 4, 4, 6]),
    protocol=st.sampled_from([6, 17, 17]),
    destination=st.sampled_from([ONE, ONE, TWO, NOBODY]),
    id=st.integers(0, 65535),
    ttl=st.sampled_from([0, 1, 2, 63, 64, 255]),
    tos=st.integers(0, 255),
    ip_options=st.sampled_from([b"", b"", b"", bytes([1]) * 4]),
    has_checksum=st.booleans(),
)
NUMBERS = st.integers(0, 2100)
ODD_HEADERS = st.builds(
    VnetHeader,
    flags=st.integers(0, 3),
    gso_type=st.just(GSO_NONE),
    hdr_len=NUMBERS,
    gso_size=NUMBERS,
    csum_start=NUMBERS,
    csum_offset=NUMBERS,
)


@st.composite
def frames(draw: st.DrawFn) -> list[Frame]:
    """What a TUN device could give: neighbours that are alike, checksums partial and whole, damage and noise."""
    found: list[Frame] = []
    for _ in range(draw(st.integers(1, 6))):
        packet = draw(PACKETS)
        is_partial, kind = draw(st.booleans()), draw(st.integers(0, 9))
        for number in range(draw(st.integers(1, 14))):
            payload = packet.payload[number % 5 :] + packet.payload[: number % 5]
            like_it = packet.with_(payload=payload, id=packet.id + number)
            header, octets = PLAIN, bytes(like_it)
            if is_partial and packet.has_checksum:
                vnet, octets = like_it.super_packet(0)
                header = VnetHeader(*vnet).pack()
            if kind == 0:
                header = draw(ODD_HEADERS).pack()
            elif kind == 1:
                octets = draw(st.binary(max_size=60))
            elif kind == 2 and octets:
                at = draw(st.integers(0, len(octets) - 1))
                octets = octets[:at] + draw(st.binary(min_size=1, max_size=1)) + octets[at + 1 :]
            found.append((header, octets[: SLOT - LENGTH]))
    return found[:SLOTS]


@given(frames())
def test_runs_and_prepare_are_the_simple_forwarder(stream: list[Frame]) -> None:
    simple, by_runs = Drops(), Drops()
    wanted = send(simple, stream)
    found, prepared = send_by_runs(by_runs, stream)
    target(float(sum(run.end - run.first - 1 for run in prepared)))  # look for streams with long runs
    assert found == wanted
    assert by_runs.dropped == simple.dropped


@given(frames())
def test_the_runs_are_all_packets_in_their_order(stream: list[Frame]) -> None:
    for room, (header, packet) in zip(ALL.rooms, stream, strict=False):
        room[: LENGTH + len(packet)] = header + packet
    runs = list(ALL.runs([len(packet) for _, packet in stream], Routes(PEERS).find_ipv4))
    assert [number for run in runs for number in range(run.first, run.end)] == list(range(len(stream)))
    assert all(len(stream[number][1]) == run.size for run in runs for number in range(run.first, run.end))


# --- what is done at once ---------------------------------------------------------------------------------------------


def partial(**fields: object) -> Frame:
    vnet, octets = Packet(bytes(60), protocol=UDP, destination=ONE).with_(**fields).super_packet(0)
    return VnetHeader(*vnet).pack(), octets


def whole(**fields: object) -> Frame:
    return PLAIN, bytes(Packet(bytes(60), protocol=UDP, destination=ONE).with_(**fields))


def lengths_of_runs(stream: list[Frame]) -> list[int]:
    found, prepared = send_by_runs(Drops(), stream)
    assert found == send(Drops(), stream)
    return [run.end - run.first for run in prepared]


def test_a_full_house_of_one_flow_is_one_run() -> None:
    """The property would hold as well if nothing were ever prepared at once."""
    assert lengths_of_runs([partial(id=number) for number in range(SLOTS)]) == [SLOTS]
    assert lengths_of_runs([whole(id=number, ports=(number, 9)) for number in range(SLOTS)]) == [SLOTS]


@pytest.mark.parametrize(
    ("stream", "runs"),
    [
        ([partial()] * 3 + [partial(destination=TWO)] * 2, [3, 2]),
        ([partial()] * 3 + [partial(payload=bytes(61))] * 2, [3, 2]),
        ([partial()] * 3 + [whole()] * 2, [3, 2]),
        ([partial(), partial(destination=TWO)] * 2, [1, 1, 1, 1]),
        ([partial()] * 3 + [partial(ttl=1)] + [partial()], [3, 1]),
        ([partial()] * 3 + [partial(destination=NOBODY)] + [partial()], [3, 1]),
        ([partial()] * 3 + [partial(ip_options=bytes([1]) * 4)] + [partial()], [3, 1]),
        ([partial()] * 3 + [partial(version=6)] + [partial()], [3, 1]),
        ([partial(ttl=64), partial(ttl=2), partial(tos=3, fragment=0)], [3]),
    ],
    ids=["peers", "sizes", "checksums", "mixed", "no hops", "no route", "options", "IPv6", "other fields"],
)
def test_neighbours_of_one_kind_are_a_run(stream: list[Frame], runs: list[int]) -> None:
    assert lengths_of_runs(stream) == runs


def test_a_checksum_of_zero_is_all_ones_and_every_ip_checksum_follows_its_hop() -> None:
    """Among so many ids each value of the IP checksum's critical byte occurs; so do sums that come out as 0."""
    for start in range(0, 65536, 997):
        stream = [partial(id=start + number, payload=(start + number * 7).to_bytes(60)) for number in range(SLOTS)]
        assert lengths_of_runs(stream) == [SLOTS]
    lacking = bytes(Packet(bytes(60), protocol=UDP, destination=ONE))[26:28]
    (_, sent), *_ = send_by_runs(Drops(), [partial(payload=bytes(58) + lacking)] * 4)[0]
    assert sent[26:28] == b"\xff\xff"


def test_a_header_that_points_outside_changes_nothing() -> None:
    for start, offset in ((0, 10), (19, 7), (20, 67), (88, 0), (2100, 0)):
        header = VnetHeader(NEEDS_CSUM, csum_start=start, csum_offset=offset).pack()
        for room in ALL.rooms[:4]:
            room[: LENGTH + 88] = header + whole()[1]
        before = [bytes(room) for room in ALL.rooms[:4]]
        (run,) = ALL.runs([88] * 4, Routes(PEERS).find_ipv4)
        assert ALL.prepare(run) is None
        assert [bytes(room) for room in ALL.rooms[:4]] == before
