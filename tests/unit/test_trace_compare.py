"""Where a packet went another way than the tables say."""

from __future__ import annotations

from netlab.trace.compare import differences
from netlab.trace.layout import Kind
from netlab.trace.model import Event, Hop
from netlab.trace.predict import Prediction
from netlab.trace.sighting import Sighting
from tests.unit.traced_hops import PLACES, FakeTables, device, hop, seen

HOPS = (hop("p/eth0", Event.OUT), hop("n1/veth1"), hop("n1/eth0", Event.OUT), hop("n1/eth0", Event.DROPPED))
STEPS = [seen("p/eth0", Kind.OUT), seen("n1/veth1"), seen("n1/eth0", Kind.OUT)]


def said(hops: tuple[Hop, ...], *steps: Sighting, end: str = "", arrives: bool = False) -> tuple[str, ...]:
    tables = {"lab.n1": FakeTables([device("flannel0", "tun"), device("eth0")])}
    return differences(hops, Prediction(list(steps), end, arrives), PLACES.members, tables)


def test_the_same_way_is_no_difference() -> None:
    assert said(HOPS, *STEPS) == ()
    assert said(HOPS, *STEPS, seen("n1/eth0", Kind.CONSUMED), arrives=True) == ()
    assert said((), arrives=False) == ()


def test_another_device() -> None:
    way = said(HOPS, *STEPS[:2], seen("n1/eth1", Kind.OUT))
    assert way == ("by the tables it goes out by eth1 of n1, after veth1 of n1",)
    assert said(HOPS, seen("p/eth1", Kind.OUT)) == ("by the tables it goes out by eth1 of p, after its sender",)
    assert said(HOPS, *STEPS[:2], seen("x/eth0")) == ("by the tables it goes in by eth0 of lab.x, after veth1 of n1",)


def test_the_tables_end_before_the_packet() -> None:
    assert said(HOPS, *STEPS[:2], end="n1 has no route") == (
        "by the tables it goes no further than veth1 of n1: n1 has no route",
    )
    assert said(HOPS, *STEPS[:2])[0].endswith(": it would have ended there")


def test_the_packet_ends_before_the_tables() -> None:
    further = [*STEPS, seen("n2/eth0"), seen("q/eth0", Kind.CONSUMED)]
    assert said(HOPS, *further, arrives=True) == (
        "by the tables it would have gone on: in by eth0 of n2, and come to q",
    )
    assert said(HOPS, *further) == ()  # they do not know either


def test_a_tun_that_no_packet_goes_out_by_is_no_difference() -> None:
    tun = seen("n1/flannel0", Kind.OUT)
    assert said(HOPS, *STEPS[:2], tun, STEPS[2]) == ()
    assert said(HOPS, *STEPS[:2], seen("n1/flannel0"), STEPS[2]) != ()
    through = (*HOPS[:2], hop("n1/flannel0", Event.OUT), *HOPS[2:])
    assert said(through, *STEPS[:2], tun, STEPS[2]) == ()
    assert said(through, *STEPS) != ()
