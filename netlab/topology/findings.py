"""What the loader has to say about a file, before it is known where in the file it stands; and how to word it.

A rule yields `Finding`s that name a field by its path from the top. `document.Document` knows the line of each path.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

Loc = tuple[str | int, ...]
T = TypeVar("T")

QUOTED_MAX = 60
LISTED_MAX = 20
COMPARISONS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake. `loc` is the field; `at_key` points at its name instead of its value.

    `first` is another field that the message speaks of: its line is added to the message.
    """

    loc: Loc
    message: str
    hint: str = ""
    at_key: bool = False
    first: Loc | None = None

    def under(self, loc: Loc) -> Finding:
        """Return the same mistake in a part that stands at `loc`."""
        first = None if self.first is None else (*loc, *self.first)
        return replace(self, loc=(*loc, *self.loc), first=first)


class Placed(NamedTuple, Generic[T]):
    """A value and the field of the file that asked for it."""

    loc: Loc
    value: T


def quote(value: object) -> str:
    """Return what the user wrote in quotes: shortened, on one line, without control characters."""
    text = str(value)
    return repr(text if len(text) <= QUOTED_MAX else text[: QUOTED_MAX - 3] + "...")


def find_similar(word: str, choices: Collection[str]) -> str | None:
    """Return the choice that the user may have meant; None when nothing is close."""
    from difflib import get_close_matches

    by_folded = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(word[:QUOTED_MAX].casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def did_you_mean(word: str, choices: Collection[str]) -> str:
    """Return `; did you mean 'x'?` or nothing."""
    similar = find_similar(word, choices)
    return f"; did you mean {quote(similar)}?" if similar else ""


class Suggester:
    """Says `did you mean` of many choices, until it has made so many comparisons that more would take long."""

    def __init__(self, choices: Collection[str]) -> None:
        self.choices = choices
        self.comparisons_left = COMPARISONS_MAX

    def __call__(self, word: str) -> str:
        """Return `; did you mean 'x'?` or nothing."""
        self.comparisons_left -= len(self.choices)
        return did_you_mean(word, self.choices) if self.comparisons_left >= 0 else ""


def suggest(word: str, choices: Collection[str]) -> str:
    """Return the closest choice and all that is allowed: `; did you mean 'x'? (allowed: x, y)`."""
    return f"{did_you_mean(word, choices)} (allowed: {listed(sorted(choices, key=str.casefold))})"


def listed(words: Collection[str]) -> str:
    """Return the words with commas, the first few only when there are many."""
    shown = ", ".join(islice(words, LISTED_MAX))
    return shown if len(words) <= LISTED_MAX else f"{shown} and {len(words) - LISTED_MAX} more"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return `1 pod`, `2 pods`."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
