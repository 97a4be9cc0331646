"""`bench up`: N pods on one node, made and taken away by every contender, in alternation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tests.bench import machine, sandbox
from tests.bench.contenders import CONTENDERS, measure
from tests.bench.measure import BenchError
from tests.bench.recipe import recipe
from tests.bench.report import Rounds, Sample, find_ratio, shuffled, spread, up_table, verdict

SIZES = (2, 20, 100, 300, 1000)
LARGE, LARGE_ROUNDS = 1000, 2  # a round takes half a minute there
BASES = ("raw", "ip", "ip-classic")
LEGEND = """\
middle (lowest-highest) of the rounds; ratios are taken within each round
up, down: whole commands from start to exit, or the program's own clock without its start and imports
whole: everything from start to exit; peak: the largest process (the measuring one's 20 MB where that is more)"""


class Target(NamedTuple):
    """A limit that holds for a range of sizes: of the ratio of two tools' `up`, or of its seconds (base "")."""

    smallest: int
    largest: int
    tool: str
    base: str
    limit: float


TARGETS = (
    Target(100, 100, "kernel", "", 0.25),
    Target(100, 100, "kernel", "raw", 1.7),
    Target(100, 100, "netlab", "ip", 1.5),
    Target(100, 100, "netlab", "ip-classic", 1.5),
    Target(300, LARGE, "netlab", "ip", 1.0),
    Target(300, LARGE, "netlab", "ip-classic", 1.0),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. `everything` lets tools take part in sizes that take them minutes."""

    sizes: Sequence[int]
    rounds: int
    tools: Sequence[str]
    seed: int
    everything: bool
    json_file: str | None


def main(options: Options) -> None:
    """Run all sizes and print a table for each."""
    print(f"# bench up, seed {options.seed}\n{machine.describe()}\n{LEGEND}")
    tools = list(_present(options.tools))
    results: dict[int, dict[str, Rounds]] = {}
    for size in options.sizes:
        chosen = [tool for tool in tools if options.everything or size <= CONTENDERS[tool].most]
        rounds = min(options.rounds, LARGE_ROUNDS) if size >= LARGE else options.rounds
        print(f"\n## {size} pods, {rounds} rounds")
        for tool in sorted(set(tools) - set(chosen)):
            print(f"{CONTENDERS[tool].title}: left out at this size, --all takes it in")
        results[size] = _measure(size, rounds, chosen, options.seed)
        print(up_table(results[size], {tool: CONTENDERS[tool].title for tool in chosen}, BASES), flush=True)
        for line in judge(size, results[size]):
            print(line, flush=True)
    print(f"\nload at the end: {machine.load()}")
    if options.json_file:
        Path(options.json_file).write_text(json.dumps(_as_json(options, results), indent=1))


def _present(wanted: Sequence[str]) -> Iterator[str]:
    """Yield the contenders that are installed; say of the others how to get them."""
    for tool in wanted:
        missing = CONTENDERS[tool].find_missing()
        if missing:
            print(f"{CONTENDERS[tool].title}: MISSING, not measured. To get it: {missing}")
        else:
            yield tool


def _measure(size: int, rounds: int, tools: Sequence[str], seed: int) -> dict[str, Rounds]:
    """Measure tools in turns. A round before the first proves that the labs are the same, and is not counted."""
    wanted = recipe(size)
    for tool in tools:
        if CONTENDERS[tool].proves:
            sandbox.call(measure, tool, wanted, True)
    found: dict[str, dict[int, Sample]] = {tool: {} for tool in tools}
    for turn in range(rounds):
        for tool in shuffled(tools, seed + size, turn):
            machine.wait_for_calm()
            try:
                found[tool][turn] = Sample(**sandbox.call(measure, tool, wanted, False))
            except BenchError as exc:
                print(f"{CONTENDERS[tool].title}: FAILED in round {turn + 1} of {rounds}: {exc}", flush=True)
    return dict(found)


def judge(size: int, samples: Mapping[str, Rounds]) -> Iterator[str]:
    """Yield a line for every target of this size."""
    for target in TARGETS:
        if not target.smallest <= size <= target.largest or not samples.get(target.tool):
            continue
        if not target.base:
            value = spread(sample.up for sample in samples[target.tool].values()).median
            yield f"target: {target.tool} within {target.limit} s: {value:.3f} s, {verdict(value, target.limit)}"
        elif found := find_ratio(samples, target.tool, target.base):
            limit = f"{target.tool} within {target.limit} times {target.base}"
            yield f"target: {limit}: {found.text()}, {verdict(found.median, target.limit)}"


def _as_json(options: Options, results: Mapping[int, Mapping[str, Rounds]]) -> dict[str, object]:
    found = {
        size: {tool: {turn: asdict(sample) for turn, sample in rounds.items()} for tool, rounds in tools.items()}
        for size, tools in results.items()
    }
    return {"options": asdict(options), "machine": machine.describe(), "samples": found}
