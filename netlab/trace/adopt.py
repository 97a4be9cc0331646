"""How the programs at tracepoints take up a stranger's packet: the first that a filter lets pass is followed. Pure.

It is looked at where it leaves a device, so where it begins, and only in the namespaces of the map `sources`. What the
filter sees is the innermost packet, from its IP header on, as far as there is room in the value of the map `filtered`.
The map `budget` has one number, 1 once all programs are attached: who takes it takes the packet, and nobody after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netlab.bpf.assembler import (
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R5,
    R10,
    WORD,
    Block,
    Helper,
    Register,
    alu,
    call,
    exchange,
    jump_if,
    label,
    load,
    store,
)
from netlab.bpf.classic import BEHIND, WHOLE_LENGTH, Instruction
from netlab.bpf.translate import is_beyond, translate
from netlab.errors import UsageError
from netlab.trace.dissect import probe_read
from netlab.trace.layout import SNAP, Direction
from netlab.trace.stack import BASE, BUFFER, SCRATCH, START, VALUE, seen

FILTERED_SIZE = SNAP + BEHIND  # bytes of the value of the map `filtered`: a packet, and what a filter needs besides
LENGTH_AT = VALUE + 4


def adopt(offsets: Mapping[str, int], filter_program: Sequence[Instruction]) -> Block:
    """Begin at label STRANGER; leave, or go on behind it with the direction at VALUE.

    Raises UsageError for a filter that asks for what is not there.
    """
    if any(is_beyond(each, SNAP) for each in filter_program):
        raise UsageError(
            f"the filter asks for what is behind a packet's first {SNAP} bytes", "only those are looked at"
        )
    return [
        label("STRANGER"),
        _first_entry("budget"),
        load(WORD, R1, R0 + 0),
        jump_if(R1, "==", 0, "LEAVE"),
        _first_entry("filtered"),
        _load_length(R2),
        alu(R1, "=", R0),
        alu(R3, "=", START),
        alu(R3, "+=", BASE),
        call(Helper.PROBE_READ_KERNEL),
        probe_read(R10 + LENGTH_AT, 4, BUFFER, offsets["sk_buff.len"]),
        _first_entry("filtered"),
        _store_whole_length(),
        _load_length(R5),
        translate(filter_program, R0, SNAP, accepted="ACCEPTED", refused="LEAVE"),
        label("ACCEPTED"),
        _look_up_namespace(offsets),
        _first_entry("budget"),
        alu(R1, "=", 0),
        exchange(WORD, R0 + 0, R1),
        jump_if(R1, "==", 0, "LEAVE"),  # another processor was faster
        store(WORD, R10 + VALUE, Direction.THERE),
    ]


def _first_entry(name: str) -> Block:
    return [
        store(WORD, R10 + SCRATCH, 0),
        call(Helper.MAP_LOOKUP_ELEM, name, R10 + SCRATCH),
        jump_if(R0, "==", 0, "LEAVE"),
    ]


def _load_length(dst: Register) -> Block:
    """Load how many bytes of the innermost packet there are."""
    return [
        load(HALF, dst, seen("captured")),
        alu(dst, "-=", BASE),
        jump_if(dst, "s<=", 0, "LEAVE"),
        jump_if(dst, ">", SNAP, "LEAVE"),
    ]


def _store_whole_length() -> Block:
    """Put down how long the innermost packet is: all that is sent, without what is around that."""
    return [
        load(WORD, R1, R10 + LENGTH_AT),
        load(HALF, R2, seen("mac")),
        alu(R1, "-=", R2),
        alu(R1, "-=", BASE),
        store(WORD, R0 + (SNAP + WHOLE_LENGTH), R1),
    ]


def _look_up_namespace(offsets: Mapping[str, int]) -> Block:
    """Leave unless the packet is in one of `sources`, by inode number."""
    return [
        probe_read(R10 + SCRATCH, 8, BUFFER, offsets["sk_buff.dev"]),
        load(DOUBLE, R1, R10 + SCRATCH),
        probe_read(R10 + SCRATCH, 8, R1, offsets["net_device.nd_net.net"]),
        load(DOUBLE, R1, R10 + SCRATCH),
        probe_read(R10 + SCRATCH, 4, R1, offsets["net.ns.inum"]),
        call(Helper.MAP_LOOKUP_ELEM, "sources", R10 + SCRATCH),
        jump_if(R0, "==", 0, "LEAVE"),
    ]
