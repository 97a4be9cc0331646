"""What a run found: the time of each step, the verdict of each check, the versions; as text and in docs/vagrant.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

BEGIN = "<!-- written by scripts/test-vagrant --record -->"
END = "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done, and its time in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked at: a sentence that should be true, and what was seen."""

    claim: str
    holds: bool
    seen: str


@dataclass(slots=True)
class Report:
    """The steps and checks of a run, said aloud as they come, and kept in `file` for the process outside the cell."""

    file: Path
    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Say whether every check holds (and there are some)."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step."""
        print(f"        {name} ...", flush=True)
        start = monotonic()
        yield
        step = Step(name, round(monotonic() - start, 1))
        self.steps.append(step)
        print(step_line(step), flush=True)
        self.save()

    def check(self, claim: str, holds: bool, seen: str = "") -> None:
        """Note a check."""
        self.checks.append(Check(claim, holds, seen))
        print(check_line(self.checks[-1]), flush=True)
        self.save()

    def note(self, claim: str, against: Sequence[str]) -> None:
        """Note a check that holds when nothing speaks against it. Says it; does not write the file."""
        self.checks.append(Check(claim, not against, ", ".join(against)))
        print(check_line(self.checks[-1]), flush=True)

    def save(self) -> None:
        """Write everything to the file."""
        kept = {"steps": [asdict(step) for step in self.steps], "checks": [asdict(check) for check in self.checks]}
        self.file.write_text(json.dumps({**kept, "versions": self.versions}))

    def load(self) -> None:
        """Take over what a process in a cell has written."""
        if not self.file.exists():
            return
        kept = json.loads(self.file.read_text())
        self.steps = [Step(**entry) for entry in kept["steps"]]
        self.checks = [Check(**entry) for entry in kept["checks"]]
        self.versions = kept["versions"]


def step_line(step: Step) -> str:
    """Return a step as a line of text."""
    return f"{step.seconds:6.1f} s {step.name}"


def check_line(check: Check) -> str:
    """Return a check as a line of text."""
    seen = f": {check.seen}" if check.seen else ""
    return f"{'ok' if check.holds else 'FAILED':>8} {check.claim}{seen}"


def summary(report: Report) -> str:
    """Return the run as text: one line for each step and each check, and the total."""
    total = sum(step.seconds for step in report.steps)
    failed = sum(not check.holds for check in report.checks)
    verdict = f"{len(report.checks) - failed} of {len(report.checks)} checks hold, {total:.0f} s in all"
    return "\n".join([*map(step_line, report.steps), *map(check_line, report.checks), verdict])


def section(report: Report, day: str) -> str:
    """Return the run as a section of docs/vagrant.md, between BEGIN and END."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [f"{day}; {versions}.", "", "| step | seconds |", "|---|---:|"]
    lines += [f"| {step.name} | {step.seconds:.1f} |" for step in report.steps]
    lines += [f"| all | {sum(step.seconds for step in report.steps):.1f} |"]
    lines += ["", "| check | | seen |", "|---|---|---|"]
    lines += [
        f"| {c.claim} | {'ok' if c.holds else '**failed**'} | {c.seen.replace('|', '/')} |" for c in report.checks
    ]
    return "\n".join([BEGIN, *lines, END])


def replace_section(page: str, new: str) -> str:
    """Return the page with its section exchanged. Raises ValueError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no section between {BEGIN} and {END}")
    return before + new + after


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Name what is not as it was, given descriptions of the same things at two times."""
    return [name for name in before if before[name] != after[name]]
