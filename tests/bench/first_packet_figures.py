"""The figures of `bench first-packet` and their tables. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.bench.report import Spread, ratio, spread, table

BARE = "bare"  # the node without rules
RANDOM, POD = "random", "pod"
PLACES = ("first", "middle", "last", POD)  # of the Service in the order in which rules are tried
RANKS = {"p50": 50, "p90": 90, "p99": 99}
RATE = "rate"  # connections per second
MICRO = 1e6


class Figure(NamedTuple):
    """One measurement: seconds, or connections per second. That of BARE has the place POD."""

    size: int  # services
    variant: str
    place: str
    metric: str
    turn: int
    value: float


def of(figures: Sequence[Figure], size: int, variant: str, place: str, metric: str) -> dict[int, float]:
    """Return a figure of each round; BARE has one place only."""
    wanted = (size, variant, POD if variant == BARE else place, metric)
    return {figure.turn: figure.value for figure in figures if figure[:4] == wanted}


def more(figures: Sequence[Figure], size: int, variant: str, place: str, metric: str) -> Spread:
    """Return by how much a figure is above that of BARE in the same round."""
    ours, theirs = (of(figures, size, who, place, metric) for who in (variant, BARE))
    return spread(ours[turn] - theirs[turn] for turn in ours)


def cases(figures: Sequence[Figure]) -> Iterator[tuple[str, int]]:
    """Yield variants with their sizes, in the order of the first figures of each."""
    for variant in dict.fromkeys(figure.variant for figure in figures):
        yield from ((variant, size) for size in sorted({one.size for one in figures if one.variant == variant}))


def first_table(figures: Sequence[Figure]) -> str:
    """Return the table of the first packet to a Service at random, in microseconds."""
    header = ["", "services", *(f"{rank} us" for rank in RANKS), "p50: + us", "p50: x"]
    rows = []
    for variant, size in cases(figures):
        row = [variant, str(size)]
        row += [spread(of(figures, size, variant, RANDOM, rank).values()).text(0, MICRO) for rank in RANKS]
        if variant == BARE:
            rows.append([*row, "0", "1"])
            continue
        row.append(more(figures, size, variant, RANDOM, "p50").text(1, MICRO))
        rows.append([*row, _times(figures, size, variant, "p50")])
    return table(header, rows)


def rate_table(figures: Sequence[Figure]) -> str:
    """Return the table of new connections per second to Services at random."""
    rows = []
    for variant, size in cases(figures):
        rate = spread(of(figures, size, variant, RANDOM, RATE).values()).text(0)
        rows.append([variant, str(size), rate, "1" if variant == BARE else _times(figures, size, variant, RATE)])
    return table(["", "services", "connections/s", f"/ {BARE}"], rows)


def place_table(figures: Sequence[Figure]) -> str:
    """Return the table of what the first packet's p50 costs above BARE's, in microseconds, by place."""
    rows = []
    for variant, size in cases(figures):
        if variant != BARE:
            by_place = (more(figures, size, variant, place, "p50").text(1, MICRO) for place in PLACES)
            rows.append([variant, str(size), *by_place])
    return table(["+ us", "services", *PLACES], rows)


def _times(figures: Sequence[Figure], size: int, variant: str, metric: str) -> str:
    ours, theirs = (of(figures, size, who, RANDOM, metric) for who in (variant, BARE))
    return ratio(ours, theirs).text()
