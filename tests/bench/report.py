"""The arithmetic of the benchmarks and their tables. Pure.

A busy machine slows everything down together, so figures of different rounds are never compared: a ratio is taken
within a round and the middle one of all rounds is shown, with the lowest and the highest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
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


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of ours / theirs, round by round."""
    return spread(mine / other for mine, other in zip(ours, theirs, strict=True))


def exponent(points: Iterable[tuple[float, float]]) -> float:
    """Return k of the best fit `cost = c * size**k` to (size, cost) points: 1 is linear (least squares of logarithms)."""
    logs = [(math.log(size), math.log(cost)) for size, cost in points]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return covariance / sum((x - mean_x) ** 2 for x, _ in logs)


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
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([line(header), rule, *(line(row) for row in lines[1:])])


def up_table(samples: Mapping[str, Sequence[Sample]], titles: Mapping[str, str], bases: Sequence[str]) -> str:
    """Return one size's table: a row for each tool, with the ratio of its `up` to each base that took part."""
    bases = [base for base in bases if samples.get(base)]
    header = ["", "up ms", "down ms", *(f"up / {base}" for base in bases), "whole ms", "CPU s", "peak MB"]
    rows = []
    for tool, found in samples.items():
        if not found:
            continue
        ups = [sample.up for sample in found]
        ratios = [ratio(ups, [sample.up for sample in samples[base]]).text() for base in bases]
        rows.append(
            [
                titles[tool],
                spread(ups).text(0, 1000),
                spread(sample.down for sample in found).text(0, 1000),
                *ratios,
                spread(sample.whole for sample in found).text(0, 1000),
                f"{spread(sample.cpu for sample in found).median:.2f}",
                f"{max(sample.peak for sample in found) / 1e6:.0f}",
            ]
        )
    return table(header, rows)
