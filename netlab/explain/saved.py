"""What iptables-save writes, as rules. Pure.

The tools write other text than was loaded (facts.md 11.9): addresses with /32, probabilities from a 31-bit number. Here
options are understood one by one, in any order.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from ipaddress import ip_network
from typing import NamedTuple

from netlab.explain.model import (
    Action,
    Chance,
    Condition,
    Counters,
    Dnat,
    From,
    FromNode,
    InSet,
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

PRECISION = Fraction(5, 10**10)  # ten decimals, then a number of 31 bits
SILENT = {"-m", "--reap", "--mask", "--rsource", "--mode"}  # they say nothing of their own in kube-proxy's rules
LIST_OPTIONS = {"--rcheck", "--update", "--set", "--seconds", "--name"}  # xt_recent: one match of several options


PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}


class Option(NamedTuple):
    """An option with its arguments; `negated` when "!" stands before it."""

    name: str
    values: tuple[str, ...]
    negated: bool = False

    @property
    def value(self) -> str:
        return self.values[0] if self.values else ""

    def __str__(self) -> str:
        return " ".join([*(["!"] if self.negated else []), self.name, *self.values])


def parse(text: str) -> dict[Place, tuple[Rule, ...]]:
    """Return the rules of a listing by table and chain, chains without rules too. Lines with "#" are remarks."""
    found: dict[Place, list[Rule]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            found.setdefault((table, line[1:].split(" ")[0]), [])
        elif line.startswith(("-A ", "[")):
            read = rule(table, shlex.split(line))
            found.setdefault((table, read.chain), []).append(read)
    return {place: tuple(rules) for place, rules in found.items()}


def rule(table: str, words: Sequence[str]) -> Rule:
    """Return one rule: "[packets:bytes] -A CHAIN options"."""
    counters = None
    if words[0].startswith("["):
        packets, _, count = words[0].strip("[]").partition(":")
        counters, words = Counters(int(packets), int(count)), words[1:]
    matches, targets = _split(_options(words[2:]))
    seen = _Seen()
    for option in matches:
        seen.take(option)
    remembers = seen.recent.get("--name", "") if "--set" in seen.recent else ""
    return Rule(table, words[1], seen.all, _action(targets), seen.comment, remembers, counters)


def _options(words: Iterable[str]) -> Iterator[Option]:
    name, values, negated, upcoming = "", list[str](), False, False
    for word in words:
        if name == "--comment" and not values:
            values.append(word)  # whatever it begins with
        elif word == "!":
            upcoming = True
        elif word.startswith("-"):
            if name:
                yield Option(name, tuple(values), negated)
            name, values, negated, upcoming = word, [], upcoming, False
        else:
            values.append(word)
    if name:
        yield Option(name, tuple(values), negated)


def _split(options: Iterable[Option]) -> tuple[list[Option], list[Option]]:
    """Part a rule's matches from its target and the target's options."""
    matches: list[Option] = []
    targets: list[Option] = []
    for option in options:
        (targets if targets or option.name in ("-j", "-g") else matches).append(option)
    return matches, targets


@dataclass
class _Seen:
    """What the options of a rule's matches come to."""

    conditions: list[Condition] = field(default_factory=list)
    recent: dict[str, str] = field(default_factory=dict)
    comment: str = ""

    @property
    def all(self) -> tuple[Condition, ...]:
        if "--rcheck" in self.recent or "--update" in self.recent:
            listed = Recent(self.recent.get("--name", ""), int(self.recent.get("--seconds", 0)))
            return *self.conditions, listed
        return tuple(self.conditions)

    def take(self, option: Option) -> None:
        if option.name == "--comment":
            self.comment = option.value
        elif option.name in LIST_OPTIONS and not option.negated:
            self.recent[option.name] = option.value
        elif option.name not in SILENT or (option.name == "--mode" and option.value != "random"):
            self.conditions.append(_condition(option))


def _condition(option: Option) -> Condition:
    value, negated = option.value, option.negated
    match option.name:
        case "--vaddr":  # where a packet was sent to before IPVS changed it
            return To((ip_network(value),), negated)
        case "--vproto":
            return Layer4(PROTOCOLS.get(value, value), negated)
        case "--vport" if value.isdecimal():
            return ToPort(int(value), negated)
        case "-s":
            return From((ip_network(value),), negated)
        case "-d":
            return To((ip_network(value),), negated)
        case "-p":
            return Layer4(value, negated)
        case "--dport" if value.isdecimal():
            return ToPort(int(value), negated)
        case "--src-type" if value == "LOCAL":
            return FromNode(negated)
        case "--dst-type" if value == "LOCAL":
            return ToNode(negated)
        case "--ctstate":
            return State(tuple(value.split(",")), negated)
        case "--match-set":
            return InSet(value, tuple(option.values[-1].split(",")), negated)
        case "--probability" if not negated:
            return Chance(fraction(value))
    return Unknown(str(option))


def fraction(text: str) -> Fraction:
    """Return the probability that was meant: 0.33333333349 is 1/3. One of no small denominator stays as it is."""
    read = Fraction(text)
    if read <= 0 or read >= 1:
        return read
    for near in (Fraction(1, round(1 / read)), read.limit_denominator(1000)):
        if abs(near - read) <= PRECISION:
            return near
    return read


VERDICTS = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.REJECT,
    "RETURN": Verdict.RETURN,
    "MASQUERADE": Verdict.MASQUERADE,
}


def _action(options: Sequence[Option]) -> Action:
    if not options:
        return Verdict.NOTHING
    target, *details = options
    if target.value in VERDICTS:
        return VERDICTS[target.value]
    if target.value == "DNAT" and details and details[0].name == "--to-destination":
        return Dnat(details[0].value)
    if target.value == "MARK":
        return _mark(details)
    if details:
        return UnknownAction(" ".join(map(str, options)))
    return Jump(target.value, returns=target.name == "-j")


def _mark(details: Sequence[Option]) -> Action:
    """Return what MARK does: "--set-xmark v/m" clears the bits of m, then flips those of v."""
    for option in details:
        value, _, mask = option.value.partition("/")
        bits = int(value, 0)
        if option.name == "--or-mark":
            return SetMark(bits)
        if option.name in ("--set-xmark", "--set-mark"):
            return SetMark(bits & int(mask or "0xffffffff", 0))
        if option.name in ("--xor-mark", "--and-mark"):
            return SetMark(0)
    return UnknownAction(" ".join(["-j MARK", *map(str, details)]))
