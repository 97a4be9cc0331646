"""Words for conditions and actions, one by one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from netlab.explain.model import (
    Action,
    Balance,
    Chance,
    Choose,
    Condition,
    Dnat,
    From,
    FromNode,
    InSet,
    Jump,
    Layer4,
    Packet,
    Recent,
    Rule,
    Serve,
    SetMark,
    State,
    To,
    ToNode,
    ToPort,
    Unknown,
    UnknownAction,
    Verdict,
)
from netlab.explain.tree import is_node_port, targets
from netlab.topology.addresses import Address, Network


def chance(probability: Fraction) -> str:
    """Return "1/3 (33.3 %)"."""
    return f"{probability} ({float(probability * 100):.3g} %)"


def port(packet: Packet) -> str:
    """Return where a packet goes: "10.96.0.50:80/tcp", or the node's port."""
    if packet.destination is None:
        return f"port {packet.port}/{packet.protocol} of the node"
    host = f"[{packet.destination}]" if packet.destination.version == 6 else str(packet.destination)
    return f"{host}:{packet.port}/{packet.protocol}"


def networks(found: Iterable[Network]) -> str:
    """Return networks as text, a single address without its prefix length."""
    return ", ".join(str(one.network_address if one.prefixlen == one.max_prefixlen else one) for one in found)


def condition(one: Condition) -> str:
    """Return a condition in words."""
    match one:
        case From(found, negated):
            return f"{_no(negated)}from {networks(found)}"
        case To(found, negated):
            return f"{_no(negated)}to {networks(found)}"
        case Layer4(protocol, negated):
            return _no(negated) + protocol
        case ToPort(number, negated):
            return f"{_no(negated)}to port {number}"
        case FromNode(negated):
            return f"{_no(negated)}from the node itself"
        case ToNode(negated):
            return f"{_no(negated)}to the node itself"
        case State(names, negated):
            return f"{_no(negated)}state {','.join(names)}"
        case Chance(probability):
            return f"with probability {chance(probability)}"
        case Recent(_, seconds):
            return f"from a client of the last {seconds} s"
        case InSet(name, directions, negated):
            return f"{_no(negated)}in set {name} ({','.join(directions)})"
        case Unknown(text):
            return text


def _no(negated: bool) -> str:
    return "not " if negated else ""


def action(one: Action) -> str:
    """Return an action in words."""
    match one:
        case Jump(chain, _):
            return chain
        case Choose(shares):
            return "one of " + ", ".join(f"{chance(share)}: {chain}" for share, chain in shares)
        case Dnat(to):
            return f"new destination {to}"
        case SetMark(bits):
            return f"mark {bits:#x}" if bits else "clear the mark"
        case Balance(scheduler, chain, timeout):
            stays = f", a client stays for {timeout} s" if timeout else ""
            return f"real servers of {chain} by {scheduler}{stays}"
        case Serve(to, weight):
            return f"new destination {to} (weight {weight})"
        case Verdict():
            return one.value
        case UnknownAction(text):
            return text


def line(rule: Rule) -> str:
    """Return a whole rule on one line."""
    remembers = " remember the client," if rule.remembers else ""
    front = f"{_conditions(rule)} ->{remembers} "
    if rule.action is Verdict.NOTHING:
        return front + (f"nothing (says: {rule.comment})" if rule.comment else "go on")
    return front + action(rule.action)


def _conditions(rule: Rule) -> str:
    """Return a rule's conditions, its destination written as one."""
    host, number, protocol = "", "", ""
    rest: list[str] = []
    for one in rule.conditions:
        match one:
            case To((network,), False) if network.prefixlen == network.max_prefixlen:
                host = f"[{network.network_address}]" if network.version == 6 else str(network.network_address)
            case ToPort(found, False):
                number = str(found)
            case Layer4(name, False):
                protocol = name
            case _:
                rest.append(condition(one))
    if host or number:
        where = f"{host or 'port'}{':' if host and number else ' ' if number else ''}{number}"
        rest.insert(0, f"to {where}{f'/{protocol}' if protocol else ''}")
    elif protocol:
        rest.insert(0, protocol)
    return ", ".join(rest) or "any packet"


# --- verdicts and ways in ------------------------------------------------------------------------------------------

ENDS = {
    Verdict.DROP: "dropped: the client hears nothing",
    Verdict.REJECT: "rejected: the client is told at once (connection refused)",
    Verdict.ACCEPT: "accepted",
}


def end(rule: Rule, verdict: Verdict, port: str) -> str:
    """Return what a verdict does, with kube-proxy's own reason from the rule's comment or its map."""
    does, colon, felt = ENDS[verdict].partition(":")
    reason = rule.comment.removeprefix(port).strip()
    if rule.map.startswith("no-endpoint"):
        reason = "has no local endpoints" if verdict is Verdict.DROP else "has no endpoints"
    return f"{does}{f' ({reason})' if reason else ''}{colon}{felt}"


def called(rule: Rule, port: str) -> str:
    """Return what kube-proxy calls a way in: "cluster IP"."""
    text = rule.comment.removeprefix(port).strip()
    if text in ("cluster IP", "external IP", "loadbalancer IP", "health check node port"):
        return text
    if is_node_port(rule):
        found = [networks(one.networks) for one in rule.conditions if isinstance(one, To)]
        return f"NodePort, at {found[0]}" if found else "NodePort"
    inside = any(chain.startswith(("service-", "local-")) for chain in targets(rule))
    return "cluster IP" if inside else ""


# --- conditions against a packet -------------------------------------------------------------------------------------


def met(one: Condition, packet: Packet) -> bool | None:
    """Say whether a packet meets a condition; None where that is not known of it."""
    match one:
        case From(found, negated):
            return None if packet.source is None else within(packet.source, found) is not negated
        case To(found, negated):
            return (packet.destination is not None and within(packet.destination, found)) is not negated
        case Layer4(protocol, negated):
            return (packet.protocol == protocol) is not negated
        case ToPort(number, negated):
            return (packet.port == number) is not negated
        case FromNode(negated):
            return None if packet.from_node is None else packet.from_node is not negated
        case ToNode(negated):
            return packet.to_node is not negated
        case State(names, negated):
            return ("NEW" in names) is not negated
    return None


def within(one: Address, found: Iterable[Network]) -> bool:
    """Say whether an address is in one of the networks."""
    return any(one in network for network in found)


def why(one: Condition, packet: Packet) -> str:
    """Return what decides a condition on the source, in words; empty for other conditions."""
    match one:
        case From(found, _) if packet.source is not None:
            where = "is in" if within(packet.source, found) else "is not in"
            if len(found) == 1 and found[0].prefixlen == found[0].max_prefixlen:
                where = "is" if where == "is in" else "is not"
            return f"{packet.source} {where} {networks(found)}"
        case FromNode() if packet.from_node is not None:
            return f"{packet.source} is {'an' if packet.from_node else 'no'} address of the node"
    return ""
