"""Pictures of a lab: a topology and its allocations become Mermaid, Graphviz dot or SVG text. Pure.

Read `scene` first (what is shown), then a renderer: `mermaid`, `dot`, or `svg` with its `layout`, `card` and `style`.
"""

from __future__ import annotations

from enum import StrEnum

from netlab.graph import dot, mermaid, svg
from netlab.graph.scene import compose
from netlab.store.store import Snapshot
from netlab.topology.model import Topology


class GraphFormat(StrEnum):
    """What `netlab graph` can write."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


def render(topology: Topology, snapshot: Snapshot, kind: GraphFormat) -> str:
    """Draw a lab. The same topology and snapshot always give the same text."""
    scene = compose(topology, snapshot)
    match kind:
        case GraphFormat.MERMAID:
            return mermaid.render(scene)
        case GraphFormat.DOT:
            return dot.render(scene)
        case GraphFormat.SVG:
            return svg.render(scene)
