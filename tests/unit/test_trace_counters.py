"""Which steps of a foretold way were seen, by what interfaces counted."""

from __future__ import annotations

import pytest

from netlab.trace.counters import counted
from netlab.trace.layout import Kind
from tests.unit.traced_hops import seen

WAY = [
    seen("p/eth0", Kind.OUT),
    seen("n1/veth1", Kind.IN),
    seen("n1/eth0", Kind.OUT),
    seen("q/eth0", Kind.IN),
    seen("q/eth0", Kind.CONSUMED),
]
BEFORE = {(one.namespace, one.device, one.kind): 5 for one in WAY[:-1]}


@pytest.mark.parametrize(
    ("silent", "expected"),
    [
        (set(), WAY),
        ({3}, WAY[:3]),  # it did not come there
        ({1}, WAY[:1]),  # somebody else's packet counted further on
        ({0, 1, 2, 3}, []),
    ],
)
def test_what_counted_was_passed(silent: set[int], expected: list[object]) -> None:
    after = {key: count + (place not in silent) for place, (key, count) in enumerate(BEFORE.items())}
    assert counted(WAY, BEFORE, after) == expected


def test_an_interface_that_is_new_has_counted_what_it_counts() -> None:
    after = dict.fromkeys(BEFORE, 1)
    assert counted(WAY, {}, after) == WAY
