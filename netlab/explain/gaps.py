"""What all Services need of a node's rules, and what is missing of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netlab.explain.model import VIRTUAL_SERVERS, Jump, Tables, Verdict
from netlab.explain.tree import shared
from netlab.service import iptables_names as names
from netlab.service.nftables import TABLE


class _Fixed(NamedTuple):
    """The rules that every Service needs."""

    table: str
    entries: tuple[str, ...]
    services: str
    after: str
    last: str
    mark: str


IPTABLES = _Fixed("nat", ("PREROUTING", "OUTPUT"), names.SERVICES, "POSTROUTING", names.POSTROUTING, names.MARK_MASQ)
NFTABLES = _Fixed(
    TABLE, ("nat-prerouting", "nat-output"), "services", "nat-postrouting", "masquerading", "mark-for-masquerade"
)


def gaps(tables: Tables) -> Iterator[str]:
    """Yield what is missing of the rules that all Services share, and what that means."""
    fixed = NFTABLES if tables.is_nftables else IPTABLES
    for entry in fixed.entries:
        if not _leads(tables, fixed.table, fixed.services, entry):
            yield f"no rule leads from {entry} to {fixed.services}: these packets meet no Service"
    ends = any(rule.action is Verdict.MASQUERADE for rule in tables.chain(fixed.table, fixed.last))
    if not (ends and _leads(tables, fixed.table, fixed.last, fixed.after) and tables.marks(fixed.table, fixed.mark)):
        yield f"{fixed.mark}, {fixed.after} and {fixed.last} do not work together: nothing is masqueraded"
    for place in shared(tables):
        table, chain = place
        if place == VIRTUAL_SERVERS or chain == fixed.services or not tables.chain(table, chain):
            continue
        if not _leads(tables, table, chain):
            yield f"no rule leads to {table} {chain}: what stands there does nothing"


def _leads(tables: Tables, table: str, target: str, chain: str = "") -> bool:
    """Say whether a rule of a chain, or of any, goes to another chain."""
    return any(
        isinstance(rule.action, Jump) and rule.action.chain == target
        for place, rules in tables.chains.items()
        if place[0] == table and chain in ("", place[1])
        for rule in rules
    )
