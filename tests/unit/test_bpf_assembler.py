"""Bytes against RFC 9669 (and what every disassembler shows), labels, arguments of calls, and the listing."""

from __future__ import annotations

import re
import struct

import pytest

from netlab.bpf.assembler import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R10,
    WORD,
    Block,
    Helper,
    Program,
    alu,
    assemble,
    call,
    jump,
    jump_if,
    label,
    leave,
    load,
    load_constant,
    load_map,
    store,
    to_big_endian,
)

END: Block = [label("end"), leave()]


def first(block: Block) -> tuple[int, int, int, int]:
    """Return the opcode, the register byte, the offset and the immediate of a program's first slot."""
    return struct.unpack_from("=BBhi", assemble([block, END]).code({"m": 77}))


@pytest.mark.parametrize(
    ("block", "encoded"),
    [
        (alu(R1, "=", 5), (0xB7, 0x01, 0, 5)),
        (alu(R1, "=", -1), (0xB7, 0x01, 0, -1)),
        (alu(R1, "=", 5, width=32), (0xB4, 0x01, 0, 5)),
        (alu(R1, "=", R2), (0xBF, 0x21, 0, 0)),
        (alu(R1, "+=", 8), (0x07, 0x01, 0, 8)),
        (alu(R1, "-=", R3), (0x1F, 0x31, 0, 0)),
        (alu(R1, "*=", 3), (0x27, 0x01, 0, 3)),
        (alu(R1, "/=", 3), (0x37, 0x01, 0, 3)),
        (alu(R1, "|=", 3), (0x47, 0x01, 0, 3)),
        (alu(R1, "&=", 3), (0x57, 0x01, 0, 3)),
        (alu(R1, "<<=", 3), (0x67, 0x01, 0, 3)),
        (alu(R1, ">>=", 3, width=32), (0x74, 0x01, 0, 3)),
        (alu(R1, "%=", 3), (0x97, 0x01, 0, 3)),
        (alu(R1, "^=", 3), (0xA7, 0x01, 0, 3)),
        (alu(R1, "s>>=", 3), (0xC7, 0x01, 0, 3)),
        (to_big_endian(R2, 16), (0xDC, 0x02, 0, 16)),
        (load(BYTE, R1, R2 + 7), (0x71, 0x21, 7, 0)),
        (load(HALF, R1, R2 + 7), (0x69, 0x21, 7, 0)),
        (load(WORD, R1, R2 + 7), (0x61, 0x21, 7, 0)),
        (load(DOUBLE, R1, R2 - 7), (0x79, 0x21, -7, 0)),
        (store(BYTE, R10 - 8, R3), (0x73, 0x3A, -8, 0)),
        (store(HALF, R10 - 8, R3), (0x6B, 0x3A, -8, 0)),
        (store(WORD, R10 - 8, R3), (0x63, 0x3A, -8, 0)),
        (store(DOUBLE, R10 - 8, R3), (0x7B, 0x3A, -8, 0)),
        (store(WORD, R10 - 8, 0xFFFF_FFFF), (0x62, 0x0A, -8, -1)),
        (store(DOUBLE, R10 - 8, 9), (0x7A, 0x0A, -8, 9)),
        (jump("end"), (0x05, 0, 0, 0)),
        (jump_if(R1, "==", 5, "end"), (0x15, 0x01, 0, 5)),
        (jump_if(R1, ">", 5, "end"), (0x25, 0x01, 0, 5)),
        (jump_if(R1, ">=", 5, "end"), (0x35, 0x01, 0, 5)),
        (jump_if(R1, "&", 5, "end"), (0x45, 0x01, 0, 5)),
        (jump_if(R1, "!=", R2, "end"), (0x5D, 0x21, 0, 0)),
        (jump_if(R1, "s>", 5, "end"), (0x65, 0x01, 0, 5)),
        (jump_if(R1, "s>=", 5, "end"), (0x75, 0x01, 0, 5)),
        (jump_if(R1, "<", 5, "end"), (0xA5, 0x01, 0, 5)),
        (jump_if(R1, "<=", 5, "end"), (0xB5, 0x01, 0, 5)),
        (jump_if(R1, "s<", 5, "end"), (0xC5, 0x01, 0, 5)),
        (jump_if(R1, "s<=", 5, "end"), (0xD5, 0x01, 0, 5)),
        (jump_if(R1, "!=", 0xC0A8_0001, "end", width=32), (0x56, 0x01, 0, 0xC0A8_0001 - (1 << 32))),
        (call(Helper.REDIRECT), (0x85, 0, 0, 23)),
        (load_map(R1, "m"), (0x18, 0x11, 0, 77)),
        (leave(), (0x95, 0, 0, 0)),
    ],
)
def test_encoding(block: Block, encoded: tuple[int, int, int, int]) -> None:
    assert first(block) == encoded


def test_a_constant_of_64_bits_takes_two_slots() -> None:
    code = assemble([load_constant(R1, 0x1122_3344_5566_7788), leave()]).code({})
    assert code == struct.pack("=BBhI4xIBBhI", 0x18, 1, 0, 0x5566_7788, 0x1122_3344, 0x95, 0, 0, 0)


def offsets(program: Program) -> list[int]:
    return [offset for _, _, offset, _ in struct.iter_unpack("=BBhi", program.code({}))]


def test_jumps_count_slots_and_not_instructions() -> None:
    program = assemble(
        [
            label("again"),
            jump_if(R1, "==", 0, "end"),  # slot 0: over 1, 2, 3, 4
            load_constant(R2, 7),  # 1 and 2
            jump("again"),  # 3: back over 3, 2, 1, 0
            alu(R0, "=", 0),  # 4
            END,
        ]
    )
    assert offsets(program) == [4, 0, 0, -4, 0, 0]


def test_a_call_sets_its_arguments_in_order() -> None:
    written = assemble([call(Helper.SKB_STORE_BYTES, R6, 14, R10 - 56, 48, 0), leave()])
    by_hand = [alu(R1, "=", R6), alu(R2, "=", 14), alu(R3, "=", R10), alu(R3, "+=", -56)]
    by_hand += [alu(R4, "=", 48), alu(R5, "=", 0)]
    assert written.code({}) == assemble([by_hand, call(Helper.SKB_STORE_BYTES), leave()]).code({})


def test_an_argument_that_is_in_place_stays() -> None:
    assert assemble([call(Helper.REDIRECT, R1, 0), leave()]).code({})[0] == 0xB7  # R2 = 0 comes first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: assemble([jump("nowhere"), leave()]), "no instruction has the label nowhere"),
        (lambda: assemble([jump("end"), label("end")]), "no instruction has the label end"),
        (lambda: assemble([END, END]), "label end is there twice"),
        (lambda: alu(R1, "=", 0x8000_0000), "0x80000000 does not fit an immediate of a 64-bit instruction"),
        (lambda: alu(R1, "=", 1 << 32, width=32), "0x100000000 does not fit an immediate of a 32-bit instruction"),
        (lambda: load(WORD, R1, R2 + 0x8000), "offset 32768 does not fit 16 bits"),
        (lambda: call(Helper.REDIRECT, 1, R1), "argument r2 would be taken from r1"),
    ],
)
def test_mistakes_are_found_before_the_kernel_sees_them(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()  # type: ignore[operator]


LISTING = """\
    0: r1 = map routes
    2: r2 = r10
    3: r2 += -8
    4: call map_lookup_elem
    5: if r0 == 0 goto absent
    6: r1 = *(u32 *)(r0 +4)
    7: if w1 != 0xc0a80001 goto absent
    8: *(u16 *)(r10 -8) = 0x4500
absent:
    9: r0 = -1
   10: exit"""


def test_a_listing_reads_like_the_verifiers() -> None:
    program = assemble(
        [
            call(Helper.MAP_LOOKUP_ELEM, "routes", R10 - 8),
            jump_if(R0, "==", 0, "absent"),
            load(WORD, R1, R0 + 4),
            jump_if(R1, "!=", 0xC0A8_0001, "absent", width=32),
            store(HALF, R10 - 8, 0x4500),
            label("absent"),
            alu(R0, "=", -1),
            leave(),
        ]
    )
    assert str(program) == LISTING
    assert program.maps == {"routes"}
