"""A wire that loses, doubles and swaps datagrams, between nodes whose uplinks are like real cards.

The same wire without faults holds every frame for a look: no longer than the link takes, every checksum right.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from netlab.topology.model import ForwarderKind
from tests.root.forwarders import KINDS
from tests.root.tunnel_traffic import (
    PIECE,
    Pod,
    at_once,
    datagram_sockets,
    datagrams,
    errors,
    may_be_fragmented,
    pieces,
    train,
    transfer,
    without_checksum,
)
from tests.root.tunnel_wire import PODS, PODS_V6, Fate, Process, Wire, forwarders, make_real, network
from tests.volume import VOLUME
from tests.waiting import until

pytestmark = pytest.mark.root

MTU = 1500
FAULTS = Fate(lost=5, twice=5, late=5)
Pair = tuple[Process, Process]


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Start both forwarders, on a network that needs a wire."""
    kind: ForwarderKind = request.param
    with network(mtu=MTU):
        for number in (1, 2):
            make_real(number)
        with forwarders(kind.value, tmp_path) as pair:
            yield pair
            assert all(end.is_running() for end in pair)


def filled(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_every_frame_is_right(ends: Pair) -> None:
    one, two = PODS[1:]
    with Wire() as wire:
        at_once(
            *(partial(transfer, one, two, 600 * mss + 3, setup=partial(maximum, mss)) for mss in (536, 999)),
            partial(transfer, one, two, 2 * VOLUME),
            partial(transfer, PODS_V6[1], PODS_V6[2], VOLUME),
        )
        payloads = [filled(length, length) for length in range(0, 1600, 7)]
        assert datagrams(one, two, payloads, setup=may_be_fragmented) == payloads
        assert datagrams(two, one, payloads[:150], setup=without_checksum) == payloads[:150]
        assert train(one, two, filled(44 * 999), 999) == pieces(filled(44 * 999), 999)
        frames = [frame for passed in wire.passed.values() for frame in passed]
    assert len(frames) > 4000
    assert {fault for frame in frames for fault in faults(frame)} == set()
    assert errors(one, two) == {}
    found = ends[1].counted()
    assert (found["receivedBatches"] == found["receivedPackets"]) == (ends[1].said == "simple")


def maximum(size: int, opened: socket.socket) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size)


def faults(frame: bytes) -> Iterator[str]:
    """Yield what is wrong with a frame of the tunnel."""
    outer = frame[14:]
    if len(outer) > MTU:
        yield f"{len(outer)} bytes"
    if not sums_up(outer[:20]):
        yield "outer IP checksum"
    if outer[26:28] != b"\0\0" and not sums_up(pseudo_header(outer) + outer[20:]):
        yield "outer UDP checksum"
    inner = outer[28:]
    if inner[0] >> 4 == 4:
        length, header = int.from_bytes(inner[2:4]), (inner[0] & 15) * 4
        if not sums_up(inner[:header]):
            yield "inner IP checksum"
        is_fragment = int.from_bytes(inner[6:8]) & 0x3FFF
        protocol = inner[9]
    else:
        length, header, is_fragment, protocol = 40 + int.from_bytes(inner[4:6]), 40, 0, inner[6]
    if length != len(inner):
        yield "inner length"
    is_without = protocol == socket.IPPROTO_UDP and inner[header + 6 : header + 8] == b"\0\0"
    if not is_fragment and not is_without and not sums_up(pseudo_header(inner) + inner[header:]):
        yield f"inner checksum of protocol {protocol}"


def sums_up(octets: bytes) -> bool:
    """Say whether a checksum, which is among the octets, is right (RFC 1071)."""
    return int.from_bytes(octets + bytes(len(octets) % 2)) % 0xFFFF == 0


def pseudo_header(packet: bytes) -> bytes:
    """Return what the checksums of TCP and UDP cover besides them (RFC 9293 3.1, RFC 8200 8.1)."""
    if packet[0] >> 4 == 4:
        return packet[12:20] + struct.pack(">HH", packet[9], int.from_bytes(packet[2:4]) - (packet[0] & 15) * 4)
    return packet[8:40] + struct.pack(">II", int.from_bytes(packet[4:6]), packet[6])


# --- faults ----------------------------------------------------------------------------------------------------------


def test_tcp_completes(ends: Pair) -> None:
    one, two = PODS[1:]
    with Wire(FAULTS) as wire:
        at_once(
            *(partial(transfer, one, two, 400 * mss, setup=partial(maximum, mss)) for mss in (536, 999, 1331)),
            *(partial(transfer, two, one, 2 * VOLUME) for _ in range(2)),
            partial(transfer, PODS_V6[1], PODS_V6[2], VOLUME),
        )
        assert min(wire.done[fault] for fault in ("lost", "twice", "late")) > 10
    assert errors(one, two) == {}


@pytest.mark.parametrize("size", [40, 700, 1444])
def test_what_the_wire_passes_arrives_in_its_order_and_as_often(ends: Pair, size: int) -> None:
    """Numbered datagrams, many at once: the pod gets each as often as, and when, the wire has let it through."""
    content = [number.to_bytes(4) * (size // 4) for number in range(2000)]
    found: list[bytes] = []
    with Wire() as wire, datagram_sockets(*PODS[1:]) as (sending, receiving):
        sending.send(content[0])
        assert receiving.recv(2048) == content[0]  # now all neighbors are known
        wire.passed[1].clear()
        wire.fate = Fate(lost=20, twice=20, late=20)
        for start in range(0, len(content), 40):
            for payload in content[start : start + 40]:
                sending.send(payload)
            until(partial(has_seen, wire, start + 41))  # more at once would overflow the device's queue
        until(lambda: not wire.has_late())
        while len(found) < len(wire.passed[1]):
            found.append(receiving.recv(2048))
    assert found == [frame[70:] for frame in wire.passed[1]]
    assert found != sorted(found)
    assert len(found) == len(content) - wire.done["lost"] + wire.done["twice"]
    assert len(set(found)) == len(content) - wire.done["lost"] < len(content)


def has_seen(wire: Wire, count: int) -> bool:
    return wire.done["from 1"] == count


# --- an hour in miniature ---------------------------------------------------------------------------------------------


def test_an_hours_worth_of_traffic_in_miniature(ends: Pair) -> None:
    """Short connections and questions of all sizes between two pods, from eight sides at once, on the bad wire."""
    with Wire(FAULTS) as wire:
        at_once(*(partial(talk, random.Random(seed)) for seed in range(8)))
        assert wire.done["lost"] > 20
    assert errors(*PODS[1:]) == {}


def talk(draw: random.Random) -> None:
    """Do fifty things one after another."""
    for _ in range(50):
        ends = draw.choice([PODS, PODS, PODS_V6])[1:]
        source, target = draw.sample(ends, 2)
        if draw.random() < 0.6:
            size, back = (draw.randrange(draw.choice([300, 20_000, 200_000])) for _ in range(2))
            transfer(source, target, size, back=back)
        else:
            ask(source, target, draw.randbytes(draw.randrange(1400)))


def ask(source: Pod, target: Pod, question: bytes) -> None:
    """Ask by UDP until the answer, the question turned round, comes."""
    with datagram_sockets(source, target) as (asking, answering):
        asking.settimeout(0.1)
        answering.settimeout(0.1)
        for _ in range(20):
            asking.send(question)
            try:
                heard, place = answering.recvfrom(PIECE)
                answering.sendto(heard[::-1], place)
                assert asking.recv(PIECE) == question[::-1]
            except TimeoutError:
                continue
            return
    raise AssertionError("twenty questions without an answer")
