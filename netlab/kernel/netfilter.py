"""Packet-filter rules of namespaces, as text: written by one atomic call per tool, read back from its listing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator

from netlab.errors import ProgramError
from netlab.kernel import netns
from netlab.kernel.tool import Call, start
from netlab.plan.diff import Op
from netlab.plan.objects import Netns, Objects, Ruleset
from netlab.plan.rules import nft_input, restore_input

PARALLEL = os.cpu_count() or 1


def apply(ops: Iterable[Op]) -> None:
    """Replace rulesets: one call per namespace and tool. Raises ProgramError with what the tool said."""
    changes: dict[tuple[Netns, str], list[tuple[Ruleset | None, Ruleset | None]]] = defaultdict(list)
    for op in ops:
        old = op.old if isinstance(op.old, Ruleset) else None
        new = op.new if isinstance(op.new, Ruleset) else None
        tool = new.tool if new else old.tool if old else ""
        changes[op.netns, tool].append((old, new))
    calls = []
    for (name, tool), pairs in changes.items():
        if tool == "nft":
            calls.append(Call(name, ("nft", "-f", "-"), "".join(nft_input(old, new) for old, new in pairs)))
        else:
            calls.append(Call(name, (f"{tool}-restore", "-w", "5", "--noflush"), restore_input(pairs)))
    for _ in _run(calls):
        pass


def read(like: Objects) -> dict[Netns, set[Ruleset]]:
    """Read the rulesets that `like` names: chains and tables of those names, as they are now."""
    calls = []
    for name, objects in like.items():
        for tool in sorted({entry.tool for entry in objects if isinstance(entry, Ruleset)}):
            argv = ("nft", "-s", "list", "ruleset") if tool == "nft" else (f"{tool}-save",)
            calls.append(Call(name, argv, ""))
    found: dict[Netns, set[Ruleset]] = {name: set() for name in like}
    for call, output in _run(calls):
        wanted = [entry for entry in like[call.netns] if isinstance(entry, Ruleset)]
        if call.argv[0] == "nft":
            found[call.netns] |= set(_nft_tables(output, {entry.table for entry in wanted if entry.tool == "nft"}))
        else:
            tool = call.argv[0].removesuffix("-save")
            chains = {(entry.table, entry.chain) for entry in wanted if entry.tool == tool}
            found[call.netns] |= set(_iptables_chains(output, tool, chains))
    return found


def _run(calls: list[Call]) -> Iterator[tuple[Call, str]]:
    """Run tools inside their namespaces, a few at a time; yield each call with its output."""
    for first in range(0, len(calls), PARALLEL):
        group = calls[first : first + PARALLEL]
        running = [(call, netns.call(call.netns, start, call)) for call in group]
        for call, process in running:
            output, said = process.communicate(call.stdin)
            if process.returncode:
                raise ProgramError(call.argv, process.returncode, said, subject=call.netns)
            yield call, output


def _iptables_chains(saved: str, tool: str, chains: set[tuple[str, str]]) -> Iterator[Ruleset]:
    """Pick chains, and the rules that jump to them, out of `iptables-save`."""
    table = ""
    rules: dict[tuple[str, str], list[str]] = {}
    jumps: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":") and (table, line[1:].split()[0]) in chains:
            rules[table, line[1:].split()[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            target = rule.rpartition("-j ")[2].split(" ")[0]
            if (table, chain) in rules:
                rules[table, chain].append(rule)
            elif (table, target) in chains:
                jumps[table, target].append(f"{chain} {rule}")
    for (table, chain), found in rules.items():
        yield Ruleset(tool, table, chain, tuple(found), "\n".join(jumps[table, chain]))


def _nft_tables(listing: str, tables: set[str]) -> Iterator[Ruleset]:
    """Pick tables out of `nft list ruleset`; blank lines and indentation do not count."""
    table = ""
    lines: list[str] = []
    for raw in listing.splitlines():
        line = raw.strip()
        if raw.startswith("table "):
            table, lines = raw.removeprefix("table ").removesuffix(" {"), []
        elif raw == "}":
            if table in tables:
                yield Ruleset("nft", table, "", tuple(lines))
        elif line:
            lines.append(line)
