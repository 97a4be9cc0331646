"""A table of nftables in dictionaries: it runs text for `nft -f`, refuses what a kernel refuses, and walks packets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TypeVar

Held = TypeVar("Held")
COMMENT = r' comment "[^"]*"'
TOOK = r"(?:goto|jump) ([^ ,]+)|(@[^ ]+)"


class Refused(Exception):
    """The kernel would not take this command."""


@dataclass
class Table:
    """What the kernel holds of the one table."""

    hooks: dict[str, str] = field(default_factory=dict)
    chains: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    elements: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def run(self, text: str) -> None:
        """Run one transaction."""
        lines = iter(text.splitlines())
        for line in lines:
            block = [line]
            while line.endswith("{") and block[-1] != "}":
                block.append(next(lines))
            if line.startswith("table"):
                self._fill(block[1:-1])
            else:
                self._command(" ".join(part.strip() for part in block))

    def _fill(self, lines: list[str]) -> None:
        """Run what stands in "table X { }": chains are made before sets, and rules last."""
        name, body = "", dict[str, list[str]]()
        for line in lines:
            if line.startswith("\t\t"):
                body[name].append(line.strip())
            elif line.endswith("{"):
                name = line.strip(" \t{")
                if name in body:
                    raise Refused(f"twice: {name}")
                body[name] = []
        found = {tuple(key.split(" ", 1)): inner for key, inner in body.items()}
        self.chains |= {name: [] for kind, name in found if kind == "chain"}
        for (kind, name), inner in found.items():
            if kind != "chain":
                self._add_set(name, inner[0])
        for (kind, name), inner in found.items():
            for rule in inner if kind == "chain" else ():
                if rule.startswith("type "):
                    self.hooks[name] = rule
                elif not rule.startswith("comment "):
                    self._add_rule(name, rule)

    def _command(self, line: str) -> None:
        verb, kind, _, _, name, rest, *_ = [*line.split(" ", 5), "", ""]
        inner = rest.removeprefix("{ ").removesuffix(" }")
        match verb, kind:
            case "add", "table":
                return
            case "delete", "table":
                for there in (self.hooks, self.chains, self.sets, self.elements):
                    there.clear()
            case "add", "chain":
                self.chains.setdefault(name, [])
            case "flush", "chain":
                self._known(self.chains, name).clear()
            case "add", "set":
                self._add_set(name, inner)
            case "add", "rule":
                self._add_rule(name, rest)
            case _, "element":
                for element in inner.split(", "):
                    self._element(verb, name, element)
            case "delete", _:
                self._delete(kind, name)
            case _:
                raise Refused(line)

    def _delete(self, kind: str, name: str) -> None:
        there = self.chains if kind == "chain" else self.sets
        held = self._known(there, name)
        if (kind == "chain" and held) or (name if kind == "chain" else f"@{name}") in set(self._used()):
            raise Refused(f"in use: {name}")
        del there[name]
        if kind == "set":
            del self.elements[name]

    def _element(self, verb: str, name: str, element: str) -> None:
        key, _, text = re.sub(COMMENT, "", element).partition(" : ")
        verdict = text or None
        there = self._known(self.elements, name)
        if verb == "delete":
            self._known(there, key)
            del there[key]
            return
        if there.get(key, verdict) != verdict or (verdict and key in there):
            raise Refused(f"there already: {name} {element}")
        self._refer(text)
        there[key] = verdict

    def _add_set(self, name: str, definition: str) -> None:
        if self.sets.get(name, definition) != definition:
            raise Refused(f"another definition: {name}")
        self.sets[name] = definition
        self.elements.setdefault(name, {})

    def _add_rule(self, chain: str, rule: str) -> None:
        rule = re.sub(COMMENT, "", rule)
        self._refer(rule)
        self._known(self.chains, chain).append(rule)

    def _refer(self, rule: str) -> None:
        for name in _references(rule):
            self._known(self.sets if name.startswith("@") else self.chains, name.removeprefix("@"))

    def _used(self) -> Iterable[str]:
        for rules in self.chains.values():
            for rule in rules:
                yield from _references(rule)
        for there in self.elements.values():
            for verdict in there.values():
                yield from _references(verdict or "")

    @staticmethod
    def _known(there: dict[str, Held], name: str) -> Held:
        if name not in there:
            raise Refused(f"missing: {name}")
        return there[name]


def _references(rule: str) -> Iterable[str]:
    return (chain or name for chain, name in re.findall(TOOK, rule))


# --- a packet's way --------------------------------------------------------------------------------------------------


@dataclass
class Packet:
    """The first packet of a connection; `number` is what numgen says."""

    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    number: int = 0
    mark: int = 0
    masqueraded: bool = False


def walk(table: Table, packet: Packet, *local: str) -> str:
    """Return what becomes of a packet on a node with these addresses: "drop", "reject", or where it goes to."""
    way = ["output"] if packet.source in local else ["prerouting", "input or forward"]
    for hook in [*way, "postrouting"]:
        name = hook if " or " not in hook else "input" if packet.destination in local else "forward"
        here = [chain for chain, kind in table.hooks.items() if f" hook {name} " in kind]
        for chain in sorted(here, key=lambda chain: int(table.hooks[chain].split("priority ")[1].split(";")[0])):
            verdict = _Walk(table, packet, local).through(chain)
            if verdict in ("drop", "reject"):
                return verdict
    where = f"[{packet.destination}]" if ":" in packet.destination else packet.destination
    return f"{where}:{packet.port}{' masqueraded' if packet.masqueraded else ''}"


@dataclass
class _Walk:
    table: Table
    packet: Packet
    local: tuple[str, ...]

    def through(self, chain: str) -> str:
        for rule in self.table.chains[chain]:
            action = self._matched(rule)
            if action.startswith("jump "):
                action = self.through(action.removeprefix("jump "))
                if action:
                    return action
            elif action.startswith("goto "):
                return self.through(action.removeprefix("goto "))
            elif action == "return":
                return ""
            elif action:
                return action
        return ""

    def _matched(self, rule: str) -> str:
        """Return a rule's verdict for the packet, "" where it does not match or has none."""
        while rule:
            for pattern, meaning in MATCHES.items():
                if found := re.match(pattern, rule):
                    result = meaning(self, *found.groups())
                    if isinstance(result, str):
                        return result
                    if not result:
                        return ""
                    rule = rule[found.end() :].lstrip()
                    break
            else:
                return rule  # a verdict
        return ""

    def address(self, field_: str, no: str | None, wanted: str) -> bool:
        mine = ip_address(self.packet.source if field_ == "saddr" else self.packet.destination)
        if wanted.startswith("@"):
            matches = str(mine) in self.table.elements[wanted[1:]]
        else:
            matches = any(mine in ip_network(one) for one in wanted.strip("{} ").split(", "))
        return matches != bool(no)

    def kind(self, field_: str) -> bool:
        return (self.packet.source if field_ == "saddr" else self.packet.destination) in self.local

    def vmap(self, destination: str | None, name: str) -> str | bool:
        key = f"{self.packet.protocol} . {self.packet.port}"
        return self.table.elements[name].get(f"{self.packet.destination} . {key}" if destination else key) or False

    def numbered(self, modulus: str, verdicts: str) -> str:
        choices = dict(one.split(" : ") for one in verdicts.split(", "))
        assert set(choices) == {str(number) for number in range(int(modulus))}
        return choices[str(self.packet.number % int(modulus))]

    def remember(self, name: str) -> bool:
        self.table.elements[name][self.packet.source] = None
        return True

    def flip(self, sign: str, bits: str) -> bool:
        self.packet.mark = self.packet.mark | int(bits, 16) if sign == "|" else self.packet.mark ^ int(bits, 16)
        return True

    def masquerade(self) -> str:
        assert not self.packet.mark
        self.packet.masqueraded = True
        return "accept"

    def dnat(self, address: str, port: str) -> str:
        self.packet.destination, self.packet.port = address.strip("[]"), int(port)
        return "accept"


MATCHES = {
    r"ct state new": lambda walk: True,
    r"(ip6? daddr \. )?meta l4proto \. th dport vmap @(\S+)$": _Walk.vmap,
    r"fib ([sd]addr) type local": _Walk.kind,
    r"ip6? ([sd]addr) (!= )?(\{[^}]*\}|\S+)": _Walk.address,
    r"(tcp|udp|sctp) dport (\d+)": lambda walk, protocol, port: (
        (walk.packet.protocol, walk.packet.port) == (protocol, int(port))
    ),
    r"meta l4proto (tcp|udp|sctp)": lambda walk, protocol: walk.packet.protocol == protocol,
    r"meta mark & (\w+) == 0x00000000": lambda walk, bits: not walk.packet.mark & int(bits, 16),
    r"meta mark set meta mark ([|^]) (\w+)": _Walk.flip,
    r"numgen random mod (\d+) vmap \{ (.*) \}": _Walk.numbered,
    r"update @(\S+) \{ ip6? saddr \}": _Walk.remember,
    r"masquerade fully-random": _Walk.masquerade,
    r"dnat to (\S+):(\d+)": _Walk.dnat,
}
