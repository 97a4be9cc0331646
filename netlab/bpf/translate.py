"""Classic BPF as eBPF: a compiled filter becomes part of a program that has a packet in the value of a map. Pure.

The registers of classic BPF (32 bits) are A and X here. Behind the packet is its scratch memory, and behind that the
packet's length, for what asks for that: not all of it need be there. Whether a load is inside what is there is tested
against LENGTH, and against the value's size for the verifier.
Sources: Linux Documentation/networking/filter.rst; what a filter may say is in `classic`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netlab.bpf import classic
from netlab.bpf.assembler import (
    BYTE,
    HALF,
    R1,
    R2,
    R3,
    R4,
    R5,
    WORD,
    Block,
    Condition,
    Operation,
    Register,
    Size,
    alu,
    jump,
    jump_if,
    label,
    load,
    store,
    to_big_endian,
)
from netlab.bpf.classic import WHOLE_LENGTH, Instruction
from netlab.errors import UsageError

A, X, AT, ADDRESS, LENGTH = R1, R2, R3, R4, R5  # in the last is how much of the packet there is

# The lowest 3 bits of a code are its class, what is above the lowest 4 is an operation; bit 3 says X instead of k.
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
SIZES: dict[int, Size] = {4: WORD, 2: HALF, 1: BYTE}
LOADS = {0x20: 4, 0x28: 2, 0x30: 1, 0x40: 4, 0x48: 2, 0x50: 1, 0xB1: 1}  # from the packet, so many bytes
IMM, IND, MEM, LEN, MSH = 0x00, 0x40, 0x60, 0x80, 0xA0  # where a load gets its value
FROM_X, TXA = 0x08, 0x87
RETURN_A = 0x16
OPERATIONS: dict[int, Operation] = {
    0x00: "+=",
    0x10: "-=",
    0x20: "*=",
    0x30: "/=",
    0x40: "|=",
    0x50: "&=",
    0x60: "<<=",
    0x70: ">>=",
    0x90: "%=",
    0xA0: "^=",
}
NEGATE = 0x80
DIVIDE, SHIFT = ("/=", "%="), ("<<=", ">>=")
CONDITIONS: dict[int, Condition] = {0x10: "==", 0x20: ">", 0x30: ">=", 0x40: "&"}


def translate(
    instructions: Sequence[Instruction], packet: Register, room: int, *, accepted: str, refused: str
) -> Block:
    """Return a filter as a part of a program, which goes on at one of two labels.

    `packet` points at the packet, which has `room` bytes, and BEHIND more behind them. R1 to R5 are used. Raises
    ValueError for a filter that is none, and UsageError for one that jumps back.
    """
    classic.check(instructions)
    reached = _reached(instructions, room)
    jumps = [(here, target) for here in reached for target in instructions[here].targets(here)]
    if any(target <= here for here, target in jumps):
        raise UsageError("`protochain` is a loop, and the kernel runs none in a filter", "name the protocol itself")
    labels = {target for _, target in jumps}
    blocks: list[Block] = [alu(A, "=", 0, width=32), alu(X, "=", 0, width=32)]
    for here in reached:  # the verifier wants no others
        blocks += [label(_place(here))] if here in labels else []
        blocks.append(list(_one(instructions[here], here, packet, room, accepted, refused)))
    return blocks


def _reached(instructions: Sequence[Instruction], room: int) -> list[int]:
    """Return the numbers of the instructions that are ever run, in order."""
    found: set[int] = set()
    ahead = [0]
    while ahead:
        here = ahead.pop()
        if here not in found:
            found.add(here)
            each = instructions[here]
            ends = each.code in classic.RETURNS or is_beyond(each, room)
            ahead += each.targets(here) or (() if ends else (here + 1,))
    return sorted(found)


def is_beyond(each: Instruction, room: int) -> bool:
    """Say whether an instruction loads what is never there: where it refuses every packet."""
    return each.code in LOADS and each.k > room - LOADS[each.code]


def _place(number: int) -> str:
    return f"filter {number}"


def _one(each: Instruction, here: int, packet: Register, room: int, accepted: str, refused: str) -> Iterator[Block]:
    kind = each.code & 7
    if kind in (LD, LDX):
        yield _load(each, A if kind == LD else X, packet, room, refused)
    elif kind in (ST, STX):
        yield store(WORD, packet + (room + each.k * 4), A if kind == ST else X)
    elif kind == ALU:
        yield from _compute(each, here, refused)
    elif kind == JMP:
        yield from _jump(each, here)
    elif kind == RET:
        yield _finish(each, accepted, refused)
    else:
        yield alu(A, "=", X, width=32) if each.code == TXA else alu(X, "=", A, width=32)


def _load(each: Instruction, target: Register, packet: Register, room: int, refused: str) -> Block:
    where = each.code & 0xE0
    if where == IMM:
        return alu(target, "=", each.k, width=32)
    if where == MEM:
        return load(WORD, target, packet + (room + each.k * 4))
    if where == LEN:
        return load(WORD, target, packet + (room + WHOLE_LENGTH))
    if is_beyond(each, room):
        return jump(refused)
    width = LOADS[each.code]
    size = SIZES[width]
    return [
        alu(AT, "=", each.k, width=32),
        alu(AT, "+=", X) if where == IND else [],  # beyond 32 bits it is beyond the packet
        jump_if(AT, ">", room - width, refused),
        alu(ADDRESS, "=", AT),
        alu(ADDRESS, "+=", width),
        jump_if(ADDRESS, ">", LENGTH, refused),
        alu(AT, "+=", packet),
        load(size, target, AT + 0),
        to_big_endian(target, 32 if size is WORD else 16) if size is not BYTE else [],
        [alu(target, "&=", 15, width=32), alu(target, "<<=", 2, width=32)] if where == MSH else [],
    ]


def _compute(each: Instruction, here: int, refused: str) -> Iterator[Block]:
    """Where classic BPF gives up, or gets 0, eBPF goes on: so that is asked first."""
    if each.code & 0xF0 == NEGATE:
        yield [alu(AT, "=", 0, width=32), alu(AT, "-=", A, width=32), alu(A, "=", AT, width=32)]
        return
    operation = OPERATIONS[each.code & 0xF0]
    value: Register | int = X if each.code & FROM_X else each.k
    if operation in DIVIDE:
        if not value:
            yield jump(refused)
            return
        yield jump_if(X, "==", 0, refused, width=32) if value is X else []
    if operation in SHIFT and value is X:
        yield jump_if(X, "<", 32, f"shift {here}", width=32)
        yield [alu(A, "=", 0, width=32), alu(AT, "=", 0, width=32), jump(f"shifted {here}")]
        yield [label(f"shift {here}"), alu(AT, "=", X, width=32), label(f"shifted {here}")]
        yield alu(A, operation, AT, width=32)
        return
    if operation in SHIFT and each.k >= 32:
        yield alu(A, "=", 0, width=32)
        return
    yield alu(A, operation, value, width=32)


def _jump(each: Instruction, here: int) -> Iterator[Block]:
    if each.code == classic.JUMP:
        yield jump(_place(each.targets(here)[0]))
        return
    then, otherwise = each.targets(here)
    value: Register | int = X if each.code & FROM_X else each.k
    yield jump_if(A, CONDITIONS[each.code & 0xF0], value, _place(then), width=32)
    yield jump(_place(otherwise))


def _finish(each: Instruction, accepted: str, refused: str) -> Block:
    if each.code == RETURN_A:
        return [jump_if(A, "!=", 0, accepted, width=32), jump(refused)]
    return jump(accepted if each.k else refused)
