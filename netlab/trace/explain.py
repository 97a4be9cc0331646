"""Why a packet went on as it did: the entry of a table for each step of its way. Pure; `Tables` does the asking.

Each rule below is about two sightings, one right after the other, and says what must have been decided between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from netlab.topology.addresses import Address
from netlab.trace.changes import changes
from netlab.trace.headers import Ethernet, Ip, first, inner_ip, outer
from netlab.trace.layout import Kind
from netlab.trace.model import Cause, Event, Hop, Places, Topic
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Device, RouteEntry, Tables

EVENTS = {
    Kind.IN: Event.IN,
    Kind.OUT: Event.OUT,
    Kind.DROPPED: Event.DROPPED,
    Kind.CONSUMED: Event.DELIVERED,
}
ROUTE_PROTOCOLS = {2: "kernel", 3: "boot", 4: "static", 12: "bird", 16: "dhcp", 186: "bgp", 188: "ospf", 196: "exabgp"}
TUNNELS = ("vxlan", "ipip", "tun")


def explain(
    way: Sequence[Sighting],
    tables: Mapping[str, Tables],
    places: Places,
    *,
    start: int,
    follows: Sighting | None = None,
) -> tuple[Hop, ...]:
    """Return the hops of a way, each with what changed and why. `start`: the time that counts as 0.

    `follows` is what the first sighting comes from, if it is that of a copy.
    """
    hops = []
    for before, one in zip([follows, *way], way, strict=False):
        hops.append(
            Hop(
                one.time - start,
                places.members.get(one.namespace, one.namespace),
                one.namespace,
                one.device,
                one.ifindex or _ifindex(tables.get(one.namespace), one.device),
                EVENTS[one.kind],
                one.headers,
                changes(before.headers, one.headers) if before else (),
                tuple(_causes(before, one, tables.get(one.namespace), places)),
                one.frame,
                one.packet,
            )
        )
    return tuple(hops)


def _ifindex(tables: Tables | None, name: str) -> int:
    """Return the number of a device that was seen by name only."""
    device = tables.device(name) if tables else None
    return device.ifindex if device else 0


def _causes(before: Sighting | None, one: Sighting, tables: Tables | None, places: Places) -> Iterator[Cause]:
    if tables is None:
        return
    device = tables.device(one.device)
    if device is None or one.kind in (Kind.DROPPED, Kind.CONSUMED):
        return
    if before is None or before.namespace != one.namespace:
        if one.kind is Kind.OUT:
            yield from _routed(None, one, device, tables, places)
        return
    former = tables.device(before.device)
    if former is None:
        return
    if one.kind is Kind.IN:
        yield from _came_up(former, one, device, tables)
    elif former.bridge and former.bridge == device.bridge and before.kind is Kind.IN:
        yield from _bridged(one, device.bridge, tables)
    elif device.bridge == former.name and former.kind == "bridge":
        yield from _bridged(one, former.name, tables)
    elif former.kind in TUNNELS and before.kind is Kind.OUT:
        yield from _wrapped(former, one, device, tables, places)
    else:
        yield from _routed(before, one, device, tables, places)


# --- the rules -------------------------------------------------------------------------------------------------------


def _came_up(former: Device, one: Sighting, device: Device, tables: Tables) -> Iterator[Cause]:
    """A packet that came in by one device comes in by another: a bridge's own, or a tunnel's."""
    if device.kind == "bridge" and former.bridge == device.name:
        if frame := first(one.headers, Ethernet):
            entry = tables.fdb(frame.dst, device.name)
            own = (
                f"{frame.dst} is {device.name}'s own address" if entry and entry.is_local else f"{frame.dst} is for all"
            )
            yield Cause(Topic.BRIDGE, f"{own}: passed up to IP")
    elif device.kind == "vxlan":
        yield Cause(Topic.TUNNEL, f"UDP to VXLAN port, VNI {device.vni} is {device.name}'s: unwrapped")
    elif device.kind in TUNNELS:
        yield Cause(Topic.TUNNEL, f"unwrapped by {device.name}")


def _bridged(one: Sighting, bridge: str, tables: Tables) -> Iterator[Cause]:
    """A bridge chose one of its ports."""
    frame = first(one.headers, Ethernet)
    if frame is None:
        return
    entry = tables.fdb(frame.dst, bridge)
    if entry is None:
        yield Cause(Topic.FDB, f"{frame.dst} is not in the FDB of {bridge}: flooded to all ports")
    else:
        origin = "static" if entry.is_static else "learned"
        yield Cause(Topic.FDB, f"{entry.mac} dev {entry.device} master {bridge}", origin)


def _routed(before: Sighting | None, one: Sighting, device: Device, tables: Tables, places: Places) -> Iterator[Cause]:
    """IP chose the device, and who is to get the frame there."""
    carried = before is not None and outer(before.headers) and outer(one.headers)  # past a router of the underlay
    ip, former = (
        (first(seen.headers, Ip) if carried else inner_ip(seen.headers)) if seen else None for seen in (one, before)
    )
    if ip is None:
        return
    came_in = tables.device(before.device) if before and before.kind is Kind.IN else None
    arrived_by = (came_in.bridge or came_in.name) if came_in else ""
    found = tables.route(ip.dst, former.src if former else ip.src, arrived_by, one.mark)
    if isinstance(found, str):
        yield Cause(Topic.ROUTE, f"no route to {ip.dst}: {found}")
        return
    yield Cause(Topic.ROUTE, route_text(found), route_origin(found, places))
    chosen = tables.device(found.device)
    if found.device == one.device:
        yield from _neighbor(found.via or ip.dst, device, tables)
    elif chosen and chosen.kind in TUNNELS:
        yield Cause(
            Topic.TUNNEL, f"wrapped and sent on by a BPF program at {chosen.name}, which no packet went through"
        )


def _neighbor(address: Address, device: Device, tables: Tables) -> Iterator[Cause]:
    if device.kind in ("ipip", "tun", ""):
        return
    entry = tables.neighbor(address, device.name)
    if entry is None or not entry.mac:
        yield Cause(Topic.NEIGHBOR, f"{address} dev {device.name}: {entry.state if entry else 'no entry'}")
        return
    yield Cause(Topic.NEIGHBOR, f"{address} lladdr {entry.mac} {entry.state}")
    if device.kind == "vxlan":
        target = tables.fdb(entry.mac, device.name)
        text = f"{entry.mac} dst {target.remote}" if target else f"{entry.mac}: no entry"
        yield Cause(Topic.FDB, f"{text} dev {device.name}")


def _wrapped(former: Device, one: Sighting, device: Device, tables: Tables, places: Places) -> Iterator[Cause]:
    """A tunnel put another header in front, and IP chose a device for that."""
    yield Cause(Topic.TUNNEL, f"wrapped by {former.name}" + (f", VNI {former.vni}" if former.kind == "vxlan" else ""))
    around = first(one.headers, Ip)
    if around is None:
        return
    found = tables.route(around.dst, None, "", 0)
    if isinstance(found, RouteEntry):
        yield Cause(Topic.ROUTE, route_text(found), route_origin(found, places))
        yield from _neighbor(found.via or around.dst, device, tables)


# --- words -----------------------------------------------------------------------------------------------------------


def route_text(entry: RouteEntry) -> str:
    """Return a route as ip-route(8) writes it."""
    words = [] if entry.kind == "unicast" else [entry.kind]
    words.append("default" if entry.dst.prefixlen == 0 else str(entry.dst))
    if entry.via:
        words += ["via", str(entry.via)]
    if entry.device:
        words += ["dev", entry.device]
    return " ".join(words + (["onlink"] if entry.onlink else []))


def route_origin(entry: RouteEntry, places: Places) -> str:
    """Say where a route came from."""
    if entry.protocol == places.route_protocol:
        node = places.leases.get(entry.dst)
        return f"lease of {node}" if node else "netlab"
    return ROUTE_PROTOCOLS.get(entry.protocol, f"protocol {entry.protocol}")
