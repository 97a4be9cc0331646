"""A program that writes the legacy tables of its network namespace as iptables-save -c does, read by python-iptables.

    python -m netlab.explain.legacy 4

It is a process of its own because libiptc works on the namespace of the thread that calls it, keeps global state that
no second thread may touch, and ends the process when it meets what it does not know.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

WANTED = ("filter", "nat")
PRESENT = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
MISSING = 3  # exit status: python-iptables or the libraries that it loads are not there


def present(names: str) -> list[str]:
    """Return the tables worth reading among those that there are: to open another one would make it."""
    return [name for name in WANTED if name in names.split()]


def lines(table: Any) -> Iterator[str]:
    """Yield the lines of a table (iptc.Table or Table6)."""
    yield f"*{table.name}"
    for chain in table.chains:
        yield f":{chain.name} - [0:0]"
    for chain in table.chains:
        for rule in chain.rules:
            packets, count = rule.get_counters()
            yield f"[{packets}:{count}] -A {chain.name} {shlex.join(_words(rule))}"
    yield "COMMIT"


def _words(rule: Any) -> Iterator[str]:
    """Yield a rule's options and their arguments."""
    for option, value in (("-s", rule.src), ("-d", rule.dst)):
        network = ip_network(value.removeprefix("!"))
        if network.prefixlen:
            yield from (*_negation(value), option, str(network))
    for option, value in (("-i", rule.in_interface), ("-o", rule.out_interface), ("-p", rule.protocol)):
        if value and value not in ("ip", "ipv6"):
            yield from (*_negation(value), option, value.removeprefix("!"))
    for match in rule.matches:
        yield from ("-m", match.name, *_parameters(match))
    if rule.target and rule.target.name:
        yield from ("-g" if rule.target.goto else "-j", rule.target.name, *_parameters(rule.target))


def _negation(value: str) -> list[str]:
    return ["!"] if value.startswith("!") else []


def _parameters(extension: Any) -> Iterator[str]:
    """Yield the options of a match or target. python-iptables keeps the "!" of one with its arguments."""
    for name, values in extension.get_all_parameters().items():
        negated = values[:1] == ["!"]
        yield from (*(["!"] if negated else []), f"--{name}", *(values[1:] if negated else values))


def main() -> None:
    """Write the tables of the IP version that the argument names."""
    version = int(sys.argv[1])
    try:
        import iptc
    except Exception as exc:  # it raises its own kinds, and plain ones, for each library that it misses
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        sys.exit(MISSING)
    kind = iptc.Table if version == 4 else iptc.Table6
    for name in present(Path(PRESENT[version]).read_text()):
        for line in lines(kind(name)):
            print(line)


if __name__ == "__main__":
    main()
