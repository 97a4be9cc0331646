"""A trace as one HTML page that needs nothing else: the lab as a picture, the packet stepping along it, each hop. Pure.

All that is said stands in the page as HTML, so it is there without scripts too; page.js only shows one hop at a time.
Nothing is fetched, and no script runs but page.js: a policy in the page's head sees to that. What comes from names and
rules is text, and escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import groupby

from netlab.graph.style import DARK, LIGHT, MONO, SANS, Palette
from netlab.graph.svg import escape_text as esc
from netlab.store.store import Snapshot
from netlab.topology.model import Topology
from netlab.trace.changes import describe
from netlab.trace.model import Cause, Drop, Event, Hop, Source, Topic, Trace, Verdict
from netlab.trace.render import picture as drawn
from netlab.trace.render.layers import Field, Layer, layers
from netlab.trace.render.picture import BACK, THERE, Picture, legs, make_picture, path, pills, rows
from netlab.trace.render.views import View, owners, views

GOOD = (Verdict.ANSWERED, Verdict.DELIVERED)
EVENTS = {Event.IN: "in", Event.OUT: "out", Event.DROPPED: "drop", Event.DELIVERED: "end"}
SENTENCES = {
    Event.IN: "comes in by",
    Event.OUT: "goes out by",
    Event.DROPPED: "is dropped at",
    Event.DELIVERED: "is delivered from",
}


def as_page(trace: Trace, topology: Topology, snapshot: Snapshot) -> str:
    """Return the page of a trace."""
    shown = views(trace)
    picture = make_picture(trace, topology, snapshot)
    whose = owners(picture.scene)
    script = _part("page.js")
    blanks = {
        "title": esc(trace.question),
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_digest(script)}'",
        "style": _colours() + _part("page.css"),
        "script": script,
        "mood": "good" if trace.verdict in GOOD else "bad",
        "verdict": esc(trace.verdict),
        "summary": esc(trace.summary.removeprefix(f"{trace.verdict} ")),
        "lab": esc(trace.lab),
        "aside": "".join(f"<li>{esc(text)}</li>" for text in _aside(trace, picture, topology)),
        "picture": picture.draw(_over(shown, picture), cropped=True),
        "size": "--w:{0.w};--h:{0.h}".format(picture.view(cropped=True)),
        "ways": "".join(_tab(number, view) for number, view in enumerate(shown, start=1)),
        "steps": "".join(_steps(number, view) for number, view in enumerate(shown, start=1)),
        "hops": "".join(_details(number, view, picture, whose) for number, view in enumerate(shown, start=1)),
    }
    return _fill(_part("page.html"), blanks)


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text()


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _fill(template: str, blanks: Mapping[str, str]) -> str:
    """Fill in a template's {{blanks}}, each once, so that what is filled in is not looked at."""
    parts = template.split("{{")
    filled = [parts[0]]
    for part in parts[1:]:
        blank, _, rest = part.partition("}}")
        filled += [blanks[blank], rest]
    return "".join(filled)


def _colours() -> str:
    """Return the picture's colours as variables for the page's own rules."""
    return f":root{{{_variables(LIGHT, drawn.LIGHT)};--sans:{SANS};--mono:{MONO}}}\n" + (
        f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK, drawn.DARK)}}}}}\n"
    )


def _variables(palette: Palette, of: Mapping[str, str]) -> str:
    own = {name: getattr(palette, name) for name in ("canvas", "card", "edge", "text", "muted", "underlay")}
    return ";".join(f"--{name}:{value}" for name, value in {**own, **of}.items())


def _aside(trace: Trace, picture: Picture, topology: Topology) -> Iterator[str]:
    yield f"seen by {trace.seen_by}"
    yield from trace.remarks
    if len(picture.scene.nodes) < len(topology.nodes):
        yield f"the picture: {', '.join(picture.scene.facts)}"


# --- over the picture ------------------------------------------------------------------------------------------------


def _over(shown: Sequence[View], picture: Picture) -> Iterator[str]:
    """Yield each way's lines, the mark that moves along them, and each way's numbers."""
    for number, view in enumerate(shown, start=1):
        yield f'<g class="way" data-way="{number}">'
        for step, points in legs(view, picture):
            yield f'<path class="leg {BACK if view.is_back else THERE}" data-step="{step + 1}" d="{path(points)}"/>'
        yield "</g>"
    yield '<g class="packet"><circle r="7"/><circle r="13" class="ring"/><circle r="13" class="wave"/></g>'
    for number, view in enumerate(shown, start=1):
        yield f'<g class="way" data-way="{number}">'
        yield from pills({spot: [pill] for spot, pill in rows(view, picture).items()})
        yield "</g>"


# --- lists -----------------------------------------------------------------------------------------------------------


def _tab(number: int, view: View) -> str:
    return f'<button type="button" class="tab" data-way="{number}" aria-pressed="false">{esc(view.title)}</button>'


def _steps(number: int, view: View) -> str:
    """Return the list of a way's hops, by member."""
    parts = [
        f'<div class="steps" data-way="{number}"><h2>{esc(view.title)}</h2><p>{esc(describe(view.hops[0].headers))}'
    ]
    counted = enumerate(view.hops, start=1)
    for member, group in groupby(counted, key=lambda one: one[1].member):
        hops = list(group)
        parts.append(f'<h3>{esc(member or "outside the lab")}</h3><ol start="{hops[0][0]}">')
        parts += [_step(number, step, hop) for step, hop in hops]
        parts.append("</ol>")
    return "".join((*parts, "</div>"))


def _step(way: int, step: int, hop: Hop) -> str:
    event = EVENTS[hop.event]
    changes = "".join(f"<i>{esc(change)}</i>" for change in hop.changes)
    return (
        f'<li><a href="#hop-{way}-{step}"><b>{step}</b><span class="event {event}">{event}</span>'
        f'<span class="device">{esc(hop.device or "-")}</span><span class="time">{_time(hop.time)}</span>{changes}</a>'
    )


def _time(nanoseconds: int) -> str:
    return f"{nanoseconds / 1000:.1f} \N{MICRO SIGN}s"


# --- a hop -----------------------------------------------------------------------------------------------------------


def _details(way: int, view: View, picture: Picture, whose: Mapping[str, str]) -> str:
    return "".join(_hop(way, step, view, picture, whose) for step in range(len(view.hops)))


def _hop(way: int, step: int, view: View, picture: Picture, whose: Mapping[str, str]) -> str:
    hop, before = view.hops[step], view.before(step)
    spot = picture.spot(hop)
    at = f' data-at="{spot.at[0]} {spot.at[1]}"' if spot else ""
    place = f"<b>{esc(hop.device or '-')}</b> on <b>{esc(hop.member or 'a namespace outside the lab')}</b>"
    later = f", {_time(hop.time - before.time)} after the hop before" if before else ""
    drop = _drop(view.drop) if view.drop and step == len(view.hops) - 1 else ""
    changes = _changes(hop)
    back = " data-back" if view.is_back else ""
    why = _why(hop)
    return (
        f'<article id="hop-{way}-{step + 1}" data-way="{way}"{back}{at}>'
        f'<h2><span class="number">{step + 1}</span> {SENTENCES[hop.event]} {place}</h2>'
        f'<p class="when">{_time(hop.time)}{later} <code>{esc(hop.namespace)}</code></p>{drop}{changes}'
        f'<div class="columns{"" if why else " alone"}">'
        f"<section><h3>Headers, outer to inner</h3>{_layers(hop, before, whose)}</section>{why}</div></article>"
    )


def _changes(hop: Hop) -> str:
    listed = "".join(f"<li>{esc(one)}</li>" for one in hop.changes)
    return f'<ul class="changes">{listed}</ul>' if listed else ""


def _why(hop: Hop) -> str:
    causes = [cause for cause in hop.causes if cause.topic is not Topic.RULE]
    rules = [cause for cause in hop.causes if cause.topic is Topic.RULE]
    said = _causes("Why", causes) + _causes("Rules that it met", rules)
    return f"<section>{said}</section>" if said else ""


def _drop(drop: Drop) -> str:
    place = f" in <code>{esc(drop.place)}</code>" if drop.place else ""
    return (
        f'<div class="dropped"><p><strong>{esc(drop.sentence)}</strong></p>'
        f"<p>The kernel's reason: <code>{esc(drop.reason)}</code>{place}</p>"
        f"<p>Look at: <code>{esc(drop.hint)}</code></p></div>"
    )


def _layers(hop: Hop, before: Hop | None, whose: Mapping[str, str]) -> str:
    found, gone = layers(hop.headers, before.headers if before else None)
    parts = [f'<div class="layer gone"><h4>{esc(name)} <em>taken off</em></h4></div>' for name in gone]
    parts += [_layer(layer, depth, whose) for depth, layer in enumerate(found)]
    return "".join(parts) or "<p>none that is known</p>"


def _layer(layer: Layer, depth: int, whose: Mapping[str, str]) -> str:
    new = " <em>new</em>" if layer.is_new else ""
    fields = "".join(_field(field, whose) for field in layer.fields)
    css_class = "layer new" if layer.is_new else "layer"
    return f'<div class="{css_class}" style="--depth:{depth}"><h4>{esc(layer.name)}{new}</h4><dl>{fields}</dl></div>'


def _field(field: Field, whose: Mapping[str, str]) -> str:
    owner = f" <small>{esc(whose[field.value])}</small>" if field.value in whose else ""
    if field.was:
        value = f"<mark>{esc(field.value)}</mark>{owner} <small>was {esc(field.was)}</small>"
        return f'<div class="changed"><dt>{esc(field.name)}<dd>{value}</div>'
    return f"<div><dt>{esc(field.name)}<dd>{esc(field.value)}{owner}</div>"


def _causes(title: str, causes: Sequence[Cause]) -> str:
    if not causes:
        return ""
    return f'<h3>{title}</h3><ol class="causes">{"".join(_cause(cause) for cause in causes)}</ol>'


def _cause(cause: Cause) -> str:
    topic = "" if cause.topic is Topic.RULE else f'<span class="topic">{esc(cause.topic)}</span> '
    origin = f" <small>{esc(cause.origin)}</small>" if cause.origin else ""
    later = ' <span class="later">looked up afterwards</span>' if cause.source is Source.LOOKED_UP else ""
    return f"<li>{topic}<code>{esc(cause.text)}</code>{origin}{later}</li>"
