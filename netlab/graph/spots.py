"""Where in a picture a packet at an interface is, and the lines that it goes along from one to the next.

A card has a lane of its own along its left side, between its border and what is in it, so that a packet's way crosses
no text: a node's interfaces are on the lane, the ports of its bridge reach it along the bridge's left border.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from netlab import names
from netlab.graph.card import Card, PlacedPod
from netlab.graph.layout import SPINE, Bar, Layout, PlacedRouter, Point
from netlab.graph.scene import NodeBox, SegmentBar

LANE = 7  # from a card's left border to its lane
PORT = 20  # from a bridge's port down to its pod's interface
INSET = 22  # from a pod's left border to its interface
TUNNEL_INSET = 16
TUNNEL_RISE = 6  # from a tunnel up to the line that leads to the lane
POD_GAP = PORT + 16  # between the rows of pods of a picture that has spots


@dataclass(frozen=True, slots=True)
class Spot:
    """A place for a packet. `owner`: what it is in; `inner`: from it to the lane there; `outer`: on the way out of it.

    `leftward` says to which side there is room for what is written at it.
    """

    at: Point
    owner: str
    inner: tuple[Point, ...] = ()
    outer: tuple[Point, ...] = ()
    leftward: bool = False


@dataclass(frozen=True, slots=True)
class Spots:
    """All spots of a picture by member and device; `fallback` by member, for devices that are not drawn."""

    known: Mapping[tuple[str, str], Spot]
    fallback: Mapping[str, Spot]

    def find(self, member: str, device: str) -> Spot | None:
        """Return where a packet at a device is, or at least at whose; None where the member is not drawn."""
        return self.known.get((member, device)) or self.fallback.get(member)


def find_spots(layout: Layout, underlay: str) -> Spots:
    """Return a full picture's spots. `underlay` is what the member is called that has the segments' bridges."""
    known: dict[tuple[str, str], Spot] = {}
    fallback: dict[str, Spot] = {}
    for index, bar in enumerate(layout.segments):
        middle = bar.rect.y + bar.rect.h // 2
        spot = Spot((bar.rect.x, middle), f"bar {index}", ((bar.rect.x, bar.rect.bottom),), leftward=True)
        known[underlay, names.segment_bridge(bar.subject.name)] = spot
        fallback.setdefault(underlay, spot)
    for card in layout.cards:
        known |= {(card.node.name, device): spot for device, spot in _interfaces(card)}
        fallback[card.node.name] = _elsewhere(card)
        for placed in card.pods:
            known |= _pod(card, placed)
    known |= {(underlay, port): spot for port, spot in _node_ports(layout)}
    for router in layout.routers:
        known |= _router(layout, router, underlay)
    return Spots(known, fallback)


def leg(start: Spot, end: Spot) -> tuple[Point, ...]:
    """Return the points of the line from one spot to another."""
    if start.owner != end.owner:
        return _plain((start.at, *start.outer, *reversed(end.outer), end.at))
    up, down = [start.at, *start.inner], [end.at, *end.inner]
    meeting = None
    while up and down and up[-1] == down[-1]:
        meeting = up.pop()
        down.pop()
    return _plain((*up, *([meeting] if meeting else []), *reversed(down)))


def _plain(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Leave out points that repeat the one before."""
    return tuple(point for place, point in enumerate(points) if place == 0 or point != points[place - 1])


# --- cards -----------------------------------------------------------------------------------------------------------


def _interfaces(card: Card) -> Iterator[tuple[str, Spot]]:
    """Yield the spots of a node's own interfaces by name."""
    owner, lane = f"node {card.node.name}", card.rect.x + LANE
    if chip := card.uplink:
        x, y = chip.rect.x, chip.rect.y + chip.rect.h // 2
        outer = ((x, y), (x, chip.rect.y), (chip.rect.middle, chip.rect.y))
        yield chip.interface.name, Spot((lane, y), owner, (), outer, leftward=True)
    if chip := card.bridge:
        yield chip.interface.name, Spot((lane, _bridge_y(card)), owner, leftward=True)
    for number, chip in enumerate(card.tunnels):
        x, y = chip.rect.x + TUNNEL_INSET, chip.rect.y - TUNNEL_RISE
        name = chip.interface.name
        if number == 0:
            yield name, Spot((lane, chip.rect.y + 4), owner, leftward=True)
        else:
            yield name, Spot((x, y), owner, ((lane, y),))


def _bridge_y(card: Card) -> int:
    return card.bridge.rect.y + 13 if card.bridge else card.name_y


def _elsewhere(card: Card) -> Spot:
    """Return the spot for a node's interfaces that are not drawn: at its name."""
    lane = card.rect.x + LANE
    return Spot((lane, card.name_y - 5), f"node {card.node.name}", leftward=True)


def _pod(card: Card, placed: PlacedPod) -> dict[tuple[str, str], Spot]:
    """Return the spots of both ends of a pod's cable."""
    if card.bridge is None or placed.pod.host_network:
        return {}
    node, pod = card.node.name, placed.pod.name
    x, y = placed.rect.x + INSET, placed.rect.y
    border, lane = card.bridge.rect.x, card.rect.x + LANE
    inner = ((border, y - PORT), (border, _bridge_y(card)), (lane, _bridge_y(card)))
    return {
        (pod, "eth0"): Spot((x, y), f"pod {pod}"),
        (node, names.pod_port(pod, node)): Spot((x, y - PORT), f"node {node}", inner),
    }


# --- the underlay ----------------------------------------------------------------------------------------------------


def _node_ports(layout: Layout) -> Iterator[tuple[str, Spot]]:
    """Yield the segments' ports to nodes: on the bar, or on the line that reaches their row from it."""
    bars = {node.name: (index, bar) for index, bar in enumerate(layout.segments) for node in _nodes(bar)}
    spine = min((card.rect.x for card in layout.cards), default=0) - SPINE
    rails = {x_y for wire in layout.wires for x_y in wire}
    for card in layout.cards:
        if card.uplink is None or card.node.name not in bars:
            continue
        index, bar = bars[card.node.name]
        x = card.uplink.rect.middle
        above = [y for wx, y in rails if wx == x and bar.rect.bottom <= y < card.uplink.rect.y]
        y = max(above, default=bar.rect.bottom)
        inner = ((spine, y), (spine, bar.rect.bottom)) if y != bar.rect.bottom else ()
        port = names.fabric_port(card.node.name, card.uplink.interface.name)
        yield port, Spot((x, y), f"bar {index}", inner)


def _nodes(bar: Bar) -> tuple[NodeBox, ...]:
    return bar.subject.nodes if isinstance(bar.subject, SegmentBar) else ()


def _router(layout: Layout, placed: PlacedRouter, underlay: str) -> dict[tuple[str, str], Spot]:
    """Return the spots of a router's interfaces, and of the ports that they lead to."""
    found = {}
    rect, name = placed.rect, placed.router.name
    for number, port in enumerate(placed.router.ports):
        bar = layout.segments[port.segment].rect
        y, end = (rect.bottom, bar.y) if number else (rect.y, bar.bottom)
        device = port.interface.name
        found[name, device] = Spot((rect.middle, y), f"router {name}", ((rect.x, y),))
        around = ((bar.x, bar.y), (bar.x, bar.bottom)) if number else ()  # nodes hang on the other edge
        found[underlay, names.fabric_port(name, device)] = Spot((rect.middle, end), f"bar {port.segment}", around)
    return found
