"""Draw a scene in Graphviz's dot language: `dot -Tpng` turns it into a picture.

A node is one HTML-like table with its interfaces as ports, so that Graphviz places machines and netlab what is in them.
In a large lab a segment is one table of its nodes: Graphviz would put a hundred of them into one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from netlab.graph.scene import Detail, Interface, NodeBox, PodBox, Scene, SegmentBar
from netlab.graph.style import LIGHT
from netlab.topology.model import Role

COLUMNS = 10  # of nodes, in a large segment
POD_COLUMNS = 3

_HEADER = f"""\
  graph [rankdir=TB, nodesep=0.4, ranksep=0.5, labelloc=t, fontname="Helvetica", fontsize=18, bgcolor="{LIGHT.canvas}"]
  node [shape=plain, fontname="Helvetica", fontsize=11, fontcolor="{LIGHT.text}"]
  edge [color="{LIGHT.underlay}"]"""


def render(scene: Scene) -> str:
    """Return the picture as dot text."""
    lines = [
        f"graph {_quoted(scene.name)} {{",
        _HEADER,
        f"  label={_quoted(scene.name)}",
        *(_full(scene) if scene.detail is Detail.FULL else _compact(scene)),
        *_routers(scene),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Write text as a quoted dot string, in which a backslash begins an escape."""
    escaped = _printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _text(text: str) -> str:
    return escape(_printable(text))


def _cell(lines: Iterable[str], *, fill: str, line: str, style: str = "rounded", port: str = "") -> str:
    """Return a table cell with a border: centred lines, the first in bold."""
    name, *others = lines
    text = "<br/>".join([f"<b>{_text(name)}</b>", *(_text(other) for other in others)])
    name_of_port = f'port="{port}" ' if port else ""
    return f'<td {name_of_port}bgcolor="{fill}" color="{line}" border="1" style="{style}" cellpadding="5">{text}</td>'


def _plain(lines: Sequence[str]) -> str:
    """Return a table cell without a border."""
    name, *others = (_text(line) for line in lines)
    return f'<td border="0">{"<br/>".join([f"<b>{name}</b>", *others])}</td>'


def _table(rows: Iterable[str], *, fill: str, line: str, style: str = "rounded") -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    look = f'border="1" cellborder="0" cellspacing="6" bgcolor="{fill}" color="{line}" style="{style}"'
    return f"<table {look}>{body}</table>"


def _grid(cells: Sequence[str], columns: int) -> str:
    """Return a table without a border that holds cells in rows."""
    rows = (cells[start : start + columns] for start in range(0, len(cells), columns))
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<table border="0" cellborder="0" cellspacing="6">{body}</table>'


def _interface(interface: Interface) -> list[str]:
    return [interface.name, *interface.addresses]


def _full(scene: Scene) -> Iterator[str]:
    numbers = {node.name: number for number, node in enumerate(scene.nodes)}
    for index, segment in enumerate(scene.segments):
        bar = _table([_plain([segment.name, *segment.facts])], fill=LIGHT.underlay_fill, line=LIGHT.underlay)
        yield f"  segment{index} [label=<{bar}>]"
        for node in segment.nodes:
            number = numbers[node.name]
            yield f"  node{number} [label=<{_node(node)}>]"
            yield f"  segment{index} -- node{number}:uplink:n [weight=8]"  # nearer than the overlay
            yield from (f"  node{number}:tunnel{at}:s -- overlay {_TUNNEL}" for at, _ in enumerate(node.tunnels))
    yield _overlay(scene)


_TUNNEL = f'[style=dashed, color="{LIGHT.overlay}"]'


def _overlay(scene: Scene) -> str:
    overlay = scene.overlay
    fill, line, style = (
        (LIGHT.overlay_fill, LIGHT.overlay, "rounded,dashed")
        if overlay.tunnelled
        else (LIGHT.card, LIGHT.edge, "rounded")
    )
    return f"  overlay [label=<{_table([_plain([overlay.name, *overlay.facts])], fill=fill, line=line, style=style)}>]"


def _node(node: NodeBox) -> str:
    """Return a node's table, from its underlay interface down to its tunnels."""
    title = [node.name, *(f"podCIDR {cidr}" for cidr in node.pod_cidrs)]
    if node.role is Role.EXTERNAL:
        title.append("external")
    rows = [
        _cell(_interface(node.uplink), fill=LIGHT.underlay_fill, line=LIGHT.underlay, port="uplink"),
        _plain(title),
    ]
    if node.host_network_pods:
        rows.append(f"<td>{_grid([_pod(pod) for pod in node.host_network_pods], POD_COLUMNS)}</td>")
    if node.bridge:
        bridge = [_plain([*_interface(node.bridge), f"MTU {node.pod_mtu}"])]
        if node.bridged_pods:
            bridge.append(f"<td>{_grid([_pod(pod) for pod in node.bridged_pods], POD_COLUMNS)}</td>")
        rows.append(f"<td>{_table(bridge, fill=LIGHT.bridge_fill, line=LIGHT.bridge)}</td>")
    tunnels = [_tunnel(tunnel, f"tunnel{index}") for index, tunnel in enumerate(node.tunnels)]
    if tunnels:
        rows.append(tunnels[0] if len(tunnels) == 1 else f"<td>{_grid(tunnels, len(tunnels))}</td>")
    return _table(rows, fill=LIGHT.card, line=LIGHT.edge)


def _tunnel(tunnel: Interface, port: str) -> str:
    look = "rounded,dashed"
    return _cell(_interface(tunnel), fill=LIGHT.overlay_fill, line=LIGHT.overlay, style=look, port=port)


def _pod(pod: PodBox) -> str:
    if pod.host_network:
        return _cell([pod.name, "hostNetwork"], fill=LIGHT.canvas, line=LIGHT.muted, style="rounded,dashed")
    return _cell([pod.name, *pod.addresses], fill=LIGHT.canvas, line=LIGHT.edge)


def _compact(scene: Scene) -> Iterator[str]:
    for index, segment in enumerate(scene.segments):
        yield f"  segment{index} [label=<{_compact_segment(segment)}>]"
        if any(node.tunnels for node in segment.nodes):
            yield f"  segment{index} -- overlay {_TUNNEL}"
    yield from (f"  segment{index} -- segment{index + 1} [style=invis]" for index in range(len(scene.segments) - 1))
    yield _overlay(scene)


def _compact_segment(segment: SegmentBar) -> str:
    cells = [
        _cell(
            [node.name, *node.uplink.addresses, *node.pod_cidrs, node.summary],
            fill=LIGHT.card,
            line=LIGHT.edge,
        )
        for node in segment.nodes
    ]
    rows = [_plain([segment.name, *segment.facts]), *([f"<td>{_grid(cells, COLUMNS)}</td>"] if cells else [])]
    return _table(rows, fill=LIGHT.underlay_fill, line=LIGHT.underlay)


def _routers(scene: Scene) -> Iterator[str]:
    """Draw the routers; the segments of a large lab already stand in a column, which their lines must not change."""
    style = " [constraint=false]" if scene.detail is Detail.COMPACT else ""
    for number, router in enumerate(scene.routers):
        lines = [f"{port.interface.name} {address}" for port in router.ports for address in port.interface.addresses]
        table = _table([_plain([router.name, "router", *lines])], fill=LIGHT.card, line=LIGHT.edge)
        yield f"  router{number} [label=<{table}>]"
        first, *others = (f"segment{index}" for index in router.segments)
        yield f"  {first} -- router{number}{style}"
        yield from (f"  router{number} -- {segment}{style}" for segment in others)
