"""What `bench first-packet` makes of its figures, and whom it connects to."""

from __future__ import annotations

import random

import pytest

from tests.bench.first_packet import percentiles, targets, unbearable
from tests.bench.first_packet_figures import (
    BARE,
    POD,
    RANDOM,
    RANKS,
    RATE,
    Figure,
    cases,
    first_table,
    more,
    place_table,
    rate_table,
)
from tests.bench.first_packet_lab import OUTSIDE, Way
from tests.bench.modes import POD_PORT, PORT
from tests.bench.report import Spread

WAY = Way("iptables-legacy", "client", "node", ("10.96.0.7", "10.96.0.2", "10.96.0.5"))


def figures(variant: str, place: str, *values: float, size: int = 10) -> list[Figure]:
    """Return each rank and the rate of so many rounds, all of the same value."""
    return [
        Figure(size, variant, place, metric, turn, value)
        for metric in (*RANKS, RATE)
        for turn, value in enumerate(values)
    ]


def test_a_difference_is_taken_within_each_round() -> None:
    # The second round ran on a machine twice as slow: the difference is none of it.
    found = [*figures(BARE, POD, 10e-6, 20e-6), *figures("nftables", RANDOM, 14e-6, 26e-6)]
    assert more(found, 10, "nftables", RANDOM, "p50").low == pytest.approx(4e-6)
    assert more(found, 10, "nftables", RANDOM, "p50").high == pytest.approx(6e-6)


def test_places_sizes_and_variants_are_kept_apart() -> None:
    found = [
        *figures(BARE, POD, 1.0),
        *figures(BARE, POD, 100.0, size=1000),
        *figures("ipvs", "first", 3.0),
        *figures("ipvs", "last", 5.0),
        *figures("nftables", "first", 50.0),
        *figures("ipvs", "first", 700.0, size=1000),
    ]
    assert more(found, 10, "ipvs", "first", "p50") == Spread(2, 2, 2)
    assert more(found, 10, "ipvs", "last", "p50") == Spread(4, 4, 4)
    assert more(found, 1000, "ipvs", "first", "p50") == Spread(600, 600, 600)
    assert list(cases(found)) == [(BARE, 10), (BARE, 1000), ("ipvs", 10), ("ipvs", 1000), ("nftables", 10)]


def test_tables_are_in_microseconds_and_against_bare() -> None:
    places = ("first", "middle", "last", POD, RANDOM)
    found = figures(BARE, POD, 20e-6)
    for number, place in enumerate(places):
        found += figures("nftables", place, (30 + 10 * number) * 1e-6)
    _, _, bare, row = ([cell.strip() for cell in line.split("|")] for line in first_table(found).splitlines())
    assert bare[1:-1] == [BARE, "10", "20", "20", "20", "0", "1"]
    assert row[1:-1] == ["nftables", "10", "70", "70", "70", "50.0", "3.50"]
    assert place_table(found).split()[-8::2] == ["10.0", "20.0", "30.0", "40.0"]
    assert rate_table(found).split()[-2] == "3.50"


def test_percentiles_of_a_uniform_distribution() -> None:
    assert percentiles([float(value) for value in range(101)]) == pytest.approx([50, 90, 99])


def test_places_follow_the_order_of_the_rules() -> None:
    chance = random.Random(1)
    assert targets(WAY, "first", 2, chance) == [("10.96.0.7", PORT)] * 2
    assert targets(WAY, "middle", 1, chance) == [("10.96.0.2", PORT)]
    assert targets(WAY, "last", 1, chance) == [("10.96.0.5", PORT)]
    assert targets(WAY, POD, 1, chance) == [(OUTSIDE, POD_PORT)]
    assert {address for address, _ in targets(WAY, RANDOM, 100, chance)} == set(WAY.cluster_ips)


def test_a_mode_is_left_out_when_it_would_take_minutes() -> None:
    last = {"slow": (1000, 3.0), "quick": (1000, 0.1), "cold": (10, 1.0)}
    assert unbearable(last, 10_000) == {"slow": "10000 services would take 300 s to be written"}
    assert unbearable(last, 1000) == {}
