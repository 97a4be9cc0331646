"""A trace as lines for a terminal. Pure; `style` colours what stands out, or does nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

from netlab.trace.changes import describe
from netlab.trace.correlate import Role
from netlab.trace.model import Cause, Event, Hop, Source, Trace, Verdict, Way

Style = Callable[[str, str], str]  # text, what it is -> text
Detail = Callable[[Hop], Iterable[tuple[str, Sequence[str]]]]  # the names of a packet's layers, and their fields

TITLES = {Role.PROBE: "there", Role.FRAGMENT: "a fragment", Role.ANSWER: "back", Role.ERROR: "back, an ICMP error"}
ARROWS = {Event.IN: "in", Event.OUT: "out", Event.DROPPED: "DROP", Event.DELIVERED: "end"}
GOOD = (Verdict.ANSWERED, Verdict.DELIVERED)
NARROWEST = 60
LOOKED_UP = "~"  # in front of what was asked for afterwards


def plain(text: str, what: str) -> str:
    """Leave text as it is."""
    return text


def nothing(hop: Hop) -> Iterable[tuple[str, Sequence[str]]]:
    """Say no more of a packet than is said anyway."""
    return ()


def tree(trace: Trace, *, width: int, both_ways: bool, style: Style = plain, detail: Detail = nothing) -> Iterator[str]:
    """Yield the lines of a trace, none longer than `width` but for single words.

    `detail` is asked for the layers of each packet as it was sent, and again where it was changed.
    """
    width = max(width, NARROWEST)
    yield from _wrap(trace.question, width, "", lambda text: style(text, "title"))
    shown = {Role.PROBE, Role.FRAGMENT} | (set(Role) if both_ways else set())
    for way in trace.ways:
        if way.role in shown or (_is_part_of_fault(way) and trace.verdict is not Verdict.ANSWERED):
            yield ""
            yield from _way(way, width, style, detail, timed=trace.began > 0)
    yield ""
    yield from _wrap(f"{trace.verdict}: {trace.summary}", width, "", lambda text: style(text, _mood(trace)))
    for way in trace.ways:
        if way.drop and (way.role is Role.PROBE or (way.role is Role.ANSWER and trace.verdict is not Verdict.ANSWERED)):
            at = f" in {way.drop.place}" if way.drop.place else ""
            yield from _wrap(f"the kernel's reason: {way.drop.reason}{at}", width, "  ", lambda text: text)
            for command in way.drop.hint.split("; "):
                yield from _wrap(f"look at: {command}", width, "  ", lambda text: text)
    aside = f"seen by {trace.seen_by}; {LOOKED_UP} was looked up afterwards" if trace.began else trace.seen_by
    yield from _wrap(aside, width, "", lambda text: style(text, "aside"))
    for remark in trace.remarks:
        yield from _wrap(remark, width, "", lambda text: style(text, "aside"))


def _is_part_of_fault(way: Way) -> bool:
    """Say whether it is shown where a probe was not answered: an error that came back, an answer that did not."""
    return way.role is Role.ERROR or (way.role is Role.ANSWER and way.drop is not None)


def _mood(trace: Trace) -> str:
    return "good" if trace.verdict in GOOD else "bad"


def _way(way: Way, width: int, style: Style, detail: Detail, *, timed: bool) -> Iterator[str]:
    title = f"{TITLES.get(way.role, way.role)}: {describe(way.hops[0].headers)}"
    yield from _wrap(title, width, "", lambda text: style(text, "way"))
    yield from _hops(way.hops, "", width, style, detail, timed=timed)
    for copy in way.copies:
        yield style("  a copy of it:", "aside")
        yield from _hops(copy, "  ", width, style, nothing, timed=timed)


def _hops(hops: Sequence[Hop], indent: str, width: int, style: Style, detail: Detail, *, timed: bool) -> Iterator[str]:
    member = None
    for hop in hops:
        if hop.member != member:
            member = hop.member
            yield f"{indent}{style(member or 'outside the lab', 'member')}"
        time = f"{hop.time / 1000:8.1f} us" if timed else " " * len("   123.4 us")
        event = style(f"{ARROWS[hop.event]:4}", "bad" if hop.event is Event.DROPPED else "event")
        yield f"{indent}{time}  {event} {style(hop.device or '-', 'device')}"
        for change in hop.changes:
            yield from _wrap(change, width, f"{indent}{'':13}* ", lambda text: style(text, "change"))
        for cause in hop.causes:
            yield from _wrap(_cause(cause, timed=timed), width, f"{indent}{'':13}", lambda text: style(text, "cause"))
        if hop is hops[0] or hop.changes:
            for name, fields in detail(hop):
                text = " ".join((f"{name}:", *fields))
                yield from _wrap(text, width, f"{indent}{'':13}| ", lambda text: style(text, "aside"))


def _cause(cause: Cause, *, timed: bool) -> str:
    mark = LOOKED_UP if timed and cause.source is Source.LOOKED_UP else ""
    origin = f"  ({cause.origin})" if cause.origin else ""
    return f"{mark}{cause.topic} {cause.text}{origin}"


def _wrap(text: str, width: int, indent: str, paint: Callable[[str], str]) -> Iterator[str]:
    lines = textwrap.wrap(
        text,
        width - len(indent),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for number, line in enumerate(lines):
        yield (indent if number == 0 else " " * len(indent)) + paint(line)
