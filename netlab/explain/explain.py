"""What a Service's rules do, in words and exact probabilities: every word comes from the rules that were read. Pure.

A packet is followed from each way in. What is known of it decides conditions; what is not (the source, where nobody
said from where) is put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address

from netlab.explain import words
from netlab.explain.lines import Line
from netlab.explain.model import (
    Chance,
    Choose,
    Condition,
    Dnat,
    From,
    FromNode,
    Jump,
    Packet,
    Recent,
    Rule,
    Tables,
    To,
    ToNode,
    ToPort,
    Verdict,
)
from netlab.explain.tree import Door, PortTree, door, is_node_port
from netlab.service.nftables import TABLE

ALL = Fraction(1)
MASQUERADED = "masqueraded (the endpoint sees the node)"


@dataclass(frozen=True, slots=True)
class Client:
    """Whose packets are followed: its address, and whether that is the node's own (hostNetwork)."""

    address: str
    from_node: bool = False


def explain(tree: PortTree, pods: Mapping[str, str], client: Client | None = None) -> list[Line]:
    """Return what happens to a new connection to each address of a port. `pods` has a name for each pod's address.

    With a client, only what its packets would meet.
    """
    doors = _doors(tree)
    lines = [line for entry in doors for line in Walk(tree, pods, _packet(entry, client)).door(entry)]
    return [*lines, *_other_ports(tree.tables, dict.fromkeys(entry.host for entry in doors if entry.host))]


def _other_ports(tables: Tables, hosts: Iterable[str]) -> Iterator[Line]:
    """Yield what becomes of packets to other ports of the addresses: nftables mode has rules on that."""
    for host in hosts:
        for rule in tables.chain(TABLE, "cluster-ips-check"):
            packet = Packet(ip_address(host), "", 0)
            if rule.action in words.ENDS and all(words.met(one, packet) for one in rule.conditions):
                yield Line(0, f"To ports of {host} that no Service has:")
                yield Line(1, words.ENDS[rule.action])
                break


def _doors(tree: PortTree) -> list[Door]:
    """Return each address and port once: the cluster IP, other addresses, the node's own."""
    found: dict[Door, int] = {}
    for rule in (rule for step in tree.steps for rule in step):
        rank = 2 if is_node_port(rule) else 0 if words.called(rule, tree.port) == "cluster IP" else 1
        found[door(rule)] = min(rank, found.get(door(rule), rank))
    return sorted(found, key=lambda entry: found[entry])


def _packet(entry: Door, client: Client | None) -> Packet:
    host, protocol, port, _ = entry
    return sent_by(client, Packet(ip_address(host) if host else None, protocol, port, to_node=not host))


def sent_by(client: Client | None, packet: Packet) -> Packet:
    """Return a packet with its source, where somebody said from where."""
    return replace(packet, source=ip_address(client.address), from_node=client.from_node) if client else packet


@dataclass
class Walk:
    """One packet's way.

    `escaped` is the share that a "goto" led away from the chain that it came from: only the next step is left for it.
    """

    tree: PortTree
    pods: Mapping[str, str]
    packet: Packet
    lines: list[Line] = field(default_factory=list)
    escaped: Fraction = Fraction(0)
    marked: bool = False
    judged: bool = False  # whether it was said that the packet is masqueraded, or is not
    hairpins: list[tuple[str, bool]] = field(default_factory=list)  # endpoint, whether it is masqueraded

    @property
    def known(self) -> bool:
        return self.packet.source is not None

    @property
    def tables(self) -> Tables:
        return self.tree.tables

    def say(self, depth: int, text: str) -> None:
        self.lines.append(Line(depth, text))

    # --- from the way in ---

    def door(self, entry: Door) -> list[Line]:
        ways = [rule for step in self.tree.steps for rule in step if door(rule) == entry]
        called = next((text for rule in ways if (text := words.called(rule, self.tree.port))), "")
        self.say(0, f"To {words.port(self.packet)}{f' ({called})' if called else ''}:")
        left = ALL
        spoken = False
        for step in self.tree.steps:
            here = [rule for rule in step if door(rule) == entry]
            for rule in here:
                if left:
                    left = self.way(rule, left, rest=spoken and not self.known)
            left, self.escaped = min(ALL, left + self.escaped), Fraction(0)
            spoken |= bool(here)
        if left and self.known:
            self.say(1, f"{_share(left)}no rule changes its destination or refuses it")
        self.say_sources()
        return self.lines

    def way(self, rule: Rule, left: Fraction, *, rest: bool) -> Fraction:
        """Follow a rule that leads to the Service. `rest`: an earlier step may have taken the packet already."""
        own = tuple(one for one in rule.conditions if not isinstance(one, To | ToPort | ToNode))
        taken = isinstance(rule.action, Verdict) and rest and rule.table == "filter"
        return self.rule(replace(rule, conditions=own), 1, left, front="what is not translated above" if taken else "")

    def say_sources(self) -> None:
        """Say whether it is masqueraded, where no rule was worth a word, and what becomes of hairpins."""
        if self.known and self.hairpins and not self.judged:
            self.say(1, f"no rule masquerades it: the endpoint sees {self.packet.source}")
        if self.hairpins and not self.known:
            self.say_hairpins()

    def say_hairpins(self) -> None:
        """Say whether endpoints reach themselves."""
        found = dict(self.hairpins)
        if all(found.values()):
            self.say(1, "an endpoint's packet to itself (hairpin) is masqueraded")
        else:
            without = ", ".join(endpoint for endpoint, masqueraded in found.items() if not masqueraded)
            self.say(1, f"no rule masquerades {without} to itself (hairpin): such a connection fails")

    # --- chains and rules ---

    def chain(self, name: str, table: str, depth: int, left: Fraction) -> Fraction:
        """Follow a chain and return the share of packets that come out of its end."""
        rules = self.tables.chain(table, name)
        returned = Fraction(0)
        for number, rule in enumerate(rules):
            if not left:
                if not self.known:
                    self.say(depth, f"never reached: {words.line(rule)}")
                continue
            if any(isinstance(one, Recent) for one in rule.conditions):
                if number == 0 or not _recent(rules[number - 1]):
                    self.affinity(rules[number:], depth)
                continue
            before = left
            left = self.rule(rule, depth, left)
            if rule.action is Verdict.RETURN:
                returned += before - left
        return left + returned

    def affinity(self, rules: tuple[Rule, ...], depth: int) -> None:
        """Say what consecutive rules with lists of clients do."""
        found: list[str] = []
        seconds = 0
        for rule in rules:
            listed = _recent(rule)
            if listed is None or not isinstance(rule.action, Jump):
                break
            seconds = listed.seconds
            found.append(self.endpoint(rule.table, rule.action.chain) or rule.action.chain)
        who = str(self.packet.source) if self.known else "a client"
        self.say(depth, f"affinity: {who} returns to the endpoint it used within {seconds} s: {' or '.join(found)}")

    def matches(self, rule: Rule) -> bool | None:
        """Say whether the packet meets the conditions that are not left to chance."""
        found = [words.met(one, self.packet) for one in rule.conditions if not isinstance(one, Chance | Recent)]
        return False if False in found else None if None in found else True

    def rule(self, rule: Rule, depth: int, left: Fraction, *, front: str = "") -> Fraction:
        """Say what a rule does, and return the share of packets that go on to the next one."""
        matched = self.matches(rule)
        reason = "; ".join(text for one in rule.conditions if (text := words.why(one, self.packet)))
        if matched is False:
            self.passed(rule, depth, reason)
            return left
        share = left
        for one in rule.conditions:
            if isinstance(one, Chance):
                share *= one.probability
        open_ones = [one for one in rule.conditions if words.met(one, self.packet) is None and not _chancy(one)]
        front = ", ".join(map(words.condition, open_ones)) or reason or front
        taken = self.act(rule, depth, share, f"{front}: " if front else "")
        return left if matched is None else left - taken

    def passed(self, rule: Rule, depth: int, reason: str) -> None:
        """Tell of a rule whose condition on the source is not met; others are not worth a word."""
        elsewhere = [one for one in rule.conditions if not isinstance(one, From | FromNode | Chance)]
        if not (self.known and reason) or any(words.met(one, self.packet) is False for one in elsewhere):
            return
        match rule.action:
            case Jump(chain) if self.tables.marks(rule.table, chain):
                if not self.marked:
                    self.judged = True
                    self.say(depth, f"{reason}: not masqueraded")
            case Jump(chain):
                self.say(depth, f"{reason}: not to {chain}")
            case Verdict.DROP | Verdict.REJECT:
                self.say(depth, f"{reason}: not {words.ENDS[rule.action].partition(':')[0]}")

    def act(self, rule: Rule, depth: int, share: Fraction, front: str) -> Fraction:
        """Say what the action does to a share of the packets; return how much of it does not go on to the next rule."""
        match rule.action:
            case Jump(chain):
                return self.jump(rule, rule.action, depth, share, front)
            case Choose(shares):
                for part, chain in shares:
                    self.choice(rule.table, chain, depth, share * part)
                return share * sum((part for part, _ in shares), Fraction(0))
            case Dnat(to):
                self.say(depth, f"{front}{_share(share)}new destination {self.named(to)}")
                return share
            case Verdict.DROP | Verdict.REJECT | Verdict.ACCEPT:
                self.say(depth, f"{front}{_share(share)}{words.end(rule, rule.action, self.tree.port)}")
                return share
            case Verdict.RETURN:
                self.say(depth, f"{front}{_share(share)}out of {rule.chain} again")
                return share
            case Verdict.NOTHING:
                if rule.comment and not self.known:
                    self.say(depth, f"a remark, which does nothing: {rule.comment}")
            case _:
                self.say(depth, f"{front}{words.action(rule.action)}")
        return Fraction(0)

    def jump(self, rule: Rule, jump: Jump, depth: int, share: Fraction, front: str) -> Fraction:
        table, chain = rule.table, jump.chain
        if self.tables.marks(table, chain):
            self.marked |= self.known or not front
            self.judged = True
            self.say(depth, f"{front}{_share(share)}{MASQUERADED}")
        elif self.tables.rejects(table, chain):
            self.say(depth, f"{front}{_share(share)}{words.end(rule, Verdict.REJECT, self.tree.port)}")
            return share
        elif chain in ("KUBE-MARK-MASQ", "mark-for-masquerade"):
            self.say(depth, f"{front}{_share(share)}to {chain}, which marks nothing: not masqueraded")
        elif self.endpoint(table, chain):
            self.choice(table, chain, depth, share, front)
            return share
        elif (table, chain) not in self.tables.chains:
            self.say(depth, f"{front}{_share(share)}{words.action(jump)}")
        else:
            return self.descend(table, jump, depth, share, front)
        return Fraction(0)

    def descend(self, table: str, jump: Jump, depth: int, share: Fraction, front: str) -> Fraction:
        self.lines.append(Line(depth, f"{front}{_share(share)}to {jump.chain}:", chain=jump.chain))
        left = self.chain(jump.chain, table, depth + 1, share)
        if jump.returns:
            return share - left
        self.escaped += left
        return share

    # --- endpoints ---

    def endpoint(self, table: str, chain: str) -> str:
        """Return the destination that a chain gives every packet, "" when it may do something else as well."""
        for rule in self.tables.chain(table, chain):
            match rule.action:
                case Dnat(to) if all(words.met(one, self.packet) for one in rule.conditions):
                    return to
                case Verdict.NOTHING:
                    continue
                case Jump(mark) if self.tables.marks(table, mark):
                    continue
            return ""
        return ""

    def choice(self, table: str, chain: str, depth: int, share: Fraction, front: str = "") -> None:
        """Tell of the share of packets that go to one endpoint."""
        to = self.endpoint(table, chain)
        if not to:
            self.descend(table, Jump(chain), depth, share, front)
            return
        masqueraded = False
        for rule in self.tables.chain(table, chain):
            if isinstance(rule.action, Jump) and self.tables.marks(table, rule.action.chain):
                own = replace(self.packet, source=ip_address(Dnat(to).address))
                masqueraded |= all(words.met(one, own) for one in rule.conditions)
        self.hairpins.append((to, masqueraded))
        itself = self.known and str(self.packet.source) == Dnat(to).address
        hairpin = "; itself (hairpin): " + ("masqueraded" if masqueraded or self.marked else "NOT masqueraded, fails")
        remembers = any(rule.remembers for rule in self.tables.chain(table, chain))
        text = f"{front}with probability {words.chance(share)}: {self.named(to)}{hairpin if itself else ''}"
        self.lines.append(Line(depth, text + ("; client remembered" if remembers else ""), to, share))

    def named(self, to: str) -> str:
        name = self.pods.get(Dnat(to).address)
        return f"{to}, {name}" if name else to


def _share(share: Fraction) -> str:
    return "" if share == ALL else f"with probability {words.chance(share)}: "


def _chancy(one: Condition) -> bool:
    return isinstance(one, Chance | Recent)


def _recent(rule: Rule) -> Recent | None:
    return next((one for one in rule.conditions if isinstance(one, Recent)), None)
