"""What can be said of the forwarding programs without a kernel: entries, the stack's layout, the ways out."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Network

import pytest

from netlab.bpf.assembler import R10, Program
from netlab.tunnel import blocks, maps, programs
from netlab.tunnel.maps import Counter

LOCAL = IPv4Address("192.168.77.1")
SENDING = programs.send_program(LOCAL, 8285, uplink=2)
RECEIVING = programs.receive_program(LOCAL, 8285, tun=3)
DELIVERING = programs.deliver_program(tun=3)
USED = [
    (SENDING, {"routes", "counters"}),
    (RECEIVING, {"routes", "counters"}),
    (DELIVERING, {"ports", "counters"}),
]


def test_a_route_is_a_prefix_and_its_peer() -> None:
    key, value = maps.route(IPv4Network("10.244.2.0/24"), IPv4Address("192.168.77.2"), longest=1472)
    assert key == (24).to_bytes(4, sys.byteorder) + bytes([10, 244, 2, 0])
    assert value == bytes([192, 168, 77, 2]) + (1472).to_bytes(4, sys.byteorder)


def test_nothing_is_short_enough_for_a_plain_peer() -> None:
    _, value = maps.route(IPv4Network("10.244.2.0/24"), IPv4Address("192.168.77.2"), longest=0)
    assert int.from_bytes(value[4:], sys.byteorder) == 0


def test_counters_are_numbered_without_gaps() -> None:
    assert [int(counter) for counter in Counter] == list(range(len(Counter)))


def test_every_counter_is_counted_somewhere() -> None:
    reached = {Counter.SENT, Counter.RECEIVED, Counter.DELIVERED} | {
        counter for counter in Counter if counter.name in SENDING.labels.keys() | RECEIVING.labels.keys()
    }
    assert reached == set(Counter)


def test_the_headers_on_the_stack_stand_as_on_the_wire_and_do_not_overlap_the_rest() -> None:
    places = [blocks.OUTER, blocks.OUTER_UDP, blocks.INNER]
    assert all(place.base is R10 for place in places)
    starts = [place.offset for place in places]
    assert starts == [starts[0], starts[0] + 20, starts[0] + 28]
    assert starts[2] + 20 <= 0
    assert blocks.KEY.offset + maps.ROUTE_KEY.size <= starts[0]
    assert blocks.COUNTER.offset + maps.COUNTER_KEY.size <= blocks.KEY.offset


@pytest.mark.parametrize(("program", "used"), USED, ids=["send", "receive", "deliver"])
def test_a_program_uses_the_maps_of_its_docstring_and_its_listing_names_every_way_out(
    program: Program, used: set[str]
) -> None:
    assert program.maps == used
    listing = str(program)
    assert all(f"\n{name}:\n" in listing for name in program.labels)


def test_a_port_is_found_by_the_mac_address_behind_it() -> None:
    key, value = maps.port(bytes.fromhex("0a580af40107"), 12)
    assert (key.hex(), int.from_bytes(value, sys.byteorder)) == ("0a580af40107", 12)
