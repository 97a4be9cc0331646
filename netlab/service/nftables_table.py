"""The table of kube-proxy's nftables mode: what it holds without a Service, and the text that `nft -f` takes. Pure.

Read in this order: `base`; `full`, the whole table; `change`, one Service; `removal`, what only a later one may delete.
Each text is one transaction, in the order that the kernel needs (facts.md 11.9): what refers to a chain or set goes
before it, and comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from netlab.service.model import ProxyNode
from netlab.service.nftables import WORDS, Chains, Elements, PortObjects, Words, join
from netlab.topology.model import Address, Network

MARK = "0x00004000"  # masqueradeBit 14

# Kubernetes 1.33 (facts.md 5.2); 1.34 moved the filter chains. Numbers: nft takes "dstnat" in prerouting only.
BASE_CHAINS_1_33 = {
    "filter-prerouting": "type filter hook prerouting priority -110; policy accept;",
    "filter-input": "type filter hook input priority -110; policy accept;",
    "filter-forward": "type filter hook forward priority -110; policy accept;",
    "filter-output": "type filter hook output priority -110; policy accept;",
    "filter-output-post-dnat": "type filter hook output priority -90; policy accept;",
    "nat-prerouting": "type nat hook prerouting priority -100; policy accept;",
    "nat-output": "type nat hook output priority -100; policy accept;",
    "nat-postrouting": "type nat hook postrouting priority 100; policy accept;",
}
COMMENTS = {  # kube-proxy's own, which people read in `nft list`
    "cluster-ips": "Active ClusterIPs",
    "nodeport-ips": "IPs that accept NodePort traffic",
    "service-ips": "ClusterIP, ExternalIP and LoadBalancer IP traffic",
    "service-nodeports": "NodePort traffic",
    "no-endpoint-services": "vmap to drop or reject packets to services with no endpoints",
    "no-endpoint-nodeports": "vmap to drop or reject packets to service nodeports with no endpoints",
    "firewall-ips": "destinations that are subject to LoadBalancerSourceRanges",
    "reject-chain": "helper for @no-endpoint-services / @no-endpoint-nodeports",
}


@dataclass(frozen=True, slots=True)
class Base:
    """What the table holds without a Service.

    `hooks`: what stands before a chain's rules, its type or comment. `sets`: by "set NAME" or "map NAME".
    """

    table: str
    hooks: Mapping[str, str]
    chains: Chains
    sets: Mapping[str, str]
    elements: Elements


class Kept(NamedTuple):
    """What a set of the table held: its definition, and each element with the milliseconds that it had left."""

    definition: str
    elements: tuple[tuple[str, int], ...]


# --- the table without a Service -------------------------------------------------------------------------------------


def base(node: ProxyNode, service_cidrs: Iterable[Network] = ()) -> Base:
    """Return the fixed part of a node's table. Addresses in `service_cidrs` that no Service has are dropped."""
    version = node.addresses[0].version
    words = WORDS[version]
    everywhere = any(network.prefixlen == 0 for network in node.node_port_addresses)
    cidrs = [str(cidr) for cidr in service_cidrs if cidr.version == version]
    listening = () if everywhere else tuple((str(address), None) for address in _node_port_addresses(node))
    return Base(
        words.table,
        {**BASE_CHAINS_1_33, "reject-chain": f'comment "{COMMENTS["reject-chain"]}";'},
        _fixed_chains(words, cidrs, _to_node_port(words, everywhere=everywhere)),
        _fixed_sets(words, everywhere=everywhere),
        {"nodeport-ips": listening} if listening else {},
    )


def _node_port_addresses(node: ProxyNode) -> list[Address]:
    """Return where NodePorts listen: the primary address, or those in the given networks; never a loopback one."""
    chosen = [address for address in node.addresses if any(address in net for net in node.node_port_addresses)]
    found = chosen if node.node_port_addresses else node.addresses[:1]
    return [address for address in dict.fromkeys(found) if not address.is_loopback]


def _to_node_port(words: Words, *, everywhere: bool) -> str:
    if everywhere:
        return f"fib daddr type local {words.ip} daddr != {words.loopback}"
    return f"{words.ip} daddr @nodeport-ips"


def _fixed_chains(words: Words, cidrs: list[str], to_node_port: str) -> Chains:
    """Return base chains, then those that they jump to, each in the order of a packet's way."""
    target, node_port = f"{words.ip} daddr . meta l4proto . th dport", f"{to_node_port} meta l4proto . th dport"
    unknown_port = f'{words.ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"'
    unallocated = f'{words.ip} daddr {{ {", ".join(cidrs)} }} drop comment "Drop traffic to unallocated ClusterIPs"'
    new = "ct state new jump"
    return {
        "filter-prerouting": (f"{new} firewall-check",),
        "filter-input": (f"{new} nodeport-endpoints-check", f"{new} service-endpoints-check"),
        "filter-forward": (f"{new} service-endpoints-check", f"{new} cluster-ips-check"),
        "filter-output": (f"{new} service-endpoints-check", f"{new} firewall-check"),
        "filter-output-post-dnat": (f"{new} cluster-ips-check",),
        "nat-prerouting": ("jump services",),
        "nat-output": ("jump services",),
        "nat-postrouting": ("jump masquerading",),
        "firewall-check": (f"{target} vmap @firewall-ips",),
        "services": (f"{target} vmap @service-ips", f"{node_port} vmap @service-nodeports"),
        "service-endpoints-check": (f"{target} vmap @no-endpoint-services",),
        "nodeport-endpoints-check": (f"{node_port} vmap @no-endpoint-nodeports",),
        "cluster-ips-check": (unknown_port, unallocated) if cidrs else (unknown_port,),
        "reject-chain": ("reject",),
        "mark-for-masquerade": (f"meta mark set meta mark | {MARK}",),
        # The bit is cleared: a packet that comes back inside a tunnel's is not masqueraded twice (facts.md 3.4).
        "masquerading": (
            f"meta mark & {MARK} == 0x00000000 return",
            f"meta mark set meta mark ^ {MARK}",
            "masquerade fully-random",
        ),
    }


def _fixed_sets(words: Words, *, everywhere: bool) -> Mapping[str, str]:
    target, node_port = f"{words.address} . inet_proto . inet_service : verdict", "inet_proto . inet_service : verdict"
    types = {
        "set cluster-ips": words.address,
        **({} if everywhere else {"set nodeport-ips": words.address}),
        "map service-ips": target,
        "map service-nodeports": node_port,
        "map no-endpoint-services": target,
        "map no-endpoint-nodeports": node_port,
        "map firewall-ips": target,
    }
    return {name: f'type {found}; comment "{COMMENTS[name[4:]]}";' for name, found in types.items()}


# --- text for nft -----------------------------------------------------------------------------------------------------


def full(base: Base, objects: Iterable[PortObjects], kept: Mapping[str, Kept] | None = None) -> str:
    """Return the transaction that makes the whole table anew, whatever it held.

    `kept` are affinity sets as they were: one that is defined as before gets its elements back, or their clients
    would lose their endpoint. Where two Services claim one address and port, the later one gets it.
    """
    ports = join(objects) or PortObjects(base.table)
    sets = {**base.sets, **{f"set {name}": definition for name, definition in ports.sets.items()}}
    parts = [f"add table {base.table}\ndelete table {base.table}\ntable {base.table} {{\n"]
    parts.append('\tcomment "rules for kube-proxy"\n')
    parts += [f"\t{name} {{\n\t\t{definition}\n\t}}\n" for name, definition in sets.items()]
    for name, rules in {**base.chains, **ports.chains}.items():
        body = "\n\t\t".join((base.hooks[name], *rules) if name in base.hooks else rules)
        parts.append(f"\tchain {name} {{\n\t\t{body}\n\t}}\n")
    parts.append("}\n")
    for name, pairs in {**base.elements, **ports.elements}.items():
        written = ",\n".join([f"\t{_element(key, verdict)}" for key, verdict in pairs])
        parts.append(f"add element {base.table} {name} {{\n{written}\n}}\n")
    for name, held in (kept or {}).items():
        if ports.sets.get(name) == held.definition:
            written = ", ".join([f"{key} expires {left}ms" for key, left in held.elements])
            parts.append(f"add element {base.table} {name} {{ {written} }}\n")
    return "".join(parts)


def change(old: PortObjects | None, new: PortObjects | None) -> tuple[str, tuple[str, ...]]:
    """Return the transaction that turns one Service's objects into others, "" for none, and the chains that it empties.

    Those may be deleted by a later transaction only, a second or more from now: kernels before 6.2 hold that a deleted
    element still refers to its chain (facts.md 5.5). One that a later change adds again must not be deleted any more.
    """
    one = old or new
    if one is None:
        return "", ()
    before, after = old or PortObjects(one.table), new or PortObjects(one.table)
    stale = tuple(name for name in before.chains if name not in after.chains)
    lines = [
        *_element_lines("delete", one.table, _missing(before.elements, after.elements)),
        *_chain_lines(before, after, stale),
        *_element_lines("add", one.table, _missing(after.elements, before.elements)),
    ]
    return "\n".join([*lines, ""]) if lines else "", stale


def removal(table: str, chains: Iterable[str]) -> str:
    """Return the transaction that deletes chains that `change` has emptied a second or more ago."""
    return "".join(f"delete chain {table} {name}\n" for name in chains)


def _chain_lines(before: PortObjects, after: PortObjects, stale: Iterable[str]) -> Iterator[str]:
    """Yield what makes and fills chains and affinity sets; no rule may refer to a set that is deleted."""
    table = before.table
    sets = {name: text for name, text in after.sets.items() if before.sets.get(name) != text}
    filled = {
        name: rules
        for name, rules in after.chains.items()
        if before.chains.get(name) != rules or _mentions(rules, before.sets.keys() & sets.keys())
    }
    yield from (f"add chain {table} {name}" for name in filled if name not in before.chains)
    yield from (f"flush chain {table} {name}" for name in (*stale, *filled) if name in before.chains)
    yield from (f"delete set {table} {name}" for name in before.sets if name not in after.sets or name in sets)
    yield from (f"add set {table} {name} {{ {text} }}" for name, text in sets.items())
    yield from (f"add rule {table} {name} {rule}" for name, rules in filled.items() for rule in rules)


def _mentions(rules: Iterable[str], sets: Iterable[str]) -> bool:
    return any(f"@{name} " in rule for name in sets for rule in rules)


def _missing(there: Elements, here: Elements) -> Mapping[str, list[tuple[str, str | None]]]:
    """Return the elements of the one that the other has not, or has with another verdict."""
    others = {name: set(pairs) for name, pairs in here.items()}
    found = {name: [pair for pair in pairs if pair not in others.get(name, ())] for name, pairs in there.items()}
    return {name: pairs for name, pairs in found.items() if pairs}


def _element_lines(verb: str, table: str, elements: Mapping[str, list[tuple[str, str | None]]]) -> Iterator[str]:
    for name, pairs in elements.items():
        written = ", ".join(_element(key, verdict if verb == "add" else None) for key, verdict in pairs)
        yield f"{verb} element {table} {name} {{ {written} }}"


def _element(key: str, verdict: str | None) -> str:
    """Return an element as nft takes it: a comment is the key's."""
    if not verdict:
        return key
    verdict, _, comment = verdict.partition(" comment ")
    return f"{key} comment {comment} : {verdict}" if comment else f"{key} : {verdict}"
