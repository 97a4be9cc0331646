"""The arithmetic of the benchmarks."""

import pytest

from tests.bench.report import (
    Sample,
    Spread,
    find_ratio,
    ratio,
    shuffled,
    spread,
    steepening,
    table,
    up_table,
    verdict,
)
from tests.bench.up import judge


def rounds(*ups: float) -> dict[int, Sample]:
    """Return one sample for each round, which differ in the seconds of `up` only."""
    return {turn: Sample(up=up, down=0.1, whole=up + 0.1, cpu=0.05, peak=20_000_000) for turn, up in enumerate(ups)}


def test_spread_has_the_middle_and_the_ends() -> None:
    assert spread([3, 1, 2]) == Spread(1, 2, 3)
    assert spread([4, 1, 2, 3]) == Spread(1, 2.5, 4)
    with pytest.raises(ValueError, match="no figures"):
        spread([])


def test_spread_is_printed_with_its_range_unless_there_is_none() -> None:
    assert Spread(0.1, 0.25, 1).text(0, 1000) == "250 (100-1000)"
    assert Spread(2, 2, 2).text() == "2.00"


def test_a_ratio_is_taken_within_each_round() -> None:
    # The second round ran on a machine twice as slow: for both.
    assert ratio({0: 2.0, 1: 4.0, 2: 3.0}, {0: 1.0, 1: 2.0, 2: 1.0}) == Spread(2, 2, 3)


def test_a_round_that_one_of_them_failed_in_does_not_count() -> None:
    assert ratio({0: 2.0, 2: 9.0}, {0: 1.0, 1: 5.0, 2: 3.0}) == Spread(2, 2.5, 3)
    assert find_ratio({"a": rounds(1), "b": {}}, "a", "b") is None
    assert find_ratio({"a": rounds(1)}, "a", "b") is None


def test_steepening_is_1_where_cost_grows_with_size_whatever_it_begins_with() -> None:
    sizes = (2, 125, 250, 500, 1000)
    assert steepening([(size, 7 + 0.3 * size) for size in sizes]) == pytest.approx(1)
    assert steepening([(size, size**2) for size in sizes]) == pytest.approx(1500 / 502)


def test_the_order_of_a_round_is_random_and_repeatable() -> None:
    tools = list("abcdefgh")
    orders = [shuffled(tools, 7, turn) for turn in range(5)]
    assert orders == [shuffled(tools, 7, turn) for turn in range(5)]
    assert orders != [shuffled(tools, 8, turn) for turn in range(5)]
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == tools for order in orders)


def test_table_is_markdown_and_reads_as_it_is() -> None:
    assert table(["", "ms"], [["netlab", "5"], ["ip", "1000"]]).splitlines() == [
        "|        |   ms |",
        "|--------|-----:|",
        "| netlab |    5 |",
        "| ip     | 1000 |",
    ]


def test_up_table_has_a_row_for_each_tool_that_was_measured() -> None:
    samples = {"raw": rounds(0.1, 0.2), "netlab": rounds(0.3, 0.4), "munet": {}}
    header, _, raw, netlab = up_table(samples, {name: name for name in samples}, ["raw", "ip"]).splitlines()
    assert "up / raw" in header
    assert "up / ip" not in header
    assert [cell.strip() for cell in raw.split("|")[1:5]] == ["raw", "150 (100-200)", "100", "1"]
    assert [cell.strip() for cell in netlab.split("|")[1:5]] == ["netlab", "350 (300-400)", "100", "2.50 (2.00-3.00)"]


def test_a_limit_is_met_or_missed() -> None:
    assert verdict(1.5, 1.5) == "met"
    assert verdict(1.51, 1.5) == "MISSED"


def test_targets_are_judged_at_their_sizes_by_the_ratio_of_rounds() -> None:
    samples = {"kernel": rounds(0.3, 0.2), "raw": rounds(0.1, 0.1), "netlab": rounds(0.5), "ip": rounds(1.0)}
    assert list(judge(100, samples)) == [
        "target: kernel within 0.25 s: 0.250 s, met",
        "target: kernel within 1.7 times raw: 2.50 (2.00-3.00), MISSED",
        "target: netlab within 1.5 times ip: 0.50, met",
    ]
    assert list(judge(20, samples)) == []
    assert list(judge(300, samples)) == ["target: netlab within 1.0 times ip: 0.50, met"]
