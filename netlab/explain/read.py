"""A node's Service rules as its kernel has them, by whichever tool sees them.

The caller says how a program is run on the node (`Run`). Each reader is tried, for nothing but the kernel knows which
mode a node's rules are in, and a node may hold two kinds at once (facts.md 9.8). Virtual servers come by netlink, where
rules of IPVS mode are.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from subprocess import CompletedProcess

from netlab.errors import NotSupported, ProgramError
from netlab.explain import ipsets, nft, saved
from netlab.explain.legacy import PRESENT, present
from netlab.explain.model import Reading, Source, Tables
from netlab.explain.tree import shared
from netlab.explain.virtual import chains
from netlab.paths import search_path
from netlab.proxy.ipvs_netlink import Listed
from netlab.service.ipvs_rules import IPVS_FILTER
from netlab.service.nftables import TABLE, WORDS

Run = Callable[[Sequence[str]], CompletedProcess[str]]
ReadServers = Callable[[int], Sequence[Listed]]  # the node's virtual servers of an IP version

LIBRARIES = "apt install libip4tc2 libip6tc2 libxtables12 iptables, and pip install python-iptables"


def read(run: Run, versions: Iterable[int], service: str = "", *, servers: ReadServers | None = None) -> Reading:
    """Read the Service rules of a node. Raises ProgramError, and NotSupported when no tool is there.

    Given a Service ("default/web"), a reader may leave out chains that are another's alone.
    """
    found: list[Tables] = []
    remarks: dict[str, None] = {}
    missing: list[str] = []
    for version in versions:
        for reader in READERS:
            try:
                tables = reader(run, version, service, remarks)
            except _Missing as exc:
                missing.append(str(exc))
                continue
            if tables and any(place in tables.chains for place in shared(tables)):
                found.append(_with_servers(tables, run, servers))
    if not found and missing:
        raise NotSupported(f"the program {missing[0]}", "reading Service rules", "apt install iptables nftables")
    for version in {tables.version for tables in found}:
        remarks |= dict.fromkeys(_mixed([tables for tables in found if tables.version == version]))
    return Reading(tuple(found), tuple(remarks))


def _with_servers(tables: Tables, run: Run, servers: ReadServers | None) -> Tables:
    """Add virtual servers and IP sets to the rules of IPVS mode."""
    if servers is None or ("filter", IPVS_FILTER) not in tables.chains:
        return tables
    sets = ipsets.parse(_checked(run, [_program("ipset"), "save"]))
    return replace(tables, chains={**tables.chains, **chains(servers(tables.version))}, sets=sets)


def _mixed(tables: Sequence[Tables]) -> list[str]:
    if len(tables) < 2:
        return []
    where = " and ".join(_WHERE[one.source] for one in tables)
    return [
        f"IPv{tables[0].version}: Service rules are in {where} at once: the kernel runs both, and one may undo what the"
        " other does"
    ]


_WHERE = {
    Source.LEGACY: "legacy tables",
    Source.LEGACY_SAVE: "legacy tables",
    Source.NFT_BACKED: "nft-backed tables",
    Source.NFTABLES: "kube-proxy's nftables table",
}


class _Missing(Exception):
    """A program is not on this machine."""


def _program(name: str) -> str:
    found = shutil.which(name, path=search_path())
    if found is None:
        raise _Missing(name)
    return found


def _checked(run: Run, argv: Sequence[str]) -> str:
    done = run(argv)
    if done.returncode:
        raise ProgramError(argv, done.returncode, done.stderr)
    return done.stdout


# --- the readers -----------------------------------------------------------------------------------------------------


def _legacy(run: Run, version: int, service: str, remarks: dict[str, None]) -> Tables | None:
    """Read legacy tables by python-iptables, or else by iptables-legacy-save. None without such tables."""
    names = run(["cat", PRESENT[version]])
    if names.returncode or not present(names.stdout):  # a kernel without legacy tables has no such file
        return None
    done = run([sys.executable, "-m", "netlab.explain.legacy", str(version), service])
    if not done.returncode:
        return Tables(Source.LEGACY, version, saved.parse(done.stdout))
    said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
    remarks[f"python-iptables cannot read the legacy tables: {said[-1]}; to have it: {LIBRARIES}"] = None
    text = _checked(run, [_program(f"{_TOOL[version]}-legacy-save"), "-c"])
    return Tables(Source.LEGACY_SAVE, version, saved.parse(text))


def _nft_backed(run: Run, version: int, service: str, remarks: dict[str, None]) -> Tables:
    """Read the nft-backed tables, which python-iptables cannot see."""
    text = _checked(run, [_program(f"{_TOOL[version]}-nft-save"), "-c"])
    return Tables(Source.NFT_BACKED, version, saved.parse(text))


def _nftables(run: Run, version: int, service: str, remarks: dict[str, None]) -> Tables | None:
    """Read the table of kube-proxy's nftables mode; None when there is none."""
    program = _program("nft")
    ip = WORDS[version].ip
    if f"table {ip} {TABLE}" not in _checked(run, [program, "list", "tables", ip]).splitlines():
        return None
    listing = _checked(run, [program, "-j", "list", "table", ip, TABLE])
    return Tables(Source.NFTABLES, version, nft.parse(listing))


_TOOL = {4: "iptables", 6: "ip6tables"}
READERS = (_legacy, _nft_backed, _nftables)
