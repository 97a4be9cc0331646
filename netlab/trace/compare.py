"""Where a packet went another way than the tables say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netlab.trace.explain import EVENTS
from netlab.trace.layout import Kind
from netlab.trace.model import Event, Hop
from netlab.trace.predict import Prediction
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Tables


def differences(
    hops: Sequence[Hop], expected: Prediction, members: Mapping[str, str], tables: Mapping[str, Tables]
) -> tuple[str, ...]:
    """Say where the way of a packet leaves the one that was expected; nothing when it does not.

    A TUN that no packet goes out by is no difference: programs in the kernel may carry what it would.
    """
    seen = [hop for hop in hops if hop.event in (Event.IN, Event.OUT)]
    wanted = [one for one in expected.steps if one.kind in (Kind.IN, Kind.OUT)]
    went = {(hop.namespace, hop.device, hop.event) for hop in seen}
    wanted = [one for one in wanted if _place(one) in went or not _is_tun(one, tables)]
    for number, hop in enumerate(seen):
        if number == len(wanted):
            end = expected.end or "it would have ended there"
            return (f"by the tables it goes no further than {_before(seen, number)}: {end}",)
        if _place(wanted[number]) != (hop.namespace, hop.device, hop.event):
            return (f"by the tables it goes {_words(wanted[number], members)}, after {_before(seen, number)}",)
    if len(wanted) > len(seen) and expected.arrives:
        following = _words(wanted[len(seen)], members)
        return (f"by the tables it would have gone on: {following}, and come to {_home(expected, members)}",)
    return ()


def _place(one: Sighting) -> tuple[str, str, Event]:
    return one.namespace, one.device, EVENTS[one.kind]


def _is_tun(one: Sighting, tables: Mapping[str, Tables]) -> bool:
    known = tables.get(one.namespace)
    device = known.device(one.device) if known else None
    return device is not None and device.kind == "tun" and one.kind is Kind.OUT


def _words(one: Sighting, members: Mapping[str, str]) -> str:
    return f"{EVENTS[one.kind]} by {one.device} of {members.get(one.namespace, one.namespace)}"


def _before(seen: Sequence[Hop], number: int) -> str:
    return f"{seen[number - 1].device} of {seen[number - 1].member}" if number else "its sender"


def _home(expected: Prediction, members: Mapping[str, str]) -> str:
    last = expected.steps[-1].namespace
    return members.get(last, last)
