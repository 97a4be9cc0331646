"""IP sets as `ipset save` lists them, and what a rule that asks one comes to for a packet. Pure.

An entry has a part for each word of the set's kind ("hash:ip,port,net"); a rule says for each part which of a packet's
ends it is about. For a packet whose way is known only the source is left open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network

from netlab.explain.model import Condition, Entries, From, InSet, Packet, Rule, Tables

BITMAP = "bitmap:"  # its ports are numbers without a protocol


def parse(text: str) -> dict[str, Entries]:
    """Return every set that is listed."""
    parts: dict[str, tuple[str, ...]] = {}
    texts: dict[str, set[str]] = {}
    for line in text.splitlines():
        verb, name, rest = line.split(" ", 2)
        if verb == "create":
            kind = rest.split(" ")[0]
            parts[name] = ("number",) if kind.startswith(BITMAP) else tuple(kind.partition(":")[2].split(","))
            texts[name] = set()
        else:
            texts[name].add(rest.split(" ")[0])
    return {name: Entries(parts[name], frozenset(found)) for name, found in texts.items()}


def resolve(tables: Tables, packet: Packet) -> Tables:
    """Return the tables as this packet meets them: without rules whose set it is not in, and without sets."""
    chains = {
        place: tuple(found for rule in rules if (found := resolved(rule, tables.sets, packet)) is not None)
        for place, rules in tables.chains.items()
    }
    return replace(tables, chains=chains, sets={})


def resolved(rule: Rule, sets: Mapping[str, Entries], packet: Packet) -> Rule | None:
    """Return a rule with what is left of its sets: nothing, or conditions on the source. None if it is never met."""
    left: list[Condition] = []
    for one in rule.conditions:
        if not isinstance(one, InSet):
            left.append(one)
            continue
        found = _asked(one, sets.get(one.name, Entries((), frozenset())), packet)
        if isinstance(found, From):
            left.append(found)
        elif found is one.negated:
            return None
    return replace(rule, conditions=tuple(left))


def _asked(one: InSet, held: Entries, packet: Packet) -> bool | From:
    """Say whether a packet is in a set, or from where it must come."""
    if "src" not in one.directions:
        return ",".join(_wanted(held, packet)) in held.texts
    networks = [found for text in sorted(held.texts) if (found := _source(text, one, held, packet))]
    if not networks:
        return False
    return From(tuple(map(ip_network, networks)), one.negated)


def _wanted(held: Entries, packet: Packet) -> Iterator[str]:
    """Yield each part of the entry that the packet's destination would have."""
    for part in held.parts:
        match part:
            case "number":
                yield str(packet.port)
            case "port":
                yield f"{packet.protocol}:{packet.port}"
            case _:
                yield str(packet.destination)


def _source(text: str, one: InSet, held: Entries, packet: Packet) -> str:
    """Return the source that an entry asks for; empty when the packet is not for its destination."""
    found = ""
    for value, wanted, direction in zip(text.split(","), _wanted(held, packet), one.directions, strict=True):
        if direction == "src":
            found = value
        elif value != wanted:
            return ""
    return found
