"""The switch between VMs: where frames go, and what faults do to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.bpf import classic as bpf
from netlab.errors import UsageError
from netlab.vm.switch import AGEING, STATIONS, Action, Delivery, Fault, PortCounters, Switch

PORTS = ("vm1", "vm2", "vm3", "vm4")
A, B, C = (bytes([0x52, 0x54, 0, 0, 0, last]) for last in (1, 2, 3))
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")
# What tcpdump -ddd prints for 'arp'.
ARP_ONLY = bpf.parse("4\n40 0 0 12\n21 0 1 2054\n6 0 0 65535\n6 0 0 0")


def frame(source: bytes, destination: bytes, payload: bytes = b"", *, kind: int = 0x0800) -> bytes:
    return destination + source + kind.to_bytes(2, "big") + payload


def ports(deliveries: list[Delivery]) -> list[str]:
    return [delivery.port for delivery in deliveries]


def knowing(**stations: bytes) -> Switch:
    """Return a switch that has seen a station at each of some ports."""
    switch = Switch(PORTS)
    for port, station in stations.items():
        switch.receive(port, frame(station, BROADCAST), 0.0)
    return switch


# --- forwarding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", [BROADCAST, GROUP, C], ids=["broadcast", "group", "unknown"])
def test_flooding_reaches_every_other_port_once(destination: bytes) -> None:
    sent = frame(A, destination)
    assert knowing(vm1=A).receive("vm1", sent, 7.5) == [Delivery(port, sent, 7.5) for port in ("vm2", "vm3", "vm4")]


def test_a_learned_address_gets_the_only_copy() -> None:
    assert ports(knowing(vm1=A, vm3=B).receive("vm1", frame(A, B), 1.0)) == ["vm3"]


def test_a_station_behind_the_port_of_entry_gets_nothing() -> None:
    assert knowing(vm1=B).receive("vm1", frame(A, B), 1.0) == []


def test_a_station_that_moves_is_found_at_its_new_port() -> None:
    switch = knowing(vm2=B)
    switch.receive("vm4", frame(B, BROADCAST), 1.0)
    assert ports(switch.receive("vm1", frame(A, B), 1.0)) == ["vm4"]


@pytest.mark.parametrize(("silence", "expected"), [(AGEING - 0.1, ["vm2"]), (AGEING, ["vm2", "vm3", "vm4"])])
def test_a_silent_station_is_forgotten(silence: float, expected: list[str]) -> None:
    switch = knowing(vm2=B)
    switch.receive("vm2", frame(B, A), 10.0)
    assert ports(switch.receive("vm1", frame(A, B), 10.0 + silence)) == expected


def test_a_group_is_no_station() -> None:
    switch = knowing(vm2=GROUP)
    assert ports(switch.receive("vm1", frame(A, GROUP), 1.0)) == ["vm2", "vm3", "vm4"]


@pytest.mark.parametrize(
    "refused", [b"", frame(A, B)[:13], *(frame(A, b"\1\x80\xc2\0\0" + bytes([n])) for n in range(16))]
)
def test_runts_and_reserved_groups_stop_at_the_switch(refused: bytes) -> None:
    switch = Switch(PORTS)
    assert switch.receive("vm1", refused, 0.0) == []
    assert switch.counters("vm1") == PortCounters(frames_in=1, bytes_in=len(refused), refused=1)


@pytest.mark.parametrize("group", ["0180c2000010", "0180c2000021", "01000ccccccc"])
def test_groups_beside_the_reserved_ones_are_flooded(group: str) -> None:
    assert len(Switch(PORTS).receive("vm1", frame(A, bytes.fromhex(group)), 0.0)) == 3


def test_a_header_without_a_payload_is_a_frame() -> None:
    assert len(Switch(PORTS).receive("vm1", frame(A, B), 0.0)) == 3


def test_the_first_of_too_many_stations_makes_room() -> None:
    switch = knowing(vm2=B)
    crowd = [b"\2\1" + number.to_bytes(4, "big") for number in range(STATIONS)]
    for station in crowd[:-1]:
        switch.receive("vm3", frame(station, BROADCAST), 1.0)
    assert ports(switch.receive("vm3", frame(crowd[0], B), 1.0)) == ["vm2"]  # as many as there is room for
    assert ports(switch.receive("vm3", frame(crowd[-1], B), 1.0)) == ["vm1", "vm2", "vm4"]
    assert ports(switch.receive("vm1", frame(crowd[0], crowd[-1]), 1.0)) == ["vm3"]


def test_ports_come_and_go() -> None:
    switch = knowing(vm1=A, vm2=B)
    switch.remove_port("vm2")
    assert ports(switch.receive("vm1", frame(A, B), 1.0)) == ["vm3", "vm4"]
    switch.add_port("vm2")
    assert ports(switch.receive("vm1", frame(A, B), 1.0)) == ["vm3", "vm4", "vm2"]
    with pytest.raises(UsageError, match="the switch has a port vm2 already"):
        switch.add_port("vm2")
    switch.remove_port("vm2")
    with pytest.raises(UsageError, match=r"no port vm2\n.*there are: vm1, vm3, vm4"):
        switch.remove_port("vm2")
    with pytest.raises(KeyError):
        switch.receive("vm2", frame(B, A), 1.0)


def test_ports_count_what_they_see() -> None:
    switch = Switch(PORTS)
    switch.receive("vm1", frame(A, BROADCAST, bytes(46)), 0.0)
    switch.receive("vm2", frame(B, A), 0.0)
    assert switch.counters("vm1") == PortCounters(frames_in=1, bytes_in=60, frames_out=1, bytes_out=14)
    assert switch.counters("vm2") == PortCounters(frames_in=1, bytes_in=14, frames_out=1, bytes_out=60)
    before = switch.counters("vm3")
    switch.receive("vm2", frame(B, BROADCAST), 0.0)
    assert before == PortCounters(frames_out=1, bytes_out=60)
    assert switch.counters("vm3") == PortCounters(frames_out=2, bytes_out=74)


addresses = st.sampled_from([A, B, C, BROADCAST, GROUP])
times = st.lists(st.floats(0, 400), max_size=30).map(sorted)


@given(st.data(), times)
def test_a_switch_is_its_list_of_sightings(data: st.DataObject, times: list[float]) -> None:
    """Whatever came before: to the port where the receiver was last seen, else to all others, never back."""
    switch = Switch(PORTS)
    seen: dict[bytes, tuple[str, float]] = {}
    for now in times:
        port = data.draw(st.sampled_from(PORTS))
        source, destination = data.draw(addresses), data.draw(addresses)
        sent = frame(source, destination)
        if source not in (BROADCAST, GROUP):
            seen[source] = (port, now)
        where, when = seen.get(destination, ("", 0.0))
        expected = {where} if where and now - when < AGEING else set(PORTS)
        deliveries = switch.receive(port, sent, now)
        assert sorted(ports(deliveries)) == sorted(expected - {port})
        assert all(delivery == (delivery.port, sent, now) for delivery in deliveries)


# --- faults -------------------------------------------------------------------------------------------------------


def drop(**changes: object) -> Fault:
    return replace(Fault("lossy", Action.DROP), **changes)  # type: ignore[arg-type]


def delay(seconds: float, **changes: object) -> Fault:
    return replace(Fault("slow", Action.DELAY, seconds=seconds), **changes)  # type: ignore[arg-type]


BOTH_WAYS = [("vm1", A, B), ("vm2", B, A), ("vm3", C, BROADCAST)]


@pytest.mark.parametrize(
    ("fault", "expected", "matched"),
    [
        (drop(), [[], [], []], 3),
        (drop(from_port="vm1"), [[], ["vm1"], ["vm1", "vm2", "vm4"]], 1),
        (drop(to_port="vm1"), [["vm2"], [], ["vm2", "vm4"]], 2),
        (drop(from_port="vm3", to_port="vm2"), [["vm2"], ["vm1"], ["vm1", "vm4"]], 1),
        (drop(from_port="vm1", to_port="vm1"), [["vm2"], ["vm1"], ["vm1", "vm2", "vm4"]], 0),
        (drop(first=1), [[], ["vm1"], ["vm1", "vm2", "vm4"]], 3),
        (drop(to_port="vm1", first=1), [["vm2"], [], ["vm1", "vm2", "vm4"]], 2),
        (drop(every=2), [["vm2"], [], ["vm1", "vm2", "vm4"]], 3),
        (drop(filter="arp", program=ARP_ONLY), [["vm2"], ["vm1"], ["vm1", "vm2", "vm4"]], 0),
    ],
    ids=lambda value: None,
)
def test_a_fault_takes_its_frames_and_no_others(fault: Fault, expected: list[list[str]], matched: int) -> None:
    switch = knowing(vm1=A, vm2=B)
    switch.add_fault(fault)
    assert [ports(switch.receive(port, frame(*pair), 1.0)) for port, *pair in BOTH_WAYS] == expected
    assert [count.matched for count in switch.faults()] == [matched]


def test_a_filter_chooses_the_frames() -> None:
    switch = Switch(PORTS)
    switch.add_fault(drop(filter="arp", program=ARP_ONLY))
    assert switch.receive("vm1", frame(A, BROADCAST, kind=0x0806), 0.0) == []
    assert len(switch.receive("vm1", frame(A, BROADCAST), 0.0)) == 3


def test_what_the_senders_cable_lost_the_switch_has_not_seen() -> None:
    switch = Switch(PORTS)
    switch.add_fault(drop(from_port="vm2"))
    switch.receive("vm2", frame(B, BROADCAST), 0.0)
    assert len(switch.receive("vm1", frame(A, B), 0.0)) == 3
    assert switch.counters("vm2") == PortCounters(frames_in=1, bytes_in=14, dropped=1, frames_out=1, bytes_out=14)


def test_what_the_receivers_cable_lost_the_switch_has_seen() -> None:
    switch = Switch(PORTS)
    switch.add_fault(drop(from_port="vm2", to_port="vm1"))
    assert ports(switch.receive("vm2", frame(B, BROADCAST), 0.0)) == ["vm3", "vm4"]
    assert switch.counters("vm1") == PortCounters(dropped=1)
    assert ports(switch.receive("vm1", frame(A, B), 0.0)) == ["vm2"]


def test_a_delay_holds_one_cable_only() -> None:
    switch = Switch(PORTS)
    switch.add_fault(delay(0.25, to_port="vm3"))
    assert [(port, at) for port, _, at in switch.receive("vm1", frame(A, BROADCAST), 10.0)] == [
        ("vm2", 10.0),
        ("vm3", 10.25),
        ("vm4", 10.0),
    ]


def test_the_sender_of_a_delayed_frame_is_learned_at_once() -> None:
    switch = Switch(PORTS)
    switch.add_fault(delay(50.0, from_port="vm2"))
    switch.receive("vm2", frame(B, BROADCAST), 0.0)
    assert ports(switch.receive("vm1", frame(A, B), AGEING - 1)) == ["vm2"]
    assert len(switch.receive("vm1", frame(A, B), AGEING + 1)) == 3


def test_delays_add_up_and_a_drop_ends_the_row() -> None:
    switch = knowing(vm2=B)
    switch.add_fault(delay(0.5, name="last mile", to_port="vm2"))
    switch.add_fault(delay(1.0))
    assert [delivery.at for delivery in switch.receive("vm1", frame(A, B), 10.0)] == [11.5]
    switch.add_fault(drop())
    assert switch.receive("vm1", frame(A, B), 10.0) == []
    assert [(count.fault.name, count.acted) for count in switch.faults()] == [
        ("last mile", 1),
        ("slow", 2),
        ("lossy", 1),
    ]


def test_faults_are_taken_out_by_name() -> None:
    switch = Switch(PORTS)
    lossy, slow = drop(to_port="vm2"), delay(1.0)
    switch.add_fault(lossy)
    switch.add_fault(slow)
    switch.receive("vm1", frame(A, BROADCAST), 0.0)
    assert switch.remove_fault("lossy") == (lossy, 1, 1)
    assert [delivery.at for delivery in switch.receive("vm1", frame(A, BROADCAST), 0.0)] == [1.0, 1.0, 1.0]
    switch.add_fault(lossy)
    switch.clear_faults()
    assert switch.faults() == []
    assert [delivery.at for delivery in switch.receive("vm1", frame(A, BROADCAST), 0.0)] == [0.0, 0.0, 0.0]


def test_a_fault_waits_for_its_port_to_come_back() -> None:
    switch = Switch(PORTS)
    switch.add_fault(drop(to_port="vm2"))
    switch.remove_port("vm2")
    switch.add_port("vm2")
    assert ports(switch.receive("vm1", frame(A, BROADCAST), 0.0)) == ["vm3", "vm4"]


def test_wrong_faults_say_what_is_wrong() -> None:
    switch = Switch(PORTS)
    switch.add_fault(drop())
    with pytest.raises(UsageError, match="there is a fault lossy already"):
        switch.add_fault(drop(first=1))
    with pytest.raises(UsageError, match=r"no port vm9\n.*there are: vm1, vm2, vm3, vm4"):
        switch.add_fault(drop(name="typo", to_port="vm9"))
    with pytest.raises(UsageError, match=r"no fault slow\n.*there are: lossy"):
        switch.remove_fault("slow")
    assert [count.fault.name for count in switch.faults()] == ["lossy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "fault lossy: every 0 is not 1 or more"),
        ({"first": 0}, "fault lossy: first 0 is not 1 or more"),
        ({"seconds": 1.0}, "fault lossy: 1.0 seconds do not fit the action drop"),
        ({"action": Action.DELAY}, "fault lossy: 0.0 seconds do not fit the action delay"),
        ({"action": Action.DELAY, "seconds": -1.0}, "fault lossy: -1.0 seconds do not fit"),
        ({"action": Action.DELAY, "seconds": float("inf")}, "fault lossy: inf seconds do not fit"),
        ({"action": Action.DELAY, "seconds": float("nan")}, "fault lossy: nan seconds do not fit"),
        ({"filter": "arp"}, "fault lossy: the filter 'arp' is not compiled"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        drop(**changes)


@given(st.integers(1, 7), st.none() | st.integers(1, 40), st.integers(0, 60), st.sampled_from([None, "vm2"]))
def test_every_and_first_choose_by_number(every: int, first: int | None, frames: int, to_port: str | None) -> None:
    switch = knowing(vm2=B)
    switch.add_fault(drop(every=every, first=first, to_port=to_port))
    lost = [number for number in range(1, frames + 1) if not switch.receive("vm1", frame(A, B), 0.0)]
    assert lost == list(range(every, min(frames, first or frames) + 1, every))
    (count,) = switch.faults()
    assert (count.matched, count.acted) == (frames, len(lost))


@given(st.floats(0.001, 10), times, st.integers(1, 3))
def test_frames_leave_a_delay_in_the_order_in_which_they_entered(
    seconds: float, times: list[float], every: int
) -> None:
    switch = knowing(vm2=B)
    switch.add_fault(delay(seconds, every=every))
    leaving = [switch.receive("vm1", frame(A, B), now)[0].at for now in times]
    delayed = leaving[every - 1 :: every]
    assert delayed == sorted(delayed)
    assert delayed == [now + seconds for now in times[every - 1 :: every]]
    assert [at for number, at in enumerate(leaving, 1) if number % every] == [
        now for number, now in enumerate(times, 1) if number % every
    ]
