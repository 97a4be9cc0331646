"""Captures of several interfaces: read back by hand, block by block, and by scapy; a trace as such a file."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab import pcapng
from netlab.pcapng import Direction, LinkType
from netlab.trace.correlate import Role
from netlab.trace.headers import Ports, parse
from netlab.trace.model import Cause, Drop, Event, Hop, Source, Topic, Trace, Verdict, Way
from netlab.trace.render.capture_file import capture_file

FRAME = bytes.fromhex("020000000002020000000001") + b"\x08\x00"
WHO_HAS = bytes.fromhex("ffffffffffff525400000001080600010800060400015254000000010a0000010000000000000a000002")
SECOND = 10**9
NOW = 1_795_000_000 * SECOND + 123_456_789


class Block(NamedTuple):
    """A block taken apart: `body` is what comes before the options."""

    kind: int
    body: bytes
    options: dict[int, bytes]


BODY_SIZES = {pcapng.SECTION: 16, pcapng.INTERFACE: 8, pcapng.STATISTICS: 12}


def blocks(content: bytes) -> Iterator[Block]:
    """Read a file by the words of the draft: lengths before and behind, options until the end of them."""
    while content:
        kind, length = struct.unpack_from("<II", content)
        assert length % 4 == 0
        assert struct.unpack_from("<I", content, length - 4) == (length,)
        inside, content = content[8 : length - 4], content[length:]
        size = BODY_SIZES.get(kind) or 20 + (struct.unpack_from("<I", inside, 12)[0] + 3) // 4 * 4
        options, rest = {}, inside[size:]
        while struct.unpack_from("<H", rest)[0]:
            code, width = struct.unpack_from("<HH", rest)
            options[code] = rest[4 : 4 + width]
            rest = rest[4 + (width + 3) // 4 * 4 :]
        assert rest == bytes(4)  # the end of options is the last
        yield Block(kind, inside[:size], options)


def test_an_interface_has_its_name_and_nanoseconds() -> None:
    (found,) = blocks(
        pcapng.interface("n1/eth0", LinkType.RAW, description="eth0 in namespace nl-x.n1", filter_text="arp")
    )
    assert struct.unpack("<HHI", found.body) == (101, 0, 262144)
    assert found.options == {2: b"n1/eth0", 3: b"eth0 in namespace nl-x.n1", 9: b"\x09", 11: b"\0arp"}


def test_a_packet_has_direction_comment_and_the_length_that_it_had() -> None:
    (found,) = blocks(pcapng.packet(7, NOW, b"abcde", direction=Direction.OUTBOUND, length=1500, comment="wrapped\nz"))
    number, high, low, kept, length = struct.unpack_from("<IIIII", found.body)
    assert (number, high << 32 | low, kept, length) == (7, NOW, 5, 1500)
    assert found.body[20:] == b"abcde\0\0\0"
    assert found.options == {1: b"wrapped\nz", 2: b"\x02\0\0\0"}


def test_statistics_have_both_counts() -> None:
    (found,) = blocks(pcapng.statistics(3, NOW, received=10, dropped=4))
    assert struct.unpack_from("<I", found.body) == (3,)
    assert {code: int.from_bytes(value, "little") for code, value in found.options.items()} == {4: 10, 5: 4}
    (found,) = blocks(pcapng.statistics(3, NOW, received=10, dropped=None))
    assert set(found.options) == {4}


def test_a_comment_that_is_too_long_is_cut_between_letters() -> None:
    (found,) = blocks(pcapng.section(comment="x" + "é" * 40_000))
    assert len(found.options[1]) == 65535
    assert found.options[1].decode().endswith("é")
    (found,) = blocks(pcapng.section(comment="é" * 40_000))
    assert len(found.options[1]) == 65534


def test_a_packet_is_cut_at_what_wireshark_takes() -> None:
    (found,) = blocks(pcapng.packet(0, 0, bytes(300_000)))
    assert struct.unpack_from("<II", found.body, 12) == (262144, 300_000)


TIMES = st.integers(0, (1 << 62) - 1)
RECORDS = st.tuples(st.integers(0, 2), TIMES, st.binary(min_size=1, max_size=70), st.text(max_size=20))


@given(st.lists(RECORDS, min_size=1, max_size=6))
def test_scapy_reads_packets_back(records: list[tuple[int, int, bytes, str]]) -> None:
    from scapy.utils import RawPcapNgReader

    content = pcapng.section() + b"".join(pcapng.interface(f"i{n}", LinkType.ETHERNET) for n in range(3))
    content += b"".join(pcapng.packet(number, when, frame, comment=said) for number, when, frame, said in records)
    content += pcapng.statistics(0, 0, received=1, dropped=2)
    found = list(RawPcapNgReader(io.BytesIO(content)))
    assert [frame for frame, _ in found] == [frame for _, _, frame, _ in records]
    assert [(one.tshigh << 32 | one.tslow, one.tsresol) for _, one in found] == [
        (when, SECOND) for _, when, _, _ in records
    ]
    assert [one.ifname for _, one in found] == [f"i{number}".encode() for number, *_ in records]
    assert [one.wirelen for _, one in found] == [len(frame) for _, _, frame, _ in records]


def test_scapy_reads_the_comment_and_the_direction() -> None:
    from scapy.layers.l2 import ARP
    from scapy.utils import PcapNgReader

    content = pcapng.section() + pcapng.interface("n1/eth0", LinkType.ETHERNET)
    content += pcapng.packet(0, NOW, WHO_HAS, direction=Direction.INBOUND, comment="fdb: flooded")
    (packet,) = PcapNgReader(io.BytesIO(content))
    assert packet[ARP].pdst == "10.0.0.2"
    assert packet.sniffed_on == "n1/eth0"
    assert packet.direction == 1
    assert b"fdb: flooded" in (packet.comment, *(getattr(packet, "comments", None) or ()))
    assert str(packet.time) == "1795000000.123456789"


# --- a trace ---------------------------------------------------------------------------------------------------------


def ip_packet(ttl: int, length: int) -> bytes:
    """Return the first 28 bytes of a UDP datagram that has more of them."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 7, 0, ttl, 17, 0, b"\x0a\xf4\1\2", b"\x0a\xf4\2\2")
    return head + struct.pack("!HHHH", 1000, 53, length - 20, 0)


def hop(time: int, place: str, event: Event, **fields: object) -> Hop:
    member, device = place.split("/")
    frame = fields.pop("frame", FRAME)
    packet = ip_packet(64, 128)
    headers = parse(packet, frame, Ports())  # type: ignore[arg-type]
    return Hop(time, member, f"nl-x.{member}", device, 2, event, headers, frame=frame, packet=packet, **fields)  # type: ignore[arg-type]


ROUTE = Cause(Topic.ROUTE, "10.244.2.0/24 dev flannel.1", origin="lease of n2")
RULE = Cause(Topic.RULE, "nat KUBE-SEP: -j DNAT", source=Source.SEEN)
DROP = Drop("NETFILTER_DROP", "nf_hook_slow", "a packet filter rule on n1 dropped it", "nft list ruleset")
THERE = Way(
    Role.PROBE,
    (
        hop(0, "a/eth0", Event.OUT),
        hop(300, "n1/cni0", Event.IN, changes=("ttl 64 -> 63",), causes=(ROUTE, RULE)),
        hop(900, "n1/cni0", Event.DROPPED),
    ),
    copies=((hop(400, "n1/tun0", Event.OUT, frame=b""),),),
    drop=DROP,
)
ERROR = Way(Role.ERROR, (hop(600, "n1/cni0", Event.OUT), hop(700, "a/eth0", Event.IN)))


@pytest.fixture(scope="module")
def written() -> list[Block]:
    trace = Trace("x", "a -> b (udp)", Verdict.DROPPED, "on n1", (THERE, ERROR), "eBPF", ("a remark",), began=NOW)
    return list(blocks(capture_file(trace)))


def test_a_trace_says_what_it_is_of(written: list[Block]) -> None:
    assert written[0].options[1].decode() == "a -> b (udp)\ndropped: on n1\nseen by eBPF\na remark"


def test_a_trace_has_an_interface_for_each_device(written: list[Block]) -> None:
    found = [block for block in written if block.kind == pcapng.INTERFACE]
    assert [block.options[2] for block in found] == [b"a/eth0", b"n1/cni0", b"n1/tun0"]
    assert [struct.unpack_from("<H", block.body)[0] for block in found] == [1, 1, 101]
    assert found[1].options[3] == b"cni0 in namespace nl-x.n1"


def test_hops_of_all_ways_are_in_the_order_of_time(written: list[Block]) -> None:
    packets = [struct.unpack_from("<IIIII", block.body) for block in written if block.kind == pcapng.PACKET]
    assert [(high << 32 | low) - NOW for _, high, low, _, _ in packets] == [0, 300, 400, 600, 700, 900]
    assert [number for number, *_ in packets] == [0, 1, 2, 1, 0, 1]
    assert [(kept, length) for *_, kept, length in packets] == [(42, 142)] * 2 + [(28, 128)] + [(42, 142)] * 3
    flags = [block.options[2][0] for block in written if block.kind == pcapng.PACKET]
    assert flags == [2, 1, 2, 2, 1, 0]


def test_comments_say_what_changed_and_why(written: list[Block]) -> None:
    comments = [block.options[1].decode() for block in written if block.kind == pcapng.PACKET]
    assert comments[1].splitlines() == [
        "there, 2 of 3: into n1/cni0",
        "ttl 64 -> 63",
        "route 10.244.2.0/24 dev flannel.1 (lease of n2), looked up afterwards",
        "rule nat KUBE-SEP: -j DNAT",
    ]
    assert comments[2] == "there, a copy, 1 of 1: out of n1/tun0"
    assert comments[3].startswith("back, an ICMP error, 1 of 2")
    assert comments[5].splitlines() == [
        "there, 3 of 3: DROPPED at n1/cni0",
        "a packet filter rule on n1 dropped it",
        "the kernel's reason: NETFILTER_DROP in nf_hook_slow",
        "look at: nft list ruleset",
    ]
