"""`bench services`: a node's Services written by netlab, against the bare tool given the same text, in alternation."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from netlab.kernel import netns
from netlab.proxy.iptables import IptablesProxier
from netlab.proxy.iptables_rules import Rules
from netlab.proxy.nftables import NftablesProxier
from netlab.proxy.nftables_objects import TableObjects
from netlab.proxy.proxier import NodeTarget, Options, PortKey, Proxier
from netlab.service import iptables_restore, nftables_table
from netlab.service.model import Endpoint, Protocol, ProxyNode, ServicePort
from tests.bench import machine, sandbox
from tests.bench.report import ratio, spread, table

VARIANTS = ("iptables-legacy", "iptables-nft", "nftables")
SIZES = (1000, 5000, 10000)  # services
ENDPOINTS = (2, 10)  # of each
LIMIT = 1.5  # of the bare tool's time
BOUND = 60.0  # seconds: a size whose text takes a tool longer is left out
CHANGES = 5
KINDS = ("bare cpu", "full cpu", "own", "tool", "whole", "bytes")
NODE = ProxyNode("n1", (IPv4Address("172.18.0.2"),), IPv4Network("10.0.0.0/8"))
HERE = "nl-bench-services"
LEGEND = f"""\
full: a node without rules gets all of them; ratio: to the bare tool with the same text, limit {LIMIT}
CPU ratio: the same of the processor time of both processes, which neighbours do not disturb
change: an endpoint of one service goes or comes; own: until the text is ready; tool: the bare tool with that text"""


class Case(NamedTuple):
    """So many services with so many endpoints each, in one mode."""

    variant: str
    services: int
    endpoints: int

    @property
    def chains(self) -> int:
        """How many chains it has, about."""
        return self.services * (1 + self.endpoints)


def main(rounds: int, seed: int, sizes: Sequence[int], variants: Sequence[str]) -> None:
    """Measure every case and print a table."""
    print(f"# bench services, {rounds} rounds, seed {seed}\n{machine.describe()}\n{LEGEND}\n")
    rows = []
    for variant in variants:
        slowest = Case(variant, 0, 0), 0.0
        for case in sorted((Case(variant, size, ends) for size in sizes for ends in ENDPOINTS), key=lambda c: c.chains):
            if slowest[1] * (case.chains / max(slowest[0].chains, 1)) ** 2 > BOUND:
                rows.append([*map(str, case), f"left out: over {BOUND:g} s", *[""] * 7])
                continue
            found = sandbox.call(measure, *case, rounds)
            slowest = max(slowest, (case, min(found["bare"])), key=lambda one: one[1])
            rows.append([*map(str, case), *_cells(found)])
            print(" ".join(rows[-1]), flush=True)
    full = ["bare s", "netlab s", "ratio", "CPU ratio"]
    columns = ["", "services", "endpoints", *full, "change own ms", "tool ms", "whole ms", "bytes"]
    print(f"\n{table(columns, rows)}\nload at the end: {machine.load()}")


def _cells(found: dict[str, list[float]]) -> Iterator[str]:
    yield spread(found["bare"]).text(2)
    yield spread(found["full"]).text(2)
    for kind in ("", " cpu"):
        yield ratio(*(dict(enumerate(found[which + kind])) for which in ("full", "bare"))).text()
    for name in ("own", "tool", "whole"):
        yield spread(found[name]).text(1, 1e3)
    yield str(int(max(found["bytes"])))


def measure(variant: str, services: int, endpoints: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds by what took them: to be called in a sandbox."""
    ports = {port.key: port for port in _ports(services, endpoints)}
    text = _full_text(variant, ports)
    found: dict[str, list[float]] = {name: [] for name in ("bare", "full", *KINDS)}
    for turn in range(rounds):
        for which in ("bare", "full") if turn % 2 else ("full", "bare"):
            machine.wait_for_calm()
            netns.create([HERE], lambda _: None)
            before = _cpu()
            if which == "bare":
                found["bare"].append(_bare(variant, text))
                found["bare cpu"].append(_cpu() - before)
            else:
                proxier = _proxier(variant)
                start = time.perf_counter()
                proxier.sync(ports)
                found["full"].append(time.perf_counter() - start)
                found["full cpu"].append(_cpu() - before)
                if turn == 0:
                    _change(variant, proxier, ports, found)
                proxier.close()
            netns.remove([HERE])
    return found


def _change(variant: str, proxier: Proxier, ports: dict[PortKey, ServicePort], found: dict[str, list[float]]) -> None:
    """Change one service to and fro. The bare tool gets the text of each change once more: it changes nothing then."""
    twin = _twin(variant)
    _taken(twin, ports)
    one = ports[list(ports)[len(ports) // 2]]
    for number in range(CHANGES):
        changed = replace(one, endpoints=one.endpoints[number % 2 :])
        start = time.perf_counter()
        text = _taken(twin, {changed.key: changed})
        found["own"].append(time.perf_counter() - start)
        start = time.perf_counter()
        proxier.sync({changed.key: changed})
        found["whole"].append(time.perf_counter() - start)
        found["bytes"].append(len(text))
        if variant != "nftables" and text and "\n-X " not in text:
            found["tool"].append(_bare(variant, text))
    found["tool"] = found["tool"] or [0.0]


def _taken(twin: Rules | TableObjects, changes: dict[PortKey, ServicePort]) -> str:
    """Return the text of changes, as the proxier makes it."""
    twin.take(changes)
    text = "".join(twin.partial() if twin.is_known else twin.full({}) if isinstance(twin, Rules) else twin.full())
    twin.accept()
    return text


def _twin(variant: str) -> Rules | TableObjects:
    if variant == "nftables":
        return TableObjects(NODE, nftables_table.base(NODE))
    return Rules(NODE, iptables_restore.base(NODE))


def _full_text(variant: str, ports: dict[PortKey, ServicePort]) -> str:
    text = _taken(_twin(variant), ports)
    if variant == "nftables":
        return text
    jumps = iptables_restore.base(NODE).jumps  # a fresh node has none of them
    assert any(f"-I {jump.chain}" in text for jump in jumps)
    return text


def _bare(variant: str, text: str) -> float:
    argv = ["nft", "-f", "-"]
    if variant != "nftables":
        argv = [f"{variant}-restore", "-w", "5", "--noflush", "--counters"]

    def run() -> float:
        start = time.perf_counter()
        subprocess.run(argv, input=text, text=True, check=True)
        return time.perf_counter() - start

    return netns.call(HERE, run)


def _cpu() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _proxier(variant: str) -> Proxier:
    options: dict[str, Any] = {} if variant == "nftables" else {"tool": variant}
    target = NodeTarget(HERE, "n1", (NODE,), Options(**options))
    return NftablesProxier(target) if variant == "nftables" else IptablesProxier(target)


def _ports(services: int, endpoints: int) -> Iterator[ServicePort]:
    first, pods = IPv4Address("10.96.0.1"), IPv4Address("10.128.0.1")
    for number in range(services):
        addresses = (pods + number * endpoints + end for end in range(endpoints))
        ends = tuple(Endpoint(address, 8080, f"n{int(address) % 3}") for address in addresses)
        yield ServicePort("default", f"svc-{number}", "http", Protocol.TCP, first + number, 80, endpoints=ends)
