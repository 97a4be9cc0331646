"""Where the programs at tracepoints have what: on the stack, in registers, in the record that they write. Pure.

The record is the value of a map, for two reasons: it has room, and a number in it may stand at any offset that the
verifier can bound. On the stack it would have to be known, at a multiple of the number's size, and each way that leads
to a place would be checked on its own.
"""

from __future__ import annotations

from netlab.bpf.assembler import R6, R7, R8, R9, WORD, Address, Block, Register, jump_if, load, store
from netlab.trace.layout import FLOW, PLACES, SEEN, SEEN_SIZE

BUFFER, START, RECORD, BASE = R6, R7, R8, R9  # the sk_buff, its network header, the record, where the inner header is

PACKET = SEEN.size  # in the record, behind which there is a place for `forget`
FORGET_AT = SEEN_SIZE

# The stack: a key, its value, room for members of `struct sk_buff`, and some numbers.
KEY = -192
VALUE = KEY + FLOW.size
MEMBERS_AT = VALUE + 8
MEMBERS_END = -64
CONTEXT_AT = -56
FRAGMENT_AT = {"inner": -48, "outer": -32}
COOKIE_AT, FOLLOWING_AT = -16, -12
SCRATCH = -8
IDENT_AT = MEMBERS_AT  # once the members are read: what identifies the packet


def seen(field: str) -> Address:
    """Return where a field of the record is."""
    return RECORD + PLACES[field]


def forget(number: Register, most: int) -> Block:
    """Have the verifier know no more of a number than its bound, so that it checks what follows once for all ways here.

    Leave if it is larger.
    """
    return [
        store(WORD, RECORD + FORGET_AT, number),
        load(WORD, number, RECORD + FORGET_AT),
        jump_if(number, ">", most, "LEAVE"),
    ]
