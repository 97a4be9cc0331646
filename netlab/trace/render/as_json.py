"""A trace as JSON. docs/trace-format.md describes it; `format` counts up when a field changes its meaning. Pure."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from netlab.trace.headers import Header, Quote
from netlab.trace.model import Cause, Drop, Hop, Trace, Way

FORMAT = 1


def as_json(trace: Trace) -> dict[str, Any]:
    """Return a trace as a value of lists, strings and numbers."""
    return {
        "format": FORMAT,
        "lab": trace.lab,
        "question": trace.question,
        "verdict": str(trace.verdict),
        "summary": trace.summary,
        "beganNs": trace.began,
        "seenBy": trace.seen_by,
        "remarks": list(trace.remarks),
        "ways": [_way(way) for way in trace.ways],
    }


def _way(way: Way) -> dict[str, Any]:
    return {
        "role": str(way.role),
        "hops": [_hop(hop) for hop in way.hops],
        "copies": [[_hop(hop) for hop in copy] for copy in way.copies],
        "drop": _drop(way.drop) if way.drop else None,
    }


def _hop(hop: Hop) -> dict[str, Any]:
    return {
        "timeNs": hop.time,
        "member": hop.member,
        "namespace": hop.namespace,
        "device": hop.device,
        "event": str(hop.event),
        "headers": [_header(header) for header in hop.headers],
        "changes": list(hop.changes),
        "causes": [_cause(cause) for cause in hop.causes],
        "bytes": (hop.frame + hop.packet).hex(),
    }


def _header(header: Header) -> dict[str, Any]:
    """Return a header's fields under its own name: {"layer": "udp", "sport": 53, ...}."""
    if isinstance(header, Quote):
        return {"layer": "quoted"}
    values = {field.name: _plain(getattr(header, field.name)) for field in fields(header)}
    return {"layer": type(header).__name__.lower(), **{_camel(name): value for name, value in values.items()}}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, (IPv4Address, IPv6Address)) else value


def _cause(cause: Cause) -> dict[str, str]:
    return {"topic": str(cause.topic), "text": cause.text, "origin": cause.origin, "source": str(cause.source)}


def _drop(drop: Drop) -> dict[str, str]:
    return {"reason": drop.reason, "place": drop.place, "sentence": drop.sentence, "hint": drop.hint}
