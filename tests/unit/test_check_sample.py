"""Samples of many pairs, batches that fit the neighbour tables, groups that fit the process's descriptors."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.check.batches import ENTRIES, batches, links, path
from netlab.check.matrix import pairs
from netlab.check.model import Probe
from netlab.check.sample import spread
from netlab.kernel.probe_sockets import groups, socket_of
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from tests.labs import topology


def _places(nodes: int, pods: int) -> tuple[list[str], list[str]]:
    targets = [f"n{position % nodes}" for position in range(pods)]
    return targets + [f"n{node}" for node in range(nodes)], targets


@pytest.mark.parametrize(("nodes", "pods", "count"), [(1, 200, 1000), (10, 100, 500), (30, 200, 2000), (40, 300, 5000)])
def test_a_sample_covers_sources_targets_and_pairs_of_nodes(nodes: int, pods: int, count: int) -> None:
    sources, targets = _places(nodes, pods)
    found = spread(sources, targets, count=count)
    assert len(found) == len(set(found)) == count
    assert {source for source, _ in found} == set(range(len(sources)))
    assert {target for _, target in found} == set(range(len(targets)))
    assert {(sources[a], targets[b]) for a, b in found} == set(product(set(sources), set(targets)))
    assert not any(source == target for source, target in found)


def test_a_sample_is_spread_evenly() -> None:
    sources, targets = _places(10, 100)
    found = spread(sources, targets, count=3300)
    counts = [sum(source == position for source, _ in found) for position in range(len(sources))]
    assert max(counts) <= 2 * min(counts)


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 200))
def test_a_sample_is_a_set_of_pairs_and_always_the_same(nodes: int, pods: int, count: int) -> None:
    sources, targets = _places(nodes, pods)
    found = spread(sources, targets, count=count)
    possible = {(a, b) for a in range(len(sources)) for b in range(len(targets)) if a != b}
    assert set(found) <= possible
    assert len(set(found)) == len(found) == min(count, len(possible))
    assert found == spread(sources, targets, count=count)


# --- batches ---------------------------------------------------------------------------------------------------------


def _probes(nodes: int, pods: int, *, dual_stack: bool = False) -> dict[int, Probe]:
    lab = topology("lab", nodes=nodes, pods=pods, dual_stack=dual_stack)
    return dict(enumerate(pairs(lab, allocate(lab, Snapshot())).probes))


def _entries(probes: list[Probe], version: int) -> int:
    return ENTRIES[version] * len({link for probe in probes if probe.family == version for link in links(probe)})


@pytest.mark.parametrize(("nodes", "pods", "dual_stack"), [(1, 40, False), (8, 32, False), (3, 20, True)])
def test_batches_hold_every_probe_once_and_fit_the_tables(nodes: int, pods: int, dual_stack: bool) -> None:
    probes = _probes(nodes, pods, dual_stack=dual_stack)
    found = list(batches(probes, probes, {4: 200, 6: 200}))
    assert len(found) > 1
    assert sorted(index for batch in found for index in batch) == list(probes)
    for batch in found:
        for version in (4, 6):
            assert _entries([probes[index] for index in batch], version) <= 200


def test_batches_are_not_wasted() -> None:
    probes = _probes(1, 40)
    entries = (40 * 39 // 2 + 40) * ENTRIES[4]  # both directions of a pair share theirs
    assert len(list(batches(probes, probes, {4: 200, 6: 200}))) == -(-entries // 200)
    assert len(list(batches(probes, probes, {4: 10_000, 6: 10_000}))) == 1


def test_a_link_that_needs_more_than_there_is_has_a_batch_of_its_own() -> None:
    probes = _probes(2, 2)
    found = list(batches(probes, probes, {4: 1, 6: 1}))
    assert sorted(index for batch in found for index in batch) == list(probes)
    assert all(batch for batch in found)


def test_a_path_is_what_a_packet_crosses() -> None:
    probes = {(probe.source.name, probe.target.name): probe for probe in _probes(2, 4).values()}

    def crossed(source: str, target: str) -> list[str]:
        probe = probes[source, target]
        return [name.removeprefix("nl-lab.") for name in path(probe.source, probe.target)]

    assert crossed("p-1", "p-3") == ["p-1", "p-3"]  # one bridge
    assert crossed("p-1", "p-2") == ["p-1", "n1", "n2", "p-2"]
    assert crossed("n1", "p-1") == ["n1", "p-1"]
    assert crossed("n1", "p-2") == ["n1", "n2", "p-2"]


# --- descriptors -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 20))
def test_groups_hold_every_probe_once_and_fit_the_limit(free: int) -> None:
    probes = _probes(2, 6, dual_stack=True)
    found = list(groups(probes, free))
    assert sorted(index for group in found for index in group) == list(probes)
    for group in found:
        assert len({socket_of(index, probe) for index, probe in group.items()}) <= free


def test_one_group_where_there_is_room() -> None:
    probes = _probes(2, 6)
    assert len(list(groups(probes, 8))) == 1  # six pods and two nodes
    assert len(list(groups(probes, 7))) == 2
