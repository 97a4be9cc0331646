"""What becomes of a Service's packets on a node in IPVS mode, in words. Pure.

The way is the kernel's: table nat decides whether the packet will be masqueraded, table filter whether it may pass, and
IPVS, which waits behind INPUT, chooses the endpoint. The node has every Service's address, on kube-ipvs0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address

from netlab.explain import words
from netlab.explain.explain import ALL, Client, Walk, sent_by
from netlab.explain.ipsets import resolve, resolved
from netlab.explain.lines import Line
from netlab.explain.model import VIRTUAL_SERVERS, Balance, Dnat, Jump, Packet, Rule, Serve, Tables, Verdict
from netlab.explain.tree import Door, PortTree
from netlab.explain.virtual import packets_to
from netlab.service.iptables_names import POSTROUTING, PROXY_FIREWALL, SERVICES
from netlab.service.ipvs_rules import IPVS_FILTER, IPVS_OUT_FILTER, SOURCE_RANGES_FIREWALL

SCHEDULERS = {  # whose shares are known beforehand: each endpoint of weight 1 has the same
    "rr": "in turn",
    "wrr": "in turn, by weight",
    "mh": "by a hash of the client's address",
    "sh": "by a hash of the client's address",
    "dh": "by a hash of the Service's address",
}
OTHERS = {"lc": "the one with the fewest connections", "wlc": "the one with the fewest connections for its weight"}
NOBODY = "no virtual server is there: IPVS lets the packet go on to the node itself"
REFUSED = "rejected (no real server): the client is told at once (connection refused)"


def explain_virtual(tree: PortTree, pods: Mapping[str, str], client: Client | None = None) -> list[Line]:
    """Return what happens to a new connection to each address of a port; see `explain.explain`."""
    return [line for entry in tree.doors for line in _door(entry, tree, pods, client)]


def _door(entry: Door, tree: PortTree, pods: Mapping[str, str], client: Client | None) -> Iterator[Line]:
    """Yield what happens to packets to one address, or to all addresses of the node where they have the same way."""
    told: dict[tuple[Line, ...], list[Packet]] = {}
    for packet in packets_to(entry, tree.tables):
        told.setdefault(tuple(_lines(sent_by(client, packet), tree, pods)), []).append(packet)
    general = Packet(ip_address(entry.host) if entry.host else None, entry.protocol, entry.port)
    if not told:
        told = {(Line(1, NOBODY),): [general]}
    for lines, packets in told.items():
        where = ", ".join(map(words.port, packets if len(told) > 1 else [general]))
        yield Line(0, f"To {where} ({entry.called}):")
        yield from lines


def _lines(packet: Packet, tree: PortTree, pods: Mapping[str, str]) -> list[Line]:
    if packet.from_node:
        packet = replace(packet, source=packet.destination)
    return _Walk(replace(tree, tables=resolve(tree.tables, packet)), pods, packet, whole=tree.tables).walk()


@dataclass
class _Walk(Walk):
    """One packet's way; `tree` has the rules as this packet meets them, `whole` as they are."""

    whole: Tables = field(kw_only=True)

    def walk(self) -> list[Line]:
        """Return what happens to the packet."""
        if self.packet.from_node:
            self.say(1, f"the node has {self.packet.destination} itself: its own packet has that as source, too")
        self.nat(SERVICES, 1)
        if self.passes() and self.shielded():
            self.serve()
            for rule in self.tables.chain("filter", IPVS_OUT_FILTER):
                if self.matches(rule) is not False:
                    self.rule(rule, 1, ALL)
        self.say_sources()
        return self.lines

    def say_hairpins(self) -> None:
        """Tell of endpoints that reach themselves; those on other nodes do so by their own node's rules."""
        found = [endpoint for endpoint, masqueraded in self.hairpins if masqueraded]
        if found:
            self.say(1, f"to itself (hairpin), masqueraded: {', '.join(found)}")

    # --- table nat ---

    def nat(self, name: str, depth: int) -> bool:
        """Say what a chain decides on the source; return whether no further rule of the table is met."""
        for rule in self.tables.chain("nat", name):
            matched = self.matches(rule)
            if matched is False:
                self.rule(rule, depth, ALL)
                continue
            match rule.action:
                case Jump(target) if not self.tables.marks("nat", target):
                    if self.branch(target, depth) and matched:
                        return True
                case Jump():
                    self.rule(rule, depth, ALL)
                case Verdict.RETURN if matched and name != SERVICES:
                    self.judged = True
                    self.say(depth, f"out of {name} again: not masqueraded")
                    return False
                case Verdict.ACCEPT | Verdict.RETURN if matched:
                    return True
        return False

    def branch(self, name: str, depth: int) -> bool:
        """Follow a chain, and name it only if there is something to say of it."""
        before = len(self.lines)
        ended = self.nat(name, depth + 1)
        if len(self.lines) > before:
            self.lines.insert(before, Line(depth, f"to {name}:", chain=name))
        return ended

    # --- table filter ---

    def passes(self) -> bool:
        """Say what a load balancer's source ranges let pass; return whether anything may."""
        if self.chain(PROXY_FIREWALL, "filter", 1, ALL):
            return True
        rules = self.tables.chain("filter", SOURCE_RANGES_FIREWALL)
        if any(rule.action is Verdict.RETURN and self.matches(rule) is None for rule in rules):
            self.say(1, "what is not dropped:")
            return True
        return False

    def shielded(self) -> bool:
        """Say whether the rules that keep the node's own listeners away let the packet pass; tell of it if not."""
        for rule in self.tables.chain("filter", IPVS_FILTER):
            if self.matches(rule):
                if rule.action in (Verdict.REJECT, Verdict.DROP):
                    self.rule(rule, 1, ALL)
                    return False
                return True
        return True

    # --- IPVS ---

    def serve(self) -> None:
        """Say to whom IPVS gives the packet."""
        found = next((rule for rule in self.tables.chain(*VIRTUAL_SERVERS) if self.matches(rule)), None)
        if found is None or not isinstance(found.action, Balance):
            self.say(1, NOBODY)
            return
        action = found.action
        servers = [one.action for one in self.tables.chain(found.table, action.chain) if isinstance(one.action, Serve)]
        total = sum(server.weight if action.scheduler == "wrr" else 1 for server in servers if server.weight)
        if not total:
            self.say(1, REFUSED)
        else:
            how = SCHEDULERS.get(action.scheduler) or OTHERS.get(action.scheduler)
            self.say(1, f"IPVS chooses by {action.scheduler}{f', {how}' if how else ''}:")
        if action.timeout and total:
            who = str(self.packet.source) if self.known else "a client"
            self.say(2, f"affinity: {who} returns to the endpoint it used within {action.timeout} s")
        for server in servers:
            parts = server.weight if action.scheduler == "wrr" else 1
            share = Fraction(parts, total) if server.weight and action.scheduler in SCHEDULERS else None
            self.server(server, share)

    def server(self, server: Serve, share: Fraction | None) -> None:
        """Tell of one real server; its share is None where the scheduler's choice depends on the moment."""
        if not server.weight:
            self.say(2, f"{self.named(server.to)}: weight 0, no new connections")
            return
        masqueraded = self.marked or self.loops(server.to)
        self.hairpins.append((server.to, masqueraded))
        itself = self.known and str(self.packet.source) == Dnat(server.to).address
        hairpin = "; itself (hairpin): " + ("masqueraded" if masqueraded else "NOT masqueraded, fails")
        text = (
            self.named(server.to)
            if share is None
            else f"with probability {words.chance(share)}: {self.named(server.to)}"
        )
        self.lines.append(Line(2, text + (hairpin if itself else ""), server.to if share else "", share))

    def loops(self, to: str) -> bool:
        """Say whether an endpoint's packet to itself is masqueraded for that: by a set, after IPVS."""
        end = Dnat(to)
        address = ip_address(end.address)
        packet = Packet(address, self.packet.protocol, int(to.rpartition(":")[2]), source=address)
        return any(_is_met(rule, self.whole, packet) for rule in self.whole.chain("nat", POSTROUTING))


def _is_met(rule: Rule, tables: Tables, packet: Packet) -> bool:
    """Say whether a rule that asks a set masquerades a packet."""
    if rule.action is not Verdict.MASQUERADE:
        return False
    found = resolved(rule, tables.sets, packet)
    return found is not None and found != rule and all(words.met(one, packet) for one in found.conditions)
