"""Which sightings are of one packet, in which order it went: recorded ones, and some made by hand."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.trace.correlate import Journey, Role, correlate, identify
from netlab.trace.headers import ICMP, TCP, UDP, Headers, Icmp, Ip, Tcp, Udp
from netlab.trace.layout import Direction, Kind
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Device
from tests.unit.recorded_traces import NAMES, Recorded, load, shown, steps

JOINED = "skb_release_data"  # where fragments are freed that were joined to a packet


def vxlan(src: str, src_node: str, dst_node: str, dst: str, end: str = "") -> list[str]:
    """Return the way of a packet from a pod to one of another node."""
    way = [f"{src} eth0 out", f"{src_node} veth in", f"{src_node} cni0 in", f"{src_node} flannel.1 out"]
    way += [f"{src_node} eth0 out", f"underlay {src_node}-eth0 in", f"underlay {dst_node}-eth0 out"]
    way += [f"{dst_node} eth0 in", f"{dst_node} flannel.1 in", f"{dst_node} cni0 out", f"{dst_node} veth out"]
    return [*way, f"{dst} eth0 in", *([f"{dst} eth0 {end}"] if end else [])]


def fragment(src: str, src_node: str, dst_node: str, dst: str, end: str = "") -> list[str]:
    """Return the way of a fragment: conntrack joins it to its packet before the bridge passes that up."""
    return [step for step in vxlan(src, src_node, dst_node, dst, end) if step != f"{src_node} cni0 in"]


def udp(src: str, src_node: str, dst_node: str, dst: str, end: str) -> list[str]:
    """Return the way through flannel's UDP forwarders, which put packets into sockets without their devices."""
    way = [step for step in vxlan(src, src_node, dst_node, dst, end) if step != f"{src_node} flannel.1 out"]
    return [step.replace("flannel.1", "flannel0") for step in way]


THERE = ("p-1", "n1", "n2", "p-2")
BACK = ("p-2", "n2", "n1", "p-1")
WAYS: dict[str, list[tuple[str, list[str], list[list[str]]]]] = {
    "vxlan": [
        ("probe", vxlan(*THERE, "consumed"), []),
        ("answer", vxlan(*BACK, "dropped"), []),  # a raw socket had a copy of it: ping_rcv() frees it
    ],
    "udp": [("probe", udp(*THERE, "consumed"), []), ("answer", udp(*BACK, "dropped"), [])],
    "refused": [("probe", vxlan(*THERE, "dropped"), []), ("icmp error", vxlan(*BACK, "consumed"), [])],
    "flooded": [
        (
            "probe",
            vxlan(*THERE, "dropped"),
            [
                ["n2 veth out", "p-6 eth0 in", "p-6 eth0 dropped"],
                ["n2 veth out", "p-4 eth0 in", "p-4 eth0 dropped"],
            ],
        ),
        ("icmp error", vxlan(*BACK, "consumed"), []),
    ],
    "fragments": [
        ("probe", vxlan(*THERE, "consumed"), []),
        ("fragment", fragment(*THERE, "consumed"), []),
        ("fragment", fragment(*THERE), []),
        ("answer", vxlan(*BACK, "consumed"), []),
        ("fragment of the answer", fragment(*BACK, "consumed"), []),
        ("fragment of the answer", fragment(*BACK), []),
    ],
    "legacy-drop": [("probe", ["p-1 eth0 out", "n1 veth in", "n1 cni0 in", "n1 cni0 dropped"], [])],
    "tcp": [
        ("probe", vxlan("p", "n1", "n2", "web-2", "consumed"), []),
        ("answer", vxlan("web-2", "n2", "n1", "p"), []),
        ("later packet", vxlan("p", "n1", "n2", "web-2"), []),
    ],
    "cluster-ip": [
        ("probe", vxlan("p", "n1", "n3", "web-3", "consumed"), []),
        ("answer", vxlan("web-3", "n3", "n1", "p"), []),
        ("later packet", vxlan("p", "n1", "n3", "web-3"), []),
    ],
    "nftables": [  # its address is translated while a bridge has it
        ("probe", ["p eth0 out", "n1 veth in", "n1 veth out", "web-1 eth0 in", "web-1 eth0 consumed"], []),
        ("answer", ["web-1 eth0 out", "n1 veth in", "n1 veth out", "p eth0 in"], []),
        ("later packet", ["p eth0 out", "n1 veth in", "n1 veth out", "web-1 eth0 in"], []),
    ],
}


def sightings(recorded: Recorded) -> list[Sighting]:
    """Return what was seen, with joined fragments ended as `run` does it."""
    joined = recorded.words.index(JOINED) if JOINED in recorded.words else -1
    return [replace(one, kind=Kind.CONSUMED) if one.location == joined else one for one in recorded.sightings]


def test_every_record_has_its_ways() -> None:
    assert set(NAMES) == set(WAYS)


@pytest.mark.parametrize("name", NAMES)
def test_recorded_packets_go_their_ways(name: str) -> None:
    recorded = load(name)
    assert [shown(journey) for journey in correlate(sightings(recorded), recorded.find_device)] == WAYS[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_order_in_which_sightings_come_does_not_matter_when_times_differ(name: str) -> None:
    recorded = load(name)
    times = [one.time for one in recorded.sightings]
    assert len(set(times)) == len(times)
    found = correlate(sightings(recorded), recorded.find_device)
    for seed in range(5):
        mixed = random.Random(seed).sample(sightings(recorded), len(times))
        assert correlate(mixed, recorded.find_device) == found


@pytest.mark.parametrize("name", NAMES)
def test_sightings_of_one_time_stay_in_the_order_in_which_they_came(name: str) -> None:
    recorded = load(name)
    at_once = [replace(one, time=0) for one in sightings(recorded)]
    assert [shown(journey) for journey in correlate(at_once, recorded.find_device)] == WAYS[name]


@pytest.mark.parametrize("name", NAMES)
def test_copies_hold_no_sighting_twice_and_none_of_the_way(name: str) -> None:
    recorded = load(name)
    for journey in correlate(sightings(recorded), recorded.find_device):
        every = [*journey.way, *(one for copy in journey.copies for one in copy)]
        assert len(every) == len(set(every))
        assert len(journey.branched_from) == len(journey.copies)
        assert all(after in every for after in journey.branched_from if after)


@given(st.data())
def test_any_part_of_what_was_seen_makes_ways_in_order_of_time(data: st.DataObject) -> None:
    recorded = load(data.draw(st.sampled_from(NAMES)))
    seen = sightings(recorded)
    part = [seen[place] for place in data.draw(st.lists(st.integers(0, len(seen) - 1), unique=True))]
    journeys = correlate(part, recorded.find_device)
    for journey in journeys:
        times = [one.time for one in journey.way]
        assert times == sorted(times)
        assert all(one.kind not in (Kind.DROPPED, Kind.CONSUMED) for one in journey.way[:-1])
    assert sum(journey.role is Role.PROBE for journey in journeys) <= 1


def test_nothing_seen_is_no_journey() -> None:
    assert correlate([], lambda namespace, device: None) == []


# --- made by hand ----------------------------------------------------------------------------------------------------

A, B = ip_address("10.244.1.2"), ip_address("10.244.2.2")
DEVICES = {
    ("n1", "br0"): Device("br0", 1, "bridge", "02:00:00:00:00:01", 1500, True),
    ("n1", "port1"): Device("port1", 2, "veth", "02:00:00:00:00:02", 1500, True, bridge="br0"),
    ("n1", "port2"): Device("port2", 3, "veth", "02:00:00:00:00:03", 1500, True, bridge="br0"),
    ("n1", "port3"): Device("port3", 4, "veth", "02:00:00:00:00:04", 1500, True, bridge="br0"),
}


def ip(protocol: int = UDP, *, ident: int = 7, offset: int = 0, back: bool = False) -> Ip:
    src, dst = (B, A) if back else (A, B)
    return Ip(4, src, dst, protocol, 64, 100, ident, offset=offset)


def seen(
    time: int,
    place: str,
    kind: Kind = Kind.IN,
    *,
    headers: Headers | None = None,
    buffer: int = 1,
    direction: Direction = Direction.COOKIE,
) -> Sighting:
    namespace, _, device = place.partition("/")
    headers = headers if headers is not None else (ip(), Udp(40000, 53))
    return Sighting(time, kind, namespace, device, 0, headers, b"", b"", 100, direction, buffer)


def ways(*found: Sighting) -> list[Journey]:
    return correlate(found, lambda namespace, device: DEVICES.get((namespace, device)))


def test_a_packet_without_ip_is_left_out() -> None:
    assert ways(seen(1, "n1/br0", headers=())) == []
    assert identify(seen(1, "n1/br0", headers=(Udp(1, 2),))) is None


def test_a_datagram_back_with_the_same_identification_is_another_packet() -> None:
    back = seen(2, "n1/port1", direction=Direction.BACK, buffer=2)
    assert [journey.role for journey in ways(seen(1, "n1/port1"), back)] == [Role.PROBE, Role.ANSWER]


@pytest.mark.parametrize(
    "other",
    [
        (ip(TCP), Tcp(1, 80, 6, 0, "S")),
        (ip(TCP), Tcp(1, 80, 5, 1, "S")),
        (ip(TCP), Tcp(1, 80, 5, 0, "SA")),
        (ip(TCP, ident=8), Tcp(1, 80, 5, 0, "S")),
        (ip(ICMP), Icmp(8, 0, 5, 0)),
        (ip(TCP, offset=8),),
    ],
)
def test_segments_that_differ_are_different_packets(other: Headers) -> None:
    syn = (ip(TCP), Tcp(1, 80, 5, 0, "S"))
    translated = (replace(ip(TCP), dst=A), Tcp(9, 8080, 5, 0, "S"))
    assert identify(seen(1, "n1/br0", headers=syn)) == identify(seen(2, "n1/br0", headers=translated))
    assert identify(seen(1, "n1/br0", headers=syn)) != identify(seen(1, "n1/br0", headers=other))


def test_echoes_are_told_apart_by_their_numbers() -> None:
    one = identify(seen(1, "n1/br0", headers=(ip(ICMP), Icmp(8, 0, 5, 1))))
    assert identify(seen(1, "n1/br0", headers=(ip(ICMP), Icmp(8, 0, 5, 2)))) != one
    assert identify(seen(1, "n1/br0", headers=(ip(ICMP), Icmp(0, 0, 5, 1)))) != one


def test_the_end_of_a_copy_that_nobody_saw_on_its_way_is_left_out() -> None:
    (found,) = ways(seen(1, "n1/port1"), seen(2, "n1/port1", Kind.CONSUMED, buffer=9), seen(3, "n1/br0"))
    assert steps(found.way) == steps([seen(1, "n1/port1"), seen(3, "n1/br0")])
    assert not found.copies
    assert ways(seen(1, "n1/port1", Kind.CONSUMED)) == []


def test_a_probe_that_its_senders_kernel_dropped_has_only_an_end() -> None:
    end = seen(2, "n1/port1", Kind.DROPPED)
    assert [journey.way for journey in ways(seen(1, "n1/port1", Kind.CONSUMED), end)] == [(end,)]
    assert ways(seen(1, "n1/port1", Kind.DROPPED, direction=Direction.BACK)) == []


def test_an_end_without_a_device_is_where_its_memory_was_seen_last() -> None:
    (found,) = ways(seen(1, "n1/port1"), seen(2, "n1/br0"), seen(3, "/", Kind.DROPPED))
    assert (found.way[-1].namespace, found.way[-1].device) == ("n1", "br0")


def test_what_is_known_of_an_end_stays() -> None:
    (found,) = ways(seen(1, "n1/port1"), seen(2, "n1/br0", Kind.DROPPED))
    assert (found.way[-1].namespace, found.way[-1].device) == ("n1", "br0")


def test_a_frame_to_three_ports_has_two_copies_and_the_delivered_one_is_the_way() -> None:
    (found,) = ways(
        seen(1, "n1/br0", Kind.OUT),
        seen(2, "n1/port1", Kind.OUT, buffer=2),
        seen(3, "n1/port2", Kind.OUT, buffer=3),
        seen(4, "n1/port3", Kind.OUT),
        seen(5, "a/eth0", buffer=2),
        seen(6, "a/eth0", Kind.CONSUMED, buffer=2),
    )
    assert [one.device for one in found.way] == ["br0", "port1", "eth0", "eth0"]
    assert [[one.device for one in copy] for copy in found.copies] == [["port2"], ["port3"]]
    assert [one.device for one in found.branched_from if one] == ["br0", "br0"]


def test_of_copies_without_an_end_the_longest_is_the_way() -> None:
    (found,) = ways(
        seen(1, "n1/br0", Kind.OUT),
        seen(2, "n1/port1", Kind.OUT, buffer=2),
        seen(3, "a/eth0", buffer=2),
        seen(4, "n1/port2", Kind.OUT),
    )
    assert [one.device for one in found.way] == ["br0", "port1", "eth0"]


def test_a_packet_through_a_process_goes_on_in_other_memory() -> None:
    (found,) = ways(seen(1, "n1/port1"), seen(2, "n1/br0"), seen(3, "n1/eth0", Kind.OUT, buffer=5))
    assert [one.device for one in found.way] == ["port1", "br0", "eth0"]


def test_a_cable_ends_where_the_same_headers_come_in() -> None:
    """Without numbers of memory the headers say it: a TTL is not changed on a cable."""
    left = seen(1, "n1/eth0", Kind.OUT, buffer=0)
    later = replace(ip(), ttl=63), Udp(40000, 53)
    (found,) = ways(left, seen(2, "n2/eth0", headers=later, buffer=0), seen(3, "n3/eth0", buffer=0))
    assert [(one.namespace, one.time) for one in found.way] == [("n1", 1), ("n3", 3)]


def test_fragments_are_of_what_shares_their_identification() -> None:
    first = seen(1, "n1/port1", headers=(replace(ip(), more_fragments=True), Udp(40000, 53)))
    rest = seen(2, "n1/port1", headers=(ip(offset=1480),), buffer=2)
    foreign = seen(3, "n1/port1", headers=(ip(offset=1480, ident=9),), buffer=3)
    assert [journey.role for journey in ways(first, rest, foreign)] == [
        Role.PROBE,
        Role.FRAGMENT,
        Role.ANSWER_FRAGMENT,
    ]
