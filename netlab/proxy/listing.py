"""What `iptables-save` lists of a node, and how far it is what kube-proxy's rules should be. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterable, Iterator, Mapping

from netlab.service.iptables_names import EXTERNAL_SERVICES, NODE_PORTS, PROXY_FIREWALL, SERVICES
from netlab.service.iptables_restore import Jump

OWN = "KUBE-"  # what the names of kube-proxy's chains begin with
SHARED = frozenset({EXTERNAL_SERVICES, NODE_PORTS, PROXY_FIREWALL, SERVICES})  # in which ports stand in any order
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


def compare(tables: Tables, expected: Tables, known: Container[int] = ()) -> frozenset[int] | None:
    """Return a mark for each chain that is expected, None where a node does not have one with these rules.

    Chains with a mark that is `known` are not compared again: to find out what a rule means takes 10 us.
    """
    marks = set()
    for table, chains in expected.items():
        there = tables.get(table, {})
        for chain, rules in chains.items():
            if chain not in there:
                return None
            mark = hash((table, chain, *there[chain], None, *rules))
            if mark not in known and not _is_same(chain, there[chain], rules):
                return None
            marks.add(mark)
    return frozenset(marks)


def _is_same(chain: str, found: list[str], wanted: list[str]) -> bool:
    if len(found) != len(wanted):
        return False
    if found == wanted:
        return True
    has, should_have = [_meaning(rule) for rule in found], [_meaning(rule) for rule in wanted]
    if chain in SHARED:
        return has[-1] == should_have[-1] and sorted(has) == sorted(should_have)
    return has == should_have


# --- what a rule means -----------------------------------------------------------------------------------------------

Clause = tuple[str, ...]  # an option with its values, after "!" where it is negated
IMPLIED = frozenset(
    {
        ("--rsource",),
        ("--mask", "255.255.255.255"),
        ("--mask", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("--reject-with", "icmp-port-unreachable"),
        ("--reject-with", "icmp6-port-unreachable"),
    }
)
FRACTION = 1 << 31  # of which the kernel keeps a probability


def _meaning(rule: str) -> tuple[Clause, ...]:
    """Return what does not depend on how a rule is worded: iptables-save has its own order and its own numbers."""
    clauses: list[list[str]] = []
    negation: list[str] = []
    for word in _words(rule):
        if word == "!":
            negation = [word]
        elif word.startswith("-"):
            clauses.append([*negation, word])
            negation = []
        elif clauses:
            clauses[-1].append(word)
    return tuple(sorted(found for clause in clauses if (found := _worded(clause)) not in IMPLIED and found[0] != "-m"))


def _words(rule: str) -> Iterator[str]:
    if "\\" in rule:
        yield from shlex.split(rule)
        return
    for number, part in enumerate(rule.split('"')):
        if number % 2:
            yield part
        else:
            yield from part.split()


def _worded(clause: list[str]) -> Clause:
    """Return a clause as iptables-save words it."""
    *negation, option, value = clause if len(clause) > 1 and not clause[-1].startswith("-") else [*clause, ""]
    match option:
        case "-s" | "-d" if "/" not in value:
            value += "/128" if ":" in value else "/32"
        case "--mark" | "--set-xmark":
            value = "/".join(hex(int(number, 16)) for number in value.split("/"))
        case "--or-mark":
            option, value = "--set-xmark", f"{int(value, 16):#x}/{int(value, 16):#x}"
        case "--xor-mark":
            option, value = "--set-xmark", f"{int(value, 16):#x}/0x0"
        case "--probability":
            value = str(round(float(value) * FRACTION))
        case "--ctstate":
            value = ",".join(sorted(value.split(",")))
    return (*negation, option, value) if value else (*negation, option)


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
