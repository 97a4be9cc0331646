"""Figures of pod networks beside each other: medians of rounds, ratios, and bars that show them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

BAR = 24  # characters of the longest bar


class Round(NamedTuple):
    """What one round found for one variant: Gbit/s of one TCP stream, and a round trip's median in seconds."""

    variant: str
    gigabits: float
    round_trip: float


class Row(NamedTuple):
    """One variant over all rounds. `ratio` is of its Gbit/s to the first variant's, taken within each round."""

    variant: str
    gigabits: float
    ratio: float
    round_trip: float  # seconds


def rows(rounds: Sequence[Sequence[Round]]) -> list[Row]:
    """Return a row for each variant, in the order of the first round."""
    found: dict[str, list[tuple[Round, Round]]] = {}
    for one in rounds:
        for entry in one:
            first = next(other for other in one if other.variant == rounds[0][0].variant)
            found.setdefault(entry.variant, []).append((entry, first))
    return [
        Row(
            variant,
            median(entry.gigabits for entry, _ in pairs),
            median(entry.gigabits / first.gigabits for entry, first in pairs),
            median(entry.round_trip for entry, _ in pairs),
        )
        for variant, pairs in found.items()
    ]


def cells(table: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return what a table shows of each row, with a bar for its Gbit/s."""
    longest = max(row.gigabits for row in table)
    return [
        (
            row.variant,
            f"{row.gigabits:.2f}",
            f"{row.ratio:.1f}",
            f"{row.round_trip * 1e6:.0f}",
            "#" * max(1, round(BAR * row.gigabits / longest)),
        )
        for row in table
    ]


def draw(table: Sequence[Row], file: str) -> None:
    """Write a picture whose format the file's name says: png, svg or pdf. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels: Mapping[str, Iterable[float]] = {
        "TCP, one stream from pod to pod: Gbit/s": [row.gigabits for row in table],
        "round trip of a small packet: microseconds": [row.round_trip * 1e6 for row in table],
    }
    for axis, (title, heights) in zip(axes, panels.items(), strict=True):
        values = list(heights)
        bars = axis.bar([row.variant for row in table], values, color="#3b6ea5")
        axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.15)
    canvas.savefig(file, dpi=110)
    pyplot.close(canvas)
