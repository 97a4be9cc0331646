"""A packet's headers as layers of named fields, outer to inner, with what changed since the hop before. Pure.

Headers are compared from the innermost outwards: what a tunnel puts around a packet is new, and the rest is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from netlab.trace.headers import ETHERTYPES, PROTOCOLS, Ethernet, Header, Headers, Icmp, Ip, Quote, Tcp, Udp, Vxlan

ICMP_TYPES = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
ICMP6_TYPES = {1: "unreachable", 2: "too big", 3: "time exceeded", 128: "echo request", 129: "echo reply"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a header. `was`: what it held at the hop before, if that was something else."""

    name: str
    value: str
    was: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """A header. `is_new`: it was not there at the hop before."""

    name: str
    fields: tuple[Field, ...]
    is_new: bool = False


def layers(headers: Headers, before: Headers | None) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return a packet's headers, and the names of those that it had at the hop before and has no more."""
    former = list(before or ())
    found: list[Layer] = []
    for place in reversed(range(len(headers))):
        kind, fields = name(headers, place), _fields(headers, place)
        if former and name(former, len(former) - 1) == kind:
            was = _fields(former, len(former) - 1)
            found.append(Layer(kind, _marked(fields, was)))
            former.pop()
        else:
            found.append(Layer(kind, fields, is_new=before is not None))
    return tuple(reversed(found)), tuple(name(former, place) for place in range(len(former)))


def _marked(fields: tuple[Field, ...], former: tuple[Field, ...]) -> tuple[Field, ...]:
    """Say of each field that is not as it was what it was."""
    was = {field.name: field.value for field in former}
    return tuple(
        field if was.get(field.name) == field.value else replace(field, was=was.get(field.name, "none"))
        for field in fields
    )


def name(headers: Sequence[Header], place: int) -> str:
    """Return what a layer is called."""
    match header := headers[place]:
        case Ip(version=version):
            return f"IPv{version}"
        case Icmp() if _version(headers, place) == 6:
            return "ICMPv6"
        case Udp() | Tcp() | Icmp() | Vxlan():
            return type(header).__name__.upper()
        case Quote():
            return "quoted by the error"
        case _:
            return type(header).__name__


def _fields(headers: Sequence[Header], place: int) -> tuple[Field, ...]:
    return tuple(Field(label, str(value)) for label, value in _values(headers[place], _version(headers, place)))


def _version(headers: Sequence[Header], place: int) -> int:
    """Return the version of the IP header that a header is behind."""
    return next((header.version for header in reversed(headers[:place]) if isinstance(header, Ip)), 4)


def _values(header: Header, version: int) -> Iterator[tuple[str, object]]:
    """Yield a header's fields in words; `version`: of the IP header before it."""
    match header:
        case Ethernet(src=src, dst=dst, type=kind):
            yield from (("source", src), ("destination", dst))
            yield "type", f"IPv{ETHERTYPES[kind]}" if kind in ETHERTYPES else f"{kind:#06x}"
        case Ip():
            yield from _ip_values(header)
        case Udp(sport=sport, dport=dport):
            yield from (("source port", sport), ("destination port", dport))
        case Tcp(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags):
            yield from (("source port", sport), ("destination port", dport), ("flags", flags or "none"))
            yield from (("sequence number", seq), ("acknowledges", ack))
        case Icmp(type=kind, code=code, ident=ident, seq=seq, mtu=mtu):
            words = (ICMP_TYPES if version == 4 else ICMP6_TYPES).get(kind, "")
            yield "type", f"{kind} {words}".rstrip()
            yield "code", code
            yield from (("identifier", ident), ("sequence number", seq)) if ident or seq else ()
            yield from (("MTU", mtu),) if mtu else ()
        case Vxlan(vni=vni):
            yield "VNI", vni


def _ip_values(ip: Ip) -> Iterator[tuple[str, object]]:
    yield from (("source", ip.src), ("destination", ip.dst))
    yield "TTL" if ip.version == 4 else "hop limit", ip.ttl
    yield "protocol", PROTOCOLS.get(ip.protocol, ip.protocol)
    yield "length", ip.length
    if ip.version == 4:
        flags = [word for word, is_set in (("DF", ip.dont_fragment), ("MF", ip.more_fragments)) if is_set]
        yield "identification", ip.ident
        yield "flags", " ".join(flags) or "none"
    if ip.offset or ip.more_fragments:
        yield "fragment offset", ip.offset
