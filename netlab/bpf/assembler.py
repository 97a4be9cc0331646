"""A small eBPF assembler: instructions as values, labels for jumps, maps by name, a listing to read.

A program is a nested list of instructions and labels, written as one reads it; `assemble` flattens and checks it:

    program = assemble([
        load(WORD, R2, R1 + 16),
        jump_if(R2, "!=", 8, "pass"),
        call(Helper.MAP_LOOKUP_ELEM, "routes", R10 - 8),
        ...
        label("pass"),
        alu(R0, "=", -1),
        leave(),
    ])
    print(program)                # the way in which the kernel's verifier prints it, with the labels
    program.code({"routes": fd})  # what bpf(2) takes: maps are given by their file descriptors

Encoding: Documentation/bpf/standardization/instruction-set.rst in the kernel's source, which is RFC 9669; the tables
below carry the titles of its sections. R0 is what a call answers and what the program returns, R1 to R5 are arguments
and gone after a call, R6 to R9 stay, R10 is the (read-only) end of the stack, which grows down and has 512 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Literal, NamedTuple

from netlab.bpf.encoded import Encoded

# "Instruction classes"
LDX, ST, STX, ALU, JMP, JMP32, ALU64 = 1, 2, 3, 4, 5, 6, 7

# "Arithmetic instructions"; the source is the immediate or, with SOURCE_REGISTER, a register.
SOURCE_REGISTER = 0x08
Operation = Literal["=", "+=", "-=", "*=", "/=", "%=", "|=", "&=", "^=", "<<=", ">>=", "s>>="]
OPERATIONS: dict[Operation, int] = {
    "+=": 0x00,
    "-=": 0x10,
    "*=": 0x20,
    "/=": 0x30,
    "|=": 0x40,
    "&=": 0x50,
    "<<=": 0x60,
    ">>=": 0x70,
    "%=": 0x90,
    "^=": 0xA0,
    "=": 0xB0,
    "s>>=": 0xC0,
}

# "Byte swap instructions"
TO_BIG_ENDIAN = ALU | 0xD0 | 0x08

# "Jump instructions"; "&" jumps when a bit is common, "s" compares as signed.
Condition = Literal["==", "!=", ">", ">=", "<", "<=", "&", "s>", "s>=", "s<", "s<="]
CONDITIONS: dict[Condition, int] = {
    "==": 0x10,
    ">": 0x20,
    ">=": 0x30,
    "&": 0x40,
    "!=": 0x50,
    "s>": 0x60,
    "s>=": 0x70,
    "<": 0xA0,
    "<=": 0xB0,
    "s<": 0xC0,
    "s<=": 0xD0,
}
JUMP, CALL, EXIT = JMP | 0x00, JMP | 0x80, JMP | 0x90

# "Load and store instructions", "64-bit immediate instructions", "Maps"
MEMORY, ATOMIC = 0x60, 0xC0
EXCHANGE = 0xE1  # XCHG | FETCH, the immediate of an atomic operation
LOAD_WIDE = 0x18
SOURCE_IS_MAP = 1


class Size(Enum):
    """How much a load or store moves: the size bits of its opcode."""

    BYTE = 0x10
    HALF = 0x08
    WORD = 0x00
    DOUBLE = 0x18

    def __str__(self) -> str:
        return {Size.BYTE: "u8", Size.HALF: "u16", Size.WORD: "u32", Size.DOUBLE: "u64"}[self]


BYTE, HALF, WORD, DOUBLE = Size.BYTE, Size.HALF, Size.WORD, Size.DOUBLE


class Register(Enum):
    """A register. `R10 - 8` is an address, for loads and stores."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)

    def __add__(self, offset: int) -> Address:
        return Address(self, offset)

    def __sub__(self, offset: int) -> Address:
        return Address(self, -offset)

    def __str__(self) -> str:
        return self.name.lower()


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register
ARGUMENTS = (R1, R2, R3, R4, R5)


class Address(NamedTuple):
    """A place in memory: a register and a signed 16-bit offset."""

    base: Register
    offset: int

    def __str__(self) -> str:
        return f"({self.base} {self.offset:+d})"


class Helper(IntEnum):
    """Functions of the kernel that a program may call: BPF_FUNC_* in linux/bpf.h, described in bpf-helpers(7)."""

    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    KTIME_GET_NS = 5
    SKB_STORE_BYTES = 9
    REDIRECT = 23
    SKB_LOAD_BYTES = 26
    SKB_CHANGE_HEAD = 43
    SKB_ADJUST_ROOM = 50
    PROBE_READ_KERNEL = 113
    RINGBUF_OUTPUT = 130
    REDIRECT_NEIGH = 152

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. `label` is where it jumps, `map_name` is the map whose descriptor it loads."""

    text: str
    opcode: int
    dst: Register = R0
    src: int = 0
    offset: int = 0
    immediate: int = 0
    label: str = ""
    map_name: str = ""

    @property
    def slots(self) -> int:
        """Return how many 8-byte slots it takes ("wide instruction encoding")."""
        return 2 if self.opcode == LOAD_WIDE else 1


@dataclass(frozen=True, slots=True)
class Label:
    """A place to jump to: what follows it."""

    name: str


Block = Instruction | Label | Sequence["Block"]


@dataclass(frozen=True)
class Program:
    """Instructions in order, and where the labels are, counted in slots."""

    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]

    @property
    def maps(self) -> frozenset[str]:
        """Return the names of the maps that it uses."""
        return frozenset(entry.map_name for entry in self.instructions if entry.map_name)

    def code(self, maps: Mapping[str, int]) -> bytes:
        """Encode it for bpf(2), 8 bytes a slot in this machine's byte order; `maps` gives each its descriptor."""
        return self.encode().code(maps)

    def encode(self) -> Encoded:
        """Encode all of it but the maps' descriptors: what can be kept."""
        nothing = dict.fromkeys(self.maps, 0)
        content = b"".join(self._encode(slot, entry, nothing) for slot, entry in self._numbered())
        return Encoded(content, tuple((slot, entry.map_name) for slot, entry in self._numbered() if entry.map_name))

    def _encode(self, slot: int, entry: Instruction, maps: Mapping[str, int]) -> bytes:
        offset = self.labels[entry.label] - slot - 1 if entry.label else entry.offset
        value = maps[entry.map_name] if entry.map_name else entry.immediate
        low, high = value & 0xFFFF_FFFF, (value >> 32) & 0xFFFF_FFFF
        registers = entry.dst.value | entry.src << 4
        first = struct.pack("=BBhI", entry.opcode, registers, offset, low)
        return first + struct.pack("=4xI", high) if entry.slots == 2 else first

    def _numbered(self) -> Iterator[tuple[int, Instruction]]:
        slot = 0
        for entry in self.instructions:
            yield slot, entry
            slot += entry.slots

    def __str__(self) -> str:
        names: dict[int, list[str]] = {}
        for name, slot in self.labels.items():
            names.setdefault(slot, []).append(f"{name}:")
        lines = []
        for slot, entry in self._numbered():
            lines += [*names.get(slot, []), f"{slot:5}: {entry.text}"]
        return "\n".join(lines)


def assemble(block: Block) -> Program:
    """Flatten a program and find its labels. Raises ValueError for a label that is missing or there twice."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    slot = 0
    for entry in flatten(block):
        if isinstance(entry, Label):
            if entry.name in labels:
                raise ValueError(f"label {entry.name} is there twice")
            labels[entry.name] = slot
        else:
            instructions.append(entry)
            slot += entry.slots
    missing = {entry.label for entry in instructions if entry.label} - labels.keys()
    beyond = {name for name, at in labels.items() if at == slot}
    if missing or beyond:
        raise ValueError(f"no instruction has the label {', '.join(sorted(missing | beyond))}")
    return Program(tuple(instructions), labels)


def flatten(block: Block) -> Iterator[Instruction | Label]:
    """Yield what is in a block, however deep, in order."""
    if isinstance(block, (Instruction, Label)):
        yield block
    else:
        for entry in block:
            yield from flatten(entry)


# --- instructions ----------------------------------------------------------------------------------------------------


def label(name: str) -> Label:
    """Name the place of the next instruction."""
    return Label(name)


def alu(dst: Register, operation: Operation, value: Register | int, *, width: Literal[32, 64] = 64) -> Instruction:
    """Compute: `alu(R2, "+=", R3)`. With width 32 the upper half of `dst` becomes 0.

    An immediate is sign-extended to 64 bits, so with width 64 it must fit 32 bits signed. Raises ValueError.
    """
    source, register, immediate = _operand(value, width)
    opcode = (ALU64 if width == 64 else ALU) | OPERATIONS[operation] | source
    text = f"{_name(dst, width)} {operation} {_name(value, width)}"
    return Instruction(text, opcode, dst, register, immediate=immediate)


def to_big_endian(dst: Register, bits: Literal[16, 32, 64]) -> Instruction:
    """Turn the lowest bits into network byte order, or back; the rest becomes 0."""
    return Instruction(f"{dst} = be{bits} {dst}", TO_BIG_ENDIAN, dst, immediate=bits)


def load(size: Size, dst: Register, source: Address) -> Instruction:
    """Load from memory; a shorter value is zero-extended."""
    text = f"{dst} = *({size} *){source}"
    return Instruction(text, LDX | MEMORY | size.value, dst, source.base.value, _short(source.offset))


def store(size: Size, target: Address, value: Register | int) -> Instruction:
    """Store a register's lowest bytes, or an immediate."""
    source, register, immediate = _operand(value, 32 if size is WORD else 64)
    opcode = (STX if source else ST) | MEMORY | size.value
    text = f"*({size} *){target} = {_name(value, 64)}"
    return Instruction(text, opcode, target.base, register, _short(target.offset), immediate)


def exchange(size: Size, target: Address, value: Register) -> Instruction:
    """Store a register and load what was there, in one step for all processors ("atomic operations", XCHG)."""
    opcode = STX | ATOMIC | size.value
    text = f"{value} = xchg(({size} *){target}, {value})"
    return Instruction(text, opcode, target.base, value.value, _short(target.offset), EXCHANGE)


def point(dst: Register, target: Address) -> Block:
    """Compute an address: where a helper finds or puts bytes."""
    return [alu(dst, "=", target.base), alu(dst, "+=", target.offset)]


def load_map(dst: Register, name: str) -> Instruction:
    """Load the address of a map, which `Program.code` is told the descriptor of."""
    return Instruction(f"{dst} = map {name}", LOAD_WIDE, dst, SOURCE_IS_MAP, map_name=name)


def load_constant(dst: Register, value: int) -> Instruction:
    """Load any 64-bit constant, in two slots."""
    return Instruction(f"{dst} = {value:#x} ll", LOAD_WIDE, dst, immediate=value)


def jump(target: str) -> Instruction:
    """Go on at a label."""
    return Instruction(f"goto {target}", JUMP, label=target)


def jump_if(
    dst: Register, condition: Condition, value: Register | int, target: str, *, width: Literal[32, 64] = 64
) -> Instruction:
    """Go on at a label if the comparison holds, by default of all 64 bits: `jump_if(R0, "==", 0, "drop")`.

    Raises ValueError for an immediate that does not fit, as `alu` does.
    """
    source, register, immediate = _operand(value, width)
    opcode = (JMP if width == 64 else JMP32) | CONDITIONS[condition] | source
    text = f"if {_name(dst, width)} {condition} {_name(value, width)} goto {target}"
    return Instruction(text, opcode, dst, register, immediate=immediate, label=target)


def call(helper: Helper, *arguments: Register | int | Address | str) -> Block:
    """Call a helper: `call(Helper.MAP_LOOKUP_ELEM, "routes", R10 - 8)`. The answer is in R0, and R1 to R5 are gone.

    An address stands for itself (not for what is there), a string for a map. Raises ValueError for an argument in R1
    to R5 that is not there already: setting another argument could have overwritten it.
    """
    return [
        *(_argument(place, value) for place, value in zip(ARGUMENTS, arguments, strict=False)),
        Instruction(f"call {helper}", CALL, immediate=helper),
    ]


def _argument(place: Register, value: Register | int | Address | str) -> Block:
    match value:
        case str():
            return load_map(place, value)
        case Address():
            return point(place, value)
        case Register() if value in ARGUMENTS:
            if value is not place:
                raise ValueError(f"argument {place} would be taken from {value}, which another argument may overwrite")
            return []
        case _:
            return alu(place, "=", value)


def leave() -> Instruction:
    """End the program; R0 is its answer."""
    return Instruction("exit", EXIT)


def _operand(value: Register | int, width: int) -> tuple[int, int, int]:
    """Return the source bit of the opcode, the source register and the immediate."""
    if isinstance(value, Register):
        return SOURCE_REGISTER, value.value, 0
    largest = 0x7FFF_FFFF if width == 64 else 0xFFFF_FFFF
    if not -0x8000_0000 <= value <= largest:
        raise ValueError(f"{value:#x} does not fit an immediate of a {width}-bit instruction: use load_constant")
    return 0, 0, value


def _short(offset: int) -> int:
    if not -0x8000 <= offset <= 0x7FFF:
        raise ValueError(f"offset {offset} does not fit 16 bits")
    return offset


def _name(value: Register | int, width: int) -> str:
    if isinstance(value, Register):
        return str(value) if width == 64 else f"w{value.value}"
    return str(value) if -256 < value < 256 else f"{value:#x}"
