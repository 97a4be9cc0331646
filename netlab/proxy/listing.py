"""What `iptables-save` lists of a node, and how far it is what kube-proxy's rules should be. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from netlab.service.iptables_restore import Jump

OWN = "KUBE-"  # what the names of kube-proxy's chains begin with
NOT_OWN = ("KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT")  # the kubelet's, of facts.md 9.8

Tables = Mapping[str, Mapping[str, list[str]]]  # table -> chain -> rules without "-A CHAIN"


def parse(saved: str) -> Tables:
    """Return the chains and rules of a listing. Warnings stand in comment lines."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in saved.splitlines():
        match line[:1]:
            case "*":
                chains = tables.setdefault(line[1:], {})
            case ":":
                chains[line[1:].split(" ", 1)[0]] = []
            case "-":
                _, chain, rule = line.split(" ", 2)
                chains[chain].append(rule)
    return tables


def missing_jumps(tables: Tables, jumps: Iterable[Jump]) -> list[Jump]:
    """Return those jumps into our chains that a node does not have."""
    there = {
        (table, chain, _meaning(rule))
        for table, chains in tables.items()
        for chain, rules in chains.items()
        if not chain.startswith(OWN)
        for rule in rules
        if OWN in rule
    }
    return [jump for jump in jumps if (jump.table, jump.chain, _meaning(jump.rule)) not in there]


@cache
def _meaning(rule: str) -> tuple[str, ...]:
    """Return what does not depend on the order in which iptables-save prints matches."""
    return tuple(sorted(shlex.split(rule)))


def has(tables: Tables, expected: Tables) -> bool:
    """Say whether a node has these chains, each with as many rules. The kernel words a rule its own way."""
    return all(
        chain in tables.get(table, {}) and len(tables[table][chain]) == len(rules)
        for table, chains in expected.items()
        for chain, rules in chains.items()
    )


def removal(tables: Tables) -> Iterator[str]:
    """Yield the text for iptables-restore that takes jumps and chains of ours away, and nothing else."""
    for table, chains in tables.items():
        own = [chain for chain in chains if chain.startswith(OWN) and chain not in NOT_OWN]
        if not own:
            continue
        yield f"*{table}\n"
        yield from (f":{chain} - [0:0]\n" for chain in own)
        for chain, rules in chains.items():
            if chain not in own:
                yield from (f"-D {chain} {rule}\n" for rule in rules if _target(rule) in own)
        yield from (f"-X {chain}\n" for chain in own)
        yield "COMMIT\n"


def _target(rule: str) -> str:
    """Return where a rule jumps to, "" for one that does not."""
    words = shlex.split(rule)
    places = [index for index, word in enumerate(words[:-1]) if word in ("-j", "-g")]
    return words[places[-1] + 1] if places else ""
