"""The assembler and the loader on the real kernel: what runs there computes what Python computes."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Iterator

import pytest

from netlab.bpf import loader
from netlab.bpf.assembler import (
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R10,
    WORD,
    Block,
    Helper,
    alu,
    assemble,
    call,
    jump,
    jump_if,
    label,
    leave,
    load,
    load_constant,
    store,
    to_big_endian,
)
from netlab.bpf.loader import Map, MapType, ProgramType, TcxHook
from netlab.errors import KernelError
from netlab.kernel import netns
from tests.root.tunnel_nodes import needs_tcx

pytestmark = pytest.mark.root

FRAME = bytes(range(14)) + b"\x45" + bytes(33)
MANY, FEW = 0xF123_4567_89AB_CDEF, 0x1234_5679


def load_program(block: Block, **maps: Map) -> int:
    return loader.load(assemble(block), ProgramType.SCHED_CLS, name="nlu_b", maps=maps, licence="Apache-2.0")


def answer(block: Block, **maps: Map) -> int:
    """Run a program and return what it left in R0: a tc program's answer has 32 bits."""
    fd = load_program([block, leave()], **maps)
    try:
        return loader.run(fd, FRAME).value
    finally:
        os.close(fd)


@pytest.mark.parametrize("half", [0, 32], ids=["low", "high"])
@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (alu(R0, "+=", R1), MANY + FEW),
        (alu(R0, "-=", R1), MANY - FEW),
        (alu(R0, "*=", R1), MANY * FEW),
        (alu(R0, "/=", R1), MANY // FEW),
        (alu(R0, "%=", R1), MANY % FEW),
        (alu(R0, "|=", R1), MANY | FEW),
        (alu(R0, "&=", R1), MANY & FEW),
        (alu(R0, "^=", R1), MANY ^ FEW),
        (alu(R0, "<<=", 5), MANY << 5),
        (alu(R0, ">>=", 5), MANY >> 5),
        (alu(R0, "s>>=", 5), (MANY - (1 << 64)) >> 5),
        (alu(R0, "=", -2), -2),
        (alu(R0, "=", R1), FEW),
        (alu(R0, "=", 0xFFFF_FFFF, width=32), 0xFFFF_FFFF),
        (alu(R0, "+=", R1, width=32), (MANY + FEW) & 0xFFFF_FFFF),
        (to_big_endian(R0, 16), 0xEFCD),
        (to_big_endian(R0, 32), 0xEFCD_AB89),
        (to_big_endian(R0, 64), 0xEFCD_AB89_6745_23F1),
    ],
)
def test_arithmetic(block: Block, expected: int, half: int) -> None:
    """The big-endian rows hold on little-endian machines, which all that netlab runs on are."""
    program = [load_constant(R0, MANY), load_constant(R1, FEW), block, alu(R0, ">>=", half) if half else []]
    assert answer(program) == (expected >> half) & 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("==", lambda a, b: a == b),
        ("!=", lambda a, b: a != b),
        (">", lambda a, b: a % 2**64 > b % 2**64),
        (">=", lambda a, b: a % 2**64 >= b % 2**64),
        ("<", lambda a, b: a % 2**64 < b % 2**64),
        ("<=", lambda a, b: a % 2**64 <= b % 2**64),
        ("&", lambda a, b: a & b != 0),
        ("s>", lambda a, b: a > b),
        ("s>=", lambda a, b: a >= b),
        ("s<", lambda a, b: a < b),
        ("s<=", lambda a, b: a <= b),
    ],
)
@pytest.mark.parametrize("by_register", [False, True], ids=["immediate", "register"])
def test_comparisons(condition: str, holds: object, by_register: bool) -> None:
    for a, b in [(1, 1), (1, 2), (2, 1), (-1, 1), (1, -1), (-2, -1), (-1, -1), (4, 3), (0, 0)]:
        fd = load_program(
            [
                alu(R1, "=", a),
                alu(R2, "=", b),
                jump_if(R1, condition, R2 if by_register else b, "yes"),  # type: ignore[arg-type]
                alu(R0, "=", 0),
                jump("end"),
                label("yes"),
                alu(R0, "=", 1),
                label("end"),
                leave(),
            ]
        )
        found = loader.run(fd, FRAME).value
        os.close(fd)
        assert found == holds(a, b), (a, condition, b)  # type: ignore[operator]


def test_a_comparison_of_32_bits_sees_nothing_above_them() -> None:
    same = [alu(R0, "=", 1), load_constant(R1, 0x5_C0A8_0001), jump_if(R1, "==", 0xC0A8_0001, "end", width=32)]
    assert answer([same, alu(R0, "=", 0), label("end")]) == 1


def test_memory_and_the_packet() -> None:
    """A word that is stored is loaded again; a packet is read by a helper, and changed by one."""
    fd = load_program(
        [
            alu(R1, "=", R1),
            store(DOUBLE, R10 - 16, R1),
            call(Helper.SKB_LOAD_BYTES, R1, 6, R10 - 8, 2),
            load(DOUBLE, R1, R10 - 16),
            call(Helper.SKB_STORE_BYTES, R1, 0, R10 - 8, 2, 0),
            load(HALF, R0, R10 - 8),
            to_big_endian(R0, 16),
            leave(),
        ]
    )
    found = loader.run(fd, FRAME)
    os.close(fd)
    assert found == (0x0607, FRAME[6:8] + FRAME[2:])


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> Iterator[Map]:
    with Map("table", MapType.HASH, key_size=4, value_size=4, entries=3) as made:
        yield made


def test_a_map_is_a_mapping(table: Map) -> None:
    assert list(table) == []
    table[b"aaaa"] = b"1111"
    table[b"bbbb"] = b"2222"
    table[b"aaaa"] = b"3333"
    assert {key: table[key] for key in table} == {b"aaaa": b"3333", b"bbbb": b"2222"}
    del table[b"aaaa"]
    assert list(table) == [b"bbbb"]
    with pytest.raises(KeyError):
        table[b"aaaa"]
    with pytest.raises(KernelError) as missing:
        del table[b"aaaa"]
    assert missing.value.errno == errno.ENOENT


def test_a_full_map_is_named(table: Map) -> None:
    for number in range(3):
        table[struct.pack("=I", number)] = bytes(4)
    with pytest.raises(KernelError, match="change BPF map table") as full:
        table[b"more"] = bytes(4)
    assert full.value.errno == errno.E2BIG


@pytest.mark.parametrize(("key", "value"), [(b"aaa", b"1111"), (b"aaaa", b"11111")])
def test_bytes_of_a_wrong_size_never_reach_the_kernel(table: Map, key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="BPF map table has"):
        table[key] = value


def test_a_program_reads_the_longest_prefix_and_counts_on_its_cpu() -> None:
    with (
        Map("prefixes", MapType.LPM_TRIE, key_size=8, value_size=4, entries=8) as prefixes,
        Map("counts", MapType.PERCPU_ARRAY, key_size=4, value_size=8, entries=1) as counts,
    ):
        for prefix, length, value in ((b"\x0a\0\0\0", 8, 1), (b"\x0a\1\0\0", 16, 2)):
            prefixes[struct.pack("=I4s", length, prefix)] = struct.pack("=I", value)
        found = [
            answer(
                [
                    store(DOUBLE, R10 - 8, 0),
                    call(Helper.MAP_LOOKUP_ELEM, "counts", R10 - 8),
                    jump_if(R0, "==", 0, "end"),
                    load(DOUBLE, R1, R0 + 0),
                    alu(R1, "+=", 1),
                    store(DOUBLE, R0 + 0, R1),
                    store(WORD, R10 - 8, 32),
                    store(WORD, R10 - 4, int.from_bytes(address, "little")),
                    call(Helper.MAP_LOOKUP_ELEM, "prefixes", R10 - 8),
                    jump_if(R0, "==", 0, "end"),
                    load(WORD, R0, R0 + 0),
                    label("end"),
                ],
                prefixes=prefixes,
                counts=counts,
            )
            for address in (b"\x0a\1\2\3", b"\x0a\2\2\3", b"\x0b\1\2\3")
        ]
        assert found == [2, 1, 0]
        per_cpu = struct.unpack(f"={loader.possible_cpus()}Q", counts[bytes(4)])
        assert sum(per_cpu) == 3


# --- programs in the kernel ------------------------------------------------------------------------------------------


def test_a_refusal_carries_the_verifiers_words() -> None:
    with pytest.raises(KernelError, match="load BPF program nlu_b: Permission denied") as refused:
        load_program([alu(R0, "=", R2), leave()])
    assert refused.value.errno == errno.EACCES
    assert "R2 !read_ok" in refused.value.reason


@needs_tcx
def test_a_link_lives_as_long_as_its_descriptor() -> None:
    """Seen by its effect: a program that drops everything on lo."""
    name = "nlu-bpf"
    netns.create([name], lambda _: subprocess.run(["ip", "link", "set", "lo", "up"], check=True))
    try:
        program = load_program([alu(R0, "=", 2), leave()])
        link = netns.call(name, loader.attach_tcx, program, 1, TcxHook.INGRESS)
        os.close(program)  # the link holds it
        assert not answers(name)
        os.close(link)
        assert answers(name)
    finally:
        netns.remove([name])


def answers(name: str) -> bool:
    command = ["ip", "netns", "exec", name, "ping", "-c1", "-W0.2", "127.0.0.1"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@needs_tcx
def test_an_interface_that_is_missing_is_an_error_of_the_attachment() -> None:
    program = load_program([alu(R0, "=", 0), leave()])
    try:
        with pytest.raises(KernelError, match="attach a BPF program at tcx egress: No such device"):
            netns.call_anonymous(loader.attach_tcx, program, 77, TcxHook.EGRESS)
    finally:
        os.close(program)
