"""What comes from others is refused, counted and logged with restraint; and nothing that comes stops a forwarder."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw

from netlab.kernel import netns
from netlab.lab import Lab
from netlab.topology.model import ForwarderKind, UdpBackend
from netlab.tunnel.packet import Drop, internet_checksum
from tests.labs import topology
from tests.root.forwarders import KINDS, log, pid_of, pings
from tests.root.journeys import IN, address, run
from tests.root.sniff import Taps
from tests.root.tunnel_traffic import SO_NO_CHECK, UDP_SEGMENT, pods, transfer
from tests.volume import VOLUME
from tests.waiting import until

pytestmark = pytest.mark.root

PORT = 8285
STEP = 500  # packets: as many wait in a queue at most
PACE = 50  # throws: a train in four of them has up to 30 packets
FLOOD, FUZZED = 20 * STEP, 3 * STEP * (VOLUME >> 16)
GROWTH = 4e6  # bytes that memory may grow by after the first third of the fuzz


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    kind: ForwarderKind = request.param
    with Lab(topology("tph", nodes=3, pods=3, backend=UdpBackend(forwarder=kind))) as lab:
        yield lab


def dropped(lab: Lab, node: str = "n1") -> Mapping[str, int]:
    """Return what a node's forwarder has dropped, by reason."""
    found = lab.counters(node)
    return {reason.value: found[reason] for reason in Drop if found.get(reason)}


class Sender:
    """A program on a node that sends to n1's forwarder what it likes: with a checksum, without, or in trains."""

    def __init__(self, lab: Lab, node: str = "n2", source: str = "") -> None:
        self._target = (address(lab, "n1"), PORT)
        self._socket = netns.call(lab.netns(node), socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((source or address(lab, node), 0))

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *datagrams: bytes, checksum: bool = True) -> None:
        """Send datagrams one by one; the programs in the kernel look into those without a checksum."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, int(not checksum))
        for datagram in datagrams:
            self._socket.sendto(datagram, self._target)

    def send_train(self, content: bytes, size: int) -> None:
        """Send a content in datagrams of `size` bytes by one call: they are received as one."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 0)
        self._socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        try:
            self._socket.sendto(content, self._target)
        finally:
            self._socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)


# --- refusals --------------------------------------------------------------------------------------------------------

MARTIANS = ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.244.0.0", "10.244.255.255", "198.51.100.7")


def test_who_may_speak_for_whom(lab: Lab) -> None:
    one, two, three = (address(lab, f"p-{number}") for number in (1, 2, 3))
    foreign = [three, one, "10.244.1.0", "10.244.1.1", address(lab, "n1"), address(lab, "n3"), *MARTIANS]
    run(lab, "n2", "ip address add 172.18.0.99/16 dev eth0")
    with (
        Taps(lab, "p-1 eth0", "n1 flannel0") as taps,
        Sender(lab) as known,
        Sender(lab, source="172.18.0.99") as unknown,
    ):
        for checksum in (True, False):
            known.send(*(inner(source, one) for source in foreign), checksum=checksum)
            unknown.send(inner(two, one), checksum=checksum)
        for source in foreign:
            known.send_train(inner(source, one) * 20, len(inner(source, one)))
        unknown.send_train(inner(two, one) * 20, len(inner(two, one)))
        known.send_train(inner(two, one, b"mine") + inner(three, one, b"not!") * 3, len(inner(two, one, b"mine")))
        refused = {"foreign-source": len(foreign) * 22 + 3, "unknown-sender": 22}
        until(lambda: sum(dropped(lab).values()) >= sum(refused.values()))
        taps.wait_for("p-1 eth0", IN, b"mine")
        inside = [
            each.packet for tap in ("p-1 eth0", "n1 flannel0") for each in taps.everything(tap) if UDP in each.packet
        ]
    assert dropped(lab) == refused
    assert [bytes(packet[UDP].payload) for packet in inside] == [b"mine"] * 2


def inner(source: str, target: str, payload: bytes = b"spoofed") -> bytes:
    return bytes(IP(src=source, dst=target, ttl=60) / UDP(dport=9) / Raw(payload))


def test_a_flood_of_refused_datagrams_is_counted_and_hardly_logged(lab: Lab) -> None:
    spoofed = inner(address(lab, "p-3"), address(lab, "p-1"))
    with Sender(lab) as sender:
        for sent in range(STEP, FLOOD + 1, STEP):
            sender.send(*[spoofed] * STEP, checksum=sent % (2 * STEP) == 0)
            until(lambda sent=sent: dropped(lab).get("foreign-source") == sent)  # type: ignore[misc]
    lines = log(lab)
    assert lines[0] == f"refused a datagram from {address(lab, 'n2')}: foreign-source"
    assert len(lines) < 12
    assert pings(lab)


# --- fuzz ------------------------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """What a process holds: bytes of memory, and descriptors."""

    memory: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Size:
        status = Path(f"/proc/{pid}/status").read_text()
        (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return cls(int(resident) * 1024, len(os.listdir(f"/proc/{pid}/fd")))


def fuzz(lab: Lab, throw: Callable[[int], None]) -> None:
    """Call `throw` with number after number; the forwarder must keep up, keep its size and its life."""
    pid, sizes = pid_of(lab), []
    for start in range(0, FUZZED, STEP):
        if start % (FUZZED // 3) == 0:
            sizes.append(Size.of(pid))
        for number in range(start, start + STEP):
            throw(number)
            if number % PACE == 0:
                lab.counters("n1")  # it answers when it has come round
    sizes.append(Size.of(pid))
    assert sizes[-1].memory - sizes[1].memory < GROWTH, sizes
    assert {size.descriptors for size in sizes} == {sizes[0].descriptors}
    assert [line for line in log(lab) if not line.startswith("refused")] == []
    assert pid_of(lab) == pid
    until(lambda: pings(lab), 60)
    transfer(*pods(lab), VOLUME)


def test_no_datagram_stops_it(lab: Lab) -> None:
    """Noise, damaged packets of the sender's own pod, cut ones, and trains of all of them with lengths at random."""
    draw = random.Random(4)
    segments = samples(address(lab, "p-2"), address(lab, "p-1"))
    with Sender(lab) as sender:

        def throw(number: int) -> None:
            match number % 4:
                case 0:
                    sender.send(draw.randbytes(draw.randrange(200)), checksum=draw.random() < 0.5)
                case 1 | 2:
                    sender.send(damaged(draw, draw.choice(segments)), checksum=draw.random() < 0.5)
                case 3:
                    segment = draw.choice(segments)
                    content = damaged(draw, b"".join(following(segment, step) for step in range(draw.randrange(2, 30))))
                    size = len(segment) if draw.random() < 0.8 else draw.randrange(len(content) // 60 + 1, 1400)
                    sender.send_train(content[: size * 60] or b"x", size)

        sender.send(b"", b"\x45", b"\x60", bytes(65507), segments[0][:20])
        fuzz(lab, throw)
    assert {"malformed", "truncated", "foreign-source", "ttl-exceeded"} <= set(dropped(lab))
    assert lab.counters("n1")["receivedPackets"] > 2 * FUZZED


def samples(source: str, target: str) -> list[bytes]:
    """Return good packets of some kinds."""
    ip = IP(src=source, dst=target, ttl=60, flags="DF")
    return [
        bytes(ip / TCP(dport=9, flags="A", options=[("Timestamp", (1, 2))]) / Raw(bytes(range(200)))),
        bytes(ip / TCP(dport=9, flags="A") / Raw(bytes(range(101)))),
        bytes(ip / UDP(dport=9) / Raw(bytes(range(64)))),
        bytes(IP(src=source, dst=target, ttl=60, options=b"\1\1\1\0") / UDP(dport=9) / Raw(b"options")),
    ]


@cache
def following(packet: bytes, step: int) -> bytes:
    """Return what comes so many segments later in a flow, but for its checksums: some of those are put right."""
    found = bytearray(packet)
    struct.pack_into(">H", found, 4, (int.from_bytes(packet[4:6]) + step) & 0xFFFF)
    if packet[9] == socket.IPPROTO_TCP:
        payload = len(packet) - 20 - (packet[32] >> 4) * 4
        struct.pack_into(">I", found, 24, int.from_bytes(packet[24:28]) + step * payload)
    if step % 5:
        layers = IP(bytes(found))
        del layers.chksum, layers.payload.chksum
        return bytes(layers)
    return bytes(found)


def damaged(draw: random.Random, packet: bytes) -> bytes:
    """Return a packet with a few other bytes, mostly among its headers, perhaps cut, perhaps longer."""
    found = bytearray(packet)
    for _ in range(draw.randrange(4)):
        found[draw.randrange(min(len(found), draw.choice([24, 60, 20_000])))] = draw.choice(
            [0, 1, 255, draw.randrange(256)]
        )
    kind = draw.random()
    if kind < 0.1:
        return bytes(found[: draw.randrange(len(found))])
    return bytes(found) + (draw.randbytes(draw.randrange(40)) if kind > 0.9 else b"")


def test_no_packet_for_the_device_stops_it(lab: Lab) -> None:
    """The node puts anything at all on flannel0, where the kernel would put what it routes."""
    draw = random.Random(5)
    segments = samples(address(lab, "p-1"), address(lab, "p-2"))
    with netns.call(lab.netns("n1"), _open_packet_socket, "flannel0") as opened:

        def throw(number: int) -> None:
            packet = (
                draw.randbytes(draw.randrange(1, 1472)) if number % 4 == 0 else damaged(draw, draw.choice(segments))
            )
            send_quietly(opened, packet[:1472] or b"x")

        fuzz(lab, throw)
    assert {"malformed", "truncated", "no-route", "ttl-exceeded"} <= set(dropped(lab))


def test_no_super_packet_of_a_pod_stops_it(lab: Lab) -> None:
    """A pod that may open packet sockets says itself how its packets shall be cut and where checksums are missing."""
    draw = random.Random(6)
    segments = samples(address(lab, "p-1"), address(lab, "p-2"))
    frame = frame_header(lab)
    with netns.call(lab.netns("p-1"), _open_packet_socket, "eth0") as opened:
        opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)

        def throw(_: int) -> None:
            size = draw.choice([1, 8, 100, 536, 1400])
            packet = super_packet(draw, draw.choice(segments), draw.randrange(min(size * 70, 60_000)))
            send_quietly(opened, vnet_header(draw, packet, size) + frame + packet)

        fuzz(lab, throw)
    assert lab.counters("n1")["sentPackets"] > FUZZED // 10


SOL_PACKET, PACKET_VNET_HDR = 263, 15
ETH_P_IP = 0x0800


def _open_packet_socket(interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.bind((interface, ETH_P_IP))
    return opened


def send_quietly(opened: socket.socket, octets: bytes) -> None:
    """Send what the kernel may refuse."""
    try:
        opened.send(octets)
    except OSError:
        return


def frame_header(lab: Lab) -> bytes:
    """Return the Ethernet header of what p-1 sends to another node's pod."""
    macs = [
        run(lab, member, f"cat /sys/class/net/{name}/address") for member, name in (("n1", "cni0"), ("p-1", "eth0"))
    ]
    return b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + ETH_P_IP.to_bytes(2)


def super_packet(draw: random.Random, packet: bytes, length: int) -> bytes:
    """Return a packet that is longer by zeros, sometimes with damage behind its IP header, which is right."""
    network = (packet[0] & 15) * 4
    found = bytearray(packet + bytes(length))
    for _ in range(draw.choice([0, 0, 1, 3])):
        found[draw.randrange(network, min(network + 24, len(found)))] = draw.randrange(256)
    struct.pack_into(">H", found, 2, len(found))
    struct.pack_into(">H", found, 10, 0)
    struct.pack_into(">H", found, 10, internet_checksum(found[:network]))
    return bytes(found)


def vnet_header(draw: random.Random, packet: bytes, gso_size: int) -> bytes:
    """Return a virtio_net_hdr for a frame: right, or with some field at random."""
    network, is_tcp = (packet[0] & 15) * 4, packet[9] == socket.IPPROTO_TCP
    transport = (packet[network + 12] >> 4) * 4 if is_tcp else 8
    start = 14 + network
    fields = [1, 1 if is_tcp else 5, start + transport, gso_size, start, 16 if is_tcp else 6]
    if draw.random() < 0.4:
        at = draw.randrange(6)
        values = [0, 1, 3, 4, 5, 0x81] if at < 2 else [0, 1, 14, 34, 40, 65535, draw.randrange(3000)]
        fields[at] = draw.choice(values)
    return struct.pack("=BBHHHH", *fields)
