"""Where each thing stands on the stack of the programs at tracepoints, and what their registers hold. Pure."""

from __future__ import annotations

from netlab.bpf.assembler import R6, R7, R8, R9, R10, Address
from netlab.trace.layout import FLOW, PLACES, SEEN, SNAP

# The stack, from its lower end: a record, then a key, then room for members of `struct sk_buff` and one number.
RECORD = -512
PACKET = RECORD + SEEN.size
KEY = PACKET + SNAP
VALUE = KEY + FLOW.size
MEMBERS_AT = VALUE + 8
FRAGMENT_AT = {"inner": -48, "outer": -32}
COOKIE_AT, FOLLOWING_AT = -16, -12
# In the room of the members, once they are read: the beginning of what follows IP, and what identifies the packet.
TRANSPORT_AT, TRANSPORT_SIZE = MEMBERS_AT, 12
IDENT_AT = MEMBERS_AT + 16
SCRATCH = -8
CONTEXT, BUFFER, START, BASE = R9, R6, R7, R8  # the arguments, the sk_buff, its network header, offset of the inner one


def seen(field: str) -> Address:
    """Return where a field of the record is."""
    return R10 + (RECORD + PLACES[field])
