"""Records of the ring buffer, taken apart."""

from __future__ import annotations

import sys

from netlab.trace.headers import Ethernet, Icmp, Ports
from netlab.trace.layout import PLACES, SEEN, SNAP, Direction, Kind
from netlab.trace.sighting import Sighting, read
from tests.unit.test_trace_mark import PACKETS

PACKET = PACKETS["echo 4"]
FRAME = bytes.fromhex("020000000002020000000001") + b"\x08\x00"


def record(*, captured: int = len(PACKET), netns: int = 42, device: bytes = b"eth0", frame: bytes = FRAME) -> bytes:
    """Return a record as the programs write it."""
    head = SEEN.pack(1000, 0xFFFF888000000001, 77, 3, 5, netns, 9, 1500, 6, captured, 14, 2, device, frame)
    return head + PACKET.ljust(SNAP, b"\xaa")


def test_a_record_in_full() -> None:
    found = read(record(), {42: "n1"}, Ports())
    assert found == Sighting(
        time=1000,
        kind=Kind.DROPPED,
        namespace="n1",
        device="eth0",
        ifindex=9,
        headers=found.headers,
        frame=FRAME,
        packet=PACKET,
        length=1500,
        direction=Direction.BACK,
        buffer=0xFFFF888000000001,
        mark=6,
        reason=5,
        location=77,
    )
    assert found.headers[0] == Ethernet("02:00:00:00:00:01", "02:00:00:00:00:02", 0x0800)
    assert found.headers[-1] == Icmp(8, 0, 1, 1)


def test_what_was_not_captured_is_not_there() -> None:
    found = read(record(captured=20), {42: "n1"}, Ports())
    assert (found.packet, len(found.headers)) == (PACKET[:20], 2)
    assert read(record(captured=0), {42: "n1"}, Ports()).packet == b""


def test_a_device_without_frames_and_one_that_is_gone() -> None:
    bare = read(record(frame=bytes(14)), {42: "n1"}, Ports())
    assert (bare.frame, len(bare.headers)) == (b"", 2)
    gone = read(record(netns=7, device=b""), {42: "n1"}, Ports())
    assert (gone.namespace, gone.device) == ("", "")


def test_the_longest_name_and_one_that_is_no_text() -> None:
    assert read(record(device=b"a" * 15), {}, Ports()).device == "a" * 15
    assert read(record(device=b"\xffx"), {}, Ports()).device == "�x"


def test_each_field_is_where_the_programs_write_it() -> None:
    values = {"time": 1000, "buffer": 0xFFFF888000000001, "location": 77, "kind": 3, "reason": 5, "netns": 42}
    values |= {"ifindex": 9, "length": 1500, "mark": 6, "captured": len(PACKET), "mac": 14, "direction": 2}
    sizes = {"time": 8, "buffer": 8, "location": 8, "captured": 2, "mac": 2}
    for name, value in values.items():
        content = record()[PLACES[name] :][: sizes.get(name, 4)]
        assert int.from_bytes(content, sys.byteorder) == value, name
    assert record()[PLACES["device"] :][:4] == b"eth0"
    assert record()[PLACES["frame"] :][:14] == FRAME
