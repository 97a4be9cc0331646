"""What `tests.record_traces` recorded, as values: real sightings for tests without a kernel."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from netlab.trace.connections import Connection
from netlab.trace.connections import read as read_connection
from netlab.trace.correlate import Journey
from netlab.trace.headers import Ports, parse
from netlab.trace.hits import Hit, read_legacy, read_nftables
from netlab.trace.layout import Direction, Kind
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Device

FOLDER = Path(__file__).parents[1] / "golden" / "trace" / "recorded"
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


@dataclass(frozen=True)
class Recorded:
    """A recorded trace. A sighting's `reason` and `location` are places in `words`."""

    sightings: tuple[Sighting, ...]
    devices: dict[tuple[str, str], Device]
    words: tuple[str, ...]
    messages: tuple[tuple[str, str, bytes], ...]

    def find_device(self, namespace: str, name: str) -> Device | None:
        return self.devices.get((namespace, name))

    def hits(self, reader: str, namespace: str) -> list[Hit]:
        read = {"nftables": read_nftables, "log": read_legacy}[reader]
        found = (read(body) for name, by, body in self.messages if (name, by) == (namespace, reader))
        return [hit for hit in found if hit]

    def connections(self, namespace: str) -> list[Connection]:
        bodies = (body for name, by, body in self.messages if (name, by) == (namespace, "conntrack"))
        return [one for body in bodies if (one := read_connection(body))]


@cache
def load(name: str) -> Recorded:
    """Read the record of that name."""
    content = json.loads((FOLDER / f"{name}.json").read_text())
    lines = content["sightings"]
    words = ("", *sorted({line[key] for line in lines for key in ("reason", "place")} - {""}))
    devices = {(netns, one["name"]): Device(**one) for netns, known in content["devices"].items() for one in known}
    messages = tuple((netns, reader, bytes.fromhex(body)) for netns, reader, _, body in content["messages"])
    return Recorded(tuple(_sighting(line, words) for line in lines), devices, words, messages)


def _sighting(line: dict[str, object], words: tuple[str, ...]) -> Sighting:
    fields = dict(line)
    frame, packet = bytes.fromhex(str(fields.pop("frame"))), bytes.fromhex(str(fields.pop("packet")))
    kind, direction = Kind[str(fields.pop("kind"))], Direction[str(fields.pop("direction"))]
    reason, location = words.index(str(fields.pop("reason"))), words.index(str(fields.pop("place")))
    return Sighting(
        kind=kind,
        headers=parse(packet, frame, Ports()),
        frame=frame,
        packet=packet,
        direction=direction,
        reason=reason,
        location=location,
        **fields,  # type: ignore[arg-type]
    )


def steps(sightings: Iterable[Sighting]) -> list[str]:
    """Return a way in words, the lab's name and the names of veth ports left out: "n1 veth in"."""
    return [f"{_member(one)} {_port(one.device)} {one.kind.name.lower()}" for one in sightings]


def shown(journey: Journey) -> tuple[str, list[str], list[list[str]]]:
    """Return a journey in words."""
    return str(journey.role), steps(journey.way), [steps(copy) for copy in journey.copies]


def _member(one: Sighting) -> str:
    return one.namespace.partition(".")[2] or ("underlay" if one.namespace else "?")


def _port(device: str) -> str:
    return "veth" if device.startswith("veth") else device or "?"
