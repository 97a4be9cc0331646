"""What `nft -j list table ip kube-proxy` writes, as rules. Pure.

A rule that looks its verdict up in a map becomes one rule for each element, so that both modes have the same shape. The
rules of this mode count nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Any

from netlab.explain.model import (
    Action,
    Choose,
    Condition,
    Counters,
    Dnat,
    From,
    FromNode,
    Jump,
    Layer4,
    Place,
    Recent,
    Rule,
    SetMark,
    State,
    To,
    ToNode,
    ToPort,
    Unknown,
    UnknownAction,
    Verdict,
)
from netlab.topology.addresses import Network

VERDICTS = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.REJECT,
    "return": Verdict.RETURN,
    "masquerade": Verdict.MASQUERADE,
}
Sets = Mapping[str, Mapping[str, Any]]


def parse(text: str) -> dict[Place, tuple[Rule, ...]]:
    """Return the rules of a listing by table and chain, chains without rules too."""
    entries = json.loads(text)["nftables"]
    sets: Sets = {held["name"]: held for entry in entries for kind in ("set", "map") if (held := entry.get(kind))}
    found: dict[Place, list[Rule]] = {}
    for entry in entries:
        if chain := entry.get("chain"):
            found.setdefault((chain["table"], chain["name"]), [])
        elif raw := entry.get("rule"):
            found.setdefault((raw["table"], raw["chain"]), []).extend(_rules(raw, sets))
    return {place: tuple(rules) for place, rules in found.items()}


def _rules(raw: Mapping[str, Any], sets: Sets) -> Iterator[Rule]:
    """Yield the rule, or where it looks into a map one for each element."""
    conditions: list[Condition] = []
    action: Action = Verdict.NOTHING
    remembers, counters, lookup = "", None, None
    for statement in raw["expr"]:
        kind, body = next(iter(statement.items()))
        if kind == "match":
            conditions.append(_condition(body, sets))
        elif kind == "counter":
            counters = Counters(body["packets"], body["bytes"])
        elif kind == "set" and body["op"] in ("add", "update"):
            remembers = body["set"].removeprefix("@")
        elif kind == "vmap" and isinstance(body["data"], str):
            lookup = body
        else:
            action = _action(kind, body)
    comment = raw.get("comment", "")
    rule = Rule(raw["table"], raw["chain"], tuple(conditions), action, comment, remembers, counters)
    if lookup is None:
        yield rule
    else:
        yield from _elements(rule, lookup, sets)


def _elements(rule: Rule, lookup: Mapping[str, Any], sets: Sets) -> Iterator[Rule]:
    name = lookup["data"].removeprefix("@")
    fields = lookup["key"].get("concat", [lookup["key"]])
    for key, verdict in sets.get(name, {}).get("elem", ()):
        held, comment, counters = _unpack(key)
        parts = held["concat"] if isinstance(held, dict) and "concat" in held else [held]
        conditions = [_equal(left, right, sets) for left, right in zip(fields, parts, strict=True)]
        kind, body = next(iter(verdict.items()))
        all_conditions = (*rule.conditions, *conditions)
        found = replace(rule, conditions=all_conditions, action=_action(kind, body), map=name)
        yield replace(found, comment=comment, counters=counters)


def _unpack(key: Any) -> tuple[Any, str, Counters | None]:
    """Return an element's key, its comment and its counters, where it has them."""
    if not (isinstance(key, dict) and "elem" in key):
        return key, "", None
    element = key["elem"]
    counter = element.get("counter")
    counters = Counters(counter["packets"], counter["bytes"]) if counter else None
    return element["val"], element.get("comment", ""), counters


def _condition(match: Mapping[str, Any], sets: Sets) -> Condition:
    if match["op"] not in ("==", "!=", "in"):
        return Unknown(json.dumps(match))
    return _equal(match["left"], match["right"], sets, negated=match["op"] == "!=")


def _equal(left: Any, right: Any, sets: Sets, *, negated: bool = False) -> Condition:
    """Return the condition that a field has a value, or one of a set's."""
    kind, body = next(iter(left.items())) if isinstance(left, dict) else ("", {})
    if kind == "payload" and body.get("field") in ("saddr", "daddr"):
        return _address(body["field"], right, sets, negated=negated)
    if kind == "payload" and body.get("field") == "dport" and isinstance(right, int):
        return ToPort(right, negated)
    if kind == "meta" and body.get("key") == "l4proto" and isinstance(right, str):
        return Layer4(right, negated)
    if kind == "fib" and body.get("result") == "type" and right == "local":
        return (FromNode if "saddr" in body["flags"] else ToNode)(negated)
    if kind == "ct" and body.get("key") == "state":
        names = right if isinstance(right, list) else [right]
        return State(tuple(str(name).upper() for name in names), negated)
    return Unknown(f"{json.dumps(left)} {'!=' if negated else '=='} {json.dumps(right)}")


def _address(field: str, right: Any, sets: Sets, *, negated: bool) -> Condition:
    if isinstance(right, str) and right.startswith("@"):
        held = sets.get(right[1:], {})
        if "timeout" in held and field == "saddr" and not negated:
            return Recent(right[1:], held["timeout"])
        right = {"set": held.get("elem", [])}
    try:
        networks = tuple(_networks(right))
    except (ValueError, KeyError, TypeError):
        return Unknown(f"ip {field} {'!=' if negated else '=='} {json.dumps(right)}")
    return (From if field == "saddr" else To)(networks, negated)


def _networks(value: Any) -> Iterator[Network]:
    if isinstance(value, str):
        yield ip_network(value)
    elif "prefix" in value:
        yield ip_network(f"{value['prefix']['addr']}/{value['prefix']['len']}")
    elif "range" in value:
        first, last = (ip_address(end) for end in value["range"])
        yield from summarize_address_range(first, last)
    elif "elem" in value:
        yield from _networks(value["elem"]["val"])
    else:
        for entry in value["set"]:
            yield from _networks(entry)


def _action(kind: str, body: Any) -> Action:
    if kind in VERDICTS:
        return VERDICTS[kind]
    if kind in ("jump", "goto"):
        return Jump(body["target"], returns=kind == "jump")
    if kind == "dnat" and isinstance(body.get("addr"), str) and isinstance(body.get("port"), int):
        host = f"[{body['addr']}]" if ":" in body["addr"] else body["addr"]
        return Dnat(f"{host}:{body['port']}")
    if kind == "mangle" and body["key"] == {"meta": {"key": "mark"}}:
        return SetMark(body["value"]["|"][1] if isinstance(body["value"], dict) and "|" in body["value"] else 0)
    if kind == "vmap" and "numgen" in body["key"] and body["key"]["numgen"]["mode"] == "random":
        return _choice(body)
    return UnknownAction(json.dumps({kind: body}))


def _choice(body: Mapping[str, Any]) -> Action:
    """Return a choice by number; a number that has no verdict leaves its packets where they are."""
    out_of = body["key"]["numgen"]["mod"]
    targets: dict[str, int] = {}
    for number, verdict in body["data"]["set"]:
        kind, target = next(iter(verdict.items()))
        if kind not in ("goto", "jump") or not isinstance(number, int):
            return UnknownAction(json.dumps({"vmap": body}))
        targets[target["target"]] = targets.get(target["target"], 0) + 1
    return Choose(tuple((Fraction(count, out_of), target) for target, count in targets.items()))
