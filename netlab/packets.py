"""Frames in words, one line for each encapsulation: what `netlab capture` prints. Scapy takes them apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import bind_layers

FLANNEL_VXLAN_PORT = 8472
FLANNEL_UDP_PORT = 8285
KNOWN_PROTOCOLS = (1, 4, 6, 17)  # those that get words of their own
ICMP_TYPES = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}

bind_layers(UDP, VXLAN, dport=FLANNEL_VXLAN_PORT)
bind_layers(UDP, IP, dport=FLANNEL_UDP_PORT)


def layers(frame: bytes, *, bare: bool = False) -> Any:
    """Take an Ethernet frame, or a `bare` IP packet, apart into scapy's layers."""
    if not bare:
        return Ether(frame)
    return IPv6(frame) if frame[0] >> 4 == 6 else IP(frame)


def describe(frame: bytes, *, bare: bool = False) -> list[str]:
    """Return one line per encapsulation, outermost first. `bare`: it begins with an IP header."""
    found = [" ".join(words) for words in _lines(layers(frame, bare=bare))] if frame else []
    return found or [f"{len(frame)} bytes"]


def _lines(packet: Any) -> Iterator[list[str]]:
    """Walk the layers; an Ethernet header begins a line, and an IP header right behind another one or UDP's."""
    words: list[str] = []
    may_carry_ip = False
    while packet and packet.name not in ("Raw", "Padding"):
        is_ip = isinstance(packet, (IP, IPv6))
        if words and (isinstance(packet, Ether) or (may_carry_ip and is_ip)):
            yield words
            words = []
        words.append(f"{packet.src} > {packet.dst}" if isinstance(packet, Ether) else _word(packet))
        may_carry_ip, packet = is_ip or isinstance(packet, UDP), packet.payload
    if words:
        yield words


def _word(packet: Any) -> str:
    match packet:
        case IP():
            fragment = f" fragment@{packet.frag * 8}" if packet.frag else ""
            unknown = "" if packet.proto in KNOWN_PROTOCOLS else f" protocol {packet.proto}"
            return f"{packet.src} > {packet.dst} ttl {packet.ttl} len {packet.len}{fragment}{unknown}"
        case IPv6():
            return f"{packet.src} > {packet.dst} ttl {packet.hlim} len {packet.plen + 40}"
        case UDP():
            return f"UDP {packet.sport}>{packet.dport}"
        case TCP():
            return f"TCP {packet.sport}>{packet.dport} {packet.flags}"
        case ICMP():
            return f"ICMP {ICMP_TYPES.get(packet.type, packet.type)}"
        case VXLAN():
            return f"VXLAN VNI {packet.vni}"
        case ARP():
            asked = f"who has {packet.pdst}? tell {packet.psrc}"
            return f"ARP {asked if packet.op == 1 else f'{packet.psrc} is at {packet.hwsrc}'}"
    return str(packet.name)
