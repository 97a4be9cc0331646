"""The arithmetic of the benchmarks and their tables. Pure.

A busy machine slows everything down together, so figures of different rounds are never compared: a ratio is taken
within a round and the middle one of all rounds is shown, with the lowest and the highest.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One lab made and taken away. Times in seconds, `peak` in bytes (of the largest process).

    whole: from the start of the first process to the end of the last; cpu: user and system time of all of them.
    """

    up: float
    down: float
    whole: float
    cpu: float
    peak: int


Rounds = Mapping[int, Sample]  # by the number of the round; one in which the tool failed is missing


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several figures and what they lie between."""

    low: float
    median: float
    high: float

    def text(self, digits: int = 2, scale: float = 1) -> str:
        """Return "1.42 (1.31-1.60)"."""
        low, middle, high = (f"{value * scale:.{digits}f}" for value in (self.low, self.median, self.high))
        return middle if low == high else f"{middle} ({low}-{high})"


def spread(values: Iterable[float]) -> Spread:
    """Return the spread of one or more figures. Raises ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no figures")
    return Spread(ordered[0], median(ordered), ordered[-1])


def ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread:
    """Return the spread of ours / theirs over the rounds that both have. Raises ValueError when there is none."""
    return spread(ours[turn] / theirs[turn] for turn in ours.keys() & theirs.keys())


def steepening(points: Sequence[tuple[float, float]]) -> float:
    """Return what growth costs in the upper part of ascending (size, cost) points over what it costs in the lower.

    1 is linear growth, whatever the fixed cost; the parts meet at the last point but one.
    """
    (least, cheap), (middle, medium), (most, dear) = points[0], points[-2], points[-1]
    return ((dear - medium) / (most - middle)) / ((medium - cheap) / (middle - least))


def shuffled(entries: Iterable[T], seed: int, turn: int) -> list[T]:
    """Return the order of one round: random, and the same for the same seed."""
    order = list(entries)
    random.Random(f"{seed}/{turn}").shuffle(order)
    return order


def verdict(value: float, limit: float) -> str:
    """Say whether a figure keeps its limit."""
    return "met" if value <= limit else "MISSED"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, padded to be read as it is; the first column is text, the others numbers."""
    lines = [header, *rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([line(header), rule, *(line(row) for row in lines[1:])])


def up_table(samples: Mapping[str, Rounds], titles: Mapping[str, str], bases: Sequence[str]) -> str:
    """Return the table of one size: a row for each tool, with the ratio of its `up` to that of each base."""
    present = [base for base in bases if samples.get(base)]
    header = ["", "up ms", "down ms", *(f"up / {base}" for base in present), "whole ms", "CPU s", "peak MB"]
    return table(header, [[titles[tool], *_cells(samples, tool, present)] for tool in samples if samples[tool]])


def _cells(samples: Mapping[str, Rounds], tool: str, bases: Sequence[str]) -> Iterator[str]:
    found = samples[tool].values()
    yield spread(sample.up for sample in found).text(0, 1000)
    yield spread(sample.down for sample in found).text(0, 1000)
    for base in bases:
        yield "1" if base == tool else find_text(find_ratio(samples, tool, base))
    yield spread(sample.whole for sample in found).text(0, 1000)
    yield f"{spread(sample.cpu for sample in found).median:.2f}"
    yield f"{max(sample.peak for sample in found) / 1e6:.0f}"


def find_ratio(samples: Mapping[str, Rounds], tool: str, base: str) -> Spread | None:
    """Return the ratio of two tools' `up`, if they have a round in common."""
    ours, theirs = ({turn: sample.up for turn, sample in samples.get(name, {}).items()} for name in (tool, base))
    return ratio(ours, theirs) if ours.keys() & theirs.keys() else None


def find_text(found: Spread | None) -> str:
    """Return a ratio as it is printed."""
    return found.text() if found else "-"
