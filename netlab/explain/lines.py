"""The sentences of an explanation, and how those said before are referred to. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import takewhile
from typing import NamedTuple


class Line(NamedTuple):
    """One sentence. `endpoint` and `probability` are set where it tells of one endpoint's share of the packets.

    `chain` is the one that the deeper lines after it tell of.
    """

    depth: int
    text: str
    endpoint: str = ""
    probability: Fraction | None = None
    chain: str = ""


def without_repeats(lines: Sequence[Line]) -> list[Line]:
    """Return the lines with a reference in place of what was said of a chain before in the same words."""
    kept: list[Line] = []
    told: dict[str, list[Line]] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        block = _deeper(lines, number, line.depth)
        if line.chain and len(block) > 1 and told.get(line.chain) == block:
            line = line._replace(text=f"{line.text.removesuffix(':')}, as above")
            number += len(block)
        elif line.chain:
            told[line.chain] = block
        kept.append(line)
    return kept


def _deeper(lines: Sequence[Line], start: int, depth: int) -> list[Line]:
    """Return the lines from `start` on that are deeper than a line, as deep as they are from there."""
    return [line._replace(depth=line.depth - depth) for line in takewhile(lambda one: one.depth > depth, lines[start:])]
