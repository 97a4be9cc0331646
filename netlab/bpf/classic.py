"""Classic BPF: the programs that a pcap filter is compiled to, run on whole Ethernet frames.

`tcpdump -ddd` compiles a filter (`argv` is how to call it, `compiled` reads what it said); `parse` turns the printed
program into Python code by the table below, one line for each instruction; `Program.matches` calls that code.
Instructions: McCanne and Jacobson, "The BSD Packet Filter", USENIX 1993; Linux Documentation/networking/filter.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from netlab.errors import UsageError

SNAPLEN = 65535
WORDS = 16  # of scratch memory: BPF_MEMWORDS
# What `translate` wants behind a packet: the scratch memory, then the packet's length.
WHOLE_LENGTH = WORDS * 4
BEHIND = WHOLE_LENGTH + 4  # bytes
MASK = 0xFFFF_FFFF  # registers are 32 bits wide
KERNEL_ONLY = 0xFFFF_F000  # loads from here on ask the kernel, not the frame: SKF_AD_OFF in linux/filter.h
PASSES = 4096  # `protochain` jumps back once for each extension header; a jumbo frame has room for 1125 of 8 bytes

# code -> Python. A load beyond the frame raises IndexError or struct.error, a division by zero ZeroDivisionError.
STATEMENTS = {
    0x00: "a = {k}",  # ld #k
    0x20: "a, = word(frame, {k})",  # ld [k]
    0x28: "a, = half(frame, {k})",  # ldh [k]
    0x30: "a = frame[{k}]",  # ldb [k]
    0x40: "a, = word(frame, x + {k})",  # ld [x + k]
    0x48: "a, = half(frame, x + {k})",  # ldh [x + k]
    0x50: "a = frame[x + {k}]",  # ldb [x + k]
    0x60: "a = memory[{k}]",  # ld M[k]
    0x80: "a = len(frame)",  # ld #len
    0x01: "x = {k}",  # ldx #k
    0x61: "x = memory[{k}]",  # ldx M[k]
    0x81: "x = len(frame)",  # ldx #len
    0xB1: "x = (frame[{k}] & 15) << 2",  # ldxb 4*([k]&0xf): the length of an IPv4 header
    0x02: "memory[{k}] = a",  # st M[k]
    0x03: "memory[{k}] = x",  # stx M[k]
    0x04: "a = a + {k} & mask",
    0x0C: "a = a + x & mask",
    0x14: "a = a - {k} & mask",
    0x1C: "a = a - x & mask",
    0x24: "a = a * {k} & mask",
    0x2C: "a = a * x & mask",
    0x34: "a //= {k}",
    0x3C: "a //= x",
    0x44: "a |= {k}",
    0x4C: "a |= x",
    0x54: "a &= {k}",
    0x5C: "a &= x",
    0x64: "a = a << {k} & mask if {k} < 32 else 0",  # the condition keeps Python from making a huge number
    0x6C: "a = a << x & mask if x < 32 else 0",
    0x74: "a >>= {k}",
    0x7C: "a >>= x",
    0x84: "a = -a & mask",  # neg
    0x94: "a %= {k}",
    0x9C: "a %= x",
    0xA4: "a ^= {k}",
    0xAC: "a ^= x",
    0x06: "return {k} != 0",  # ret #k
    0x16: "return a != 0",  # ret a
    0x07: "x = a",  # tax
    0x87: "a = x",  # txa
}
JUMP = 0x05  # ja: by k, which has a sign
CONDITIONS = {
    0x15: "a == {k}",  # jeq
    0x1D: "a == x",
    0x25: "a > {k}",  # jgt
    0x2D: "a > x",
    0x35: "a >= {k}",  # jge
    0x3D: "a >= x",
    0x45: "a & {k}",  # jset
    0x4D: "a & x",
}
RETURNS = (0x06, 0x16)
ABSOLUTE_LOADS = (0x20, 0x28, 0x30)
MEMORY = (0x02, 0x03, 0x60, 0x61)

Decide = Callable[[bytes], bool]


class Instruction(NamedTuple):
    """One instruction. `jt` and `jf` count from the instruction that follows; `k` is unsigned."""

    code: int
    jt: int
    jf: int
    k: int

    def targets(self, here: int) -> tuple[int, ...]:
        """Return where this jump, which stands at index `here`, may lead; nothing if it is not a jump."""
        if self.code == JUMP:
            return (here + 1 + (self.k - (1 << 32) if self.k >> 31 else self.k),)
        return (here + 1 + self.jt, here + 1 + self.jf) if self.code in CONDITIONS else ()


@dataclass(frozen=True, slots=True)
class Program:
    """A checked program. Raises ValueError for one that could not run."""

    instructions: tuple[Instruction, ...]
    _decide: Decide = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(self.instructions)
        object.__setattr__(self, "_decide", _python(self.instructions))

    def matches(self, frame: bytes) -> bool:
        """Tell whether the filter accepts a frame. A load beyond its end or a division by zero refuses it."""
        try:
            return self._decide(frame)
        except (IndexError, struct.error, ZeroDivisionError):
            return False


def argv(filter_text: str, *, link: str = "EN10MB") -> list[str]:
    """Return the command that compiles a filter. It opens no interface and needs no privilege.

    tcpdump asks the resolver for a host name in a filter: let it run where that cannot leave the machine.
    """
    return ["tcpdump", "-ddd", "-y", link, "-s", str(SNAPLEN), "--", filter_text]


def compiled(filter_text: str, *, status: int, stdout: str, stderr: str) -> Program:
    """Read what the command of `argv` said. Raises UsageError, in tcpdump's words, for a filter that is wrong."""
    if status:
        words = stderr.strip().removeprefix("tcpdump: ") or f"tcpdump ended with status {status}"
        raise UsageError(f"filter {filter_text!r}: {words}", "its language is in pcap-filter(7)")
    try:
        return parse(stdout)
    except ValueError as exc:
        raise UsageError(f"filter {filter_text!r}: {exc}", "it can ask only for what is in a frame") from exc


def parse(text: str) -> Program:
    """Read a program as `tcpdump -ddd` prints it: a count, then `code jt jf k` on each line. Raises ValueError."""
    return Program(listed(text))


def listed(text: str) -> tuple[Instruction, ...]:
    """Read the instructions of such a text without a look at what they do. Raises ValueError."""
    try:
        count, *rows = ([int(number) for number in line.split()] for line in text.strip().splitlines())
        instructions = tuple(Instruction(*row) for row in rows)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"this is not what tcpdump -ddd prints: {text[:200]!r}") from exc
    if count != [len(instructions)]:
        raise ValueError(f"the program announces {count} instructions and has {len(instructions)}")
    return instructions


def check(instructions: Sequence[Instruction]) -> None:
    """Raise ValueError unless a program can run: known instructions, jumps that stay inside, a return at the end."""
    if not instructions or instructions[-1].code not in RETURNS:
        raise ValueError("the program does not end with a return")
    for here, instruction in enumerate(instructions):
        code, _, _, k = instruction
        where = f"instruction {here} ({code:#04x} {k:#x})"
        if code not in STATEMENTS and code not in CONDITIONS and code != JUMP:
            raise ValueError(f"{where} is not one of classic BPF")
        if not 0 <= k <= MASK:
            raise ValueError(f"{where}: its operand does not fit 32 bits")
        if code in ABSOLUTE_LOADS and k >= KERNEL_ONLY:
            raise ValueError(f"{where} asks for what only a kernel knows: the direction, the interface")
        if code in MEMORY and k >= WORDS:
            raise ValueError(f"{where}: there are {WORDS} words of memory")
        if not all(0 <= target < len(instructions) for target in instruction.targets(here)):
            raise ValueError(f"{where} jumps out of the program")


def _python(instructions: Sequence[Instruction]) -> Decide:
    """Compile a checked program to a Python function. Only integers of the program come into its text."""
    names: dict[str, object] = {
        "word": struct.Struct(">I").unpack_from,
        "half": struct.Struct(">H").unpack_from,
        "mask": MASK,
    }
    exec("\n".join(_source(instructions)), names)
    decide: Decide = names["decide"]  # type: ignore[assignment]
    return decide


def _source(instructions: Sequence[Instruction]) -> Iterator[str]:
    """Yield a function that runs a program: its basic blocks in order, each under `if block == ITS FIRST INDEX`.

    Jumps lead forward, so one pass over the blocks is enough; only those of `protochain` lead back, to a next pass.
    """
    jumps = [(here, target) for here, each in enumerate(instructions) for target in each.targets(here)]
    blocks = {0, *(target for _, target in jumps), *(here + 1 for here, _ in jumps)}
    back = any(target <= here for here, target in jumps)
    yield "def decide(frame):"
    yield f"  a = x = block = 0; memory = [0] * {WORDS}"
    yield f"  for _ in range({PASSES if back else 1}):"
    for here, instruction in enumerate(instructions):
        if here in blocks:
            yield f"    if block == {here}:"
        yield f"      {_statement(instruction, here)}"
        if here + 1 in blocks and not instruction.targets(here):
            yield f"      block = {here + 1}"
    yield "  return False"


def _statement(instruction: Instruction, here: int) -> str:
    k = instruction.k
    match instruction.targets(here):
        case (then, otherwise):
            return f"block = {then} if {CONDITIONS[instruction.code].format(k=k)} else {otherwise}"
        case (target,):
            return f"block = {target}"
    return STATEMENTS[instruction.code].format(k=k)
