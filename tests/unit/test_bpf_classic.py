"""The filter's verdicts are held against the two that everybody trusts: libpcap's (tcpdump) and the kernel's.

tcpdump reads the same frames with the same filter; the kernel runs every instruction, and programs that no pcap
compiler would write, between two connected local sockets.
"""

from __future__ import annotations

import ctypes
import io
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.bpf import classic as bpf
from netlab.errors import UsageError
from netlab.vm.pcap import PcapWriter

needs_tcpdump = pytest.mark.skipif(not shutil.which("tcpdump"), reason="needs tcpdump")

FILTERS = """
arp
arp[6:2] = 1
ip
icmp[icmptype] = icmp-echo
icmp[icmptype] = icmp-echoreply
udp port 8472
udp port 4789 and udp[8:4] = 0x08000000 and udp[12:4] & 0xffffff00 = 0x00000100
tcp
tcp[tcpflags] & tcp-syn != 0
tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn
tcp[tcp[12] >> 2 & 0x3c : 4] = 0x47455420
tcp portrange 100-200
not port 22
ip6
ip6 and tcp port 179
icmp6
icmp6 and ip6[40] = 135
ip6 protochain 17
ip protochain 17
ether host 52:54:00:00:00:01
ether src 52:54:00:00:00:01 and not broadcast
ether broadcast
ether multicast
ether[6:4] % 5 = 1
ether proto 0x88cc
src net 10.0.0.0/8
dst host 10.0.0.2 or src host 2001:db8::1
net 10.0.0.0/16 and not host 10.0.0.1
ip[8] < 5
ip[6:2] & 0x1fff != 0
ip[6] & 0x20 != 0 or ip[0] & 0xf > 5
-ip[8] > 0xffffff00
ip[8] ^ 3 = 67
ip[2:2] / ip[8] = 1
ip[2:2] % (ip[8] - 64) > 0
ip[8] * ip[9] << 3 > 10000
ip[9] << ip[8] = 0
ip[9] >> ip[8] = 0 and ip[8] >> ip[1] != 0
(ip[2:2] + 14 = len) or ip[1] | ip[9] = 0
ip[ip[0] & 15 : 2] - len > 0
ip[ip[8] - 70] = 0 or arp
len > 100
less 60
vlan
vlan 5 and icmp
vlan 5 and vlan 6 and udp
mpls
ip proto 47 or ip proto 4
""".strip().splitlines()


def frames() -> Iterator[bytes]:
    """Yield Ethernet frames of many kinds."""
    from scapy.layers.dhcp import BOOTP
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
    from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
    from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
    from scapy.layers.vxlan import VXLAN

    ether = Ether(src="52:54:00:00:00:01", dst="52:54:00:00:00:02")
    ip = IP(src="10.0.0.1", dst="10.0.0.2")
    ip6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
    inner = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.244.1.2", dst="10.244.2.2") / ICMP()
    packets = [
        Ether(src="52:54:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
        ether / ARP(op="is-at", psrc="10.0.0.1", pdst="10.0.0.2"),
        ether / ip / ICMP() / bytes(56),
        ether / ip / ICMP(type="echo-reply"),
        ether / IP(src="10.0.1.9", dst="192.0.2.1", ttl=3) / UDP(sport=33434, dport=33435) / b"trace",
        ether / ip / UDP(sport=40000, dport=8472) / VXLAN(vni=1, flags="Instance") / inner,
        ether / ip / UDP(sport=40000, dport=4789) / VXLAN(vni=1, flags="Instance") / inner,
        ether / ip / UDP(sport=68, dport=67) / BOOTP(),
        ether / ip / TCP(sport=40000, dport=22, flags="S", options=[("MSS", 1460), ("WScale", 7)]),
        ether / ip / TCP(sport=40000, dport=179, flags="SA"),
        ether / ip / TCP(sport=40000, dport=80, flags="PA") / b"GET / HTTP/1.0\r\n\r\n",
        ether / ip / TCP(sport=40000, dport=80, flags="PA", options=[("NOP", None)] * 4) / b"GET / HTTP/1.0\r\n\r\n",
        ether
        / IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_NOP()] * 8)
        / UDP(sport=1, dport=8472)
        / b"options",
        ether / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / UDP(sport=40000, dport=8472) / bytes(24),
        ether / IP(src="10.0.0.1", dst="10.0.0.2", frag=4, proto=17) / bytes(24),
        ether / ip / GRE() / IP() / ICMP(),
        ether / IP(src="10.0.0.1", dst="10.0.0.2", proto=4, ttl=64) / IP(src="10.244.1.2", dst="10.244.2.2") / ICMP(),
        ether / ip6 / ICMPv6EchoRequest(),
        ether / ip6 / ICMPv6ND_NS(tgt="2001:db8::2"),
        ether / ip6 / TCP(sport=40000, dport=179, flags="S"),
        ether / ip6 / UDP(sport=40000, dport=8472) / bytes(30),
        ether / ip6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment() / UDP(sport=40000, dport=53),
        ether / ip6 / IPv6ExtHdrFragment(offset=10, nh=17) / bytes(30),
        ether / Dot1Q(vlan=5) / ip / ICMP(),
        ether / Dot1Q(vlan=5) / Dot1Q(vlan=6) / ip / UDP(sport=40000, dport=53),
        Ether(src="52:54:00:00:00:01", dst="01:80:c2:00:00:0e", type=0x88CC) / bytes(30),
        Ether(src="52:54:00:00:00:01", dst="33:33:00:00:00:01", type=0x8847) / bytes(30),
    ]
    yield from (bytes(packet) for packet in packets)


@pytest.fixture(scope="module")
def specimens() -> list[bytes]:
    """Return every frame, cut after each of its bytes: loads beyond the end are where interpreters differ."""
    return [frame[:length] for frame in frames() for length in range(1, len(frame) + 1)]


def compile_with_tcpdump(filter_text: str) -> bpf.Program:
    done = subprocess.run(bpf.argv(filter_text), capture_output=True, text=True, check=False)
    return bpf.compiled(filter_text, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def passed_by_tcpdump(filter_text: str, specimens: list[bytes]) -> set[int]:
    """Return the numbers of the frames that tcpdump lets pass. Each frame's number travels as its time."""
    stream = io.BytesIO()
    writer = PcapWriter(stream)
    for number, frame in enumerate(specimens):
        writer.write(frame, number * 1_000_000_000)
    argv = ["tcpdump", "-r", "-", "-w", "-", "--", filter_text]
    output = subprocess.run(argv, input=stream.getvalue(), capture_output=True, check=True).stdout
    passed, offset = set(), 24
    while offset < len(output):
        seconds, _, kept, _ = struct.unpack_from("<IIII", output, offset)
        passed.add(seconds)
        offset += 16 + kept
    return passed


@needs_tcpdump
@pytest.mark.parametrize("filter_text", FILTERS)
def test_frames_pass_as_they_pass_tcpdump(filter_text: str, specimens: list[bytes]) -> None:
    program = compile_with_tcpdump(filter_text)
    passed = {number for number, frame in enumerate(specimens) if program.matches(frame)}
    assert passed == passed_by_tcpdump(filter_text, specimens)
    assert 0 < len(passed) < len(specimens)  # else the filter shows nothing


@needs_tcpdump
def test_no_filter_is_every_frame(specimens: list[bytes]) -> None:
    program = compile_with_tcpdump("")
    assert all(program.matches(frame) for frame in [b"", *specimens])


@needs_tcpdump
@pytest.mark.parametrize(
    ("filter_text", "words"),
    [
        ("bogus filter", "filter 'bogus filter': can't parse filter expression: syntax error"),
        ("tcp port 80x", "filter 'tcp port 80x': unknown port '80x'"),
        ("arp and ip", "filter 'arp and ip': expression rejects all packets"),
        ("ether[0] / 0 = 1", "filter 'ether[0] / 0 = 1': division by zero"),
        ("-w", "filter '-w': can't parse filter expression: syntax error"),
        ("inbound", "asks for what only a kernel knows"),
    ],
)
def test_a_wrong_filter_is_the_users_mistake_in_tcpdumps_words(filter_text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_with_tcpdump(filter_text)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not what tcpdump -ddd prints"),
        ("tcpdump", "not what tcpdump -ddd prints"),
        ("1\n6 0 0", "not what tcpdump -ddd prints"),
        ("2\n6 0 0 65535", "announces [2] instructions and has 1"),
        ("0", "does not end with a return"),
        ("1\n40 0 0 12", "does not end with a return"),
        ("2\n255 0 0 0\n6 0 0 0", "instruction 0 (0xff 0x0) is not one of classic BPF"),
        ("2\n40 0 0 4294963204\n6 0 0 0", "asks for what only a kernel knows"),
        ("2\n0 0 0 4294967296\n6 0 0 0", "does not fit 32 bits"),
        ("2\n96 0 0 16\n6 0 0 0", "16 words of memory"),
        ("2\n21 1 0 0\n6 0 0 0", "jumps out of the program"),
        ("2\n5 0 0 4294967293\n6 0 0 0", "jumps out of the program"),
    ],
)
def test_a_broken_program_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        bpf.parse(text)


def test_a_program_that_never_returns_matches_nothing() -> None:
    assert not bpf.parse("3\n5 0 0 4294967295\n6 0 0 1\n6 0 0 1").matches(b"")
    assert not bpf.parse("4\n4 0 0 1\n5 0 0 4294967294\n6 0 0 1\n6 0 0 1").matches(b"")


def test_a_shift_by_more_than_a_register_leaves_nothing() -> None:
    """As in libpcap; the kernel refuses such a constant, and no pcap compiler writes one."""
    for shift in (0x64, 0x74):
        assert not bpf.parse(f"3\n0 0 0 4294967295\n{shift} 0 0 32\n22 0 0 0").matches(b"")


# --- the kernel's own interpreter ---------------------------------------------------------------------------------

SO_ATTACH_FILTER = 26
LENGTH = 256  # of each frame here
Row = tuple[int, int, int, int]


def row(code: int, k: int = 0, jt: int = 0, jf: int = 0) -> Row:
    return code, jt, jf, k


LOOK = {"a": [], "x": [row(0x87)], **{f"M[{word}]": [row(0x60, word)] for word in range(bpf.WORDS)}}
FILL = [each for word in range(bpf.WORDS) for each in (row(0x04, 0x9E37_79B9), row(0x02, word))]
# x and a begin as the frame's first two words, and memory with a value of its own in each word.
PROLOGUE = [row(0x20, 4), *FILL, row(0x20, 0), row(0x07), row(0x20, 4)]


def received_from_kernel(program: list[Row], frame: bytes) -> int | None:
    """Return how much of a frame passes a program between two sockets. Raises OSError for a program it refuses."""
    rows = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with sender, receiver:
        attachment = struct.pack("HP", len(program), ctypes.addressof(rows))
        receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attachment)
        sender.send(frame)
        try:
            return len(receiver.recv(LENGTH))
        except BlockingIOError:
            return None


def value_in_kernel(rows: list[Row], look: list[Row], frame: bytes) -> int | None:
    """Return what a register holds after some rows, None when they end the program: a byte for each run."""
    value = 0
    for shift in (0, 8, 16, 24):
        tail = [row(0x74, shift), row(0x54, 0xFF), row(0x04, 1), row(0x16)]
        received = received_from_kernel([*PROLOGUE, *rows, *look, *tail], frame)
        if received is None:
            return None
        value |= received - 1 << shift
    return value


def matches(rows: list[Row], frame: bytes) -> bool:
    program = [*PROLOGUE, *rows]
    return bpf.parse("\n".join([str(len(program)), *(" ".join(map(str, each)) for each in program)])).matches(frame)


def assert_same_value(rows: list[Row], register: str, frame: bytes) -> None:
    value = value_in_kernel(rows, LOOK[register], frame)
    if value is None:
        assert not matches([*rows, row(0x06, 1)], frame)
    else:
        assert matches([*rows, *LOOK[register], row(0x15, value, 0, 1), row(0x06, 1), row(0x06, 0)], frame)


def specimen(x: int, a: int) -> bytes:
    return struct.pack(">II", x, a) + bytes(range(8, LENGTH))


OFFSETS = (0, 3, 9, 251, 252, 253, 254, 255, 256, 0x7FFF_0000)  # the last bytes of a frame, and beyond
NUMBERS = (1, 3, 40, 0x8000_0001, 0xFFFF_FFFF)
OPERANDS = {
    **dict.fromkeys((0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1), OFFSETS),
    **dict.fromkeys(bpf.MEMORY, (0, 7, 15)),
    **dict.fromkeys((0x64, 0x74), (0, 1, 31)),
}
STATEMENTS = [code for code in bpf.STATEMENTS if code not in bpf.RETURNS]
# What the kernel does otherwise with large numbers in x: loads from x + k modulo 2**32, shifts by x modulo 32. libpcap
# is the model here: for it those loads are beyond the frame, and such shifts leave 0 (the filters above show both).
OTHERWISE = {0x40, 0x48, 0x50, 0x6C, 0x7C}
REGISTERS = [(0, 5), (1, 7), (3, 0x1234_5678), (31, 0x8000_0001), (17, 0xFEDC_BA98), (4, 0xFFFF_FFFF)]
WIDE = [(0xFFFF_FFFF, 0xFFFF_FFFF), (0x8000_0000, 7), (0x1_0001, 0x1_0001)]


@pytest.mark.parametrize("code", STATEMENTS, ids=bpf.STATEMENTS.get)
def test_each_statement_does_what_it_does_in_the_kernel(code: int) -> None:
    for x, a in REGISTERS if code in OTHERWISE else REGISTERS + WIDE:
        for k in OPERANDS.get(code, NUMBERS):
            for register in ("a", "x", f"M[{k}]") if code in bpf.MEMORY else ("a", "x"):
                assert_same_value([row(code, k)], register, specimen(x, a))


@pytest.mark.parametrize("code", bpf.CONDITIONS, ids=bpf.CONDITIONS.get)
def test_each_condition_decides_as_in_the_kernel(code: int) -> None:
    for x, a in [*REGISTERS, (5, 5), (6, 5), (5, 6), (0xFFFF_FFFF, 0xFFFF_FFFE)]:
        for k in (0, a - 1, a, a + 1 & 0xFFFF_FFFF, 0x8000_0000):
            rows = [row(code, k, 1, 0), row(0x00, 1), row(0x04, 1)]  # a = a + 1 if ... else 2
            assert_same_value(rows, "a", specimen(x, a))


straight = st.sampled_from(sorted({*STATEMENTS} - OTHERWISE)).flatmap(
    lambda code: st.builds(row, st.just(code), st.sampled_from(OPERANDS.get(code, NUMBERS)))
)
steps = st.integers(0, 4)
conditions = st.builds(row, st.sampled_from([*bpf.CONDITIONS]), st.sampled_from([0, *NUMBERS]), steps, steps)
jumps = st.builds(row, st.just(bpf.JUMP), steps)
LANDING = [row(0x04, 0)] * 4  # for the jumps of the last rows
words = st.integers(0, 0xFFFF_FFFF)


@settings(max_examples=200)
@given(st.lists(straight | conditions | jumps, max_size=16), st.sampled_from([*LOOK]), words, words)
def test_any_program_does_what_it_does_in_the_kernel(rows: list[Row], register: str, x: int, a: int) -> None:
    assert_same_value([*rows, *LANDING], register, specimen(x, a))
