"""What a rule says that the kernel named by its handle or its number: the text of the tool that made it.

Rules of iptables-nft stand in a chain in the same order as in `iptables-nft-save`, whose text people know; the kernel
lists their handles. Rules of nftables `nft -a` lists with their handles. In legacy tables the n-th rule is the n-th
line of a chain.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from netlab.trace.hits import Hit

Argv = tuple[str, ...]
Run = Callable[[Argv], str]  # a program in a namespace; what it printed
FindHandles = Callable[[str, str, str], Sequence[int]]  # of a chain's rules, by family, table and chain
Place = tuple[str, str, str]  # family, table, chain
IPTABLES = {"ip": "iptables", "ip6": "ip6tables"}
TABLES = ("raw", "mangle", "nat", "filter", "security")  # those that iptables-nft makes

_HANDLE = re.compile(r"(?P<text>.*) # handle (?P<handle>\d+)")


class Texts:
    """The texts of the rules in one namespace; each table or chain is read when it is first asked for."""

    def __init__(self, run: Run, find_handles: FindHandles) -> None:
        self._run = run
        self._find_handles = find_handles
        self._listed: dict[Place, Mapping[int, str]] = {}
        self._saved: dict[tuple[str, str], Mapping[str, list[str]]] = {}
        self._policies: dict[tuple[str, str], Mapping[str, str]] = {}

    def text(self, hit: Hit) -> str:
        """Return a rule without its chain, or a legacy chain's policy; "" when it is not there any more."""
        family, table, chain = hit.place
        if hit.number and hit.kind == "policy":
            self._save("legacy", family, table)
            return self._policies[_save_program("legacy", family), table].get(chain, "")
        if hit.number:
            return _nth(self._save("legacy", family, table).get(chain, []), hit.number - 1)
        if family in IPTABLES and table in TABLES:
            handles = list(self._find_handles(family, table, chain))
            rules = self._save("nft", family, table).get(chain, [])
            if hit.handle in handles and len(handles) == len(rules):
                return rules[handles.index(hit.handle)]
        return self._list(hit.place).get(hit.handle, "")

    def _list(self, place: Place) -> Mapping[int, str]:
        if place not in self._listed:
            self._listed[place] = handled(self._run(_list_argv(place)))
        return self._listed[place]

    def _save(self, variant: str, family: str, table: str) -> Mapping[str, list[str]]:
        program = _save_program(variant, family)
        if (program, table) not in self._saved:
            listing = self._run(_save_argv(program, table))
            self._saved[program, table], self._policies[program, table] = saved(listing), policies(listing)
        return self._saved[program, table]


def listing_of(hit: Hit) -> Argv:
    """Return the program whose listing has the text of a rule; it may turn out that another is needed too."""
    family, table, _ = hit.place
    if hit.number:
        return _save_argv(_save_program("legacy", family), table)
    if family in IPTABLES and table in TABLES:
        return _save_argv(_save_program("nft", family), table)
    return _list_argv(hit.place)


def _save_argv(program: str, table: str) -> Argv:
    return (program, "-t", table)


def _list_argv(place: Place) -> Argv:
    return ("nft", "-a", "list", "chain", *place)


def handled(listing: str) -> dict[int, str]:
    """Read the rules that `nft -a list chain` prints, by handle."""
    matches = (_HANDLE.fullmatch(line.strip()) for line in listing.splitlines())
    return {int(match["handle"]): match["text"] for match in matches if match and not match["text"].endswith("{")}


def saved(listing: str) -> dict[str, list[str]]:
    """Read what `iptables-save` prints of one table: each chain's rules without their chain."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in listing.splitlines():
        if line.startswith("-A "):
            _, chain, *rest = line.split(" ", 2)
            found[chain].append(rest[0] if rest else "")
    return found


def policies(listing: str) -> dict[str, str]:
    """Read the policies that `iptables-save` prints of one table's own chains, as verdicts."""
    lines = (line[1:].split() for line in listing.splitlines() if line.startswith(":"))
    return {chain: policy.lower() for chain, policy, *_ in lines if policy != "-"}


def _save_program(variant: str, family: str) -> str:
    return f"{IPTABLES.get(family, 'iptables')}-{variant}-save"


def _nth(rules: Sequence[str], place: int) -> str:
    return rules[place] if 0 <= place < len(rules) else ""
