"""What `netlab svc` answers: what was found of a Service, as lines or JSON values. Pure."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from netlab.errors import NetlabError, UsageError
from netlab.explain import virtual, words
from netlab.explain.explain import Client, explain
from netlab.explain.gaps import gaps
from netlab.explain.lines import Line, without_repeats
from netlab.explain.model import Reading, Rule, Tables
from netlab.explain.question import Question
from netlab.explain.tree import PortTree, services, tree
from netlab.explain.virtual_walk import explain_virtual
from netlab.topology.model import Proxy
from netlab.topology.service import ServiceType

UNCOUNTED = "no counters in this mode: kube-proxy's nftables rules have none"


@dataclass(frozen=True, slots=True)
class View:
    """An answer: the Service's rules by who read them, and remarks."""

    question: Question
    ports: tuple[PortTree, ...]
    remarks: tuple[str, ...]


# --- the answer ------------------------------------------------------------------------------------------------------


def view(question: Question, reading: Reading) -> View:
    """Pick a Service's rules out of what was read. Raises NetlabError when there are none."""
    ports = tuple(port for tables in reading.tables for port in _trees(question, tables))
    if not ports:
        raise _nothing(question, reading)
    used = [tables for tables in reading.tables if any(port.tables is tables for port in ports)]
    missing = [f"IPv{tables.version}: {gap}" for tables in used for gap in gaps(tables)]
    return View(question, ports, (*reading.remarks, *missing))


def _trees(question: Question, tables: Tables) -> tuple[PortTree, ...]:
    if tables.is_ipvs:
        return virtual.trees(question.known.ports, tables)
    return tree(question.namespace, question.service, tables, question.known.ports)


def _nothing(question: Question, reading: Reading) -> NetlabError:
    service, name = question.known.service, f"{question.namespace}/{question.service}"
    if service and service.type is ServiceType.EXTERNAL_NAME:
        message = f"Service {name} has no rules: cluster DNS sends its clients to {service.external_name}"
        return NetlabError(message, "ask for it by `netlab exec POD -- getent hosts NAME`")
    if service and service.headless:
        to = f" ({', '.join(question.known.endpoints)})" if question.known.endpoints else ""
        return NetlabError(f"Service {name} is headless: it has no address and no rules", f"DNS gives its pods'{to}")
    if not reading.tables and question.proxy is Proxy.NONE:
        return NetlabError(f"node {question.node} carries out no Services (proxy: none)", "choose another node")
    if any(tables.is_ipvs for tables in reading.tables) and not question.known.ports and service:
        message = f"node {question.node} is in IPVS mode, and only the control plane knows which addresses {name} has"
        return NetlabError(message, "it does not answer: `netlab up` starts it again")
    seen = {*services(reading.tables), *question.known.names}
    if (question.namespace, question.service) not in seen:
        return _misspelt(question, seen)
    return NetlabError(f"Service {name} has no rules on node {question.node}", "`netlab up` puts them back")


def _misspelt(question: Question, seen: Iterable[tuple[str, str]]) -> UsageError:
    known = [f"{namespace}/{one}" for namespace, one in sorted(seen)]
    alike = difflib.get_close_matches(question.service, {name.partition("/")[2] for name in known}, n=3)
    close = [name for name in known if name.partition("/")[2] in alike]
    hint = f"did you mean {' or '.join(close)}?" if close else ""
    hint = hint or (f"there are {', '.join(known[:10])}" if known else "no Service has rules there")
    name = f"{question.namespace}/{question.service}"
    return UsageError(f"there is no Service {name} on node {question.node}", hint)


def _sections(view: View) -> Iterator[tuple[Tables, list[PortTree]]]:
    for _, ports in groupby(view.ports, key=lambda port: id(port.tables)):
        listed = list(ports)
        yield listed[0].tables, listed


def _front(view: View, width: int) -> Iterator[str]:
    question = view.question
    yield f"Service {question.namespace}/{question.service} on node {question.node}"
    for remark in view.remarks:
        yield from _wrapped(f"warning: {remark}", 0, width)


# --- rules -----------------------------------------------------------------------------------------------------------


def rules_text(view: View, width: int) -> Iterator[str]:
    """Yield every rule with its counters, under the names of their chains."""
    yield from _front(view, width)
    for tables, ports in _sections(view):
        yield ""
        yield f"IPv{tables.version}, {tables.read}"
        if tables.is_nftables:
            yield UNCOUNTED
        for port in ports:
            yield ""
            yield f"{port.port} {port.protocol}"
            yield f"{'PACKETS':>8} {'BYTES':>10}  RULE"
            for (table, chain), rules in groupby(port.rules, key=lambda rule: (rule.table, rule.chain)):
                yield f"{table} {chain}"
                for rule in rules:
                    yield from _rule_lines(rule, width)


def _rule_lines(rule: Rule, width: int) -> list[str]:
    packets, count = rule.counters or ("-", "-")
    front = f"{packets:>8} {count:>10}  "
    return _fold(words.line(rule), front, " " * (len(front) + 2), width)


def rules_json(view: View) -> dict[str, Any]:
    """Return every rule as JSON values."""
    return {
        **_front_json(view),
        "ports": [
            {
                **_port_json(port),
                "rules": [
                    {
                        "table": rule.table,
                        "chain": rule.chain,
                        "packets": rule.counters.packets if rule.counters else None,
                        "bytes": rule.counters.bytes if rule.counters else None,
                        "rule": words.line(rule),
                        "comment": rule.comment,
                    }
                    for rule in port.rules
                ],
            }
            for port in view.ports
        ],
    }


def _front_json(view: View) -> dict[str, Any]:
    question = view.question
    name = f"{question.namespace}/{question.service}"
    return {"service": name, "node": question.node, "warnings": list(view.remarks)}


def _port_json(port: PortTree) -> dict[str, Any]:
    tables = port.tables
    return {"port": port.port, "protocol": port.protocol, "ipVersion": tables.version, "read": tables.read}


# --- words -----------------------------------------------------------------------------------------------------------


def explain_text(view: View, width: int) -> Iterator[str]:
    """Yield what the rules do, in words."""
    yield from _front(view, width)
    for tables, ports in _sections(view):
        client = _client(view.question, tables.version)
        yield ""
        yield f"IPv{tables.version}, {tables.read}"
        if who := view.question.sender:
            yield f"a packet of {who}, {client.address}:" if client else f"{who} has no IPv{tables.version} address"
        for port in ports:
            if who and client is None:
                continue
            yield ""
            yield f"{port.port} {port.protocol}"
            for line in without_repeats(_told(port, view.question, client)):
                yield from _wrapped(line.text, line.depth, width)


def _told(port: PortTree, question: Question, client: Client | None) -> list[Line]:
    told = explain_virtual if port.tables.is_ipvs else explain
    return told(port, question.pods, client)


def _client(question: Question, version: int) -> Client | None:
    return next((one for one in question.clients if (":" in one.address) is (version == 6)), None)


def explain_json(view: View) -> dict[str, Any]:
    """Return what the rules do as JSON values, probabilities as fractions ("1/3")."""
    question = view.question
    ports = []
    for port in view.ports:
        client = _client(question, port.tables.version)
        found = [] if question.sender and client is None else _told(port, question, client)
        lines = [
            {
                "depth": line.depth,
                "text": line.text,
                **({"endpoint": line.endpoint, "probability": str(line.probability)} if line.endpoint else {}),
            }
            for line in found
        ]
        ports.append({**_port_json(port), "lines": lines})
    return {**_front_json(view), "from": question.sender or None, "ports": ports}


def _wrapped(text: str, depth: int, width: int) -> list[str]:
    return _fold(text, "  " * depth, "  " * depth + "    ", width)


def _fold(text: str, first: str, later: str, width: int) -> list[str]:
    """Fold a line, but never inside a word: people copy names of chains."""
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
