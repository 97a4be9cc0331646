"""What crosses the bridge between the nodes: a capture, and what of it is a ping inside VXLAN (RFC 7348)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scapy.packet import Packet


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A VXLAN between two machines: its VNI and UDP port, and each end's address outside and inside."""

    vni: int
    port: int
    outer: tuple[str, str]
    inner: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Echoes:
    """How many echo requests and replies were seen inside a tunnel, and an example of what they look like."""

    requests: int
    replies: int
    example: str = ""

    @property
    def both_ways(self) -> bool:
        """Say whether requests and replies were seen."""
        return self.requests > 0 and self.replies > 0

    def __str__(self) -> str:
        return f"{self.requests} requests, {self.replies} replies; {self.example}"


def commands(tunnel: Tunnel) -> tuple[str, str]:
    """Return the shell commands that make each end of a tunnel."""
    ends = zip(tunnel.outer, reversed(tunnel.outer), tunnel.inner, strict=True)
    name = f"vxlan{tunnel.vni}"
    first, second = (
        f"sudo ip link add {name} type vxlan id {tunnel.vni} local {local} remote {remote} dstport {tunnel.port}"
        f" && sudo ip address add {inside}/24 dev {name} && sudo ip link set {name} up"
        for local, remote, inside in ends
    )
    return first, second


@contextmanager
def capture(interface: str) -> Iterator[list[Packet]]:
    """Capture on an interface; the list is filled when the block is left."""
    from scapy.layers import inet, l2, vxlan  # noqa: F401 - frames are taken apart while they are captured
    from scapy.sendrecv import AsyncSniffer

    sniffer = AsyncSniffer(iface=interface, promisc=True)
    sniffer.start()
    found: list[Packet] = []
    try:
        yield found
    finally:
        found += sniffer.stop()


def find_echoes(frames: Iterable[Packet], tunnel: Tunnel) -> Echoes:
    """Count the pings between the tunnel's inner addresses that are inside its VXLAN between the outer ones."""
    from scapy.layers.inet import ICMP, IP, UDP
    from scapy.layers.vxlan import VXLAN

    (left, right), (a, b) = tunnel.outer, tunnel.inner
    there = (left, right, a, b, "echo-request")
    back = (right, left, b, a, "echo-reply")
    seen = []
    for frame in frames:
        if not (UDP in frame and VXLAN in frame and ICMP in frame):
            continue
        outer, vxlan = frame[IP], frame[VXLAN]
        if outer[UDP].dport != tunnel.port or vxlan.vni != tunnel.vni or IP not in vxlan:
            continue
        inner = vxlan[IP]
        kind = inner[ICMP].sprintf("%ICMP.type%")
        seen.append((outer.src, outer.dst, inner.src, inner.dst, kind))
    example = f"{' > '.join(tunnel.outer)} UDP {tunnel.port} VNI {tunnel.vni} [ICMP {' > '.join(tunnel.inner)}]"
    requests, replies = seen.count(there), seen.count(back)
    return Echoes(requests, replies, example if requests else "none of the frames fits")
