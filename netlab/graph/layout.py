"""The geometry of the whole picture, in pixels: bars, rows of cards, routers and the lines between them.

From top to bottom: the heading; each segment's bar with its nodes under it, in rows; the overlay's bar. Routers hang in
columns at the left, between the bars that they join. Where nodes take several rows, the underlay reaches the lower
rows along the left side of the cards, the overlay's tunnels reach its bar along the right side: no line crosses a card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from netlab.graph.card import (
    CHIP_OUT,
    GAP,
    LABEL_GAP,
    LINE,
    NAME_LINE,
    PAD,
    Card,
    Measures,
    Rect,
    card_height,
    measure,
    place,
)
from netlab.graph.scene import Detail, NodeBox, Overlay, RouterBox, Scene, SegmentBar
from netlab.graph.style import Type, text_width

MARGIN = 32
BAR_HEIGHT = 36
BAR_PAD = 16
FACT_GAP = 22
CARD_GAP = 18
SPINE = 16  # from a line beside the cards to the cards
SPINE_INSET = 12  # from a bar's end to such a line
RAIL_GAP = 18  # from one row's overlay line down to the next row's underlay line
STEM = 22  # from a bar or rail to a card or interface
BLOCK_GAP = 34
HEADING = 30
FACT_LINE = 19
ROUTER_NAME_MAX = 200
WIDTH_MIN = 420
BAR_NAME_MAX = 320

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bar:
    """A segment or the overlay."""

    subject: SegmentBar | Overlay
    rect: Rect


@dataclass(frozen=True, slots=True)
class PlacedRouter:
    """A router and where it is drawn."""

    router: RouterBox
    rect: Rect


@dataclass(frozen=True, slots=True)
class Layout:
    """A finished picture: `wires` are the underlay's lines, `tunnels` the overlay's; dots mark where one is joined."""

    width: int
    height: int
    facts: tuple[tuple[str, ...], ...]
    segments: tuple[Bar, ...]
    overlay: Bar
    routers: tuple[PlacedRouter, ...]
    cards: tuple[Card, ...]
    wires: tuple[tuple[Point, ...], ...]
    wire_dots: tuple[Point, ...]
    tunnels: tuple[tuple[Point, ...], ...]
    tunnel_dots: tuple[Point, ...]


@dataclass(slots=True)
class _Canvas:
    """What has been placed so far, and the y where the next thing goes."""

    y: int
    segments: list[Bar] = field(default_factory=list)
    routers: list[PlacedRouter] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    wires: list[tuple[Point, ...]] = field(default_factory=list)
    wire_dots: list[Point] = field(default_factory=list)
    rails: list[tuple[int, tuple[Card, ...]]] = field(default_factory=list)  # the overlay's, by y


@dataclass(frozen=True, slots=True)
class _Frame:
    """The vertical lines that everything is aligned to, and the sizes shared by all."""

    measures: Measures
    router_width: int
    router_columns: int
    cards_x: int
    cards_right: int
    right: int


def arrange(scene: Scene, pod_gap: int = GAP) -> Layout:
    """Place everything in a scene. `pod_gap`: the room above each row of pods in a bridge."""
    frame = _frame(scene, pod_gap)
    facts = _wrap(scene.facts, frame.right - MARGIN)
    canvas = _Canvas(y=MARGIN + HEADING + FACT_LINE * len(facts) + 12)
    columns = _router_columns(scene.routers)
    for index, segment in enumerate(scene.segments):
        _place_segment(canvas, frame, segment)
        first = [(router, columns[router.name]) for router in scene.routers if router.segments[0] == index]
        _place_routers(canvas, frame, first)
        canvas.y += BLOCK_GAP
    if canvas.rails and canvas.rails[-1][0] == canvas.y - BLOCK_GAP:  # the last row's tunnels end on the bar itself
        canvas.y -= BLOCK_GAP
    bar = Bar(scene.overlay, Rect(MARGIN, canvas.y, frame.right - MARGIN, BAR_HEIGHT))
    _wire_routers(canvas)
    tunnels, tunnel_dots = _tunnel_lines(canvas, frame, bar.rect.y)
    return Layout(
        width=frame.right + MARGIN,
        height=bar.rect.bottom + MARGIN,
        facts=facts,
        segments=tuple(canvas.segments),
        overlay=bar,
        routers=tuple(canvas.routers),
        cards=tuple(canvas.cards),
        wires=tuple(canvas.wires),
        wire_dots=tuple(canvas.wire_dots),
        tunnels=tunnels,
        tunnel_dots=tunnel_dots,
    )


def bar_width(bar: SegmentBar | Overlay) -> int:
    """Return the width that a bar's text needs."""
    name = min(text_width(bar.name, Type.NAME), BAR_NAME_MAX)
    kind = FACT_GAP + text_width(bar.kind, Type.SMALL)
    return 2 * BAR_PAD + name + sum(FACT_GAP + text_width(fact, Type.FACT) for fact in bar.facts) + kind


def _frame(scene: Scene, pod_gap: int) -> _Frame:
    measures = measure(scene, pod_gap)
    tunnelled_rows = sum(
        any(node.tunnels for node in row)
        for segment in scene.segments
        for row in _rows(segment.nodes, measures.columns)
    )
    has_spine = any(len(segment.nodes) > measures.columns for segment in scene.segments)
    router_width = max((_router_width(router) for router in scene.routers), default=0)
    router_columns = 1 + max(_router_columns(scene.routers).values(), default=-1)
    cards_x = MARGIN + router_columns * (router_width + CARD_GAP) + (SPINE + SPINE_INSET if has_spine else 0)
    needed = max(WIDTH_MIN, bar_width(scene.overlay), *(bar_width(segment) for segment in scene.segments))
    free = MARGIN + needed - cards_x - measures.columns * (measures.width + CARD_GAP) + CARD_GAP
    if free > 0:
        measures = replace(measures, width=measures.width + ceil(free / measures.columns))
    cards_right = cards_x + measures.columns * (measures.width + CARD_GAP) - CARD_GAP
    return _Frame(
        measures=measures,
        router_width=router_width,
        router_columns=router_columns,
        cards_x=cards_x,
        cards_right=cards_right,
        right=cards_right + (SPINE + SPINE_INSET if tunnelled_rows > 1 else 0),
    )


def _router_width(router: RouterBox) -> int:
    name = min(text_width(router.name, Type.NAME), ROUTER_NAME_MAX) + LABEL_GAP + text_width("router", Type.SMALL)
    return 2 * PAD + max(name, *(text_width(line, Type.SMALL) for line in router_lines(router)), 0)


def router_lines(router: RouterBox) -> tuple[str, ...]:
    """Return the lines under a router's name: its interfaces."""
    return tuple(f"{port.interface.name} {address}" for port in router.ports for address in port.interface.addresses)


def _wrap(facts: Sequence[str], width: int) -> tuple[tuple[str, ...], ...]:
    """Break the heading's facts into lines."""
    lines: list[list[str]] = [[]]
    used = 0
    for fact in facts:
        needed = text_width(fact, Type.FACT) + FACT_GAP
        if lines[-1] and used + needed > width + FACT_GAP:
            lines.append([])
            used = 0
        lines[-1].append(fact)
        used += needed
    return tuple(tuple(line) for line in lines)


def _rows(nodes: Sequence[NodeBox], columns: int) -> list[Sequence[NodeBox]]:
    return [nodes[start : start + columns] for start in range(0, len(nodes), columns)]


def _router_columns(routers: Iterable[RouterBox]) -> dict[str, int]:
    """Give each router the first column that no other router's line runs through."""
    columns: dict[str, int] = {}
    taken: list[list[RouterBox]] = []
    for router in routers:
        free = (number for number, others in enumerate(taken) if not any(_overlap(router, other) for other in others))
        column = next(free, len(taken))
        if column == len(taken):
            taken.append([])
        taken[column].append(router)
        columns[router.name] = column
    return columns


def _overlap(one: RouterBox, other: RouterBox) -> bool:
    """Say whether two routers would meet in one column. Each needs the room under its first bar in any case."""
    (start, end), (other_start, other_end) = (
        (router.segments[0], max(router.segments[-1], router.segments[0] + 1)) for router in (one, other)
    )
    return start < other_end and other_start < end


def _place_segment(canvas: _Canvas, frame: _Frame, segment: SegmentBar) -> None:
    """Place a bar and the rows of cards under it."""
    bar = Rect(MARGIN, canvas.y, frame.cards_right - MARGIN, BAR_HEIGHT)
    canvas.segments.append(Bar(segment, bar))
    canvas.y = rail = bar.bottom
    spine = frame.cards_x - SPINE
    for number, nodes in enumerate(_rows(segment.nodes, frame.measures.columns)):
        if number:
            rail = canvas.y = canvas.y + RAIL_GAP
        stems = [_top(card) for card in _place_row(canvas, frame, nodes)]
        if number:
            canvas.wires.append(((spine, rail), (stems[-1][0], rail)))
        canvas.wires += [((x, rail), (x, y)) for x, y in stems]
        canvas.wire_dots += [(x, rail) for x, _ in stems]
    if rail > bar.bottom:
        canvas.wires.append(((spine, bar.bottom), (spine, rail)))
        canvas.wire_dots.append((spine, bar.bottom))


def _place_row(canvas: _Canvas, frame: _Frame, nodes: Sequence[NodeBox]) -> tuple[Card, ...]:
    """Place one row of cards; nodes of the cluster are as high as the highest of them."""
    is_full = frame.measures.detail is Detail.FULL
    y = canvas.y + STEM + (CHIP_OUT if is_full else 0)
    heights = [card_height(node, frame.measures) for node in nodes]
    cluster_height = max((h for node, h in zip(nodes, heights, strict=True) if node.bridge), default=0)
    row = tuple(
        place(
            node,
            Rect(
                frame.cards_x + column * (frame.measures.width + CARD_GAP),
                y,
                frame.measures.width,
                cluster_height if node.bridge else heights[column],
            ),
            frame.measures,
        )
        for column, node in enumerate(nodes)
    )
    canvas.cards += row
    canvas.y = max(card.rect.bottom for card in row)
    if any(card.node.tunnels for card in row):
        canvas.y += STEM + (CHIP_OUT if is_full else 0)
        canvas.rails.append((canvas.y, row))
    return row


def _top(card: Card) -> Point:
    """Return where a card's underlay line ends."""
    return (card.uplink.rect.middle, card.uplink.rect.y) if card.uplink else (card.rect.x + PAD, card.rect.y)


def _bottoms(card: Card) -> list[Point]:
    """Return where a card's tunnels begin."""
    if card.tunnels:
        return [(chip.rect.middle, chip.rect.bottom) for chip in card.tunnels]
    return [(card.rect.x + PAD, card.rect.bottom)] if card.node.tunnels else []


def _place_routers(canvas: _Canvas, frame: _Frame, routers: Iterable[tuple[RouterBox, int]]) -> None:
    """Place the routers whose first segment was placed last, under its bar."""
    y = canvas.segments[-1].rect.bottom + STEM
    for router, column in routers:
        x = MARGIN + column * (frame.router_width + CARD_GAP)
        height = NAME_LINE + LINE * len(router_lines(router)) + PAD
        placed = PlacedRouter(router, Rect(x, y, frame.router_width, height))
        canvas.routers.append(placed)
        canvas.y = max(canvas.y, placed.rect.bottom)


def _wire_routers(canvas: _Canvas) -> None:
    """Draw each router's line from its first bar down to its last, with a dot on each bar that it joins."""
    for placed in canvas.routers:
        x, box = placed.rect.middle, placed.rect
        first, *others = (canvas.segments[index].rect for index in placed.router.segments)
        canvas.wires.append(((x, first.bottom), (x, box.y)))
        canvas.wire_dots.append((x, first.bottom))
        if others:
            canvas.wires.append(((x, box.bottom), (x, others[-1].y)))
            canvas.wire_dots += [(x, bar.y) for bar in others]


def _tunnel_lines(
    canvas: _Canvas, frame: _Frame, bar_y: int
) -> tuple[tuple[tuple[Point, ...], ...], tuple[Point, ...]]:
    """Join every tunnel to the overlay's bar: the last row straight down, the rows above along the right side."""
    lines: list[tuple[Point, ...]] = []
    dots: list[Point] = []
    spine = frame.right - SPINE_INSET
    for rail, row in canvas.rails:
        starts = [point for card in row for point in _bottoms(card)]
        is_last = rail == canvas.rails[-1][0]
        end = bar_y if is_last else rail
        lines += [((x, y), (x, end)) for x, y in starts]
        dots += [(x, end) for x, _ in starts]
        if not is_last:
            lines.append(((starts[0][0], rail), (spine, rail)))
    if len(canvas.rails) > 1:
        lines.append(((spine, canvas.rails[0][0]), (spine, bar_y)))
        dots.append((spine, bar_y))
    return tuple(lines), tuple(dots)
