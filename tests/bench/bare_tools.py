"""What the bare tools are given in each proxy mode to make the rules that netlab's proxier makes. Pure, but for `run`.

A Script is for the whole of a node first, and then for one change after the other, as the proxier's is.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from netlab.kernel.feature_probes import find_unloaded
from netlab.paths import search_path
from netlab.proxy.iptables_rules import Rules
from netlab.proxy.ipvs_device import DEVICE
from netlab.proxy.nftables_objects import TableObjects
from netlab.proxy.proxier import Changes
from netlab.service import iptables_restore, ipvs_rules, ipvs_sets, nftables_table
from netlab.service.ipvs import VirtualKey, render
from netlab.service.ipvs_change import Command, Installed, Step, after, steps
from netlab.service.ipvs_sets import Entry
from netlab.service.ipvs_table import Table
from netlab.service.model import ProxyNode
from netlab.topology.addresses import Address
from tests.bench.measure import BenchError
from tests.bench.modes import IPTABLES

RESTORE = ("-w", "5", "--noflush", "--counters")
IPVS = {  # ipvsadm(8): what a line of its --restore begins with
    Command.NEW_SERVICE: "-A",
    Command.DEL_SERVICE: "-D",
    Command.NEW_DEST: "-a",
    Command.SET_DEST: "-e",
    Command.DEL_DEST: "-d",
}


class Call(NamedTuple):
    """One run of a tool."""

    argv: tuple[str, ...]
    text: str


class Script(Protocol):
    """What the tools of one mode are given."""

    def take(self, changes: Changes) -> list[Call]:
        """Return the calls that bring a node from what was taken before to these ports; none where nothing changes."""


def script(variant: str, node: ProxyNode) -> Script:
    """Return the script for a node without rules."""
    match variant:
        case "nftables":
            return _Nftables(node)
        case "ipvs":
            return _Ipvs(node)
        case _:
            return _Iptables(node, variant)


def missing(variant: str) -> str:
    """Say which program of a mode is missing; empty when none is."""
    programs = {"nftables": ["nft"], "ipvs": ["ipset", "ipvsadm", "ip", f"{IPTABLES}-restore"]}
    wanted = programs.get(variant, [f"{variant}-restore"])
    lacking = [name for name in wanted if shutil.which(name, path=search_path()) is None]
    return f"the program {', '.join(lacking)} is missing" if lacking else ""


def run(calls: Sequence[Call]) -> float:
    """Run tools one after the other where the caller is; return the seconds that it took. Raises BenchError."""
    start = time.perf_counter()
    for argv, text in calls:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"`{' '.join(argv)}` ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
    return time.perf_counter() - start


class _Iptables:
    def __init__(self, node: ProxyNode, variant: str) -> None:
        self._rules = Rules(node, iptables_restore.base(node))
        self._argv = (f"{variant}-restore", *RESTORE)

    def take(self, changes: Changes) -> list[Call]:
        self._rules.take(changes)
        text = "".join(self._rules.partial() if self._rules.is_known else self._rules.full({}))
        self._rules.accept()
        return [Call(self._argv, text)] if text else []


class _Nftables:
    def __init__(self, node: ProxyNode) -> None:
        self._table = TableObjects(node, nftables_table.base(node))

    def take(self, changes: Changes) -> list[Call]:
        self._table.take(changes)
        text = "".join(self._table.partial() if self._table.is_known else self._table.full())
        self._table.accept()
        return [Call(("nft", "-f", "-"), text)] if text else []


class _Ipvs:
    """Sets, rules, virtual servers and addresses, in this order, as netlab.proxy.ipvs has it; IPv4."""

    def __init__(self, node: ProxyNode) -> None:
        self._node = node
        self._table = Table()
        self._virtual: dict[VirtualKey, Installed] = {}
        self._entries: set[Entry] = set()
        self._addresses: set[Address] = set()
        self._rules = ""

    def take(self, changes: Changes) -> list[Call]:
        rendered = {key: None if port is None else render(port, self._node) for key, port in changes.items()}
        touched = self._table.update(rendered)
        calls = [
            Call(("ipset", "restore"), self._set_text(touched.entries)),
            Call((f"{IPTABLES}-restore", *RESTORE), self._rule_text()),
            Call(("ipvsadm", "--restore"), "".join(self._server_lines(touched.virtual))),
            Call(("ip", "-batch", "-"), self._address_text(touched.addresses)),
        ]
        return [call for call in calls if call.text]

    def _set_text(self, touched: set[Entry]) -> str:
        wanted = self._table.entries
        added = [entry for entry in touched if entry in wanted and entry not in self._entries]
        removed = [entry for entry in touched if entry not in wanted and entry in self._entries]
        made = "" if self._rules else ipvs_sets.created(4)
        self._entries.update(added)
        self._entries.difference_update(removed)
        return made + ipvs_sets.changed(4, added, removed)

    def _rule_text(self) -> str:
        jumps = () if self._rules else ipvs_rules.jumps()
        text = ipvs_rules.restore_input(self._node, self._table.filled, self._table.out_filter)
        if text == self._rules:
            return ""
        self._rules = text
        return ipvs_rules.restore_input(self._node, self._table.filled, self._table.out_filter, jumps)

    def _server_lines(self, touched: set[VirtualKey]) -> Iterator[str]:
        """Yield lines for ipvsadm. A server that has to go has no connection, and is deleted at once."""
        for key in touched:
            has = self._virtual.pop(key, None)
            todo = list(steps(key, self._table.find(key), has))
            todo += [Step(Command.DEL_DEST, step.virtual, step.server) for step in todo if not step.weight]
            now = after(has, todo)
            if now is not None:
                self._virtual[key] = now
            yield from map(_ipvsadm, todo)

    def _address_text(self, touched: set[Address]) -> str:
        wanted = self._table.addresses
        added = [address for address in touched if address in wanted and address not in self._addresses]
        removed = [address for address in touched if address not in wanted and address in self._addresses]
        kind = "bridge" if find_unloaded("dummy") else "dummy"  # as netlab chooses
        made = "" if self._addresses else f"link add {DEVICE} type {kind}\n"
        self._addresses.update(added)
        self._addresses.difference_update(removed)
        lines = [f"address del {address}/32 dev {DEVICE}\n" for address in removed]
        lines += [f"address add {address}/32 dev {DEVICE}\n" for address in added]
        return made + "".join(lines)


def _ipvsadm(step: Step) -> str:
    """Return a line for `ipvsadm --restore`: of TCP, without affinity."""
    address, _, port = step.virtual.key
    line = f"{IPVS[step.command]} -t {address}:{port}"
    if step.command is Command.NEW_SERVICE:
        return f"{line} -s {step.virtual.scheduler}\n"
    if step.server is None:
        return f"{line}\n"
    line += f" -r {step.server.address}:{step.server.port}"
    return f"{line}\n" if step.command is Command.DEL_DEST else f"{line} -m -w {step.weight}\n"
