"""Operations as the commands of `ip`, `bridge`, `sysctl`, `iptables` and `nft` that do the same by hand. Pure.

`netlab up --dry-run` prints them; errors quote them. They are complete: run in order they make the same lab, and
netlab then finds nothing to change (tests/root/test_dry_run.py runs them).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from netlab import names
from netlab.plan.diff import Action, Op
from netlab.plan.objects import (
    GSO_MAX_SEGS,
    Addr,
    Bridge,
    ControlPlane,
    FdbEntry,
    Forwarder,
    Ipip,
    Link,
    Loopback,
    Neighbor,
    Object,
    Process,
    Route,
    Ruleset,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)
from netlab.plan.rules import nft_input, restore_input
from netlab.tunnel.config import Config, render

GROUP = f"group {names.LINK_GROUP}"


def commands(ops: Iterable[Op]) -> Iterator[str]:
    """Yield the commands for operations, in order. A command that feeds rules to a tool spans several lines."""
    for op in ops:
        yield from command(op)


def command(op: Op) -> Iterator[str]:
    """Yield the commands for one operation."""
    match op.action:
        case Action.ADD_NETNS:
            yield f"ip netns add {op.netns}"
        case Action.DELETE_NETNS:
            yield f"ip netns delete {op.netns}"
        case Action.CREATE if op.new is not None:
            yield from _create(op.netns, op.new, op.peer)
        case Action.CHANGE if op.new is not None and op.old is not None:
            yield from _change(op.netns, op.old, op.new)
        case Action.DELETE if op.old is not None:
            yield from _delete(op.netns, op.old)


def _create(netns: str, new: Object, peer: Veth | None) -> Iterator[str]:
    ip = f"ip -n {netns}"
    match new:
        case Loopback():
            yield f"{ip} link set lo up"
        case Bridge():
            yield f"{ip} link add {new.name} address {new.mac} type bridge"
            yield f"{ip} link set {new.name} mtu {new.mtu} {GROUP}{_up(new)}"
        case Veth() if peer is not None:
            other = f"peer name {peer.name} address {peer.mac} mtu {peer.mtu}{_segments(peer)} netns {new.peer.netns}"
            yield f"{ip} link add {new.name} address {new.mac} mtu {new.mtu}{_segments(new)} type veth {other}"
            yield f"{ip} link set {new.name} {GROUP}{f' master {new.master}' if new.master else ''}{_up(new)}"
            yield f"ip -n {new.peer.netns} link set {peer.name} {GROUP}"
        case Vxlan():
            options = f"id {new.vni} local {new.local} dev {new.parent} dstport {new.port}"
            flags = ("" if new.learning else " nolearning") + (" gbp" if new.gbp else "")
            yield f"{ip} link add {new.name} address {new.mac} mtu {new.mtu} type vxlan {options}{flags}"
            yield f"{ip} link set {new.name} {GROUP}{_up(new)}"
        case Ipip():
            yield f"{ip} link add {new.name} mtu {new.mtu} type ipip local {new.local} remote any"
            yield f"{ip} link set {new.name} {GROUP}{_up(new)}"
        case Tun():
            yield f"ip -n {netns} tuntap add dev {new.name} mode tun"
            yield f"{ip} link set {new.name} mtu {new.mtu}{_segments(new)} {GROUP}{_up(new)}"
        case Forwarder():
            config = render(config_of(new))
            yield f"ip netns exec {netns} python3 -m netlab.tunnel - <<'CONFIG' &  # netlab keeps it\n{config}CONFIG"
        case ControlPlane():
            yield "# netlab itself starts the lab's control plane: Services and cluster DNS"
        case Addr():
            extra = "nodad" if new.ip.version == 6 else "brd +" if new.ip.network.prefixlen < 31 else ""
            yield f"{ip} address add {new.ip} {extra} dev {new.dev}".replace("  ", " ")
        case Route():
            yield f"{ip} route add {_route(new)} proto {names.ROUTE_PROTOCOL}"
        case _:
            yield from _change(netns, None, new)


def _change(netns: str, old: Object | None, new: Object) -> Iterator[str]:
    match new:
        case Sysctl():
            quiet = "-q -e" if new.path.startswith("net/bridge/") else "-q"  # -e: br_netfilter may be missing
            yield f"ip netns exec {netns} sysctl {quiet} -w {new.path}={shlex.quote(new.value)}"
        case Route():
            yield f"ip -n {netns} route replace {_route(new)} proto {names.ROUTE_PROTOCOL}"
        case Neighbor():
            yield f"ip -n {netns} neighbor replace {new.ip} lladdr {new.mac} dev {new.dev} nud permanent"
        case FdbEntry():
            yield f"bridge -n {netns} fdb replace {new.mac} dev {new.dev} dst {new.dst} self permanent"
        case Ruleset():
            yield _rules(netns, old if isinstance(old, Ruleset) else None, new)
        case Process():
            yield f"# kept by netlab itself: ip netns exec {netns} {shlex.join(new.argv)}"
        case Forwarder():
            yield f"# netlab itself tells the forwarder: {len(new.peers)} peers, MTU {new.mtu}"
        case ControlPlane():
            yield "# netlab itself tells the control plane what has changed"
        case _ if old is not None:
            yield from _change_link(netns, old, new)


def _change_link(netns: str, old: Object, new: Object) -> Iterator[str]:
    words = []
    for name, word in (("mac", "address"), ("mtu", "mtu"), ("gso_max_segs", "gso_max_segs")):
        value = getattr(new, name, None)
        if value is not None and value != getattr(old, name, None):
            words.append(f"{word} {value}")
    if isinstance(new, Veth) and isinstance(old, Veth) and new.master != old.master:
        words.append(f"master {new.master}" if new.master else "nomaster")
    if getattr(new, "up", None) != getattr(old, "up", None):
        words.append(_up(new).strip() or "down")
    name = new.name if isinstance(new, Link) else ""
    if words:
        yield f"ip -n {netns} link set {name} {' '.join(words)}"
    if isinstance(new, Veth) and isinstance(old, Veth) and new.hairpin != old.hairpin:
        yield f"bridge -n {netns} link set dev {name} hairpin {'on' if new.hairpin else 'off'}"


def _delete(netns: str, old: Object) -> Iterator[str]:
    ip = f"ip -n {netns}"
    match old:
        case Addr():
            yield f"{ip} address delete {old.ip} dev {old.dev}"
        case Route():
            yield f"{ip} route delete {_route(old)}"
        case Neighbor():
            yield f"{ip} neighbor delete {old.ip} lladdr {old.mac} dev {old.dev}"
        case FdbEntry():
            yield f"bridge -n {netns} fdb delete {old.mac} dev {old.dev} dst {old.dst} self"
        case Ruleset():
            yield _rules(netns, old, None)
        case Process():
            yield f"# netlab itself ends {old.name} of pod {old.pod}"
        case Forwarder():
            yield f"# netlab itself ends the forwarder of node {old.node}"
        case ControlPlane():
            yield "# netlab itself ends the lab's control plane"
        case Sysctl():
            return
        case Veth():
            yield f"{ip} link delete {old.name} || true  # gone already, if its other end is"
        case _ if isinstance(old, Link):
            yield f"{ip} link delete {old.name}"


def config_of(entry: Forwarder) -> Config:
    """Return what a forwarder is told in its file."""
    return Config(
        device=entry.dev,
        mtu=entry.mtu,
        local=entry.local,
        port=entry.port,
        uplink=entry.uplink,
        bridge=entry.bridge,
        source=entry.source,
        forwarder=entry.kind,
        peers=entry.peers,
    )


def _rules(netns: str, old: Ruleset | None, new: Ruleset | None) -> str:
    tool = new.tool if new else old.tool if old else ""
    program = "nft -f -" if tool == "nft" else f"{tool}-restore --noflush"
    text = nft_input(old, new) if tool == "nft" else restore_input([(old, new)])
    return f"ip netns exec {netns} {program} <<'RULES'\n{text}RULES"


def _segments(link: Veth | Tun) -> str:
    return "" if link.gso_max_segs == GSO_MAX_SEGS else f" gso_max_segs {link.gso_max_segs}"


def _route(route: Route) -> str:
    kind = "" if route.kind == "unicast" else f"{route.kind} "
    via = f" via {route.via}" if route.via else ""
    dev = f" dev {route.dev}" if route.dev else ""
    return f"{kind}{route.dst}{via}{dev}{' onlink' if route.onlink else ''}"


def _up(link: Object) -> str:
    return " up" if getattr(link, "up", False) else ""
