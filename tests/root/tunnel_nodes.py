"""Two nodes with a pod each, for tests of the udp backend's programs; and a forwarder that knows none of their tricks.

nlu-bp1 eth0 -- pod  nlu-bn1 eth0 ---- 192.168.77.0/24 ---- eth0 nlu-bn2 pod -- eth0 nlu-bp2
                     flannel0 10.244.1.0     (MTU 1500)     flannel0 10.244.2.0
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from netlab.kernel import netns, tun
from netlab.tunnel.fastpath import FastPath
from netlab.tunnel.maps import Counter
from netlab.tunnel.routes import Peer
from tests.root.ready import wait_until_ready

KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
needs_tcx = pytest.mark.skipif(KERNEL < (6, 6), reason="this kernel has no tcx, which came with Linux 6.6")

PORT, MTU, DEADLINE = 8285, 1472, 5.0
NODES, PODS = ("", "nlu-bn1", "nlu-bn2"), ("", "nlu-bp1", "nlu-bp2")  # counted from 1
ADDRESSES = ("", "192.168.77.1", "192.168.77.2")
POD_IPS = ("", "10.244.1.7", "10.244.2.7")


def peer(number: int) -> Peer:
    """Return a node as its peers know it."""
    return Peer(IPv4Address(f"192.168.77.{number}"), (IPv4Network(f"10.244.{number}.0/24"),))


def ip(name: str, *lines: str) -> None:
    """Run commands of ip(8) in a namespace."""
    subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, check=True)


@contextmanager
def two_nodes() -> Iterator[None]:
    """Make the network, without a forwarder."""
    names = [*NODES[1:], *PODS[1:]]
    netns.create(names, lambda _: None)
    try:
        ip(NODES[1], f"link add eth0 type veth peer name eth0 netns {NODES[2]}")
        for number in (1, 2):
            ip(PODS[number], f"link add eth0 mtu {MTU} type veth peer name pod mtu {MTU} netns {NODES[number]}")
            ip(
                PODS[number],
                "link set lo up",
                "link set eth0 up",
                f"addr add {POD_IPS[number]}/32 dev eth0",
                f"route add default via 10.244.{number}.0 dev eth0 onlink",
            )
            ip(
                NODES[number],
                "tuntap add dev flannel0 mode tun",
                "link set lo up",
                f"addr add {ADDRESSES[number]}/24 dev eth0",
                f"addr add 10.244.{number}.0/32 dev flannel0",
                "link set eth0 up",
                "link set pod up",
                f"link set flannel0 mtu {MTU} up",
                "route add 10.244.0.0/16 dev flannel0",
                f"route add {POD_IPS[number]} dev pod",
            )
            netns.call(NODES[number], _forward)
        yield
    finally:
        netns.remove(names)


def _forward() -> None:
    with open("/proc/sys/net/ipv4/ip_forward", "w") as setting:
        setting.write("1")


def attach(number: int, *peers: Peer, bridge: str | None = None) -> FastPath:
    """Attach the programs to a node, by default with the other node as its peer."""
    return FastPath.attach(
        NODES[number],
        "flannel0",
        "eth0",
        local=IPv4Address(ADDRESSES[number]),
        port=PORT,
        peers=peers or [peer(3 - number)],
        bridge=bridge,
    )


def put_on_bridge(number: int) -> None:
    """Put a node's pod on a bridge, as netlab does, instead of a route of its own."""
    ip(
        NODES[number],
        f"route del {POD_IPS[number]}",
        "link add cni0 type bridge",
        "link set pod master cni0",
        f"link set cni0 mtu {MTU} up",
        f"addr add 10.244.{number}.1/24 dev cni0",
    )
    ip(
        PODS[number],
        "route flush dev eth0",
        "addr flush dev eth0",
        f"addr add {POD_IPS[number]}/24 dev eth0",
        f"route add default via 10.244.{number}.1",
    )
    wait_until_ready([NODES[number]])


@contextmanager
def both_attached() -> Iterator[tuple[FastPath, FastPath]]:
    """Make the network, with the programs on both nodes."""
    with two_nodes():
        paths = attach(1), attach(2)
        try:
            yield paths
        finally:
            for path in paths:
                path.close()


# --- traffic ---------------------------------------------------------------------------------------------------------


def ping(source: str, target: str, *options: str) -> bool:
    """Say whether a ping is answered within half a second."""
    command = ["ip", "netns", "exec", source, "ping", "-c1", "-W0.5", *options, target]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def open_socket(name: str, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
    """Return an IPv4 socket of a namespace."""
    opened = netns.call(name, socket.socket, socket.AF_INET, kind, protocol)
    opened.settimeout(DEADLINE)
    return opened


def send_raw(name: str, packet: Any) -> None:
    """Send a whole IPv4 packet; the kernel routes it, and fills in its checksum."""
    with open_socket(name, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(bytes(packet), (packet.dst, 0))


def spoofed(*, sender: str = ADDRESSES[1], source: str = "10.244.1.9") -> Any:
    """Return a datagram as a program sends it, from any sender, with an inner packet of any source."""
    packet = IP(src=source, dst=POD_IPS[2], ttl=9) / UDP(dport=9) / Raw(b"x" * 20)
    return IP(src=sender, dst=ADDRESSES[2]) / UDP(sport=PORT, dport=PORT, chksum=0) / packet


def transfer(source: str, target: str, address: str, size: int, *, during: Callable[[], None] = lambda: None) -> None:
    """Send random bytes over TCP and demand that they arrive; `during` is called for each piece that does."""
    content = os.urandom(size)
    with open_socket(target) as listening, open_socket(source) as client:
        listening.bind((address, 0))
        listening.listen()
        client.connect(listening.getsockname())
        server, _ = listening.accept()
        sending = threading.Thread(target=lambda: (client.sendall(content), client.shutdown(socket.SHUT_WR)))
        sending.start()
        received = hashlib.sha256()
        with server:
            server.settimeout(DEADLINE)
            while piece := server.recv(1 << 20):
                received.update(piece)
                during()
        sending.join()
    assert received.digest() == hashlib.sha256(content).digest()


def await_batches(path: FastPath, counter: Counter, batches: int) -> None:
    """Wait until a counter says this, and fail where it says another number in the end."""
    deadline = time.monotonic() + DEADLINE
    while (found := path.counters()[counter].batches) < batches and time.monotonic() < deadline:
        time.sleep(0.002)
    assert found == batches, {name.name: count for name, count in path.counters().items() if count.batches}


class PlainForwarder:
    """A peer as flannel's: reads the TUN, sends datagrams; receives datagrams, writes the TUN. One thread."""

    def __init__(self, number: int, *peers: Peer) -> None:
        self._routes = {cidr: str(entry.address) for entry in peers for cidr in entry.pod_cidrs}
        self._tun = netns.call(NODES[number], tun.attach, "flannel0")
        self._socket = open_socket(NODES[number], socket.SOCK_DGRAM)
        self._socket.bind((ADDRESSES[number], PORT))
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> PlainForwarder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stop, b"x")
        self._thread.join()
        self._socket.close()
        for fd in (self._tun, self._stop, self._stopped):
            os.close(fd)

    def _run(self) -> None:
        while self._stopped not in (ready := select.select([self._tun, self._socket, self._stopped], [], [])[0]):
            if self._tun in ready:
                packet = os.read(self._tun, 1 << 16)
                for cidr, address in self._routes.items():
                    if packet[0] >> 4 == 4 and IPv4Address(packet[16:20]) in cidr:
                        self._socket.sendto(packet, (address, PORT))
            if self._socket in ready:
                os.write(self._tun, self._socket.recv(1 << 16))
