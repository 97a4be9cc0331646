"""One total out of several tiers' JUnit files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tier.__main__ import AGAIN_MAX, read_native
from tests.tier.guests import failure
from tests.tier.report import Outcome, durations, failed, junit_key, merge, read, skipped, total
from tests.tier.shard import share

JUNIT = """<testsuites><testsuite name="pytest">
<testcase classname="tests.root.test_a" name="test_one[x]" time="0.5"/>
<testcase classname="tests.root.test_a" name="test_two"><skipped message="no ipip"/></testcase>
<testcase classname="tests.root.test_a" name="test_peer"><skipped message="optional: no go"/></testcase>
<testcase classname="tests.root.test_a" name="test_three" time="1"><failure message="no"/></testcase>
<testcase classname="tests.root.test_a" name="test_four" time="2"/>
<testcase classname="tests.root.test_a" name="test_four" time="0.5"><error message="in its teardown"/></testcase>
</testsuite></testsuites>"""
ONE, TWO, PEER, THREE, FOUR = (f"tests.root.test_a::test_{name}" for name in ("one[x]", "two", "peer", "three", "four"))


@pytest.mark.parametrize(
    ("nodeid", "key"),
    [
        ("tests/root/test_a.py::test_one", "tests.root.test_a::test_one"),
        ("tests/root/test_a.py::TestB::test_c", "tests.root.test_a.TestB::test_c"),
        ("tests/unit/test_a.py::test_b[x/y.py::z]", "tests.unit.test_a::test_b[x/y.py::z]"),
    ],
)
def test_a_node_has_the_name_that_junit_gives_it(nodeid: str, key: str) -> None:
    assert junit_key(nodeid) == key


def test_a_file_is_read() -> None:
    assert read(JUNIT) == {ONE: "passed", TWO: "skipped", THREE: "failed", FOUR: "failed"}
    assert durations(JUNIT) == {ONE: 0.5, TWO: 0.0, PEER: 0.0, THREE: 1.0, FOUR: 2.5}


def test_a_test_that_is_skipped_in_one_tier_counts_where_it_ran() -> None:
    merged = merge([read(JUNIT), {TWO: Outcome.PASSED, ONE: Outcome.SKIPPED}])
    assert merged[ONE] == merged[TWO] == "passed"
    assert skipped(merged) == []
    assert total(merged) == "2 passed, 2 failed"


def test_a_test_that_ran_nowhere_is_found() -> None:
    merged = merge([{TWO: Outcome.SKIPPED}, {TWO: Outcome.SKIPPED, ONE: Outcome.PASSED}])
    assert skipped(merged) == [TWO]
    assert total(merged) == "1 passed, 0 failed, 1 skipped"


def test_a_failure_anywhere_is_a_failure() -> None:
    assert merge([{ONE: Outcome.FAILED}, {ONE: Outcome.PASSED}]) == {ONE: Outcome.FAILED}


def test_the_second_try_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And that there was one is said."""
    files = [tmp_path / "native.xml", tmp_path / "again.xml"]
    files[0].write_text(JUNIT)
    files[1].write_text(
        '<testsuites><testsuite><testcase classname="tests.root.test_a" name="test_three" time="9"/>'
        '<testcase classname="tests.root.test_a" name="test_four"><failure/></testcase></testsuite></testsuites>'
    )
    found, times = read_native(files)
    assert found == {ONE: "passed", TWO: "skipped", THREE: "passed", FOUR: "failed"}
    assert times[THREE] == 1
    assert capsys.readouterr().out == f"failed, and passed alone: {THREE}\n"
    assert (failed(read(JUNIT)), failed(found)) == ([FOUR, THREE], [FOUR])
    assert read_native([]) == ({}, {})


def test_where_many_failed_a_second_try_does_not_count(tmp_path: Path) -> None:
    one = '<testcase classname="tests.root.test_a" name="test_{}">{}</testcase>'
    files = [tmp_path / name for name in ("native.xml", "again.xml")]
    for number, outcome in ((AGAIN_MAX, Outcome.PASSED), (AGAIN_MAX + 1, Outcome.FAILED)):
        for file, child in zip(files, ("<failure/>", ""), strict=True):
            file.write_text(f"<s>{''.join(one.format(i, child) for i in range(number))}</s>")
        assert set(read_native(files)[0].values()) == {outcome}


def test_a_vm_that_ended_has_a_junit_file_all_the_same() -> None:
    assert read(failure("tests/root/test_a.py::test_one[x]", 'it said "<no>"')) == {ONE: Outcome.FAILED}
    assert list(read(failure("", "no boot")).values()) == [Outcome.FAILED]


@given(st.lists(st.floats(0, 100), max_size=40), st.integers(1, 5))
def test_shares_are_whole_and_even(costs: list[float], count: int) -> None:
    shares = share(costs, count)
    assert sorted(index for each in shares for index in each) == list(range(len(costs)))
    loads = [sum(costs[index] for index in each) for each in shares]
    assert max(loads) - min(loads) <= max(costs, default=0.0) + 1e-6
    assert share(costs, count) == shares
