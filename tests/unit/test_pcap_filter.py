"""Filters that people write: what the kernel gets, and where a wrong one is wrong."""

from __future__ import annotations

import shutil

import pytest

from netlab.bpf import pcap_filter
from netlab.bpf.classic import Instruction
from netlab.bpf.pcap_filter import by_device, compile_filter, endings, first_wrong, kernel_filter
from netlab.errors import UsageError

needs_tcpdump = pytest.mark.skipif(not shutil.which("tcpdump"), reason="needs tcpdump")


@pytest.mark.parametrize("wrong", range(9))
def test_the_first_wrong_beginning_is_found(wrong: int) -> None:
    beginnings = [str(number) for number in range(8)]
    found = first_wrong(beginnings, lambda beginning: int(beginning) < wrong)
    assert found == (wrong if wrong < 8 else None)


def test_endings_close_what_is_open() -> None:
    assert "(tcp[13 & (1|2 1))] = 0" not in set(endings("(tcp[13 & (1|2"))
    assert "(tcp[13 & (1|2 1)]) = 0" in set(endings("(tcp[13 & (1|2"))
    assert "(udp) and ip " in set(endings("(udp) and"))


def run(program: list[Instruction], hardware: int) -> int:
    """Run a program that asks for nothing but the device's type; return how many bytes it keeps."""
    here, register = 0, 0
    while True:
        code, jt, jf, k = program[here]
        here += 1
        match code:
            case pcap_filter.LOAD:
                assert k == pcap_filter.HARDWARE_TYPE
                register = hardware
            case pcap_filter.EQUAL:
                here += jt if register == k else jf
            case pcap_filter.JUMP:
                here += k
            case pcap_filter.RETURN:
                return k


@pytest.mark.parametrize(
    ("hardware", "kept"), [(1, 262144), (772, 262144), (768, 0), (65534, 0)], ids=["ether", "lo", "ipip", "tun"]
)
def test_the_device_decides_which_program_runs(hardware: int, kept: int) -> None:
    framed = [Instruction(0x06, 0, 0, 65535)]
    assert run(by_device(framed, [Instruction(0x06, 0, 0, 0)]), hardware) == kept
    assert run(by_device([Instruction(0x06, 0, 0, 0)], framed), hardware) == 262144 - kept


WRONG = [
    ("tcp prot 80", "at 'prot', character 5"),
    ("tcp port foo and ip", "unknown port 'foo' at 'foo', character 10"),
    ("host 10.0.0.300", "at '10.0.0.300', character 6"),
    ("port 80)", "at ')', character 8"),
    ("tcp[tcpflags & 2 != 0", "at '!', character 18"),
    ("ip[0] = = 3", "at '=', character 9"),
    ("udp and ( port 53 or prt 54 ) and host 10.0.0.1", "at 'prt', character 22"),
    ("tcp and (udp", "at its end: something is missing"),
    ("tcp and", "at its end: something is missing"),
    ("not", "at its end: something is missing"),
    ("ip6 net", "at its end: something is missing"),
    ("ether host", "at its end: something is missing"),
    ("tcp[tcpflags] & (tcp-syn|tcp-ack", "at its end: something is missing"),
    ("tcp and udp", "expression rejects all packets"),
]


@needs_tcpdump
@pytest.mark.parametrize(("text", "said"), WRONG, ids=lambda value: str(value).replace(" ", "_"))
def test_a_wrong_filter_is_shown_where_it_is_wrong(text: str, said: str) -> None:
    for compiler in (compile_filter, kernel_filter):
        with pytest.raises(UsageError) as caught:
            compiler(text)
        assert said in caught.value.message
        assert "pcap-filter(7)" in caught.value.hint


@needs_tcpdump
def test_no_filter_is_no_program() -> None:
    assert compile_filter(" ") is None
    assert kernel_filter("") == []


@needs_tcpdump
def test_only_the_kernel_can_tell_the_direction() -> None:
    assert len(kernel_filter("outbound")) > 4
    with pytest.raises(UsageError, match="only a kernel knows"):
        compile_filter("outbound")


@needs_tcpdump
def test_what_only_a_frame_has_lets_no_bare_packet_pass() -> None:
    program = kernel_filter("ether src 02:00:00:00:00:01")
    assert program[-1] == Instruction(0x06, 0, 0, 0)
    assert program[3].k == len(program) - 5
