"""`bench services`: a node's Services written by netlab, against the bare tool given the same text, in alternation."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from netlab.kernel import netns
from netlab.proxy.proxier import PortKey, Proxier
from netlab.service.model import ProxyNode, ServicePort
from tests.bench import bare_tools, machine, modes, sandbox
from tests.bench.bare_tools import Call, Script
from tests.bench.report import ratio, spread, table

SIZES = (1000, 5000, 10000)  # services
ENDPOINTS = (2, 10)  # of each
LIMIT = 1.5  # of the bare tool's time
BOUND = 60.0  # seconds: a size whose text takes a tool longer is left out, unless asked for
GROWTH = {"ipvs": 1}  # with which power of the chains a tool's time may grow; 2 in the other modes
CHANGES = 5
KINDS = ("bare cpu", "full cpu", "own", "tool", "whole", "bytes", "new own", "new bytes")
NODE = ProxyNode("n1", (IPv4Address("172.18.0.2"),), IPv4Network("10.0.0.0/8"))
HERE = "nl-bench-services"
LEGEND = f"""\
full: a node without rules gets all of them; ratio: to the bare tool with the same text, limit {LIMIT}
CPU ratio: the same of the processor time of both processes, which neighbours do not disturb
change: an endpoint of one service goes or comes; own: until the text is ready; tool: the bare tool with that text
new: a service comes; iptables' rules that lead to services stand in one chain, which is written whole
ipvs: the bare tools are ipset, {modes.IPTABLES}-restore, ipvsadm and ip, each with its part"""


class Case(NamedTuple):
    """So many services with so many endpoints each, in one mode."""

    variant: str
    services: int
    endpoints: int

    @property
    def chains(self) -> int:
        """How many chains it has, about."""
        return self.services * (1 + self.endpoints)


def main(
    rounds: int, seed: int, sizes: Sequence[int], variants: Sequence[str], endpoints: Sequence[int], bound: float
) -> None:
    """Measure every case and print a table. `bound`: seconds that a tool may take for a text."""
    print(f"# bench services, {rounds} rounds, seed {seed}\n{machine.describe()}\n{LEGEND}\n")
    left_out = {variant: why for variant in variants if (why := modes.missing(variant) or bare_tools.missing(variant))}
    rows = []
    for variant in (variant for variant in variants if variant not in left_out):
        slowest = Case(variant, 0, 0), 0.0
        for case in sorted((Case(variant, size, ends) for size in sizes for ends in endpoints), key=lambda c: c.chains):
            if slowest[1] * (case.chains / max(slowest[0].chains, 1)) ** GROWTH.get(variant, 2) > bound:
                rows.append([*map(str, case), f"left out: over {bound:g} s", *[""] * 9])
                continue
            found = sandbox.call(measure, *case, rounds)
            slowest = max(slowest, (case, min(found["bare"])), key=lambda one: one[1])
            rows.append([*map(str, case), *_cells(found)])
            print(" ".join(rows[-1]), flush=True)
    full = ["bare s", "netlab s", "ratio", "CPU ratio"]
    change = ["change own ms", "tool ms", "whole ms", "bytes", "new own ms", "bytes"]
    columns = ["", "services", "endpoints", *full, *change]
    print(f"\n{table(columns, rows)}\nload at the end: {machine.load()}")
    print("".join(f"\nNo {variant}: {why}" for variant, why in left_out.items()))


def _cells(found: dict[str, list[float]]) -> Iterator[str]:
    yield spread(found["bare"]).text(2)
    yield spread(found["full"]).text(2)
    for kind in ("", " cpu"):
        yield ratio(*(dict(enumerate(found[which + kind])) for which in ("full", "bare"))).text()
    for name in ("own", "tool", "whole"):
        yield spread(found[name]).text(1, 1e3)
    yield str(int(max(found["bytes"])))
    yield spread(found["new own"]).text(1, 1e3)
    yield str(int(max(found["new bytes"])))


def measure(variant: str, services: int, endpoints: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds by what took them: to be called in a sandbox."""
    ports = {port.key: port for port in modes.ports(services, endpoints)}
    calls = bare_tools.script(variant, NODE).take(ports)
    found: dict[str, list[float]] = {name: [] for name in ("bare", "full", *KINDS)}
    for turn in range(rounds):
        for which in ("bare", "full") if turn % 2 else ("full", "bare"):
            machine.wait_for_calm()
            _make_node()
            before = _cpu()
            if which == "bare":
                found["bare"].append(netns.call(HERE, bare_tools.run, calls))
                found["bare cpu"].append(_cpu() - before)
            else:
                proxier = modes.proxier(variant, HERE, NODE)
                start = time.perf_counter()
                proxier.sync(ports)
                found["full"].append(time.perf_counter() - start)
                found["full cpu"].append(_cpu() - before)
                if turn == 0:
                    _change(bare_tools.script(variant, NODE), proxier, ports, found)
                proxier.close()
            netns.remove([HERE])
    return found


def _make_node() -> None:
    netns.create([HERE], lambda _: None)
    subprocess.run(["ip", "-n", HERE, "link", "set", "lo", "up"], check=True)  # IPVS wants a table of routes


def _change(script: Script, proxier: Proxier, ports: dict[PortKey, ServicePort], found: dict[str, list[float]]) -> None:
    """Change one service to and fro. The bare tools get the text of all changes once more, after that."""
    script.take(ports)
    one = ports[list(ports)[len(ports) // 2]]
    taken: list[list[Call]] = []
    for number in range(CHANGES):
        changed = replace(one, endpoints=one.endpoints[(number + 1) % 2 :])
        start = time.perf_counter()
        taken.append(script.take({changed.key: changed}))
        found["own"].append(time.perf_counter() - start)
        start = time.perf_counter()
        proxier.sync({changed.key: changed})
        found["whole"].append(time.perf_counter() - start)
        found["bytes"].append(sum(len(text) for _, text in taken[-1]))
    for number in range(CHANGES):
        new = replace(one, name=f"new-{number}", cluster_ip=IPv4Address("10.111.0.1") + number)
        start = time.perf_counter()
        calls = script.take({new.key: new})
        found["new own"].append(time.perf_counter() - start)
        found["new bytes"].append(sum(len(text) for _, text in calls))
    for calls in taken[1:]:  # the first leads from where the last one led to: no endpoint would go
        found["tool"].append(netns.call(HERE, bare_tools.run, calls))


def _cpu() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
