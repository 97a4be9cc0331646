"""A program that writes the legacy tables of its network namespace as iptables-save -c does, read by python-iptables.

    python -m netlab.explain.legacy 4 default/web

With a Service's name it reads of the chains that are single ports' only those behind that Service: python-iptables
takes a third of a millisecond for each rule, and a node may have tens of thousands.

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

from netlab.service.iptables_names import Prefix

PORTS = tuple(Prefix)  # what the names of single ports' chains begin with
WANTED = ("filter", "nat")
PRESENT = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
MISSING = 3  # exit status: python-iptables or the libraries that it loads are not there


def present(names: str) -> list[str]:
    """Return the tables worth reading among those that there are: to open another one would make it."""
    return [name for name in WANTED if name in names.split()]


def lines(table: Any, service: str = "") -> Iterator[str]:
    """Yield the lines of a table (iptc.Table or Table6)."""
    chains = {chain.name: chain for chain in table.chains}
    yield f"*{table.name}"
    for name in chains:
        yield f":{name} - [0:0]"
    waiting = [name for name in chains if not (service and name.startswith(PORTS))]
    done = set(waiting)
    while waiting:
        chain = chains[waiting.pop(0)]
        for rule in chain.rules:
            packets, count = rule.get_counters()
            yield f"[{packets}:{count}] -A {chain.name} {shlex.join(_words(rule))}"
            target = rule.target.name if rule.target else ""
            behind = chain.name.startswith(PORTS) or _may_be_of(rule, service)
            if target in chains and target not in done and behind:
                done.add(target)
                waiting.append(target)
    yield "COMMIT"


def _may_be_of(rule: Any, service: str) -> bool:
    """Say whether a rule names the Service, or nothing at all."""
    comments = [
        text for match in rule.matches if match.name == "comment" for text in match.get_all_parameters()["comment"]
    ]
    return not comments or any(
        text.startswith(service) and text[len(service) :][:1] in ("", ":", " ") for text in comments
    )


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
    """Write the tables of the IP version that the first argument names."""
    version, service = int(sys.argv[1]), "".join(sys.argv[2:])
    try:
        import iptc
    except Exception as exc:  # it raises its own kinds, and plain ones, for each library that it misses
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        sys.exit(MISSING)
    kind = iptc.Table if version == 4 else iptc.Table6
    for name in present(Path(PRESENT[version]).read_text()):
        for line in lines(kind(name), service):
            print(line)


if __name__ == "__main__":
    main()
