"""The programs that see one packet in every namespace: at the kernel's own tracepoints, in eBPF. Pure.

    netif_receive_skb   a packet comes in by a device
    net_dev_queue       it leaves by one
    kfree_skb           it is dropped, with the reason
    consume_skb         it has come to its end as it should

Each program is the same but for where it finds its arguments. A packet is the probe's own if its payload begins with
the cookie (UDP, ICMP echo), or its sequence number is the cookie (TCP). Then its addresses and ports, and those of its
answer, are put into the map `flows`, and packets with these are seen too: answers, the rest of a TCP connection, ICMP
errors about it. So what NAT made of the probe becomes known where it does; what it made of an answer, by the packet's
place in memory, which the map `buffers` knows. All this is looked for in the packet itself and, where it carries
another one (VXLAN, flannel's UDP, IP in IP), in that. To follow a flow instead of a probe is one more way to begin:
`adopt`.

What is seen is written to the ring buffer `seen`, in the form of `layout`, which `sighting.read` takes apart. Packets
with IPv4 options or IPv6 extension headers are not followed. Fragments of IPv4 behind the first have no ports: they are
known by what the first has put into the map `fragments`. Offsets of the kernel's structures come from BTF; what is read
through them is checked by nobody, so a device that has gone reads as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

from netlab.bpf.assembler import (
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R10,
    WORD,
    Address,
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
    point,
    store,
)
from netlab.trace.adopt import adopt
from netlab.trace.dissect import (
    MOST_HEADERS,
    enter_tunnels,
    identify,
    learn_fragment,
    look_up_fragment,
    probe_read,
    read_headers,
    read_transport,
)
from netlab.trace.layout import PLACES, SEEN_SIZE, SNAP, Direction, Kind, Target
from netlab.trace.stack import (
    BASE,
    BUFFER,
    CONTEXT_AT,
    COOKIE_AT,
    FRAGMENT_AT,
    KEY,
    MEMBERS_AT,
    MEMBERS_END,
    PACKET,
    RECORD,
    SCRATCH,
    START,
    VALUE,
    forget,
    seen,
)

NO_HEADER = 0xFFFF  # in a packet whose network header is not known
ETHERNET = 14  # bytes
NO_EXIST = 1  # BPF_NOEXIST: an entry that is there stays

TRACEPOINTS = {
    "netif_receive_skb": Kind.IN,
    "net_dev_queue": Kind.OUT,
    "kfree_skb": Kind.DROPPED,
    "consume_skb": Kind.CONSUMED,
}


def programs(offsets: Mapping[str, int], target: Target) -> dict[str, Program]:
    """Return a program for each tracepoint; `offsets` are those of MEMBERS.

    Maps: cookie, flows, fragments, buffers, seen, and one for each named record; for flows also those of `adopt`.

    Raises ValueError for a kernel whose structures are too different.
    """
    return {name: assemble(_program(kind, offsets, target)) for name, kind in TRACEPOINTS.items()}


def _program(kind: Kind, offsets: Mapping[str, int], target: Target) -> Block:
    return [
        load(DOUBLE, BUFFER, R1 + 0),
        store(DOUBLE, R10 + CONTEXT_AT, R1),
        _load_cookie(),
        _find_record(),
        _find_packet(kind, offsets),
        _copy_packet(),
        alu(BASE, "=", 0),
        *(store(DOUBLE, R10 + (FRAGMENT_AT["inner"] + place), 0) for place in range(0, 32, 8)),
        read_headers("outer"),
        enter_tunnels(target),
        label("INNER"),
        forget(BASE, MOST_HEADERS),
        read_headers("inner"),
        label("TRANSPORT"),
        read_transport(),
        label("KNOWN"),
        store(WORD, R10 + VALUE, Direction.COOKIE),
        _learn(Direction.THERE, Direction.BACK),
        jump("TELL"),
        label("KNOWN ANSWER"),
        store(WORD, R10 + VALUE, Direction.BACK),
        _learn(Direction.BACK, Direction.THERE),
        jump("TELL"),
        label("LOOK UP"),
        call(Helper.MAP_LOOKUP_ELEM, "flows", R10 + KEY),
        jump_if(R0, "==", 0, "BY BUFFER"),
        load(WORD, R1, R0 + 0),
        store(WORD, R10 + VALUE, R1),
        label("TELL"),
        _remember(kind),
        [learn_fragment(what) for what in FRAGMENT_AT],
        _tell(kind, offsets),
        label("LEAVE"),
        alu(R0, "=", 0),
        leave(),
        _look_up_buffer("STRANGER" if kind is Kind.OUT and target.filter else "LEAVE"),
        [adopt(offsets, target.filter), _learn(Direction.THERE, Direction.BACK), jump("TELL")]
        if kind is Kind.OUT and target.filter
        else [],
        [look_up_fragment(what) for what in FRAGMENT_AT],
    ]


def _load_cookie() -> Block:
    """Put the cookie on the stack, and the number that follows it. It is in a map so that programs can be kept."""
    return [
        store(WORD, R10 + SCRATCH, 0),
        call(Helper.MAP_LOOKUP_ELEM, "cookie", R10 + SCRATCH),
        jump_if(R0, "==", 0, "LEAVE"),
        load(DOUBLE, R1, R0 + 0),
        store(DOUBLE, R10 + COOKIE_AT, R1),
    ]


def _find_record() -> Block:
    """Point RECORD at what is to be written. Each program has one of its own on each processor."""
    return [
        store(WORD, R10 + SCRATCH, 0),
        call(Helper.MAP_LOOKUP_ELEM, "record", R10 + SCRATCH),
        jump_if(R0, "==", 0, "LEAVE"),
        alu(RECORD, "=", R0),
    ]


# --- the packet ------------------------------------------------------------------------------------------------------


def _find_packet(kind: Kind, offsets: Mapping[str, int]) -> Block:
    """Read the members of the sk_buff, and point START at its network header."""
    members = {name: offsets[f"sk_buff.{name}"] for name in ("network_header", "mac_header", "tail", "head", "data")}
    first = min(members.values()) & ~7  # on the stack, as in memory, numbers stand at multiples of their size
    size = max(members.values()) + 8 - first
    if size > MEMBERS_END - MEMBERS_AT:
        raise ValueError(f"the members of struct sk_buff are {size} bytes apart")
    at = {name: R10 + (MEMBERS_AT + place - first) for name, place in members.items()}
    return [
        probe_read(R10 + MEMBERS_AT, size, BUFFER, first),
        load(DOUBLE, R4, at["head"]),
        _start_of_received(at) if kind is Kind.IN else _start_of_others(at),
        # How much is in one piece of memory behind it: what comes from pages of a file or a process is not.
        load(WORD, R5, at["tail"]),
        alu(R5, "+=", R4),
        alu(R5, "-=", START),
        jump_if(R5, "<=", SNAP, "WHOLE"),
        alu(R5, "=", SNAP),
        label("WHOLE"),
        store(HALF, seen("captured"), R5),
        load(HALF, R1, at["mac_header"]),
        store(HALF, seen("mac"), 0),
        alu(R1, "+=", R4),
        alu(R1, "+=", ETHERNET),
        jump_if(R1, "!=", START, "BARE"),  # not right in front of the packet: there is none
        store(HALF, seen("mac"), ETHERNET),
        label("BARE"),
    ]


def _start_of_received(at: Mapping[str, Address]) -> Block:
    """A packet that comes in begins with its network header, which is not noted yet (net/core/dev.c)."""
    return load(DOUBLE, START, at["data"])


def _start_of_others(at: Mapping[str, Address]) -> Block:
    return [
        load(HALF, START, at["network_header"]),
        jump_if(START, "==", NO_HEADER, "LEAVE"),
        alu(START, "+=", R4),
    ]


def _copy_packet() -> Block:
    """Copy what there is of the packet; the rest of its room is zeros, not an earlier one."""
    return [
        *(store(DOUBLE, RECORD + (PACKET + place), 0) for place in range(0, SNAP, 8)),
        alu(R2, "=", R5),
        point(R1, RECORD + PACKET),
        alu(R3, "=", START),
        call(Helper.PROBE_READ_KERNEL),
    ]


# --- what becomes of it ----------------------------------------------------------------------------------------------


def _learn(own: Direction, answers: Direction) -> Block:
    """Put the packet's addresses and ports into `flows`, and those of its answer. The first to say so is right."""

    def swap(one: int, other: int, size: int) -> Block:
        width = {2: HALF, 8: DOUBLE}[size]
        return [
            load(width, R1, R10 + (KEY + one)),
            load(width, R2, R10 + (KEY + other)),
            store(width, R10 + (KEY + one), R2),
            store(width, R10 + (KEY + other), R1),
        ]

    def put(direction: Direction) -> Block:
        return [
            store(WORD, R10 + SCRATCH, direction),
            store(WORD, R10 + (SCRATCH + 4), 0),
            call(Helper.MAP_UPDATE_ELEM, "flows", R10 + KEY, R10 + SCRATCH, NO_EXIST),
        ]

    return [
        put(own),
        swap(0, 16, 8),
        swap(8, 24, 8),
        swap(32, 34, 2),
        put(answers),
    ]


def _remember(kind: Kind) -> Block:
    """Note whose packet is in this memory, with its identification; forget it when the packet ends."""
    if kind in (Kind.DROPPED, Kind.CONSUMED):
        return [store(DOUBLE, R10 + SCRATCH, BUFFER), call(Helper.MAP_DELETE_ELEM, "buffers", R10 + SCRATCH)]
    return [
        identify(R2),
        store(WORD, R10 + (VALUE + 4), R2),
        store(DOUBLE, R10 + SCRATCH, BUFFER),
        call(Helper.MAP_UPDATE_ELEM, "buffers", R10 + SCRATCH, R10 + VALUE, 0),
    ]


def _look_up_buffer(otherwise: str) -> Block:
    """NAT gave the packet another address while it stayed where it was: make that known too."""
    return [
        label("BY BUFFER"),
        store(DOUBLE, R10 + SCRATCH, BUFFER),
        call(Helper.MAP_LOOKUP_ELEM, "buffers", R10 + SCRATCH),
        jump_if(R0, "==", 0, otherwise),
        identify(R2),
        load(WORD, R3, R0 + 4),
        jump_if(R2, "!=", R3, otherwise),  # it is another packet's by now
        load(WORD, R1, R0 + 0),
        store(WORD, R10 + VALUE, R1),
        call(Helper.MAP_UPDATE_ELEM, "flows", R10 + KEY, R10 + VALUE, NO_EXIST),
        jump("TELL"),
    ]


def _tell(kind: Kind, offsets: Mapping[str, int]) -> Block:
    """Write the record. A packet that was dropped or consumed may have lost its device: then that is zeros."""
    buffer_members = {"length": "len", "mark": "mark"}
    return [
        call(Helper.KTIME_GET_NS),
        store(DOUBLE, seen("time"), R0),
        store(DOUBLE, seen("buffer"), BUFFER),
        *_arguments(kind),
        store(WORD, seen("kind"), kind),
        load(WORD, R1, R10 + VALUE),
        store(WORD, seen("direction"), R1),
        *(probe_read(seen(name), 4, BUFFER, offsets[f"sk_buff.{member}"]) for name, member in buffer_members.items()),
        store(DOUBLE, seen("frame"), 0),
        store(DOUBLE, RECORD + (PLACES["frame"] + 8), 0),
        load(HALF, R1, seen("mac")),
        jump_if(R1, "==", 0, "NO FRAME"),
        probe_read(seen("frame"), ETHERNET, START, -ETHERNET),
        label("NO FRAME"),
        probe_read(R10 + SCRATCH, 8, BUFFER, offsets["sk_buff.dev"]),
        load(DOUBLE, START, R10 + SCRATCH),
        probe_read(seen("ifindex"), 4, START, offsets["net_device.ifindex"]),
        probe_read(seen("device"), 16, START, offsets["net_device.name"]),
        probe_read(R10 + SCRATCH, 8, START, offsets["net_device.nd_net.net"]),
        load(DOUBLE, START, R10 + SCRATCH),
        probe_read(seen("netns"), 4, START, offsets["net.ns.inum"]),
        call(Helper.RINGBUF_OUTPUT, "seen", RECORD + 0, SEEN_SIZE, 0),
    ]


def _arguments(kind: Kind) -> list[Block]:
    """Write where the packet ended, and why: further arguments of those tracepoints."""
    blocks: list[Block] = [store(DOUBLE, seen("location"), 0), store(WORD, seen("reason"), 0)]
    if kind is Kind.DROPPED:  # consume_skb says where only since Linux 6.3
        blocks += [load(DOUBLE, R2, R10 + CONTEXT_AT)]
        blocks += [load(DOUBLE, R1, R2 + 8), store(DOUBLE, seen("location"), R1)]
        blocks += [load(DOUBLE, R1, R2 + 16), store(WORD, seen("reason"), R1)]
    return blocks
