"""Every kind of packet through every forwarder, between real pods: what is sent is what arrives.

All content is compared, and no kernel may have counted a wrong checksum. What the frames on the wire look like is in
test_tunnel_loss.py, the packets of a ping at every interface in test_packets_udp.py.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP

from netlab.kernel.capture import Capture
from netlab.lab import Lab
from netlab.packets import layers
from netlab.topology.model import ForwarderKind, UdpBackend
from tests.labs import topology
from tests.root.forwarders import KERNEL, KINDS, words
from tests.root.journeys import run
from tests.root.tunnel_traffic import (
    UDP_SEGMENT,
    Pod,
    at_once,
    connection,
    counted,
    datagram_sockets,
    datagrams,
    errors,
    may_be_fragmented,
    pieces,
    pods,
    train,
    transfer,
    without_checksum,
)
from tests.volume import VOLUME

pytestmark = pytest.mark.root

SEGMENTED = VOLUME // 700  # segments of a flow
# TCP_MAXSEG (0: the kernel's own; its least, even and odd ones) and bytes of a flow
SEGMENTS = {0: 4 * VOLUME, **{mss: mss * SEGMENTED + 17 for mss in (88, 536, 537, 999, 1000, 1331)}}
OPTIONS = bytes([1, 1, 1, 0])  # three times no operation, and the end: RFC 791 3.1


@pytest.fixture
def lab(kind: ForwarderKind) -> Iterator[Lab]:
    with Lab(topology("tpc", nodes=2, pods=2, backend=UdpBackend(forwarder=kind))) as lab:
        yield lab
        assert errors(*pods(lab)) == {}


def filled(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


# --- TCP -------------------------------------------------------------------------------------------------------------


def maximum(size: int, opened: socket.socket) -> None:
    """Let no segment have more payload, as both ends announce."""
    if size:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size)


def test_flows_of_many_segment_sizes_both_ways_at_once(lab: Lab, kind: ForwarderKind) -> None:
    one, two = pods(lab)
    flows = [
        partial(transfer, source, target, size, setup=partial(maximum, mss))
        for source, target in ((one, two), (two, one))
        for mss, size in SEGMENTS.items()
    ]
    at_once(*flows)
    found = lab.counters("n1")
    assert found["sentPackets"] > len(SEGMENTS) * SEGMENTED
    if kind is not ForwarderKind.SIMPLE:
        assert found["sentBatches"] < found["sentPackets"]  # by how much depends on how fast the machine is
        assert found["receivedBatches"] < found["receivedPackets"]


def test_a_large_transfer_each_way_by_itself(lab: Lab) -> None:
    one, two = pods(lab)
    for source, target in ((one, two), (two, one)):
        transfer(source, target, 24 * VOLUME, back=0)


def test_urgent_bytes_stay_where_they_are_and_every_small_write_arrives(lab: Lab) -> None:
    """Each write is a segment with PSH, every seventh ends with one that has URG, the last has FIN."""
    draw, sent = random.Random(2), bytearray()
    with connection(*pods(lab), setup=_inline) as (near, far), ThreadPoolExecutor(1) as pool:
        received = pool.submit(_all_of, far)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(VOLUME // 1500):
            piece = draw.randbytes(draw.randrange(1, 1600))
            near.send(piece, socket.MSG_OOB if number % 7 == 0 else 0)
            sent += piece
        near.shutdown(socket.SHUT_WR)
        assert received.result() == sent


def _all_of(opened: socket.socket) -> bytearray:
    received = bytearray()
    while piece := opened.recv(1 << 20):
        received += piece
    return received


def _inline(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)


MARK = """
table inet marks {
  counter marked {}
  counter heard {}
  counter answered {}
  chain out {
    type filter hook output priority mangle
    ip ecn ect0 numgen random mod 20 == 0 counter name marked ip ecn set ce
  }
  chain in {
    type filter hook input priority filter
    tcp flags & (ecn | syn) == ecn counter name heard
    tcp flags & (cwr | syn) == cwr counter name answered
  }
}
"""


def test_congestion_is_told_through_the_tunnel_and_answered(lab: Lab) -> None:
    """RFC 3168: CE in the IP header there, ECE back until CWR comes. The sender marks its own packets."""
    for pod in ("p-1", "p-2"):
        run(lab, pod, f"echo 1 > /proc/sys/net/ipv4/tcp_ecn; nft -f - <<'.'\n{MARK}.")
    one, two = pods(lab)
    before = counted(two.netns)["IpExtInCEPkts"]
    transfer(one, two, 8 << 20)
    told = counted(two.netns)["IpExtInCEPkts"] - before
    assert told >= rule_counter(lab, "p-1", "marked") > 0
    assert rule_counter(lab, "p-1", "heard") > 0
    assert rule_counter(lab, "p-2", "answered") > 0


def rule_counter(lab: Lab, pod: str, name: str) -> int:
    """Return how many packets, or super-packets, a rule has counted."""
    shown = run(lab, pod, f"nft list counter inet marks {name}")
    return int(shown.split("packets")[1].split()[0])


# --- UDP -------------------------------------------------------------------------------------------------------------


def test_datagrams_of_every_size_whole_or_in_fragments(lab: Lab) -> None:
    one, two = pods(lab)
    payloads = [filled(length, length) for length in range(3001)]
    random.Random(3).shuffle(payloads)
    assert datagrams(one, two, payloads, setup=may_be_fragmented) == payloads
    assert datagrams(two, one, payloads[::5], setup=may_be_fragmented) == payloads[::5]


@pytest.mark.parametrize("length", [1, 2, 99, 100, 1443, 1444])
def test_datagrams_of_one_size_in_their_order(lab: Lab, length: int) -> None:
    payloads = [filled(length, number) for number in range(2000)]
    assert datagrams(*pods(lab), payloads, window=64) == payloads


def test_trains_of_many_sizes(lab: Lab, kind: ForwarderKind) -> None:
    """The pod hands its kernel many datagrams at once; the device gives them to the forwarder as one, if it can."""
    one, two = pods(lab)
    before = lab.counters("n1")
    trains = [
        (size, count, less) for size in (1, 7, 100, 501, 999, 1443, 1444) for count in (2, 17, 44) for less in (0, 1)
    ]
    for size, count, less in trains:
        content = filled(size * count - (less if size > 1 else 0), size + count)
        assert train(one, two, content, size) == pieces(content, size)
    found = lab.counters("n1")
    batches, packets = (found[name] - before[name] for name in ("sentBatches", "sentPackets"))
    assert packets == sum(count for _, count, _ in trains)
    if kind is not ForwarderKind.SIMPLE and KERNEL >= (6, 2):
        assert batches == len(trains)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if words(kind) != "ebpf"])
def test_trains_and_single_datagrams_keep_their_order(lab: Lab) -> None:
    """The device gives the forwarder super-packets and small ones in turn.

    Programs in the kernel take the small ones, and they overtake the trains, which only user space can cut.
    """
    draw, sent = random.Random(7), []
    with datagram_sockets(*pods(lab)) as (sending, receiving):
        for number in range(60):
            for single in range(draw.randrange(9)):
                sent.append(number.to_bytes(2) + single.to_bytes(2))
                sending.send(sent[-1])
            content = b"".join((number << 8 | piece).to_bytes(4) * 50 for piece in range(draw.randrange(2, 9)))
            sent += pieces(content, 200)
            sending.sendmsg([content], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 200))])
            if number % 10 == 9:
                assert [receiving.recv(2000) for _ in sent] == sent
                sent.clear()


def test_flows_that_alternate_keep_their_order(lab: Lab) -> None:
    """Datagrams of one size from three sockets travel in the same trains, a few of each at a time."""
    draw, (one, two) = random.Random(8), pods(lab)
    with ExitStack() as stack:
        receiving = stack.enter_context(two.socket(socket.SOCK_DGRAM))
        receiving.bind((two.address, 0))
        sockets = [stack.enter_context(one.socket(socket.SOCK_DGRAM)) for _ in range(3)]
        for _ in range(60):
            sent: list[bytes] = []
            while len(sent) < 48:
                sending = draw.choice(sockets)
                for _ in range(draw.randrange(1, 9)):
                    sent.append(draw.randbytes(100))
                    sending.sendto(sent[-1], receiving.getsockname())
            assert [receiving.recv(2000) for _ in sent] == sent


def test_no_checksum_stays_no_checksum(lab: Lab) -> None:
    one, two = pods(lab)
    payloads = [filled(length, length) for length in (0, 1, 50, 51, 1443, 1444) for _ in range(50)]
    with arriving(two) as seen:
        assert datagrams(one, two, payloads, setup=without_checksum) == payloads
        assert {packet[UDP].chksum for packet in seen()} == {0}


def test_ip_options_are_carried(lab: Lab) -> None:
    one, two = pods(lab)
    payloads = [filled(length, length) for length in (0, 1, 50, 1439, 1440) for _ in range(50)]
    with arriving(two) as seen:
        assert datagrams(one, two, payloads, setup=with_options) == payloads
        assert {bytes(packet)[20 : packet.ihl * 4] for packet in seen()} == {OPTIONS}
    transfer(one, two, 2 * VOLUME, setup=with_options)


def with_options(opened: socket.socket) -> None:
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, OPTIONS)


@pytest.mark.parametrize("tos", [0x01, 0x02, 0x03, 0x2E << 2, 0xFF])
def test_tos_is_carried(lab: Lab, tos: int) -> None:
    one, two = pods(lab)
    with arriving(two) as seen:
        assert datagrams(one, two, [b"x" * 99] * 40, setup=partial(with_tos, tos)) == [b"x" * 99] * 40
        assert {packet.tos for packet in seen()} == {tos}


def with_tos(tos: int, opened: socket.socket) -> None:
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)


@contextmanager
def arriving(pod: Pod) -> Iterator[Callable[[], list[Any]]]:
    """Watch a pod's interface, and return what has come in for UDP: as much as a buffer holds."""
    capture = Capture(pod.netns, "eth0")

    def packets() -> list[Any]:
        seen = [layers(frame.payload, bare=frame.bare) for frame in capture.frames(idle=1e-6) if not frame.outgoing]
        found = [packet[IP] for packet in seen if IP in packet and UDP in packet]
        assert found
        return found

    try:
        yield packets
    finally:
        capture.close()


# --- other networks ---------------------------------------------------------------------------------------------------


def test_jumbo_frames(kind: ForwarderKind) -> None:
    with Lab(topology("tpcjumbo", nodes=2, pods=2, backend=UdpBackend(forwarder=kind), mtu=9000)) as lab:
        one, two = pods(lab)
        at_once(*(partial(transfer, one, two, 4 * VOLUME, setup=partial(maximum, mss)) for mss in (0, 8001, 1000)))
        payloads = [filled(length, length) for length in (*range(2000, 8945, 331), 8943, 8944, 8945, 20000)]
        assert datagrams(one, two, payloads, setup=may_be_fragmented) == payloads
        for size in (8944, 8001):
            content = filled(size * 7 - 1)
            assert train(one, two, content, size) == pieces(content, size)
        assert errors(one, two) == {}


def test_a_tunnel_inside_the_tunnel(lab: Lab) -> None:
    """Pods that make a VXLAN of their own: super-packets with two layers of headers, partial checksums deep inside."""
    one, two = pods(lab)
    inner = Pod(one.netns, "10.250.0.1"), Pod(two.netns, "10.250.0.2")
    for name, here, there, pod in (("p-1", one, two, inner[0]), ("p-2", two, one, inner[1])):
        run(
            lab,
            name,
            f"ip link add inner mtu 1422 type vxlan id 5 local {here.address} remote {there.address} dstport 4789"
            f" && ip link set inner up && ip addr add {pod.address}/24 dev inner",
        )
    transfer(*inner, 4 * VOLUME)
    payloads = [filled(length, length) for length in range(0, 1394, 41)]
    assert datagrams(*inner, payloads) == payloads
