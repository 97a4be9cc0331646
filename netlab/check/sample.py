"""Choosing some of many pairs, evenly and always the same ones. Pure.

Members are known by their position; all that counts about one is the node that it sits on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count as counting
from math import gcd

Pair = tuple[int, int]
GOLDEN = 0.6180339887498949  # steps of this part of a circle never come close to where they were


def spread(sources: Sequence[str], targets: Sequence[str], *, count: int) -> list[Pair]:
    """Choose up to `count` (source, target) pairs; `sources` and `targets` give each member's node.

    The targets are also the first of the sources (pods, then nodes), and no target is paired with itself. In this
    order, as far as `count` goes: every source, every target, every pair of nodes, then more from all over.
    """
    chosen: dict[Pair, None] = {}
    for ways in (_every_source, _every_target, _every_pair_of_nodes, _all_over):
        for pair in ways(sources, targets, chosen):
            if len(chosen) == count:
                return list(chosen)
            chosen[pair] = None
    return list(chosen)


def _every_source(sources: Sequence[str], targets: Sequence[str], _: dict[Pair, None]) -> Iterator[Pair]:
    stride, step = _step(len(sources)), _step(len(targets))
    for position in range(len(sources)):
        source, target = position * stride % len(sources), (position * step + 1) % len(targets)
        if target == source:
            target = (target + 1) % len(targets)
        if target != source:
            yield source, target


def _every_target(sources: Sequence[str], targets: Sequence[str], chosen: dict[Pair, None]) -> Iterator[Pair]:
    missing = set(range(len(targets))) - {target for _, target in chosen}
    step = _step(len(sources))
    for target in sorted(missing):
        source = (target * step + 1) % len(sources)
        if source == target:
            source = (source + 1) % len(sources)
        if source != target:
            yield source, target


def _every_pair_of_nodes(sources: Sequence[str], targets: Sequence[str], chosen: dict[Pair, None]) -> Iterator[Pair]:
    done = {(sources[source], targets[target]) for source, target in chosen}
    sending, asked = _by_node(sources), _by_node(targets)
    for row, (here, starts) in enumerate(sending.items()):
        for column, (there, ends) in enumerate(asked.items()):
            if (here, there) in done:
                continue
            pair = starts[column % len(starts)], ends[row % len(ends)]
            if pair[0] == pair[1]:
                pair = starts[(column + 1) % len(starts)], pair[1]
            if pair[0] != pair[1]:
                yield pair


def _all_over(sources: Sequence[str], targets: Sequence[str], chosen: dict[Pair, None]) -> Iterator[Pair]:
    total = len(sources) * len(targets)
    step = _step(total)
    for index in counting():
        if index == total:
            return
        source, target = divmod(index * step % total, len(targets))
        if source != target and (source, target) not in chosen:
            yield source, target


def _by_node(places: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for position, node in enumerate(places):
        found[node].append(position)
    return found


def _step(length: int) -> int:
    """Return a stride near the golden section that visits every place of a circle once."""
    step = max(1, round(length * GOLDEN))
    while gcd(step, length) > 1:
        step += 1
    return step
