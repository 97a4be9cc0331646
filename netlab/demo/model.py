"""A demo as a value, read from its file in `scripts`. Pure but for `load`.

title: one line
topology: {...}           # as in a topology file
steps:
- say: what to look at
  run: a command line
  expect: [words]         # that its output has: tests hold every step to it
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netlab.errors import UsageError

FOLDER = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Step:
    """A command with what is said before it; "" for words alone. `fails`: that it fails is what is shown."""

    say: str
    run: str
    expect: tuple[str, ...]
    fails: bool


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo. `topology` is the text of a topology file."""

    name: str
    title: str
    topology: str
    steps: tuple[Step, ...]


def names() -> list[str]:
    """Return the demos' names in the order of what to learn first."""
    return [file.stem.partition("-")[2] for file in sorted(FOLDER.glob("*.yaml"))]


def load(name: str) -> Demo:
    """Read a demo. Raises UsageError for a name that none has."""
    file = next((file for file in FOLDER.glob("*.yaml") if file.stem.partition("-")[2] == name), None)
    if file is None:
        close = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names())}"
        raise UsageError(f"there is no demo {name!r}", hint)
    import yaml

    found = yaml.safe_load(file.read_text())
    topology = yaml.safe_dump({"name": lab_name(name), **found["topology"]}, sort_keys=False)
    return Demo(name, found["title"], topology, tuple(_step(step) for step in found["steps"]))


def lab_name(demo: str) -> str:
    """Return the name of a demo's lab."""
    return f"demo-{demo}"


def _step(value: dict[str, Any]) -> Step:
    return Step(
        " ".join(value.get("say", "").split()),
        value.get("run", ""),
        tuple(value.get("expect", ())),
        value.get("fails", False),
    )
