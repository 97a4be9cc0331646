"""Packets on every interface that they cross. Captures are open before anything is sent; a cookie tells packets apart.

Read in order: `Side` (the two ends of a journey, as the kernel describes them), `over_bridge`, `by_route`, `by_vxlan`
(the hops that a packet must make), `Taps` (the captures), `Crossing` (what they saw). A test says

    there, back = by_vxlan(one, two), by_vxlan(two, one)
    with Taps(lab, *taps_of(there)) as taps:
        crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]

A tap is "MEMBER INTERFACE", as in "n1 cni0"; the member "fabric" is the namespace of the underlay's bridges. Answers
are awaited at the first tap. A packet socket holds a frame before its interface passes it on, so once an answer is
there, every tap on its way has seen it: nothing sleeps.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Container, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netlab import names
from netlab.kernel import netns
from netlab.kernel.capture import Capture, Frame
from netlab.lab import Lab
from netlab.packets import layers

DEADLINE = 5.0  # seconds for a frame that must come; it comes in less than a millisecond
AT_ONCE = 1e-6  # seconds: only what a capture holds already
ECHO_SIZE = 84  # bytes of IPv4 packet: what `ping` sends
COOKIE_BYTES = 8

# What Python's socket module lacks (linux/in.h, linux/in6.h).
MTU_DISCOVER, PMTUDISC_DO, PATH_MTU = {4: 10, 6: 23}, 2, {4: 14, 6: 24}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
ICMP_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}

MULTICAST_MACS = ("01:00:5e:", "33:33:")  # IGMP, MLD, neighbour discovery
OUT, IN = "out", "in"  # as the tapped interface sees it
ANSWERS = ("reply", "error")
ANYTHING = ("request", *ANSWERS, "other")


# --- namespaces ------------------------------------------------------------------------------------------------------


def netns_of(lab: Lab, member: str) -> str:
    """Return the namespace of a pod, node or router, or of the fabric."""
    return names.fabric(lab.name) if member == "fabric" else lab.netns(member)


def inside(lab: Lab, member: str, ask: Callable[[IPRoute], Any]) -> Any:
    """Ask the kernel of a member's namespace by pyroute2, which is an observer independent of netlab's own codec."""

    def asked() -> Any:
        with IPRoute() as ipr:
            return ask(ipr)

    return netns.call(netns_of(lab, member), asked)


def run(lab: Lab, member: str, command: str) -> str:
    """Run a command line in a member's namespace and return its output; it must succeed."""
    done = lab.exec(member, ["sh", "-c", command])
    assert done.returncode == 0, f"{member}: {command}: {done.stderr}"
    return done.stdout


def macs(lab: Lab, member: str) -> dict[str, str]:
    """Return the MAC address of each interface, as the kernel has it."""
    return inside(lab, member, lambda ipr: {link.get("ifname"): link.get("address") for link in ipr.get_links()})


# --- what a packet should look like ----------------------------------------------------------------------------------


class Header(NamedTuple):
    """An Ethernet header and the IP header in it: sources first."""

    macs: tuple[str, str]
    ips: tuple[str, str]
    ttl: int


class Hop(NamedTuple):
    """A packet at a tap: which way it went, and its headers, outermost first (two in a tunnel)."""

    tap: str
    way: str
    headers: tuple[Header, ...]


@dataclass(frozen=True)
class Side:
    """One end of a journey: a pod and its node, with the addresses that the kernel gave them."""

    pod: str
    node: str
    port: str
    pod_ip: str
    node_ip: str
    vtep: str
    pod_mac: str
    bridge_mac: str
    vtep_mac: str
    uplink_mac: str

    @classmethod
    def of(cls, lab: Lab, pod: str, version: int = 4) -> Side:
        """Describe a pod of a running lab."""
        found = lab.topology.find_pod(pod)
        assert found is not None
        node, vni = found.node, getattr(lab.topology.backend, "vni", 1)
        vtep = f"flannel.{vni}" if version == 4 else f"flannel-v6.{vni}"
        mine = macs(lab, node)
        return cls(
            pod=pod,
            node=node,
            port=names.pod_port(pod, node),
            pod_ip=address(lab, pod, version),
            node_ip=address(lab, node, version),
            vtep=vtep,
            pod_mac=macs(lab, pod)["eth0"],
            bridge_mac=mine["cni0"],
            vtep_mac=mine.get(vtep, ""),
            uplink_mac=mine["eth0"],
        )


def address(lab: Lab, member: str, version: int = 4) -> str:
    """Return a member's address of an IP version."""
    return next(str(found) for found in lab.addresses(member) if found.version == version)


def over_bridge(src: Side, dst: Side) -> list[Hop]:
    """Return the hops between two pods of one node: one frame all the way, its MACs and its TTL untouched."""
    frame = (Header((src.pod_mac, dst.pod_mac), (src.pod_ip, dst.pod_ip), 64),)
    return [
        Hop(f"{src.pod} eth0", OUT, frame),
        Hop(f"{src.node} {src.port}", IN, frame),
        Hop(f"{dst.node} {dst.port}", OUT, frame),
        Hop(f"{dst.pod} eth0", IN, frame),
    ]


def _from_pod(src: Side, dst: Side) -> list[Hop]:
    """Return the hops from a pod to its node, which routes."""
    frame = (Header((src.pod_mac, src.bridge_mac), (src.pod_ip, dst.pod_ip), 64),)
    return [
        Hop(f"{src.pod} eth0", OUT, frame),
        Hop(f"{src.node} {src.port}", IN, frame),
        Hop(f"{src.node} cni0", IN, frame),
    ]


def _to_pod(src: Side, dst: Side) -> list[Hop]:
    """Return the hops from a node to its pod, after both nodes have routed."""
    frame = (Header((dst.bridge_mac, dst.pod_mac), (src.pod_ip, dst.pod_ip), 62),)
    return [
        Hop(f"{dst.node} cni0", OUT, frame),
        Hop(f"{dst.node} {dst.port}", OUT, frame),
        Hop(f"{dst.pod} eth0", IN, frame),
    ]


def on_wire(src: Side, dst: Side, *headers: Header) -> list[Hop]:
    """Return the hops between two nodes of one segment."""
    return [
        Hop(f"{src.node} eth0", OUT, headers),
        Hop(f"fabric {src.node}-eth0", IN, headers),
        Hop(f"fabric {dst.node}-eth0", OUT, headers),
        Hop(f"{dst.node} eth0", IN, headers),
    ]


def by_route(src: Side, dst: Side) -> list[Hop]:
    """Return the hops between pods of two nodes on one segment without a tunnel: the peer node is the next hop."""
    bare = Header((src.uplink_mac, dst.uplink_mac), (src.pod_ip, dst.pod_ip), 63)
    return [*_from_pod(src, dst), *on_wire(src, dst, bare), *_to_pod(src, dst)]


def by_vxlan(src: Side, dst: Side, wire: list[Hop] | None = None) -> list[Hop]:
    """Return the hops between pods of two nodes through VXLAN; `wire` stands in for one segment's."""
    outer, inner = outer_header(src, dst), inner_header(src, dst)
    return [
        *_from_pod(src, dst),
        Hop(f"{src.node} {src.vtep}", OUT, (inner,)),
        *(wire or on_wire(src, dst, outer, inner)),
        Hop(f"{dst.node} {dst.vtep}", IN, (inner,)),
        *_to_pod(src, dst),
    ]


def outer_header(src: Side, dst: Side) -> Header:
    """Return the outer headers between two nodes of one segment."""
    return Header((src.uplink_mac, dst.uplink_mac), (src.node_ip, dst.node_ip), 64)


def inner_header(src: Side, dst: Side) -> Header:
    """Return the inner headers: from VTEP to VTEP, after one node has routed."""
    return Header((src.vtep_mac, dst.vtep_mac), (src.pod_ip, dst.pod_ip), 63)


def taps_of(hops: Iterable[Hop]) -> list[str]:
    """Return where the hops are seen."""
    return [hop.tap for hop in hops]


# --- what was seen ---------------------------------------------------------------------------------------------------


class Sighting(NamedTuple):
    """A frame at a tap, taken apart by scapy."""

    tap: str
    way: str
    packet: Any

    @property
    def hop(self) -> Hop:
        """Return the frame in short."""
        return Hop(self.tap, self.way, tuple(headers(self.packet)))


def headers(packet: Any) -> Iterable[Header]:
    """Yield each Ethernet header and the IP header in it, outermost first."""
    while packet:
        if isinstance(packet, Ether):
            ip = packet.payload
            ttl = ip.hlim if isinstance(ip, IPv6) else ip.ttl
            yield Header((packet.src, packet.dst), (ip.src, ip.dst), ttl)
        packet = packet.payload


def innermost(packet: Any) -> Any:
    """Return the packet that a pod sent or gets: what is left when tunnels are taken off."""
    while inner := packet.payload.getlayer(Ether):
        packet = inner
    return packet.payload


@dataclass(frozen=True)
class Crossing:
    """All sightings of one cookie, tap by tap in the order in which they were opened."""

    sightings: tuple[Sighting, ...]

    @property
    def requests(self) -> list[Hop]:
        """Return where the echo request was."""
        return [entry.hop for entry in self.sightings if kind_of(entry.packet) == "request"]

    @property
    def replies(self) -> list[Hop]:
        """Return where the echo reply was."""
        return [entry.hop for entry in self.sightings if kind_of(entry.packet) == "reply"]

    @property
    def errors(self) -> list[Hop]:
        """Return where an ICMP error about it was."""
        return [entry.hop for entry in self.sightings if kind_of(entry.packet) == "error"]

    def at(self, tap: str) -> list[Any]:
        """Return the packets seen at a tap."""
        return [entry.packet for entry in self.sightings if entry.tap == tap]

    def taps(self) -> list[str]:
        """Return the taps that saw anything, once each."""
        return list(dict.fromkeys(entry.tap for entry in self.sightings))

    def error_at(self, tap: str) -> Any:
        """Return the ICMP error that came in at a tap, from its IP header on; there must be exactly one."""
        found = [entry.packet for entry in self.sightings if entry.tap == tap and kind_of(entry.packet) == "error"]
        assert len(found) == 1, self
        return innermost(found[0])

    def __str__(self) -> str:
        lines = [f"{entry.tap} {entry.way}: {entry.packet.summary()}" for entry in self.sightings]
        return "seen:\n" + "\n".join(lines or ["nothing"])


ICMPV6_KINDS = {
    ICMPv6EchoRequest: "request",
    ICMPv6EchoReply: "reply",
    ICMPv6PacketTooBig: "error",
    ICMPv6DestUnreach: "error",
}


def kind_of(packet: Any) -> str:
    """Say what the innermost packet is; an ICMP error quotes the packet that it is about."""
    packet = innermost(packet)
    if isinstance(packet, IPv6):
        return ICMPV6_KINDS.get(type(packet.payload), "other")
    if ICMP not in packet:
        return "other"
    return {8: "request", 0: "reply"}.get(packet[ICMP].type, "error")


class Taps:
    """Captures on many interfaces at once."""

    def __init__(self, lab: Lab, *taps: str) -> None:
        self._lab = lab
        self._taps = tuple(dict.fromkeys(taps))
        self._captures: dict[str, Capture] = {}
        self._frames: dict[str, list[Frame]] = {tap: [] for tap in self._taps}
        self._stack = ExitStack()

    def __enter__(self) -> Taps:
        with ExitStack() as stack:
            for tap in self._taps:
                member, _, interface = tap.partition(" ")
                self._captures[tap] = Capture(netns_of(self._lab, member), interface)
                stack.callback(self._captures[tap].close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def ping(self, source: str, target: str, *, size: int = ECHO_SIZE, bind: str = "") -> Crossing:
        """Send an echo request, wait at the first tap for the reply or an ICMP error, and return all that was seen."""
        cookie = ping(self._lab, source, target, size=size, bind=bind)
        self.wait_for(self._taps[0], IN, cookie, kinds=ANSWERS)
        return self.crossing(cookie)

    def wait_for(self, tap: str, way: str, cookie: bytes, *, kinds: Container[str] = ANYTHING) -> Sighting:
        """Read a tap until a packet with these bytes has gone this way. Fails the test after DEADLINE seconds."""
        deadline = time.monotonic() + DEADLINE
        read = 0
        while True:
            for sighting in self._sightings(tap, read):
                if sighting.way == way and cookie in bytes(sighting.packet) and kind_of(sighting.packet) in kinds:
                    return sighting
            read = len(self._frames[tap])
            if not self._read_one(tap, deadline - time.monotonic()):
                raise AssertionError(f"nothing went {way} at {tap} within {DEADLINE} s; {self.crossing(cookie)}")

    def crossing(self, cookie: bytes) -> Crossing:
        """Return every frame with these bytes that the taps have seen until now."""
        seen = (entry for tap in self._taps for entry in self.everything(tap))
        return Crossing(tuple(entry for entry in seen if cookie in bytes(entry.packet)))

    def everything(self, tap: str) -> list[Sighting]:
        """Return every frame that a tap has seen until now but multicast: bridges report their groups now and then."""
        while self._read_one(tap, AT_ONCE):
            pass
        return [entry for entry in self._sightings(tap) if not entry.packet.dst.startswith(MULTICAST_MACS)]

    def _sightings(self, tap: str, start: int = 0) -> Iterable[Sighting]:
        for frame in self._frames[tap][start:]:
            yield Sighting(tap, OUT if frame.outgoing else IN, layers(frame.payload))

    def _read_one(self, tap: str, wait: float) -> bool:
        """Keep the next frame of a tap; say whether there was one within `wait` seconds."""
        frame = next(self._captures[tap].frames(idle=wait), None) if wait > 0 else None
        if frame:
            self._frames[tap].append(frame)
        return frame is not None


# --- what is sent ----------------------------------------------------------------------------------------------------


def ping(lab: Lab, source: str, target: str, *, size: int = ECHO_SIZE, bind: str = "") -> bytes:
    """Send an echo request of `size` bytes, IP header included, with don't-fragment, and return the cookie in it.

    Raises OSError.
    """
    version = version_of(target)
    cookie = os.urandom(COOKIE_BYTES)
    ident = int.from_bytes(os.urandom(2), "big")
    filling = cookie + bytes(size - {4: 28, 6: 48}[version] - COOKIE_BYTES)
    if version == 4:
        message = bytes(ICMP(type=8, id=ident, seq=1) / Raw(filling))
    else:
        message = bytes(ICMPv6EchoRequest(id=ident, seq=1, cksum=0, data=filling))  # the kernel fills it in (RFC 3542)
    with _open(lab, source, version, socket.SOCK_RAW, ICMP_PROTOCOL[version]) as opened:
        if bind:
            opened.bind((bind, 0))
        opened.sendto(message, (target, 0))
    return cookie


def send_udp(lab: Lab, source: str, target: str, *, source_port: int, port: int = 9) -> bytes:
    """Send one UDP datagram and return the cookie in it."""
    cookie = os.urandom(COOKIE_BYTES)
    with _open(lab, source, version_of(target), socket.SOCK_DGRAM, 0) as opened:
        opened.bind(("", source_port))
        opened.sendto(cookie, (target, port))
    return cookie


def send_frame(lab: Lab, source: str, frame: bytes) -> None:
    """Send a whole Ethernet frame from a member's eth0."""
    with netns.call(lab.netns(source), socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as opened:
        opened.bind(("eth0", 0))
        opened.send(frame)


def path_mtu(lab: Lab, source: str, target: str) -> int:
    """Return what the kernel knows of the path's MTU: the link's, or less where an ICMP error has said so (ip(7))."""
    version = version_of(target)
    with _open(lab, source, version, socket.SOCK_DGRAM, 0) as opened:
        opened.connect((target, 9))
        return opened.getsockopt(LEVEL[version], PATH_MTU[version])


def _open(lab: Lab, member: str, version: int, kind: int, protocol: int) -> socket.socket:
    opened = netns.call(lab.netns(member), socket.socket, FAMILY[version], kind, protocol)
    opened.setsockopt(LEVEL[version], MTU_DISCOVER[version], PMTUDISC_DO)
    if version == 6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, 1)
    return opened


def version_of(target: str) -> int:
    """Return the IP version of an address."""
    return 6 if ":" in target else 4


def has_dont_fragment(packet: Any) -> bool:
    """Say whether an IPv4 packet may not be fragmented."""
    return bool(packet[IP].flags.DF)
