"""The udp backend's programs between two nodes with pods: headers everywhere, refusals, changes, other peers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from netlab.kernel import netns, tun
from netlab.kernel.capture import Capture
from netlab.packets import layers
from netlab.tunnel.maps import Counter
from netlab.tunnel.ports import Ports
from tests.root.tunnel_nodes import (
    ADDRESSES,
    MTU,
    NODES,
    POD_IPS,
    PODS,
    PORT,
    PlainForwarder,
    attach,
    await_batches,
    both_attached,
    ip,
    needs_tcx,
    open_socket,
    peer,
    ping,
    put_on_bridge,
    send_raw,
    spoofed,
    transfer,
    two_nodes,
)

pytestmark = [pytest.mark.root, needs_tcx]

MEGABYTE = 1 << 20
UDP_SEGMENT = 103  # linux/udp.h


def frames(capture: Capture) -> list[Any]:
    """Return what a capture holds that is IPv4, by scapy; it is there when the ping it belongs to was answered."""
    seen = [layers(frame.payload, bare=frame.bare) for frame in capture.frames(idle=1e-6)]
    return [packet for packet in seen if IP in packet]


@contextmanager
def captures(*places: tuple[str, str]) -> Iterator[list[Capture]]:
    opened = [Capture(*place) for place in places]
    try:
        yield opened
    finally:
        for capture in opened:
            capture.close()


# --- packets ---------------------------------------------------------------------------------------------------------


def test_a_ping_at_every_interface() -> None:
    """TTL: 64 - 1 (node 1 forwards) - 1 (sending program) - 1 (receiving program) - 1 (node 2 forwards) = 60."""
    way = [(PODS[1], "eth0"), (NODES[1], "pod"), (NODES[1], "flannel0"), (NODES[1], "eth0")]
    way += [(NODES[2], "eth0"), (NODES[2], "flannel0"), (NODES[2], "pod"), (PODS[2], "eth0")]
    with both_attached(), captures(*way) as opened:
        assert ping(PODS[1], POD_IPS[2], "-Q0x2a")
        seen = [[packet for packet in frames(capture) if innermost(packet)[ICMP].type == 8] for capture in opened]
    assert [[innermost(packet).ttl for packet in packets] for packets in seen] == [
        [64],
        [64],
        [],  # taken before a packet socket looks
        [62],
        [62],
        [61],
        [60],
        [60],
    ]
    for packet in (*seen[3], *seen[4]):
        assert (packet[IP].src, packet[IP].dst) == (ADDRESSES[1], ADDRESSES[2])
        assert (packet[IP].ttl, packet[IP].tos, packet[IP].id, str(packet[IP].flags)) == (64, 0, 0, "DF")
        assert (packet[UDP].sport, packet[UDP].dport, packet[UDP].chksum) == (PORT, PORT, 0)
        assert packet[UDP].len == packet[IP].len - 20 == len(innermost(packet)) + 8
        assert checksums_are_right(packet)
    first, last = innermost(seen[0][0]), innermost(seen[-1][0])
    assert (first.id, first.tos, bytes(first.payload)) == (last.id, 0x2A, bytes(last.payload))


def innermost(packet: Any) -> Any:
    """Return the packet inside one of our datagrams, or the packet itself."""
    return IP(bytes(packet[UDP].payload)) if UDP in packet and packet[UDP].dport == PORT else packet[IP]


def checksums_are_right(packet: Any) -> bool:
    """Say whether scapy would write the same IPv4 checksums, outside and inside."""
    return all(header.chksum == IP(bytes(_bare(header))).chksum for header in (packet[IP], innermost(packet)))


def _bare(header: Any) -> Any:
    copy = header.copy()
    del copy.chksum
    return copy


@pytest.mark.parametrize("way", [(1, 2), (2, 1)], ids=["there", "back"])
def test_tcp_arrives_whole_and_in_super_packets(way: tuple[int, int]) -> None:
    source, target = way
    with both_attached() as paths:
        transfer(PODS[source], PODS[target], POD_IPS[target], 8 * MEGABYTE)
        sent = paths[source - 1].counters()[Counter.SENT]
        received = paths[target - 1].counters()[Counter.RECEIVED]
    assert sent == received
    assert sent.bytes > 8 * MEGABYTE
    assert sent.packets >= 8 * MEGABYTE / (MTU - 40)
    assert sent.batches < sent.packets / 3


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_super_packets_are_not_cut_at_the_bridge_of_a_known_pod(known: bool) -> None:
    with two_nodes():
        put_on_bridge(1)
        put_on_bridge(2)
        paths = attach(1, bridge="cni0"), attach(2, bridge="cni0")
        if known:
            ports = netns.call(NODES[2], Ports, "cni0", ["eth0"])
            assert ping(PODS[2], "10.244.2.1")  # the bridge learns
            paths[1].set_ports(ports.entries())
            ports.close()
        with captures((PODS[2], "eth0")) as (end,):
            transfer(PODS[1], PODS[2], POD_IPS[2], MEGABYTE)
            longest = max(packet[IP].len for packet in frames(end) if packet[IP].dst == POD_IPS[2])
        delivered = paths[1].counters()[Counter.DELIVERED]
        assert ping(PODS[2], POD_IPS[1])
        for path in paths:
            path.close()
    assert (longest > MTU, delivered.bytes > MEGABYTE // 2) == (known, known)


def test_the_largest_packet_passes_and_one_byte_more_does_not() -> None:
    with both_attached(), captures((NODES[2], "eth0")) as (wire,):
        assert ping(PODS[1], POD_IPS[2], "-Mdo", "-s", str(MTU - 28))
        assert not ping(PODS[1], POD_IPS[2], "-Mdo", "-s", str(MTU - 27))
        sizes = [len(packet) for packet in frames(wire)]
    assert sizes == [1514, 1514]


def test_inner_fragments_are_packets_like_others() -> None:
    with both_attached() as (path, _), captures((NODES[2], "eth0")) as (wire,):
        assert ping(PODS[1], POD_IPS[2], "-Mdont", "-s", "4000")
        fragments = [innermost(packet) for packet in frames(wire) if packet[IP].src == ADDRESSES[1]]
        assert path.counters()[Counter.SENT].batches == 3
    assert [fragment.frag > 0 for fragment in fragments] == [False, True, True]


@pytest.mark.parametrize(
    ("ttl", "sent", "received", "stuck"),
    [(1, 0, 0, 1), (2, 1, 0, 2), (3, 1, 1, 0)],
    ids=["at the sender", "at the receiver", "not at all"],
)
def test_a_ttl_that_would_become_zero_stays_where_user_space_can_say_so(
    ttl: int, sent: int, received: int, stuck: int
) -> None:
    with both_attached() as paths:
        send_raw(NODES[1], IP(src="10.244.1.0", dst="10.244.2.0", ttl=ttl) / ICMP() / Raw(b"x" * 20))
        await_batches(paths[0], Counter.SENT, sent)
        await_batches(paths[1], Counter.RECEIVED, received)
        for number, path in enumerate(paths, 1):
            await_batches(path, Counter.UP_TTL, int(number == stuck))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "counter", "arrives"),
    [
        (spoofed(), Counter.RECEIVED, True),
        (spoofed(sender="192.168.77.66"), Counter.UP_NOT_ADMITTED, False),
        (spoofed(source="10.244.2.7"), Counter.UP_NOT_ADMITTED, False),
        (spoofed(source="8.8.8.8"), Counter.UP_NOT_ADMITTED, False),
    ],
    ids=["a peer's own", "no peer", "the receiver's own pod", "the world"],
)
def test_who_may_speak_for_whom(packet: Any, counter: Counter, arrives: bool) -> None:
    with both_attached() as (_, path), captures((NODES[2], "flannel0")) as (inside,):
        send_raw(NODES[1], packet)
        await_batches(path, counter, 1)
        assert bool(frames(inside)) == arrives


# --- what is passed up -----------------------------------------------------------------------------------------------

V6 = ("fd00:10:244:1::1", "fd00:10:244:2::1")
OPTIONS = IP(src="10.244.1.0", dst="10.244.2.0", id=7, options=[IPOption_NOP()] * 4) / ICMP() / Raw(b"x" * 20)
UNROUTED = IP(src="10.244.1.0", dst="10.244.9.9", id=7) / ICMP() / Raw(b"x" * 20)


@pytest.mark.parametrize(
    ("packet", "counter"), [(OPTIONS, Counter.UP_OPTIONS), (UNROUTED, Counter.UP_NO_ROUTE)], ids=["options", "no route"]
)
def test_the_tuns_reader_gets_what_the_sending_program_leaves(packet: Any, counter: Counter) -> None:
    with both_attached() as (path, _), reader() as fd:
        before = path.counters()[counter].batches
        send_raw(NODES[1], packet)
        await_batches(path, counter, before + 1)
        assert bytes(packet) in packets_of(fd)


def test_the_tuns_reader_gets_ipv6() -> None:
    with both_attached() as (path, _), reader() as fd:
        ip(NODES[1], f"addr add {V6[0]}/128 dev lo", f"route add {V6[1]} dev flannel0")
        with netns.call(NODES[1], socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as opened:
            opened.sendto(b"six", (V6[1], 9))
        found = [IPv6(packet) for packet in packets_of(fd) if packet[0] >> 4 == 6]
        assert path.counters()[Counter.UP_NOT_IPV4].batches >= 1
    assert [bytes(packet[UDP].payload) for packet in found if packet.dst == V6[1]] == [b"six"]


def test_the_tuns_reader_gets_what_is_a_tunnel_already() -> None:
    """The kernel keeps one encapsulation of a packet in mind, and refuses another: the packet must still be whole."""
    with both_attached() as (path, _), reader() as fd:
        ip(
            NODES[1],
            "link add inner type vxlan id 5 local 10.244.1.0 remote 10.244.2.0 dstport 4789",
            "link set inner up",
            "addr add 10.250.0.1/24 dev inner",
            "neigh add 10.250.0.2 lladdr 02:00:00:00:00:02 dev inner",
        )
        with open_socket(NODES[1], socket.SOCK_DGRAM) as opened:
            opened.sendto(b"twice", ("10.250.0.2", 9))
        assert path.counters()[Counter.UP_NO_ROOM].batches >= 1
        found = [IP(packet) for packet in packets_of(fd) if packet[0] == 0x45]
    twice = [packet for packet in found if bytes(packet).endswith(b"twice")]
    assert [(packet.ttl, len(packet), checksums_are_right(packet)) for packet in twice] == [(64, 83, True)]


def test_the_tuns_reader_gets_udp_trains_cut() -> None:
    with both_attached() as (path, _), reader() as fd:
        with open_socket(NODES[1], socket.SOCK_DGRAM) as opened:
            opened.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
            opened.sendto(bytes(range(250)), ("10.244.2.0", 9))
        assert path.counters()[Counter.UP_GSO] == (3, 250 + 28, 1)
        found = [IP(packet) for packet in packets_of(fd) if packet[0] == 0x45]
    assert [bytes(packet[UDP].payload) for packet in found if packet[UDP].dport == 9] == [
        bytes(range(100)),
        bytes(range(100, 200)),
        bytes(range(200, 250)),
    ]


@contextmanager
def reader() -> Iterator[int]:
    fd = netns.call(NODES[1], tun.attach, "flannel0")
    os.set_blocking(fd, False)
    try:
        yield fd
    finally:
        os.close(fd)


def packets_of(fd: int) -> list[bytes]:
    """Return what a TUN device has for its reader. It was queued before the send returned."""
    found = []
    while True:
        try:
            found.append(os.read(fd, 1 << 16))
        except BlockingIOError:
            return found


@pytest.mark.parametrize("checksum", [0, None], ids=["options inside", "a checksum outside"])
def test_the_socket_gets_what_the_receiving_program_leaves(checksum: int | None) -> None:
    inner = OPTIONS if checksum == 0 else IP(src="10.244.1.0", dst="10.244.2.0") / ICMP()
    with both_attached() as (_, path), open_socket(NODES[2], socket.SOCK_DGRAM) as opened:
        opened.bind((ADDRESSES[2], PORT))
        header = IP(src=ADDRESSES[1], dst=ADDRESSES[2]) / UDP(sport=PORT, dport=PORT, chksum=checksum)
        send_raw(NODES[1], header / inner)
        assert opened.recvfrom(4096) == (bytes(inner), (ADDRESSES[1], PORT))
        assert path.counters()[Counter.UP_OPTIONS if checksum == 0 else Counter.UP_CHECKSUM].batches == 1


@pytest.mark.parametrize("way", [(1, 2), (2, 1)], ids=["to it", "from it"])
def test_a_peer_in_user_space(way: tuple[int, int]) -> None:
    """Node 2 has no programs. TCP would fail if super-packets without checksums went to it over the veth."""
    source, target = way
    with two_nodes(), PlainForwarder(1, peer(2)), PlainForwarder(2, peer(1)):
        path = attach(1, replace(peer(2), plain=True))
        try:
            assert ping(PODS[source], POD_IPS[target])
            transfer(PODS[source], PODS[target], POD_IPS[target], 2 * MEGABYTE)
            found = path.counters()
        finally:
            path.close()
    assert found[Counter.UP_PLAIN_PEER].packets > 100
    assert found[Counter.UP_CHECKSUM].packets > 100
    assert found[Counter.SENT].packets == found[Counter.RECEIVED].packets == 0
