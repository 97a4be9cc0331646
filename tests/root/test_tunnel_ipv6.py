"""IPv6 packets of pods through every forwarder. The lab's backend gives pods IPv4 only; the wire format knows both."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from netlab.topology.model import ForwarderKind
from tests.root.forwarders import KINDS
from tests.root.tunnel_traffic import (
    at_once,
    counted,
    datagram_sockets,
    datagrams,
    errors,
    pieces,
    train,
    transfer,
)
from tests.root.tunnel_wire import PODS, PODS_V6, Process, forwarders, network
from tests.volume import VOLUME

pytestmark = pytest.mark.root

ONE, TWO = PODS_V6[1:]
IPV6_FLOWINFO = 11  # linux/in6.h
PADDED = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # an extension header of 8 bytes: next header, length, PadN (RFC 8200 4.2)


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    kind: ForwarderKind = request.param
    with network(direct=True), forwarders(kind.value, tmp_path) as pair:
        yield pair
        assert all(end.is_running() for end in pair)
        assert errors(ONE, TWO) == {}


def filled(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def test_flows_of_both_versions_both_ways_at_once(ends: tuple[Process, Process]) -> None:
    at_once(
        *(partial(transfer, *way, 4 * VOLUME) for way in ((ONE, TWO), (TWO, ONE), PODS[1:])),
        *(partial(transfer, ONE, TWO, 1500 * size + 1, setup=partial(maximum, size)) for size in (88, 537, 1000)),
    )
    found = ends[0].counted()
    assert (found["sentBatches"] < found["sentPackets"]) == (ends[0].said != "simple")


def maximum(size: int, opened: socket.socket) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size)


@pytest.mark.usefixtures("ends")
def test_datagrams_of_every_size_whole_or_in_fragments() -> None:
    payloads = [filled(length, length) for length in range(3001)]
    assert datagrams(ONE, TWO, payloads) == payloads
    assert datagrams(TWO, ONE, payloads[::7]) == payloads[::7]
    assert counted(TWO.netns)["Ip6ReasmOKs"] == len([payload for payload in payloads if len(payload) > 1472 - 48])


@pytest.mark.usefixtures("ends")
def test_trains() -> None:
    for size, count in ((1, 44), (100, 17), (999, 44), (1423, 9), (1424, 44)):
        content = filled(size * count - (1 if size > 1 else 0), size)
        assert train(ONE, TWO, content, size) == pieces(content, size)


@pytest.mark.parametrize("option", [socket.IPV6_HOPOPTS, socket.IPV6_DSTOPTS])
@pytest.mark.usefixtures("ends")
def test_extension_headers_are_carried(option: int) -> None:
    setup = partial(extend, option)
    payloads = [filled(length, length) for length in (0, 1, 50, 1415, 1416, 3000) for _ in range(20)]
    assert datagrams(ONE, TWO, payloads, setup=setup) == payloads
    with datagram_sockets(ONE, TWO, setup) as (sending, receiving):
        receiving.setsockopt(socket.IPPROTO_IPV6, RECEIVED[option], 1)
        sending.send(b"extended")
        content, ancillary, _, _ = receiving.recvmsg(100, 100)
    assert content == b"extended"
    assert [(kind, octets[1:]) for _, kind, octets in ancillary] == [(option, PADDED[1:])]
    transfer(ONE, TWO, 2 * VOLUME, setup=partial(extend_short, option))


RECEIVED = {socket.IPV6_HOPOPTS: socket.IPV6_RECVHOPOPTS, socket.IPV6_DSTOPTS: socket.IPV6_RECVDSTOPTS}


def extend(option: int, opened: socket.socket) -> None:
    opened.setsockopt(socket.IPPROTO_IPV6, option, PADDED)


def extend_short(option: int, opened: socket.socket) -> None:
    """Leave room, too: by itself the kernel makes segments that are too long, and sends them again and again."""
    extend(option, opened)
    maximum(1300, opened)


@pytest.mark.usefixtures("ends")
def test_traffic_class_and_flow_label_are_carried() -> None:
    with datagram_sockets(ONE, TWO) as (sending, receiving):
        sending.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xBB)
        receiving.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        receiving.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWINFO, 1)
        for _ in range(40):
            sending.send(b"classed")
        told = [receiving.recvmsg(100, 100)[1] for _ in range(40)]
    classes = {
        int.from_bytes(octets, "little") for heard in told for _, kind, octets in heard if kind == socket.IPV6_TCLASS
    }
    assert classes == {0xBB}
    labels = {octets for heard in told for _, kind, octets in heard if kind == IPV6_FLOWINFO}
    assert len(labels) == 1, "the kernel gives a flow one label"
