"""Draw a scene as a Mermaid flowchart, which GitHub and most documentation tools show as a picture.

Identifiers are numbered, because names such as `end` mean something to Mermaid; labels carry the names. A small lab
shows each node's interfaces and pods. A large one shows one box per node, in rows kept apart by invisible links
(`~~~`); a hundred nodes stay well below Mermaid's limits of 500 links and 50,000 characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from netlab.graph.scene import Detail, Interface, NodeBox, PodBox, Scene, SegmentBar
from netlab.graph.style import LIGHT

COLUMNS = 10  # of a large segment


def _look(fill: str, stroke: str) -> str:
    """Style a box. The text's colour is set as well, so that it can be read on a dark page too."""
    return f"fill:{fill},stroke:{stroke},color:{LIGHT.text}"


_UNDERLAY = _look(LIGHT.underlay_fill, LIGHT.underlay)
_MACHINE = _look(LIGHT.card, LIGHT.edge)
_DASHED = ",stroke-dasharray:5 4"


def render(scene: Scene) -> str:
    """Return the picture as Mermaid text."""
    draw_segment = _segment if scene.detail is Detail.FULL else _compact_segment
    numbers = {node.name: number for number, node in enumerate(scene.nodes)}
    lines = [
        "---",
        f"title: {_quoted(scene.name)}",
        "---",
        "flowchart TB",
        *(line for index, segment in enumerate(scene.segments) for line in draw_segment(index, segment, numbers)),
        *_routers(scene),
        *_overlay(scene),
        *_classes(),
    ]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Write text so that neither Mermaid nor HTML sees anything in it: `#quot;` is Mermaid's own kind of entity."""
    entities = {"#": "#35;", "&": "#amp;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "`": "#96;", "\\": "#92;"}
    return "".join(entities.get(char, char if char.isprintable() else " ") for char in text)


def _label(name: str, lines: Iterable[str] = ()) -> str:
    return f'"{"<br/>".join([f"<b>{_text(name)}</b>", *(_text(line) for line in lines)])}"'


def _quoted(text: str) -> str:
    """Write text as a YAML string, for the front matter."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(char if char.isprintable() else " " for char in escaped)}"'


def _segment(index: int, segment: SegmentBar, numbers: Mapping[str, int]) -> Iterator[str]:
    yield f"  segment{index}[{_label(segment.name, segment.facts)}]:::underlay"
    for node in segment.nodes:
        yield from _node(node, numbers[node.name])
        yield f"  segment{index} --- node{numbers[node.name]}"


def _node(node: NodeBox, number: int) -> Iterator[str]:
    """Draw a node as a frame. Its title stays one line: Mermaid leaves no room for a second."""
    yield f"  subgraph node{number}[{_label(node.name if node.bridge else f'{node.name} (external)')}]"
    yield "    direction TB"
    yield f"    uplink{number}[{_interface(node.uplink)}]:::underlay"
    if node.bridge:
        cidrs = (f"podCIDR {cidr}" for cidr in node.pod_cidrs)
        lines = (*node.bridge.addresses, *cidrs, f"MTU {node.pod_mtu}")
        yield f"    bridge{number}[{_label(node.bridge.name, lines)}]:::bridge"
        yield f"    uplink{number} --- bridge{number}"
    for index, tunnel in enumerate(node.tunnels):
        yield f"    tunnel{number}_{index}[{_interface(tunnel)}]:::overlay"
    for index, pod in enumerate(node.pods):
        yield from _pod(pod, f"pod{number}_{index}", f"bridge{number}")
    yield "  end"
    yield f"  style node{number} {_MACHINE}"


def _interface(interface: Interface) -> str:
    return _label(interface.name, interface.addresses)


def _pod(pod: PodBox, identifier: str, bridge: str) -> Iterator[str]:
    if pod.host_network:
        yield f"    {identifier}({_label(pod.name, ['hostNetwork'])}):::shared"
    else:
        yield f"    {identifier}({_label(pod.name, pod.addresses)}):::pod"
        yield f"    {bridge} --- {identifier}"


def _compact_segment(index: int, segment: SegmentBar, numbers: Mapping[str, int]) -> Iterator[str]:
    """Draw a segment as a frame around its nodes, in columns."""
    yield f"  subgraph segment{index}[{_label(segment.name + '  ' + '  '.join(segment.facts))}]"
    yield "    direction TB"
    for node in segment.nodes:
        lines = (*node.uplink.addresses, *node.pod_cidrs, node.summary)
        yield f"    node{numbers[node.name]}[{_label(node.name, lines)}]:::machine"
    for above, below in zip(segment.nodes, segment.nodes[COLUMNS:], strict=False):
        yield f"    node{numbers[above.name]} ~~~ node{numbers[below.name]}"
    yield "  end"
    yield f"  style segment{index} {_UNDERLAY}"
    if index:
        yield f"  segment{index - 1} ~~~ segment{index}"


def _routers(scene: Scene) -> Iterator[str]:
    for number, router in enumerate(scene.routers):
        lines = [f"{port.interface.name} {address}" for port in router.ports for address in port.interface.addresses]
        yield f"  router{number}{{{{{_label(router.name, lines)}}}}}:::machine"
        first, *others = (f"segment{index}" for index in router.segments)
        yield f"  {first} --- router{number}"
        yield from (f"  router{number} --- {segment}" for segment in others)


def _overlay(scene: Scene) -> Iterator[str]:
    """Draw the overlay as one box that every tunnel reaches: lines from each to each are unreadable from five on."""
    overlay = scene.overlay
    yield f"  overlay({_label(overlay.name, overlay.facts)}):::{'overlay' if overlay.tunnelled else 'machine'}"
    if scene.detail is Detail.COMPACT:
        if overlay.tunnelled:
            yield from (f"  segment{index} -.- overlay" for index, _ in enumerate(scene.segments))
        return
    for number, node in enumerate(scene.nodes):
        yield from (f"  tunnel{number}_{index} -.- overlay" for index, _ in enumerate(node.tunnels))


def _classes() -> Iterator[str]:
    for name, look in (
        ("underlay", _UNDERLAY),
        ("machine", _MACHINE),
        ("bridge", _look(LIGHT.bridge_fill, LIGHT.bridge)),
        ("overlay", _look(LIGHT.overlay_fill, LIGHT.overlay) + _DASHED),
        ("pod", _look(LIGHT.canvas, LIGHT.edge)),
        ("shared", _look(LIGHT.canvas, LIGHT.muted) + _DASHED),
    ):
        yield f"  classDef {name} {look}"
