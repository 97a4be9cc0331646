"""A trace as a still picture: the lab with the packet's way on it. Needs nothing else; light or dark as one prefers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace

from netlab.graph.layout import MARGIN
from netlab.graph.spots import Spot
from netlab.graph.style import Type, text_width
from netlab.store.store import Snapshot
from netlab.topology.model import Topology
from netlab.trace.correlate import Role
from netlab.trace.model import Trace, Verdict
from netlab.trace.render.picture import (
    BACK,
    BACK_SHIFT,
    THERE,
    Picture,
    Pill,
    lay_out,
    legs,
    make_picture,
    path,
    pills,
    rows,
    shifted,
)
from netlab.trace.render.views import View, views


def as_svg(trace: Trace, topology: Topology, snapshot: Snapshot, *, both_ways: bool) -> str:
    """Return the picture of a trace; `both_ways`: the answer's way too."""
    picture = make_picture(trace, topology, snapshot)
    title, _, how = trace.question.partition(" (")
    columns = (picture.layout.width - 2 * MARGIN) // text_width("m", Type.FACT)
    words = [how.rstrip(")"), *(picture.scene.facts if _is_part(picture, topology) else ())]
    ended = str(trace.verdict)
    words.append(trace.summary if trace.summary.startswith(ended) else f"{ended}: {trace.summary}")
    facts = tuple(line for fact in words for line in textwrap.wrap(fact, columns))
    picture = lay_out(replace(picture.scene, name=title, facts=facts))
    wanted = _wanted(trace, both_ways=both_ways)
    shown = [view for view in views(trace) if view.role in wanted and not view.is_copy]
    return picture.draw(_over(shown, picture), cropped=False)


def _is_part(picture: Picture, topology: Topology) -> bool:
    return len(picture.scene.nodes) < len(topology.nodes)


def _wanted(trace: Trace, *, both_ways: bool) -> set[Role]:
    """Return which ways to draw: a fragment goes as the packet itself does."""
    if both_ways:
        return {Role.PROBE, Role.ANSWER, Role.ERROR}
    return {Role.PROBE} if trace.verdict is Verdict.ANSWERED else {Role.PROBE, Role.ERROR}


def _over(shown: Iterable[View], picture: Picture) -> Iterator[str]:
    """Yield the lines of all ways first, then their numbers, which go on from one way to the next."""
    written: dict[Spot, list[Pill]] = {}
    first = 0
    for view in shown:
        css_class, by = (BACK, BACK_SHIFT) if view.is_back else (THERE, 0)
        for _, points in legs(view, picture):
            yield f'<path class="leg {css_class}" d="{path(shifted(points, by))}"/>'
        for spot, pill in rows(view, picture, first=first).items():
            written.setdefault(spot, []).append(pill)
        first += len(view.hops)
    yield from pills(written)
