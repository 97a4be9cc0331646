"""The SVG's geometry: nothing overlaps, nothing leaves its box, no line crosses a card."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from netlab.graph.card import PAD, Rect, pod_lines
from netlab.graph.layout import MARGIN, Layout, Point, arrange, bar_width
from netlab.graph.scene import Detail, compose
from netlab.graph.style import Type, text_width
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import Topology
from tests import labs
from tests.unit.test_graph import LABS

RANDOM = {f"random-{seed}": labs.random_topology("random", seed) for seed in range(30)}


@pytest.fixture(params=[*LABS, *RANDOM], scope="module")
def topology(request: pytest.FixtureRequest) -> Topology:
    return {**LABS, **RANDOM}[request.param]


@pytest.fixture(scope="module")
def layout(topology: Topology) -> Layout:
    return arrange(compose(topology, allocate(topology, Snapshot())))


def overlap(one: Rect, other: Rect) -> bool:
    return one.x < other.right and other.x < one.right and one.y < other.bottom and other.y < one.bottom


def holds(outer: Rect, inner: Rect) -> bool:
    return outer.x <= inner.x and inner.right <= outer.right and outer.y <= inner.y and inner.bottom <= outer.bottom


def boxes(layout: Layout) -> list[Rect]:
    """Return everything that stands on the canvas by itself, with the interfaces that reach out of the cards."""
    bars = [bar.rect for bar in (*layout.segments, layout.overlay)]
    return [*bars, *(router.rect for router in layout.routers), *(card.rect for card in layout.cards)]


def test_boxes_are_apart_and_inside_the_margins(layout: Layout) -> None:
    inside = Rect(MARGIN, MARGIN, layout.width - 2 * MARGIN, layout.height - 2 * MARGIN)
    assert all(holds(inside, box) for box in boxes(layout))
    assert not any(overlap(one, other) for one, other in combinations(boxes(layout), 2))


def test_interfaces_touch_no_bar_and_no_other_interface(layout: Layout) -> None:
    bars = [bar.rect for bar in (*layout.segments, layout.overlay)]
    for card in layout.cards:
        chips = [chip.rect for chip in (card.uplink, card.bridge, *card.tunnels) if chip]
        assert not any(overlap(one, other) for one, other in combinations(chips, 2))
        assert not any(overlap(chip, bar) for chip in chips for bar in bars)
        assert all(card.rect.x + PAD <= chip.x and chip.right <= card.rect.right - PAD for chip in chips)


def test_pods_are_inside_their_node_and_apart(layout: Layout) -> None:
    for card in layout.cards:
        assert len(card.pods) == len(card.node.pods)
        assert all(holds(card.rect, placed.rect) for placed in card.pods)
        assert not any(overlap(one.rect, other.rect) for one, other in combinations(card.pods, 2))
        for placed in card.pods if card.bridge else ():
            assert card.bridge
            is_inside = holds(card.bridge.rect, placed.rect)
            assert is_inside != placed.pod.host_network


def test_text_has_room(layout: Layout, topology: Topology) -> None:
    assert all(bar_width(bar.subject) <= bar.rect.w for bar in (*layout.segments, layout.overlay))
    if compose(topology, Snapshot()).detail is Detail.COMPACT:
        return
    for card in layout.cards:
        for chip in (chip for chip in (card.uplink, *card.tunnels) if chip):
            widest = max(text_width(address, Type.SMALL) for address in chip.interface.addresses)
            assert chip.indent + widest <= chip.rect.w
        for placed in card.pods:
            lines = [text_width(placed.pod.name, Type.POD), *(text_width(x, Type.SMALL) for x in pod_lines(placed.pod))]
            assert max(lines) < placed.rect.w


def test_no_line_crosses_a_card(layout: Layout) -> None:
    cards = [card.rect for card in layout.cards] + [placed.rect for placed in layout.routers]
    for line in (*layout.wires, *layout.tunnels):
        for ends in pairwise(line):
            assert not any(overlap(_thin(*ends), card) for card in cards)


def _thin(start: Point, end: Point) -> Rect:
    """Return a straight line as a rectangle without area, its ends left out."""
    (x1, y1), (x2, y2) = start, end
    assert x1 == x2 or y1 == y2
    return Rect(min(x1, x2), min(y1, y2), abs(x1 - x2), abs(y1 - y2))


def test_underlay_and_overlay_lines_do_not_share_a_way(layout: Layout) -> None:
    def horizontal(lines: tuple[tuple[Point, ...], ...]) -> set[int]:
        return {start[1] for line in lines for start, end in pairwise(line) if start[1] == end[1]}

    def vertical(lines: tuple[tuple[Point, ...], ...]) -> set[int]:
        return {start[0] for line in lines for start, end in pairwise(line) if abs(start[1] - end[1]) > 100}

    assert not horizontal(layout.wires) & horizontal(layout.tunnels)
    assert not vertical(layout.wires) & vertical(layout.tunnels)


def test_every_node_is_joined_to_the_underlay_and_every_tunnel_to_the_overlay(layout: Layout) -> None:
    ends = [line[-1] for line in layout.wires]
    for card in layout.cards:
        top = card.uplink.rect if card.uplink else card.rect
        assert sum(top.x <= x <= top.right and y == top.y for x, y in ends) == 1
    starts = [line[0] for line in layout.tunnels]
    for card in layout.cards:
        bottoms = [tunnel.rect for tunnel in card.tunnels] or ([card.rect] if card.node.tunnels else [])
        for bottom in bottoms:
            assert sum(bottom.x <= x <= bottom.right and y == bottom.bottom for x, y in starts) == 1
