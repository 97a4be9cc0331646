"""Whose rules are asked for, on which node, and what is known beforehand of the Service. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netlab.errors import UsageError
from netlab.explain.explain import Client
from netlab.service.known import Known
from netlab.store.store import Snapshot
from netlab.topology.addresses import Address
from netlab.topology.model import Proxy, Topology


@dataclass(frozen=True, slots=True)
class Question:
    """Which Service, on which node. `pods` names pods by address.

    `sender` ("pod web-1") and `clients`, its addresses, are of whom packets are to come from; empty where nobody asked.
    """

    namespace: str
    service: str
    node: str
    proxy: Proxy
    sender: str
    clients: tuple[Client, ...]
    pods: Mapping[str, str]
    known: Known


def ask(
    topology: Topology,
    snapshot: Snapshot,
    service: str,
    namespace: str,
    *,
    node: str | None,
    sender: str | None,
    known: Known,
) -> Question:
    """Return what is asked for. Raises UsageError for a node or sender that the lab does not have."""
    own, who, clients = _sender(topology, snapshot, sender) if sender else ("", "", ())
    if own and node not in (None, own):
        hint = "leave --node out, or --from"
        raise UsageError(f"packets of {who} meet the rules of node {own}, not {node}'s", hint)
    nodes = {one.name: one for one in topology.cluster_nodes}
    chosen = own or node or topology.cluster_nodes[0].name
    if chosen not in nodes:
        raise unknown(topology, "cluster node", chosen, nodes)
    pods = {
        str(address): f"pod {one.name} on {one.node}"
        for one in topology.pods
        for address in _pod_addresses(snapshot, one.name, one.node, host_network=one.host_network)
    }
    proxy = nodes[chosen].proxy or topology.proxy
    return Question(namespace, service, chosen, proxy, who, clients, pods, known)


def _sender(topology: Topology, snapshot: Snapshot, name: str) -> tuple[str, str, tuple[Client, ...]]:
    """Return on which node's rules a member's packets come first, "" for any; who that is; and its addresses."""
    if pod := topology.find_pod(name):
        addresses = _pod_addresses(snapshot, pod.name, pod.node, host_network=pod.host_network)
        return pod.node, f"pod {name}", _clients(addresses, from_node=pod.host_network)
    if name in snapshot.leases:
        return name, f"node {name}", _clients(snapshot.leases[name].public_ips, from_node=True)
    if name in snapshot.machines:
        return "", f"machine {name}", _clients(snapshot.machines[name], from_node=False)
    members = [*(pod.name for pod in topology.pods), *snapshot.leases, *snapshot.machines]
    raise unknown(topology, "pod, node or machine", name, members)


def _clients(addresses: Iterable[Address], *, from_node: bool) -> tuple[Client, ...]:
    return tuple(Client(str(address), from_node) for address in addresses)


def _pod_addresses(snapshot: Snapshot, pod: str, node: str, *, host_network: bool) -> tuple[Address, ...]:
    return snapshot.leases[node].public_ips if host_network else snapshot.pods.get(pod, ())


def unknown(topology: Topology, what: str, name: str, among: Iterable[str]) -> UsageError:
    """Return the error for a name that a lab does not have."""
    members = list(among)
    close = difflib.get_close_matches(name, members, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(members) or 'none'}"
    return UsageError(f"lab {topology.name} has no {what} {name!r}", hint)
