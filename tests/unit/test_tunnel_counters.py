"""The counters that a forwarder shares, and the limit of what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.tunnel.counters import NAMES, SIZE, Counters, find
from netlab.tunnel.limit import Limit
from netlab.tunnel.packet import Drop

NOTHING = dict.fromkeys(NAMES, 0)


def test_what_is_counted_can_be_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "n1.counters"
    counters = Counters(path)
    assert find(path) == NOTHING
    counters.sent(1472)
    counters.sent(3000, packets=2)
    counters.received(84)
    counters.dropped(Drop.NO_ROUTE)
    counters.dropped(Drop.TTL_EXCEEDED, packets=3)
    assert find(path) == NOTHING | {
        **{"sentPackets": 3, "sentBytes": 4472, "sentBatches": 2},
        **{"receivedPackets": 1, "receivedBytes": 84, "receivedBatches": 1},
        **{"no-route": 1, "ttl-exceeded": 3},
    }


@pytest.mark.parametrize("reason", list(Drop))
def test_every_reason_has_a_counter_of_its_own(tmp_path: Path, reason: Drop) -> None:
    Counters(tmp_path / "c").dropped(reason)
    assert find(tmp_path / "c") == NOTHING | {reason: 1}


def test_another_forwarder_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    Counters(tmp_path / "c").sent(100)
    Counters(tmp_path / "c").sent(50)
    found = find(tmp_path / "c")
    assert found is not None
    assert (found["sentPackets"], found["sentBytes"]) == (2, 150)


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(SIZE), b"nlcount0" + bytes(SIZE - 8), b"nlcount2", bytes(2 * SIZE)]
)
def test_a_file_of_something_else_is_nothing_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    assert find(path) is None
    Counters(path).sent(1)
    assert find(path) == NOTHING | {"sentPackets": 1, "sentBytes": 1, "sentBatches": 1}


def test_no_file_is_nothing_and_none_is_needed(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") is None
    Counters().sent(1)


def test_more_than_32_bits_are_counted(tmp_path: Path) -> None:
    Counters(tmp_path / "c").sent(2**40)
    assert (find(tmp_path / "c") or {})["sentBytes"] == 2**40


@given(st.lists(st.floats(0, 10), max_size=200), st.integers(1, 10))
def test_a_limit_holds_over_any_time(pauses: list[float], burst: int) -> None:
    limit, now, happened = Limit(2.0, burst), 100.0, 0
    for pause in pauses:
        now += pause
        happened += limit.allows(now)
        assert happened <= burst + 2.0 * (now - 100.0) + 1e-6


def test_a_limit_allows_a_burst_and_then_its_rate() -> None:
    limit = Limit(0.5, 2)
    assert [limit.allows(1000.0) for _ in range(3)] == [True, True, False]
    assert not limit.allows(1001.9)
    assert limit.allows(1002.1)
    assert not limit.allows(1002.2)
