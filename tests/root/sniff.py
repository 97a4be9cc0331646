"""Packets on every interface that they cross. Captures are open before anything is sent; a cookie tells packets apart.

Read in order: `Sighting` and `Crossing` (what was seen), `Taps` (the captures), `ping` and its like (what is sent).
With the hops that `journeys` expects, a test says

    there, back = by_vxlan(one, two), by_vxlan(two, one)
    with Taps(lab, *taps_of(there)) as taps:
        crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]

Answers are awaited at the first tap. A packet socket holds a frame before its interface passes it on, so once an answer
is there, every tap on its way has seen it: nothing sleeps.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Container, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Any, NamedTuple

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netlab.kernel import netns
from netlab.kernel.capture import Capture, Frame
from netlab.lab import Lab
from netlab.packets import layers
from tests.root.journeys import IN, NO_MACS, OUT, Header, Hop, inside, netns_of

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
ANSWERS = ("reply", "error")
ANYTHING = ("request", *ANSWERS, "other")


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
    """Yield each IP header with the Ethernet header before it, outermost first; IP in IP has none between."""
    macs = NO_MACS
    while packet:
        if isinstance(packet, Ether):
            macs = (packet.src, packet.dst)
        elif type(packet) in (IP, IPv6):  # not the headers that ICMP errors quote: those are of subclasses
            yield Header(macs, (packet.src, packet.dst), packet.hlim if isinstance(packet, IPv6) else packet.ttl)
            macs = NO_MACS
        packet = packet.payload


def innermost(packet: Any) -> Any:
    """Return the packet that a pod sent or gets: what is left when tunnels are taken off."""
    found = packet
    while packet:
        found = packet if type(packet) in (IP, IPv6) else found
        packet = packet.payload
    return found


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
            yield Sighting(tap, OUT if frame.outgoing else IN, layers(frame.payload, bare=frame.bare))

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


def send_udp(
    lab: Lab, source: str, target: str, *, port: int = 9, payload: bytes = b"", bind: str = "", source_port: int = 0
) -> bytes:
    """Send one UDP datagram, by default with a cookie in it, and return its payload. To multicast by eth0."""
    payload = payload or os.urandom(COOKIE_BYTES)
    with _open(lab, source, version_of(target), socket.SOCK_DGRAM, 0) as opened:
        opened.bind((bind, source_port))
        if ip_address(target).is_multicast:
            eth0 = inside(lab, source, lambda ipr: ipr.link_lookup(ifname="eth0")[0])
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4x4xi", eth0))  # ip_mreqn
        opened.sendto(payload, (target, port))
    return payload


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
