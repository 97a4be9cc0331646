"""What became of every test, over all tiers: JUnit files in, one total out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from xml.etree import ElementTree


class Outcome(StrEnum):
    """What became of a test; a later one counts more when tiers differ."""

    SKIPPED = "skipped"
    PASSED = "passed"
    FAILED = "failed"


Outcomes = Mapping[str, Outcome]  # by `junit_key`
ORDER = list(Outcome)
OPTIONAL = "optional: "  # how the reason of such a skip begins


def junit_key(nodeid: str) -> str:
    """Return how JUnit files name the test of a pytest node: tests.root.test_x.TestClass::test_y[parameters]."""
    address, bracket, parameters = nodeid.partition("[")
    path, *inside = address.split("::")
    names = [re.sub(r"\.py$", "", path).replace("/", "."), *inside]
    return ".".join(names[:-1]) + "::" + names[-1] + bracket + parameters


def read(junit: str) -> dict[str, Outcome]:
    """Return what a JUnit file says of each test. Raises ElementTree.ParseError.

    A test that was skipped for want of somebody else's program, which no tier has to have, is left out.
    """
    found: dict[str, Outcome] = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        kinds = {child.tag for child in case}
        if any(child.get("message", "").startswith(OPTIONAL) for child in case.iter("skipped")):
            continue
        if kinds & {"failure", "error"}:
            outcome = Outcome.FAILED
        else:
            outcome = Outcome.SKIPPED if "skipped" in kinds else Outcome.PASSED
        key = f"{case.get('classname')}::{case.get('name')}"
        found[key] = max(outcome, found.get(key, outcome), key=ORDER.index)  # a failed teardown is a case of its own
    return found


def merge(tiers: Iterable[Outcomes]) -> dict[str, Outcome]:
    """Return one outcome for each test: failed if it failed anywhere, skipped only if it ran nowhere."""
    merged: dict[str, Outcome] = {}
    for tier in tiers:
        for key, outcome in tier.items():
            merged[key] = max(outcome, merged.get(key, outcome), key=ORDER.index)
    return merged


def failed(outcomes: Outcomes) -> list[str]:
    """Return the tests that failed, sorted."""
    return sorted(key for key, outcome in outcomes.items() if outcome is Outcome.FAILED)


def recovered(first: Outcomes, again: Outcomes) -> list[str]:
    """Return the tests that passed only when they were run once more, sorted."""
    return [key for key in failed(first) if again.get(key) is Outcome.PASSED]


def skipped(outcomes: Outcomes) -> list[str]:
    """Return the tests that did not run, sorted."""
    return sorted(key for key, outcome in outcomes.items() if outcome is Outcome.SKIPPED)


def total(outcomes: Outcomes) -> str:
    """Return the closing line."""
    counts = Counter(outcomes.values())
    line = f"{counts[Outcome.PASSED]} passed, {counts[Outcome.FAILED]} failed"
    return f"{line}, {counts[Outcome.SKIPPED]} skipped" if counts[Outcome.SKIPPED] else line


def durations(junit: str) -> dict[str, float]:
    """Return how long each test of a JUnit file took, in seconds, with its set-up and teardown."""
    found: dict[str, float] = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        key = f"{case.get('classname')}::{case.get('name')}"
        found[key] = found.get(key, 0.0) + float(case.get("time", 0))
    return found
