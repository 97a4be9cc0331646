"""How a packet was changed between two looks at it, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from netlab.trace.headers import Headers, Icmp, Ip, Tcp, Udp, Vxlan, innermost, with_port


def changes(before: Headers, after: Headers) -> tuple[str, ...]:
    """Return what is different now, in the order of the headers."""
    return tuple(_changes(before, after))


def _changes(before: Headers, after: Headers) -> Iterator[str]:
    wrapping, former = _wrapping(after), _wrapping(before)
    if len(wrapping) > len(former):
        yield f"wrapped in {' '.join(wrapping[: len(wrapping) - len(former)])}"
    elif len(wrapping) < len(former):
        yield "unwrapped"
    elif wrapping != former:
        yield f"wrapped in {' '.join(wrapping)}"
    old, new = _ends(before), _ends(after)
    for name, was, now in zip(("source", "destination"), old, new, strict=True):
        if was != now:
            yield f"{name} {was} -> {now}"
    first, second = innermost(before)[:1], innermost(after)[:1]
    if first and second and isinstance(first[0], Ip) and isinstance(second[0], Ip) and first[0].ttl != second[0].ttl:
        yield f"ttl {first[0].ttl} -> {second[0].ttl}"


def _wrapping(headers: Headers) -> list[str]:
    """Return words for each IP packet around the innermost, with what is between."""
    around = headers[: len(headers) - len(innermost(headers))]
    words = []
    for place, header in enumerate(around):
        if isinstance(header, Ip):
            inside = list(takewhile(lambda one: not isinstance(one, Ip), around[place + 1 :]))
            kind = next((f"VXLAN VNI {one.vni}" for one in inside if isinstance(one, Vxlan)), "")
            kind = kind or ("UDP" if any(isinstance(one, Udp) for one in inside) else "IP")
            words.append(f"{kind} {header.src} > {header.dst}")
    return words


def _ends(headers: Headers) -> tuple[str, str]:
    """Return source and destination with their ports."""
    inner = innermost(headers)
    if not inner or not isinstance(inner[0], Ip):
        return "", ""
    ip = inner[0]
    match inner[1] if len(inner) > 1 else None:
        case Tcp(sport=sport, dport=dport) | Udp(sport=sport, dport=dport):
            return with_port(ip.src, sport), with_port(ip.dst, dport)
    return str(ip.src), str(ip.dst)


def describe(headers: Headers) -> str:
    """Return a packet's innermost headers in one line."""
    inner = innermost(headers)
    if not inner or not isinstance(inner[0], Ip):
        return "no IP packet"
    source, destination = _ends(headers)
    words = [f"{source} > {destination}", f"ttl {inner[0].ttl}"]
    match inner[1] if len(inner) > 1 else None:
        case Tcp(flags=flags):
            words.append(f"tcp {flags}")
        case Udp():
            words.append("udp")
        case Icmp(type=kind, code=code):
            words.append(f"icmp {kind}/{code}")
    return " ".join(words)
