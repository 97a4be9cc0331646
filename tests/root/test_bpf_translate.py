"""Filters as parts of eBPF programs: in the kernel they decide as libpcap does, whose model is `netlab.bpf.classic`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.bpf import loader
from netlab.bpf.assembler import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R10,
    WORD,
    Helper,
    alu,
    assemble,
    call,
    jump_if,
    label,
    leave,
    load,
    store,
)
from netlab.bpf.classic import BEHIND, WHOLE_LENGTH, Instruction, Program
from netlab.bpf.loader import Map, MapType, ProgramType
from netlab.bpf.translate import translate
from netlab.errors import UsageError
from tests.unit.test_bpf_classic import (
    FILTERS,
    LANDING,
    LOOK,
    PROLOGUE,
    Row,
    compile_with_tcpdump,
    conditions,
    frames,
    jumps,
    row,
    specimen,
    straight,
    words,
)

pytestmark = pytest.mark.root

ROOM = 256
SK_BUFF_LENGTH = 0  # struct __sk_buff: len
LENGTHS = (34, 42, 54, 60, 75, 90, ROOM)


def is_runnable(frame: bytes) -> bool:
    """Say whether the kernel lends a program this frame: only with the whole IP header."""
    return len(frame) >= (54 if frame[12:14] == b"\x86\xdd" else 34)


SPECIMENS = [
    frame for frame in sorted({frame[:length] for frame in frames() for length in LENGTHS}) if is_runnable(frame)
]


@contextmanager
def in_kernel(instructions: Sequence[Instruction]) -> Iterator[int]:
    """Load a tc program that answers 1 for what a filter lets pass and 0 for what not."""
    first_entry = [store(WORD, R10 - 4, 0), call(Helper.MAP_LOOKUP_ELEM, "packet", R10 - 4)]
    block = [
        alu(R6, "=", R1),
        first_entry,
        jump_if(R0, "==", 0, "REFUSED"),
        load(WORD, R4, R6 + SK_BUFF_LENGTH),
        jump_if(R4, "<", 1, "REFUSED"),
        jump_if(R4, ">", ROOM, "REFUSED"),
        store(WORD, R0 + (ROOM + WHOLE_LENGTH), R4),
        alu(R3, "=", R0),
        alu(R1, "=", R6),
        alu(R2, "=", 0),
        call(Helper.SKB_LOAD_BYTES),
        first_entry,
        jump_if(R0, "==", 0, "REFUSED"),
        load(WORD, R5, R6 + SK_BUFF_LENGTH),
        jump_if(R5, ">", ROOM, "ACCEPTED"),  # never; but the verifier wants code that can be reached
        translate(instructions, R0, ROOM, accepted="ACCEPTED", refused="REFUSED"),
        label("ACCEPTED"),
        alu(R0, "=", 1),
        leave(),
        label("REFUSED"),
        alu(R0, "=", 0),
        leave(),
    ]
    with Map("packet", MapType.PERCPU_ARRAY, key_size=4, value_size=ROOM + BEHIND, entries=1) as packet:
        program = assemble(block)
        kind = ProgramType.SCHED_CLS
        fd = loader.load(program, kind, name="nlu_filter", maps={"packet": packet}, licence="Apache-2.0")
        try:
            yield fd
        finally:
            os.close(fd)


@pytest.mark.parametrize("filter_text", [text for text in FILTERS if "protochain" not in text])
def test_a_filter_lets_the_same_frames_pass(filter_text: str) -> None:
    program = compile_with_tcpdump(filter_text)
    with in_kernel(program.instructions) as fd:
        passed = [frame for frame in SPECIMENS if loader.run(fd, frame).value]
    assert passed == [frame for frame in SPECIMENS if program.matches(frame)]
    assert passed  # else the filter shows nothing


def test_a_filter_with_a_loop_is_refused() -> None:
    with pytest.raises(UsageError, match="protochain"):
        translate(compile_with_tcpdump("ip6 protochain 17").instructions, R0, ROOM, accepted="A", refused="R")


@settings(max_examples=150, deadline=None)
@given(st.lists(straight | conditions | jumps, max_size=16), st.sampled_from([*LOOK.values()]), words, words)
def test_any_program_decides_the_same(rows: list[Row], look: list[Row], x: int, a: int) -> None:
    """The answer is one bit of a register or a word of memory."""
    frame = specimen(x, a)
    code = [*PROLOGUE, *rows, *LANDING, *look, row(0x54, 1), row(0x16)]
    program = Program(tuple(Instruction(*each) for each in code))
    with in_kernel(program.instructions) as fd:
        assert bool(loader.run(fd, frame).value) == program.matches(frame)
