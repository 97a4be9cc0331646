"""Frames in words, one line for each encapsulation, and their layers field by field. Scapy takes them apart.

What few frames have (DNS, BGP, Geneve, WireGuard) is loaded when the first one comes; what scapy does not know by
itself, flannel's ports and 4-byte AS numbers, is registered here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scapy.config import conf

conf.route_autoload = conf.route6_autoload = False  # of this machine, which is no matter here and takes 25 ms

from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402 (what is above has to be said first)
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.l2 import ARP, Ether  # noqa: E402
from scapy.layers.vxlan import VXLAN  # noqa: E402
from scapy.packet import bind_layers  # noqa: E402

FLANNEL_VXLAN_PORT = 8472
FLANNEL_UDP_PORT = 8285
KNOWN_PROTOCOLS = (1, 4, 6, 17)  # those that get words of their own
ICMP_TYPES = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
MODULES = {  # of scapy, by protocol and port
    ("UDP", 53): "scapy.layers.dns",
    ("TCP", 53): "scapy.layers.dns",
    ("TCP", 179): "scapy.contrib.bgp",
    ("UDP", 6081): "scapy.contrib.geneve",
    ("UDP", 51820): "scapy.contrib.wireguard",
}
WIREGUARD = {1: "handshake initiation", 2: "handshake response", 3: "cookie reply", 4: "data"}
NXDOMAIN = 3
DNS_TYPES = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV"}
RECORDS = 4  # of a DNS answer, and prefixes of a BGP message, that are shown
LONGEST = 60  # characters of a field's value

bind_layers(UDP, VXLAN, dport=FLANNEL_VXLAN_PORT)
bind_layers(UDP, IP, dport=FLANNEL_UDP_PORT)

_loaded: set[str] = set()


def layers(frame: bytes, *, bare: bool = False) -> Any:
    """Take an Ethernet frame, or a `bare` IP packet, apart into scapy's layers."""
    kind = Ether if not bare else IPv6 if frame[0] >> 4 == 6 else IP
    found = kind(frame)
    while missing := _modules(found) - _loaded:  # what is inside is seen when its carrier is known
        for name in sorted(missing):
            _load(name)
        found = kind(frame)
    return found


def _modules(packet: Any) -> set[str]:
    """Return the modules that would know more of a packet."""
    found = set()
    while packet:
        if isinstance(packet, (TCP, UDP)):
            keys = ((packet.name, packet.sport), (packet.name, packet.dport))
            found |= {MODULES[key] for key in keys if key in MODULES}
        packet = packet.payload
    return found


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(name: str) -> None:
    with _quiet(logging.getLogger("scapy")):  # it warns of 2-byte AS numbers
        module = importlib.import_module(name)
    if name == "scapy.contrib.bgp":
        module.bgp_module_conf.use_2_bytes_asn = False  # RFC 6793, which every daemon speaks
    _loaded.add(name)


# --- in words --------------------------------------------------------------------------------------------------------


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
        if word := f"{packet.src} > {packet.dst}" if isinstance(packet, Ether) else _word(packet):
            words.append(word)
        carries_ip = is_ip or isinstance(packet, UDP) or packet.name == "GENEVE"
        may_carry_ip, packet = carries_ip, packet.payload
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
    return _rare_word(packet)


def _rare_word(packet: Any) -> str:
    """Word a layer of one of MODULES; layers are known by name, since their classes may not be loaded."""
    match packet.name:
        case "GENEVE":
            return f"Geneve VNI {packet.vni}"
        case "Wireguard":
            return f"WireGuard {WIREGUARD.get(packet.message_type, packet.message_type)}"
        case name if name.startswith("Wireguard"):
            return ""  # said already
        case "DNS":
            return _dns(packet)
        case "HEADER":
            return "" if packet.payload else "BGP"
        case "KEEPALIVE" | "OPEN" | "UPDATE" | "NOTIFICATION":
            return _bgp(packet)
    return str(packet.name)


def _dns(packet: Any) -> str:
    asked = packet.qd[0] if packet.qd else None
    question = f"{DNS_TYPES.get(asked.qtype, asked.qtype)} {_text(asked.qname)}" if asked else ""
    if not packet.qr:
        return f"DNS {question}?"
    if packet.rcode:
        return f"DNS {question}: {'NXDOMAIN' if packet.rcode == NXDOMAIN else packet.sprintf('%DNS.rcode%')}"
    answers = [_text(getattr(one, "rdata", None) or getattr(one, "target", "")) for one in packet.an or ()]
    more = f" and {len(answers) - RECORDS} more" if len(answers) > RECORDS else ""
    return f"DNS {question}: {', '.join(answers[:RECORDS]) or 'no data'}{more}"


def _text(value: Any) -> str:
    return value.decode(errors="replace").rstrip(".") if isinstance(value, bytes) else str(value)


def _bgp(packet: Any) -> str:
    if packet.name == "OPEN":
        return f"BGP OPEN AS {packet.my_as} id {packet.bgp_id} hold {packet.hold_time}"
    if packet.name == "NOTIFICATION":
        return f"BGP NOTIFICATION {packet.error_code}/{packet.error_subcode}"
    if packet.name == "KEEPALIVE":
        return "BGP KEEPALIVE"
    gone = [f"-{one.prefix}" for one in packet.withdrawn_routes or ()]
    come = [f"+{one.prefix}" for one in packet.nlri or ()]
    said = [*gone, *come]
    more = f" and {len(said) - RECORDS} more" if len(said) > RECORDS else ""
    return " ".join(["BGP UPDATE", *said[:RECORDS]]) + more


# --- field by field --------------------------------------------------------------------------------------------------


def fields(frame: bytes, *, bare: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield each layer's name, outermost first, and its fields as `name=value`."""
    packet = layers(frame, bare=bare)
    while packet and packet.name not in ("Raw", "Padding"):
        yield (
            packet.name,
            [f"{name}={_value(packet, name)}" for name in packet.fields if packet.fields[name] not in (None, [])],
        )
        packet = packet.payload


def _value(packet: Any, name: str) -> str:
    field, value = packet.getfield_and_val(name)
    shown = str(field.i2repr(packet, value))
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
