"""`bench first-packet`: what a new connection through a ClusterIP costs, and how that grows with the Services.

Each mode has the same Services in a node of its own; all are up at once, and connections go through them in blocks in
random order. `bare` is the same way through a node without rules: a ratio or a difference to it is of one round.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from statistics import quantiles
from typing import Any

from tests.bench import first_packet_lab as lab
from tests.bench import machine, modes, plot_services, sandbox
from tests.bench.first_packet_figures import (
    BARE,
    PLACES,
    POD,
    RANDOM,
    RANKS,
    RATE,
    Figure,
    first_table,
    place_table,
    rate_table,
)
from tests.bench.first_packet_lab import Way

SIZES = (10, 1000, 5000, 10000)  # services
BLOCK = 50  # connections to one place, one after the other
BLOCKS = 20  # of each place in a round
RATED, RATED_BLOCKS = 500, 4  # connections one after the other for the rate of a mode, and how often in a round
FEW = 100  # services: what is fixed takes most of the time of fewer
BOUND = 150.0  # seconds: a mode whose rules take longer to be written is left out
Found = tuple[str, str, str, float]  # variant, place, metric, value

LEGEND = f"""\
first packet: connect(2), from SYN to SYN/ACK, to one of all Services at random; + us and x: against {BARE}
connections/s: of one client process, each reset as soon as it is open
first, middle, last: the Service whose rule is tried then; pod: a pod that no Service has, for which all are tried"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    rounds: int
    seed: int
    sizes: Sequence[int]
    variants: Sequence[str]
    json_file: str | None = None
    plot_file: str | None = None


def main(options: Options) -> None:
    """Measure every size, and print tables."""
    print(f"# bench first-packet, {options.rounds} rounds, seed {options.seed}\n{machine.describe()}\n{LEGEND}\n")
    left_out = {variant: why for variant in options.variants if (why := modes.missing(variant))}
    figures: list[Figure] = []
    last: dict[str, tuple[int, float]] = {}  # by variant: a size, and the seconds until it was written
    for size in sorted(options.sizes):
        left_out = unbearable(last, size) | left_out
        variants = [variant for variant in options.variants if variant not in left_out]
        found: Any = sandbox.call(measure, variants, size, options.rounds, options.seed)
        last |= {variant: (size, seconds) for variant, seconds in found["written"].items()}
        figures += [Figure(*row) for row in found["figures"]]
        took = ", ".join(f"{variant} {seconds:.1f} s" for variant, seconds in found["written"].items())
        print(f"{size} services written: {took}; load {machine.load()}", flush=True)
    for made in (first_table, rate_table, place_table):
        print(f"\n{made(figures)}")
    print("".join(f"\nNo {variant}: {why}" for variant, why in left_out.items()))
    keep(figures, options.json_file, options.plot_file)


def keep(figures: Sequence[Figure], json_file: str | None, plot_file: str | None) -> None:
    """Write the files that were asked for."""
    if json_file:
        Path(json_file).write_text(json.dumps(figures))
    if plot_file:
        plot_services.draw(figures, plot_file)


def unbearable(last: Mapping[str, tuple[int, float]], size: int) -> dict[str, str]:
    """Return which modes are expected to take too long, and why: the slowest grow with the square of the Services."""
    known = {variant: (before, seconds) for variant, (before, seconds) in last.items() if before >= FEW}
    expected = {variant: seconds * (size / before) ** 2 for variant, (before, seconds) in known.items()}
    return {
        variant: f"{size} services would take {seconds:.0f} s to be written"
        for variant, seconds in expected.items()
        if seconds > BOUND
    }


def measure(variants: Sequence[str], size: int, rounds: int, seed: int) -> dict[str, Any]:
    """Return the figures of one size, and how long the rules took: to be called in a sandbox."""
    figures: list[Figure] = []
    with lab.ways(variants, size) as (ways, listener, written):
        for turn in range(rounds):
            machine.wait_for_calm()
            chance = random.Random(f"{seed}/{turn}")
            found = itertools.chain(_latencies(ways, listener, chance), _rates(ways, listener, chance))
            figures += [Figure(size, variant, place, metric, turn, value) for variant, place, metric, value in found]
    return {"figures": figures, "written": written}


def _latencies(ways: Sequence[Way], listener: socket, chance: random.Random) -> Iterator[Found]:
    """Measure every way and place in blocks, in random order."""
    samples: dict[tuple[str, str], list[float]] = {(way.variant, place): [] for way in ways for place in _places(way)}
    blocks = [(way, place) for way in ways for place in _places(way)] * BLOCKS
    chance.shuffle(blocks)
    for way, place in blocks:
        found, _ = lab.connect(way, listener, targets(way, place, BLOCK, chance))
        samples[way.variant, place] += found
    for (variant, place), values in samples.items():
        for rank, value in zip(RANKS, percentiles(values), strict=True):
            yield variant, place, rank, value


def percentiles(values: Sequence[float]) -> list[float]:
    """Return those of RANKS."""
    cuts = quantiles(values, n=100, method="inclusive")
    return [cuts[rank - 1] for rank in RANKS.values()]


def _rates(ways: Sequence[Way], listener: socket, chance: random.Random) -> Iterator[Found]:
    took = dict.fromkeys((way.variant for way in ways), 0.0)
    blocks = [*ways] * RATED_BLOCKS
    chance.shuffle(blocks)
    for way in blocks:
        place = POD if way.variant == BARE else RANDOM
        took[way.variant] += lab.connect(way, listener, targets(way, place, RATED, chance))[1]
    for variant, seconds in took.items():
        yield variant, POD if variant == BARE else RANDOM, RATE, RATED * RATED_BLOCKS / seconds


def _places(way: Way) -> tuple[str, ...]:
    return (POD,) if way.variant == BARE else (*PLACES, RANDOM)


def targets(way: Way, place: str, count: int, chance: random.Random) -> list[tuple[str, int]]:
    """Return whom to connect to."""
    order = way.cluster_ips
    match place:
        case "pod":
            return [(lab.OUTSIDE, modes.POD_PORT)] * count
        case "random":
            return [(address, modes.PORT) for address in chance.choices(order, k=count)]
        case _:
            index = {"first": 0, "middle": len(order) // 2, "last": -1}[place]
            return [(order[index], modes.PORT)] * count
