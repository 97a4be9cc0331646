"""What `netlab svc` answers: whose rules are asked for, what was found, and both as lines or JSON values. Pure."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from netlab.errors import NetlabError, UsageError
from netlab.explain import words
from netlab.explain.explain import Client, explain
from netlab.explain.gaps import gaps
from netlab.explain.lines import without_repeats
from netlab.explain.model import Reading, Rule, Tables
from netlab.explain.tree import PortTree, services, tree
from netlab.store.store import Snapshot
from netlab.topology.addresses import Address
from netlab.topology.model import Proxy, Topology

UNCOUNTED = "no counters in this mode: kube-proxy's nftables rules have none"


@dataclass(frozen=True, slots=True)
class Question:
    """Which Service, on which node. `pods` names pods by address; `addresses` are known to be the Service's.

    `clients` are the addresses of the pod that packets are to come from, none where nobody asked for one.
    """

    namespace: str
    service: str
    node: str
    proxy: Proxy
    pod: str
    clients: tuple[Client, ...]
    pods: Mapping[str, str]
    addresses: tuple[Address, ...]
    declared: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class View:
    """An answer: the Service's rules by who read them, and remarks."""

    question: Question
    ports: tuple[PortTree, ...]
    remarks: tuple[str, ...]


# --- the question ----------------------------------------------------------------------------------------------------


def ask(
    topology: Topology, snapshot: Snapshot, service: str, namespace: str, *, node: str | None, pod: str | None
) -> Question:
    """Return what is asked for. Raises UsageError for a node or pod that the lab does not have."""
    found = topology.find_pod(pod) if pod else None
    if pod and found is None:
        raise _unknown(topology, "pod", pod, [one.name for one in topology.pods])
    if found and node not in (None, found.node):
        hint = "leave --node out, or --from"
        raise UsageError(f"packets of pod {found.name} meet the rules of its own node {found.node}, not {node}'s", hint)
    chosen = found.node if found else node or topology.cluster_nodes[0].name
    nodes = {one.name: one for one in topology.cluster_nodes}
    if chosen not in nodes:
        raise _unknown(topology, "cluster node", chosen, nodes)
    held = {one.key: one for one in topology.services}
    declared = held.get((namespace, service))
    pods = {
        str(address): f"pod {one.name} on {one.node}"
        for one in topology.pods
        for address in _pod_addresses(snapshot, one.name, one.node, host_network=one.host_network)
    }
    own = _pod_addresses(snapshot, found.name, found.node, host_network=found.host_network) if found else ()
    return Question(
        namespace,
        service,
        chosen,
        nodes[chosen].proxy or topology.proxy,
        found.name if found else "",
        tuple(Client(str(address), from_node=bool(found and found.host_network)) for address in own),
        pods,
        declared.cluster_ips if declared else (),
        tuple(held),
    )


def _pod_addresses(snapshot: Snapshot, pod: str, node: str, *, host_network: bool) -> tuple[Address, ...]:
    return snapshot.leases[node].public_ips if host_network else snapshot.pods.get(pod, ())


def _unknown(topology: Topology, what: str, name: str, known: Iterable[str]) -> UsageError:
    close = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known) or 'none'}"
    return UsageError(f"lab {topology.name} has no {what} {name!r}", hint)


# --- the answer ------------------------------------------------------------------------------------------------------


def view(question: Question, reading: Reading) -> View:
    """Pick a Service's rules out of what was read. Raises NetlabError when there are none."""
    ports = tuple(
        port
        for tables in reading.tables
        for port in tree(question.namespace, question.service, tables, question.addresses)
    )
    if not ports:
        raise _nothing(question, reading)
    used = [tables for tables in reading.tables if any(port.tables is tables for port in ports)]
    missing = [f"IPv{tables.version}: {gap}" for tables in used for gap in gaps(tables)]
    return View(question, ports, (*reading.remarks, *missing))


def _nothing(question: Question, reading: Reading) -> NetlabError:
    named = services(reading.tables)
    if not named and question.proxy is Proxy.NONE:
        return NetlabError(f"node {question.node} carries out no Services (proxy: none)", "choose another node")
    if not named and question.proxy is Proxy.IPVS:
        hint = f"`netlab exec {question.node} -- ipvsadm -Ln` lists them"
        return NetlabError(f"node {question.node} is in IPVS mode, whose virtual servers are not put into words", hint)
    name = f"{question.namespace}/{question.service}"
    seen = {*named, *question.declared}
    if (question.namespace, question.service) not in seen:
        known = [f"{namespace}/{one}" for namespace, one in sorted(seen)]
        alike = difflib.get_close_matches(question.service, {one for _, one in seen}, n=3)
        close = [f"{namespace}/{one}" for namespace, one in sorted(seen) if one in alike]
        hint = f"did you mean {' or '.join(close)}?" if close else ""
        hint = hint or (f"there are {', '.join(known[:10])}" if known else "no Service has rules there")
        return UsageError(f"there is no Service {name} on node {question.node}", hint)
    hint = "a headless or ExternalName Service has none; otherwise `netlab up` puts them back"
    if any(tables.is_nftables for tables in reading.tables):
        hint = f"one without endpoints is known by its address only in this mode; {hint}"
    return NetlabError(f"Service {name} has no rules on node {question.node}", hint)


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
        yield f"IPv{tables.version}, {tables.source}"
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
    return {"port": port.port, "protocol": port.protocol, "ipVersion": tables.version, "read": tables.source}


# --- words -----------------------------------------------------------------------------------------------------------


def explain_text(view: View, width: int) -> Iterator[str]:
    """Yield what the rules do, in words."""
    yield from _front(view, width)
    for tables, ports in _sections(view):
        client = _client(view.question, tables.version)
        yield ""
        yield f"IPv{tables.version}, {tables.source}"
        if view.question.pod:
            who = f"pod {view.question.pod}"
            yield f"a packet of {who}, {client.address}:" if client else f"{who} has no IPv{tables.version} address"
        for port in ports:
            if view.question.pod and client is None:
                continue
            yield ""
            yield f"{port.port} {port.protocol}"
            for line in without_repeats(explain(port, view.question.pods, client)):
                yield from _wrapped(line.text, line.depth, width)


def _client(question: Question, version: int) -> Client | None:
    return next((one for one in question.clients if (":" in one.address) is (version == 6)), None)


def explain_json(view: View) -> dict[str, Any]:
    """Return what the rules do as JSON values, probabilities as fractions ("1/3")."""
    question = view.question
    ports = []
    for port in view.ports:
        client = _client(question, port.tables.version)
        found = [] if question.pod and client is None else explain(port, question.pods, client)
        lines = [
            {
                "depth": line.depth,
                "text": line.text,
                **({"endpoint": line.endpoint, "probability": str(line.probability)} if line.endpoint else {}),
            }
            for line in found
        ]
        ports.append({**_port_json(port), "lines": lines})
    return {**_front_json(view), "from": question.pod or None, "ports": ports}


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
