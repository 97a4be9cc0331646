"""Draw a scene as an SVG that needs nothing else: no fonts, no scripts; light or dark as the viewer prefers.

`layout` decides where everything goes, `style` how it looks; here both become text. Everything that is drawn carries a
tooltip (<title>) with its full name, because a long name may be shortened in the picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from netlab.graph.card import (
    CHIP_PAD,
    GAP,
    LINE,
    NAME_LINE,
    NAME_MAX,
    PAD,
    POD_NAME_MAX,
    Card,
    Chip,
    PlacedPod,
    Rect,
    cidr_lines,
    compact_lines,
    mtu_text,
    pod_lines,
)
from netlab.graph.layout import (
    BAR_NAME_MAX,
    BAR_PAD,
    FACT_GAP,
    FACT_LINE,
    HEADING,
    MARGIN,
    ROUTER_NAME_MAX,
    Bar,
    Layout,
    PlacedRouter,
    Point,
    arrange,
    router_lines,
)
from netlab.graph.scene import Detail, NodeBox, PodBox, Scene
from netlab.graph.style import Type, shorten, stylesheet, text_width
from netlab.topology.model import Role

_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")  # XML 1.0, section 2.2


def render(scene: Scene) -> str:
    """Return the picture as an SVG document."""
    return draw(scene, arrange(scene))


def draw(scene: Scene, layout: Layout, *, over: Iterable[str] = (), css: str = "", view: Rect | None = None) -> str:
    """Return a picture that is laid out, with elements drawn over it and the rules for those; `view`: only a part."""
    view = view or Rect(0, 0, layout.width, layout.height)
    x, y, w, h = view.x, view.y, view.w, view.h
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="netlab" width="{w}" height="{h}" viewBox="{x} {y} {w} {h}"'
        f' role="img" aria-label="{escape_text(f"netlab lab {scene.name}")}">',
        f"<style>\n{stylesheet()}{css}</style>",
        _rect(Rect(x, y, w, h), "canvas"),
        *(_heading(scene, layout) if y == 0 else ()),
        *(_line(points, "wire") for points in layout.wires),
        *(_line(points, "tunnel") for points in layout.tunnels),
        *(line for bar in layout.segments for line in _bar(bar, "underlay")),
        *_bar(layout.overlay, "overlay" if scene.overlay.tunnelled else "card"),
        *(line for router in layout.routers for line in _router(router, scene)),
        *(line for card in layout.cards for line in _card(card, scene.detail)),
        *(_dot(point, "dot") for point in layout.wire_dots),
        *(_dot(point, "tunnel-dot") for point in layout.tunnel_dots),
        *over,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def escape_text(text: str) -> str:
    """Return a text as XML: what XML cannot say at all is replaced."""
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))


def _rect(rect: Rect, css_class: str, radius: int = 0) -> str:
    rounded = f' rx="{radius}"' if radius else ""
    return f'<rect class="{css_class}" x="{rect.x}" y="{rect.y}" width="{rect.w}" height="{rect.h}"{rounded}/>'


def _text(x: int, y: int, text: str, css_class: str) -> str:
    return f'<text class="{css_class}" x="{x}" y="{y}">{escape_text(text)}</text>'


def _line(points: Sequence[Point], css_class: str) -> str:
    return f'<path class="{css_class}" d="M{" L".join(f"{x} {y}" for x, y in points)}"/>'


def _dot(point: Point, css_class: str) -> str:
    return f'<circle class="{css_class}" cx="{point[0]}" cy="{point[1]}" r="3.5"/>'


def _titled(title: str, parts: Iterable[str]) -> Iterator[str]:
    """Wrap what is drawn into a group with a tooltip."""
    yield f"<g><title>{escape_text(title)}</title>"
    yield from parts
    yield "</g>"


def _facts(x: int, y: int, facts: Iterable[str]) -> Iterator[str]:
    for fact in facts:
        yield _text(x, y, fact, "fact muted")
        x += text_width(fact, Type.FACT) + FACT_GAP


def _lines(x: int, y: int, lines: Iterable[str], css_class: str = "small muted") -> Iterator[str]:
    """Write lines under the baseline `y`."""
    for number, line in enumerate(lines, start=1):
        yield _text(x, y + LINE * number, line, css_class)


def _heading(scene: Scene, layout: Layout) -> Iterator[str]:
    yield _text(MARGIN, MARGIN + 16, shorten(scene.name, Type.TITLE, layout.width - 2 * MARGIN), "title")
    for number, line in enumerate(layout.facts):
        yield from _facts(MARGIN, MARGIN + HEADING + 12 + number * FACT_LINE, line)


def _bar(bar: Bar, css_class: str) -> Iterator[str]:
    subject, rect = bar.subject, bar.rect
    baseline = rect.y + rect.h // 2 + 5
    name = shorten(subject.name, Type.NAME, BAR_NAME_MAX)
    parts = [
        _rect(rect, css_class, 8),
        _text(rect.x + BAR_PAD, baseline, name, "name"),
        *_facts(rect.x + BAR_PAD + text_width(name, Type.NAME) + FACT_GAP, baseline, subject.facts),
        _text(rect.right - BAR_PAD, baseline, subject.kind, "small muted end"),
    ]
    return _titled("\n".join([f"{subject.kind}: {subject.name}", *subject.facts]), parts)


def _router(placed: PlacedRouter, scene: Scene) -> Iterator[str]:
    router, rect = placed.router, placed.rect
    ports = (f"{port.interface.name} in {scene.segments[port.segment].name}" for port in router.ports)
    parts = [
        _rect(rect, "card", 8),
        _text(rect.x + PAD, rect.y + NAME_LINE, shorten(router.name, Type.NAME, ROUTER_NAME_MAX), "name"),
        _text(rect.right - PAD, rect.y + NAME_LINE, "router", "small muted end"),
        *_lines(rect.x + PAD, rect.y + NAME_LINE + 1, router_lines(router)),
    ]
    return _titled("\n".join([f"router {router.name}", *ports]), parts)


def _card(card: Card, detail: Detail) -> Iterator[str]:
    parts = _full(card) if detail is Detail.FULL else _compact(card)
    return _titled(_node_title(card.node), parts)


def _node_title(node: NodeBox) -> str:
    interfaces = [node.uplink, *([node.bridge] if node.bridge else []), *node.tunnels]
    kind = "node" if node.role is Role.CLUSTER else "external node"
    return "\n".join(
        [
            f"{kind} {node.name}",
            *cidr_lines(node),
            *(" ".join([interface.name, *interface.addresses]) for interface in interfaces),
            *([node.summary] if node.bridge else []),
        ]
    )


def _compact(card: Card) -> Iterator[str]:
    node, rect = card.node, card.rect
    room = rect.w - 2 * PAD - text_width(node.summary, Type.SMALL)
    yield _rect(rect, "card", 8)
    yield _text(rect.x + PAD, card.name_y, shorten(node.name, Type.POD, min(room, POD_NAME_MAX)), "pod-name")
    yield _text(rect.right - PAD, card.name_y, node.summary, "small muted end")
    yield from _lines(rect.x + PAD, card.name_y, compact_lines(node))
    for placed in card.pods:
        css_class = "square shared" if placed.pod.host_network else "square bridge"
        yield from _titled(_pod_title(placed.pod), [_rect(placed.rect, css_class, 2)])


def _full(card: Card) -> Iterator[str]:
    node, rect = card.node, card.rect
    yield _rect(rect, "card", 10)
    yield _text(rect.x + PAD, card.name_y, shorten(node.name, Type.NAME, NAME_MAX), "name")
    if node.role is Role.EXTERNAL:
        yield _text(rect.right - PAD, card.name_y, "external", "small muted end")
    yield from _lines(rect.x + PAD, card.name_y + 2, cidr_lines(node))
    if card.uplink:
        yield from _chip(card.uplink, "underlay")
    if card.bridge:
        yield from _chip(card.bridge, "bridge")
        yield _text(card.bridge.rect.right - CHIP_PAD, card.bridge.rect.y + LINE, mtu_text(node), "small muted end")
    for tunnel in card.tunnels:
        yield from _chip(tunnel, "overlay")
    for placed in card.pods:
        yield from _pod(placed)


def _chip(chip: Chip, css_class: str) -> Iterator[str]:
    rect = chip.rect
    yield _rect(rect, css_class, 6)
    yield _text(rect.x + CHIP_PAD, rect.y + LINE, chip.interface.name, "pod-name")
    yield from _lines(rect.x + chip.indent, rect.y, chip.interface.addresses, "small")


def _pod(placed: PlacedPod) -> Iterator[str]:
    pod, rect = placed.pod, placed.rect
    parts = [
        _rect(rect, "shared" if pod.host_network else "pod", 6),
        _text(rect.x + CHIP_PAD, rect.y + GAP + 12, shorten(pod.name, Type.POD, rect.w - 2 * CHIP_PAD), "pod-name"),
        *_lines(rect.x + CHIP_PAD, rect.y + GAP + 12, pod_lines(pod)),
    ]
    return _titled(_pod_title(pod), parts)


def _pod_title(pod: PodBox) -> str:
    return "\n".join([f"pod {pod.name}", *pod_lines(pod), *pod.labels])
