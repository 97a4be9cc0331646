"""A packet's way drawn over a picture of the lab: a line from spot to spot, numbered, a cross where it was dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netlab.graph.card import Rect
from netlab.graph.layout import MARGIN, Layout, Point, arrange
from netlab.graph.scene import Scene, compose
from netlab.graph.spots import POD_GAP, Spot, Spots, find_spots, leg
from netlab.graph.style import SANS
from netlab.graph.svg import draw, escape_text
from netlab.store.store import Snapshot
from netlab.topology.model import Topology
from netlab.trace.model import UNDERLAY, Event, Hop, Trace
from netlab.trace.render.views import View, focus

PILL_HEIGHT, PILL_PAD, PILL_GAP, DIGIT = 16, 5, 2, 6.6
CROSS = 12  # how much wider a pill with a cross is
LEFTMOST = 6
THERE, BACK, DROP = "there", "back", "drop"  # classes of what is drawn
BACK_SHIFT = 4  # pixels between the ways there and back where both are drawn
CROP_X, CROP_Y = 28, 14  # how much margin is left

LIGHT = {THERE: "#c2410c", BACK: "#be185d", DROP: "#b91c1c", "good": "#1b7a62", "on": "#ffffff"}
DARK = {THERE: "#fb923c", BACK: "#f472b6", DROP: "#f87171", "good": "#5cb8a0", "on": "#1c1007"}


@dataclass(frozen=True, slots=True)
class Pill:
    """What is written at a spot: which hops are there. `kind`: THERE, BACK or DROP, which has a cross too."""

    steps: tuple[int, ...]
    text: str
    kind: str
    title: str

    @property
    def width(self) -> int:
        """Return its width in pixels."""
        mark = CROSS if self.kind == DROP else 0
        return max(PILL_HEIGHT, round(len(self.text) * DIGIT) + 2 * PILL_PAD + mark)


@dataclass(frozen=True, slots=True)
class Picture:
    """A lab laid out for a trace, and where its interfaces are."""

    scene: Scene
    layout: Layout
    spots: Spots

    def spot(self, hop: Hop) -> Spot | None:
        """Return where a hop is; None where its member is not drawn."""
        return self.spots.find(hop.member, hop.device)

    def draw(self, over: Iterable[str], *, cropped: bool) -> str:
        """Return it as SVG with a trace drawn over it; `cropped`: without its heading and most of its margin."""
        return draw(self.scene, self.layout, over=over, css=stylesheet(), view=self.view(cropped=cropped))

    def view(self, *, cropped: bool) -> Rect:
        """Return the part that is drawn."""
        layout = self.layout
        top = layout.segments[0].rect.y - CROP_Y if layout.segments and cropped else 0
        left, below = (MARGIN - CROP_X, MARGIN - CROP_Y) if cropped else (0, 0)
        return Rect(left, top, layout.width - 2 * left, layout.height - top - below)


def make_picture(trace: Trace, topology: Topology, snapshot: Snapshot) -> Picture:
    """Lay out the part of a lab that a trace is about."""
    return lay_out(focus(compose(topology, snapshot), trace))


def lay_out(scene: Scene) -> Picture:
    """Lay out a scene with room for a packet's way."""
    layout = arrange(scene, POD_GAP)
    return Picture(scene, layout, find_spots(layout, UNDERLAY))


# --- a way -----------------------------------------------------------------------------------------------------------


def legs(view: View, picture: Picture) -> Iterator[tuple[int, tuple[Point, ...]]]:
    """Yield the line to each hop from the one before, by the hop's position; nothing where it stays in its place."""
    former = picture.spot(view.follows) if view.follows else None
    for step, hop in enumerate(view.hops):
        spot = picture.spot(hop)
        if spot and former and len(points := leg(former, spot)) > 1:
            yield step, points
        former = spot or former


def path(points: Sequence[Point]) -> str:
    """Return a line as the value of an SVG path's `d`."""
    return f"M{'L'.join(f'{x} {y}' for x, y in points)}"


def labels(view: View, picture: Picture) -> dict[Spot, list[int]]:
    """Return which hops are at each spot, by their numbers from 1 on."""
    found: dict[Spot, list[int]] = {}
    for number, hop in enumerate(view.hops, start=1):
        if spot := picture.spot(hop):
            found.setdefault(spot, []).append(number)
    return found


def numbers(steps: Sequence[int]) -> str:
    """Return numbers shortly: 13-14 for those in a row, commas between the rest."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"{run[0]}\N{EN DASH}{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def pills(written: Mapping[Spot, Sequence[Pill]]) -> Iterator[str]:
    """Draw what is written at each spot: side by side, or one below the other where the room is at the left."""
    for spot, row in written.items():
        x, y = spot.at[0] - PILL_HEIGHT // 2, spot.at[1]
        for number, pill in enumerate(row):
            if spot.leftward:
                left = max(LEFTMOST, x + PILL_HEIGHT - pill.width)
                yield _pill(pill, left, y + number * (PILL_HEIGHT + 1))
            else:
                yield _pill(pill, x, y)
                x += pill.width + PILL_GAP


def _pill(pill: Pill, left: int, y: int) -> str:
    middle = left + (pill.width - (CROSS - 2 if pill.kind == DROP else 0)) / 2
    right = left + pill.width
    mark = f'<path d="M{right - 13} {y - 3}l7 7m0-7l-7 7"/>' if pill.kind == DROP else ""
    steps = " ".join(map(str, pill.steps))
    return (
        f'<g class="pill {pill.kind}" data-steps="{steps}"><title>{escape_text(pill.title)}</title>'
        f'<rect x="{left}" y="{y - PILL_HEIGHT // 2}" width="{pill.width}" height="{PILL_HEIGHT}" rx="8"/>'
        f'<text x="{middle:g}" y="{y + 4}">{escape_text(pill.text)}</text>{mark}</g>'
    )


def rows(view: View, picture: Picture, *, first: int = 0) -> dict[Spot, Pill]:
    """Return what is to be written at each spot: numbers, and a cross where the packet was dropped."""
    last = view.hops[-1]
    end = picture.spot(last) if last.event is Event.DROPPED else None
    found = {}
    for spot, steps in labels(view, picture).items():
        kind = DROP if spot == end else BACK if view.is_back else THERE
        found[spot] = Pill(tuple(steps), numbers([first + step for step in steps]), kind, tooltip(view, steps))
    return found


def shifted(points: Sequence[Point], by: int) -> tuple[Point, ...]:
    """Return a line moved to the right and down, to go beside another."""
    return tuple((x + by, y + by) for x, y in points)


def tooltip(view: View, steps: Sequence[int]) -> str:
    """Say what is at a spot."""
    hops = ((number, view.hops[number - 1]) for number in steps)
    return "\n".join(f"{number}. {hop.event} {hop.device or '-'} on {hop.member or 'outside'}" for number, hop in hops)


# --- its looks -------------------------------------------------------------------------------------------------------


def stylesheet() -> str:
    """Return the rules for what is drawn over a picture."""
    shapes = (
        ".netlab .leg{fill:none;stroke-width:3;stroke-linejoin:round;stroke-linecap:round}\n"
        f".netlab .pill text{{font:600 11px {SANS};text-anchor:middle}}\n"
        ".netlab .pill path{stroke-width:2.5;stroke-linecap:round}\n"
    )
    return f"{shapes}{_colours(LIGHT)}@media (prefers-color-scheme:dark){{\n{_colours(DARK)}}}\n"


def _colours(of: Mapping[str, str]) -> str:
    return (
        f".netlab .leg{{stroke:{of[THERE]}}}\n"
        f".netlab .leg.{BACK}{{stroke:{of[BACK]};stroke-dasharray:7 4}}\n"
        f".netlab .pill rect{{fill:{of[THERE]};stroke:{of['on']}}}\n"
        f".netlab .pill.{BACK} rect{{fill:{of[BACK]}}}\n"
        f".netlab .pill.{DROP} rect{{fill:{of[DROP]}}}\n"
        f".netlab .pill text{{fill:{of['on']}}}\n"
        f".netlab .pill path{{stroke:{of['on']}}}\n"
    )
