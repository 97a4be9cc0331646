"""What a plain YAML scalar means, and the ones that do not mean what they look like.

YAML 1.1 reads `0755` as 493, `22:22` as 1342, `1_000` as 1000 and `2026-01-01` as a date; YAML 1.2, which editors and
Kubernetes follow, reads most of them otherwise. None is what the writer of a topology file meant, so they become
`Unclear`, which no field accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import yaml

Scalar = object  # None, bool, int, float, str or Unclear

TAG = "tag:yaml.org,2002:"
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\Z")
DECIMAL_FRACTION = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]*\Z")
QUOTED = frozenset("'\"|>")
TRUE = frozenset({"yes", "true", "on"})


@dataclass(frozen=True, slots=True)
class Unclear:
    """A scalar that YAML reads as something that it does not look like; `reading` says as what."""

    text: str
    reading: str


def _integer(text: str) -> int | Unclear:
    if DECIMAL.match(text):
        return int(text)
    digits = text.lstrip("+-")
    if ":" in digits:
        return Unclear(text, "a number in base 60")
    if digits.startswith(("0x", "0b")) or "_" in digits:
        return Unclear(text, "a number")
    return Unclear(text, "a number in base 8" if digits.startswith("0") else "a very large number")


def _fraction(text: str) -> float | Unclear:
    return float(text) if DECIMAL_FRACTION.match(text) else Unclear(text, "a number")


CONSTRUCTORS: dict[str, Callable[[str], Scalar]] = {
    TAG + "null": lambda text: None,
    TAG + "bool": lambda text: text.lower() in TRUE,
    TAG + "int": _integer,
    TAG + "float": _fraction,
    TAG + "timestamp": lambda text: Unclear(text, "a date"),
    TAG + "merge": str,
    TAG + "value": str,
}
RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = yaml.SafeLoader.yaml_implicit_resolvers


def scalar(event: yaml.ScalarEvent) -> Scalar:
    """Return the value of a scalar. Quotes or the tag `!!str` make it text; other tags count for nothing."""
    if event.style in QUOTED or event.tag in (TAG + "str", "!"):
        return event.value
    for tag, pattern in RESOLVERS.get(event.value[:1], ()):
        if pattern.match(event.value):
            return CONSTRUCTORS[tag](event.value)
    return event.value


def is_merge_key(event: yaml.ScalarEvent) -> bool:
    """Say whether a key is YAML's `<<`, which includes another mapping."""
    return event.value == "<<" and bool(event.implicit[0])
