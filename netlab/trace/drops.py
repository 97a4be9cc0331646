"""Why the kernel dropped a packet, in a sentence, and what to look at: the table of `drop_table`, filled in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from netlab.trace.drop_table import FILTERED, FLOODED, TABLE, UNWRAPPED_BY_NOBODY, Row
from netlab.trace.explain import route_text
from netlab.trace.headers import Ethernet, Ip, Tcp, Udp, Vxlan, first, innermost, outer
from netlab.trace.model import Cause, Drop, Event, Hop, Topic, Way
from netlab.trace.tables import RouteEntry, Tables

REFUSING = ("blackhole", "unreachable", "prohibit", "throw")  # kinds of routes


def find_drop(reason: str, place: str, hops: Sequence[Hop], tables: Tables | None = None) -> Drop:
    """Say what it means that a packet was dropped at the last of its hops. `tables` are those of its namespace."""
    words = {**_words(hops), **_routing(hops, tables), "reason": reason.removesuffix("_CSUM"), "place": place or "it"}
    row = _row(reason, place, hops)
    sentence, look = row.sentence, list(_commands(row.look, hops[-1].namespace))
    if reason == "OTHERHOST":
        chosen, flooded = _chosen_at(hops, words["mac"]), _flooded_at(hops, words["mac"])
        look = [*_look_at_flood(flooded), *_look_at_choice(chosen)] or look
        if flooded:
            sentence, words["flooder"] = FLOODED, f"the bridge of {flooded.member}"
    return Drop(reason, place, sentence.format_map(words), "; ".join(look).format_map(words))


def name_rule(way: Way) -> Way:
    """Return a way that the packet filter ended with the very rule in what is said of it."""
    if way.drop is None or not way.drop.sentence.startswith(FILTERED.format(member=way.hops[-1].member)):
        return way
    rule = _last_rule(way.hops)
    if rule is None:
        return way
    origin = f" ({rule.origin})" if rule.origin else ""
    return replace(way, drop=replace(way.drop, sentence=f"{way.drop.sentence}: {rule.text}{origin}"))


def _last_rule(hops: Sequence[Hop]) -> Cause | None:
    """Return the last rule that was met in the namespace of the last hop: it ended the way."""
    for hop in reversed(hops):
        if hop.namespace != hops[-1].namespace:
            return None
        rules = [cause for cause in hop.causes if cause.topic is Topic.RULE]
        if rules:
            return rules[-1]
    return None


def _row(reason: str, place: str, hops: Sequence[Hop]) -> Row:
    if reason == "NO_SOCKET" and outer(hops[-1].headers):
        return UNWRAPPED_BY_NOBODY
    return next(row for row in TABLE if reason.startswith(row.reason) and place.startswith(row.place))


def _commands(look: Sequence[str], namespace: str) -> Iterator[str]:
    return (f"ip netns exec {namespace} {command}" for command in look)


# --- a frame that came to the wrong one -------------------------------------------------------------------------------


def _flooded_at(hops: Sequence[Hop], mac: str) -> Hop | None:
    """Return where a bridge did not know a MAC."""
    told = f"{mac} is not in the FDB"
    return next((hop for hop in reversed(hops) if any(cause.text.startswith(told) for cause in hop.causes)), None)


def _chosen_at(hops: Sequence[Hop], mac: str) -> Hop | None:
    """Return where a neighbour entry gave the frame its MAC."""
    for hop in reversed(hops):
        frame = first(hop.headers, Ethernet)
        is_looked_up = any(cause.topic is Topic.NEIGHBOR for cause in hop.causes)
        if hop.event is Event.OUT and is_looked_up and frame and frame.dst == mac:
            return hop
    return None


def _look_at_flood(hop: Hop | None) -> Iterator[str]:
    if hop:
        yield from _commands(("bridge link", "bridge fdb show"), hop.namespace)


def _look_at_choice(hop: Hop | None) -> Iterator[str]:
    if hop:
        yield from _commands((f"ip neigh show dev {hop.device}",), hop.namespace)
        if any(cause.topic is Topic.FDB for cause in hop.causes):
            yield from _commands((f"bridge fdb show dev {hop.device}",), hop.namespace)


# --- words -----------------------------------------------------------------------------------------------------------


def _words(hops: Sequence[Hop]) -> dict[str, str]:
    hop = hops[-1]
    inner = innermost(hop.headers)
    ip, around = (inner[0] if inner else None), first(hop.headers, Ip)
    frame = first(hop.headers, Ethernet)
    vni = next((str(header.vni) for header in hop.headers if isinstance(header, Vxlan)), "?")
    port = "it"
    match inner[1] if len(inner) > 1 else None:
        case Tcp(dport=number):
            port = f"TCP port {number}"
        case Udp(dport=number):
            port = f"UDP port {number}"
    version = ip.version if isinstance(ip, Ip) else 4
    return {
        "member": hop.member,
        "device": hop.device or "its device",
        "src": str(ip.src) if isinstance(ip, Ip) else "its source",
        "dst": str(ip.dst) if isinstance(ip, Ip) else "its destination",
        "length": str(around.length) if around else "more",
        "mac": frame.dst if frame else "its MAC",
        "vni": vni,
        "port": port,
        "iptables": "iptables" if version == 4 else "ip6tables",
        "forwarding": "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding",
    }


def _routing(hops: Sequence[Hop], tables: Tables | None) -> dict[str, str]:
    """Say what the routes of the last hop's namespace have for the packet, now, after it was dropped."""
    hop = hops[-1]
    inner = innermost(hop.headers)
    ip, around = (inner[0] if inner else None), first(hop.headers, Ip)
    if not isinstance(ip, Ip) or around is None:
        return {"refusal": "no route", "return_route": "another device", "next_hop": "the next hop", "mtu": "the MTU"}
    arrived_by = hop.device if any(one.event is Event.IN and _same_place(one, hop) for one in hops) else ""
    there = tables.route(ip.dst, ip.src, arrived_by, 0) if tables else ""
    back = tables.route(ip.src, None, "", 0) if tables else ""
    onward = tables.route(around.dst, None, "", 0) if tables else ""
    return {
        "refusal": _refusal(hop.member, ip, there),
        "return_route": f"{hop.member} sends to {ip.src} by another device than {hop.device}" + _by(back),
        "next_hop": str(onward.via or around.dst) if isinstance(onward, RouteEntry) else str(around.dst),
        "mtu": _mtu(onward, hop, tables),
    }


def _refusal(member: str, ip: Ip, found: RouteEntry | str) -> str:
    if isinstance(found, RouteEntry):
        if found.kind in REFUSING:
            return f"a route of {member} refuses it: {route_text(found)}"
        return f"{member} had no route to {ip.dst}"
    return f"{member} has no route to {ip.dst}" + (f": {found}" if found else "")


def _by(route: RouteEntry | str) -> str:
    return f": {route_text(route)}" if isinstance(route, RouteEntry) else ""


def _mtu(route: RouteEntry | str, hop: Hop, tables: Tables | None) -> str:
    device = tables.device(route.device) if tables and isinstance(route, RouteEntry) else None
    return f"the MTU of {device.name} is {device.mtu}" if device else f"the next device's MTU at {hop.member} is less"


def _same_place(one: Hop, other: Hop) -> bool:
    return (one.namespace, one.device) == (other.namespace, other.device)
