"""The udp backend inside the kernel: three tc programs for flannel's wire format. Pure.

    pod ... -> flannel0, tcx egress:  `send_program`     look up, pay a TTL, put IPv4 and UDP in front -> uplink
    uplink, tcx ingress:              `receive_program`  admit, pay a TTL, take IPv4 and UDP off -> flannel0's ingress
    cni0, tcx egress:                 `deliver_program`  super-packets from flannel0 -> the pod's port, whole

What they do is what the loop in user space does, datagram for datagram. All else they pass up, untouched: to the TUN's
reader or to the socket, where that loop waits. It also refuses, and logs, what may not come in. All is counted.

- TTL: one is paid by each program, as by flannel's two processes; the kernel pays one more wherever it forwards. A
  packet whose TTL would become 0 is passed up, because user space can say Time Exceeded (RFC 792).
- UDP checksum: the programs send none (RFC 768: all zero), for that would cost a pass over each packet, and the inner
  checksums are end to end. They pass up datagrams that have one, because it must be verified (RFC 1122 4.1.3.4) and
  such a datagram comes from a socket. So programs take what programs sent, and sockets what sockets sent.
- The outer header has DF and id 0 (RFC 6864: an atomic datagram), its TTL is 64 and its TOS 0; routing and neighbours
  of the outer packet are the kernel's, over the uplink only. The underlay's INPUT and OUTPUT rules do not see it.
- A TCP super-packet stays whole: it is cut, one inner packet to a datagram, where a real link asks for it. A virtual
  link never asks, so what goes to a peer in user space is passed up (`routes.Peer.plain`).
- What is longer than the path to a peer takes is passed up too: the socket's packets are made into fragments. So is a
  train of UDP, while single datagrams of its flow are not: they may overtake it.
- Packet sockets (tcpdump) on flannel0 do not see what `send_program` took, nor those on cni0 what `deliver_program`
  took: it left before they look.
- Why `deliver_program`: no helper clears a packet's "encapsulated" mark after decapsulation, and a bridge's own
  interface (unlike veth) has no offloads for encapsulated packets, so the kernel would cut every super-packet there
  (netif_skb_features and hw_enc_features): three times slower.

Each program is in the order of a packet's way through it. The steps that they share are in `blocks`, what stands in the
maps in `maps`.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from netlab.bpf.assembler import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    WORD,
    Address,
    Block,
    Helper,
    Program,
    alu,
    call,
    jump_if,
    label,
    load,
    store,
    to_big_endian,
)
from netlab.tunnel.blocks import (
    DONT_FRAGMENT,
    ENCAP_IPV4,
    ENCAP_UDP,
    ETHERNET,
    ETHERTYPE_IPV4,
    FIXED_GSO,
    FRAGMENT_OFFSET,
    HEADERS,
    INNER,
    IPV4,
    KEY,
    LENGTH,
    LONGEST,
    MORE_FRAGMENTS,
    OUTER,
    OUTER_TTL,
    OUTER_UDP,
    OVERHEAD,
    PLAIN_HEADER,
    ROOM_AT_MAC,
    SKB,
    SKB_GSO_SIZE,
    SKB_INGRESS_IFINDEX,
    SKB_LEN,
    SKB_PROTOCOL,
    TO_INGRESS,
    UDP,
    UDP_PROTOCOL,
    at,
    begin,
    check_inner,
    checksum,
    in_memory,
    leave_alone,
    look_up,
    pay_ttl,
    program,
)
from netlab.tunnel.maps import Counter

# --- sending ---------------------------------------------------------------------------------------------------------


def send_program(local: IPv4Address, port: int, *, uplink: int) -> Program:
    """Return the program for tcx egress of the TUN. `uplink`: interface index. Maps: routes, counters."""
    return program(
        Counter.SENT,
        [
            begin(),
            load(WORD, LENGTH, SKB + SKB_LEN),
            load(WORD, R2, SKB + SKB_PROTOCOL),
            jump_if(R2, "!=", ETHERTYPE_IPV4, "UP_NOT_IPV4"),
            call(Helper.SKB_LOAD_BYTES, SKB, 0, INNER, IPV4),
            jump_if(R0, "!=", 0, "UP_NOT_IPV4"),
            check_inner(0),
            jump_if(LENGTH, ">", LONGEST, "UP_TOO_LONG"),
            _find_peer(),
            pay_ttl(),
            _fill_outer(local, port),
            call(Helper.SKB_ADJUST_ROOM, SKB, OVERHEAD, ROOM_AT_MAC, FIXED_GSO | ENCAP_IPV4 | ENCAP_UDP),
            jump_if(R0, "!=", 0, "UP_NO_ROOM"),  # nothing is changed yet
            call(Helper.SKB_CHANGE_HEAD, SKB, ETHERNET, 0),  # redirect_neigh demands a frame
            jump_if(R0, "!=", 0, "DROPPED"),
            call(Helper.SKB_STORE_BYTES, SKB, ETHERNET, OUTER, OVERHEAD + IPV4, 0),
            jump_if(R0, "!=", 0, "DROPPED"),
            call(Helper.REDIRECT_NEIGH, uplink, 0, 0, 0),
        ],
    )


def _find_peer() -> Block:
    """Put the address of the inner destination's peer into the outer header."""
    return [
        look_up(at(INNER, 16), otherwise="UP_NO_ROUTE"),
        load(WORD, R2, R0 + 4),
        jump_if(R2, "==", 0, "UP_PLAIN_PEER"),
        load(WORD, R3, SKB + SKB_GSO_SIZE),
        jump_if(R3, "!=", 0, "segments"),
        alu(R3, "=", LENGTH),
        label("segments"),
        load(DOUBLE, R1, HEADERS),
        alu(R3, "+=", R1),
        jump_if(R3, ">", R2, "UP_PATH_MTU"),
        load(WORD, R2, R0 + 0),
        store(WORD, at(OUTER, 16), R2),
    ]


def _fill_outer(local: IPv4Address, port: int) -> Block:
    """Fill in the outer headers (RFC 791, RFC 768); the destination is there."""
    return [
        store(WORD, at(OUTER, 0), in_memory(bytes([PLAIN_HEADER, 0, 0, 0]))),
        _store_length(at(OUTER, 2), more=OVERHEAD),
        store(WORD, at(OUTER, 4), in_memory(struct.pack(">HH", 0, DONT_FRAGMENT))),
        store(WORD, at(OUTER, 8), in_memory(struct.pack(">BBH", OUTER_TTL, UDP_PROTOCOL, 0))),
        store(WORD, at(OUTER, 12), in_memory(local.packed)),
        checksum(OUTER),
        store(HALF, at(OUTER, 10), R2),
        store(WORD, at(OUTER_UDP, 0), in_memory(struct.pack(">HH", port, port))),
        _store_length(at(OUTER_UDP, 4), more=UDP),
        store(HALF, at(OUTER_UDP, 6), 0),
    ]


def _store_length(target: Address, *, more: int) -> Block:
    return [alu(R2, "=", LENGTH), alu(R2, "+=", more), to_big_endian(R2, 16), store(HALF, target, R2)]


# --- receiving -------------------------------------------------------------------------------------------------------


def receive_program(local: IPv4Address, port: int, *, tun: int) -> Program:
    """Return the program for tcx ingress of an Ethernet uplink. `tun`: interface index.

    Maps: routes, counters.
    """
    return program(
        Counter.RECEIVED,
        [
            begin(),
            _is_ours(local, port),
            load(HALF, LENGTH, at(OUTER, 2)),
            to_big_endian(LENGTH, 16),
            alu(LENGTH, "-=", OVERHEAD),
            load(HALF, R2, at(OUTER, 6)),
            jump_if(R2, "&", in_memory(MORE_FRAGMENTS.to_bytes(2)), "UP_FRAGMENT"),
            load(HALF, R2, at(OUTER_UDP, 6)),
            jump_if(R2, "!=", 0, "UP_CHECKSUM"),
            check_inner(ETHERNET + OVERHEAD),
            _check_lengths(),
            _admit(),
            pay_ttl(),
            call(Helper.SKB_ADJUST_ROOM, SKB, -OVERHEAD, ROOM_AT_MAC, FIXED_GSO),
            jump_if(R0, "!=", 0, "UP_NO_ROOM"),
            call(Helper.SKB_STORE_BYTES, SKB, ETHERNET + 8, at(INNER, 8), 4, 0),
            jump_if(R0, "!=", 0, "DROPPED"),
            call(Helper.REDIRECT, tun, TO_INGRESS),
        ],
    )


def _is_ours(local: IPv4Address, port: int) -> Block:
    """Let go, uncounted, what is not a datagram for our address and port, or what the kernel would drop anyway."""
    return [
        load(WORD, R2, SKB + SKB_PROTOCOL),
        jump_if(R2, "!=", ETHERTYPE_IPV4, "not ours"),
        call(Helper.SKB_LOAD_BYTES, SKB, ETHERNET, OUTER, OVERHEAD + IPV4),
        jump_if(R0, "!=", 0, "not ours"),
        load(BYTE, R2, at(OUTER, 0)),
        jump_if(R2, "!=", PLAIN_HEADER, "not ours"),
        load(BYTE, R2, at(OUTER, 9)),
        jump_if(R2, "!=", UDP_PROTOCOL, "not ours"),
        load(WORD, R2, at(OUTER, 16)),
        jump_if(R2, "!=", in_memory(local.packed), "not ours", width=32),
        load(HALF, R2, at(OUTER, 6)),
        jump_if(R2, "&", in_memory(FRAGMENT_OFFSET.to_bytes(2)), "not ours"),
        load(HALF, R2, at(OUTER_UDP, 2)),
        jump_if(R2, "!=", in_memory(port.to_bytes(2)), "not ours"),
        checksum(OUTER),
        jump_if(R2, "!=", 0, "not ours"),
        leave_alone(),
    ]


def _check_lengths() -> Block:
    """Demand that the datagram is one inner packet and nothing else; a frame may be padded behind it."""
    return [
        load(HALF, R2, at(INNER, 2)),
        to_big_endian(R2, 16),
        jump_if(R2, "!=", LENGTH, "UP_LENGTH"),
        load(HALF, R2, at(OUTER_UDP, 4)),
        to_big_endian(R2, 16),
        alu(R2, "-=", UDP),
        jump_if(R2, "!=", LENGTH, "UP_LENGTH"),
    ]


def _admit() -> Block:
    """Demand that the inner source is the sender's."""
    return [
        look_up(at(INNER, 12), otherwise="UP_NOT_ADMITTED"),
        load(WORD, R2, R0 + 0),
        load(WORD, R3, at(OUTER, 12)),
        jump_if(R2, "!=", R3, "UP_NOT_ADMITTED"),
    ]


# --- delivering ------------------------------------------------------------------------------------------------------


def deliver_program(*, tun: int) -> Program:
    """Return the program for tcx egress of the pods' bridge. `tun`: interface index. Maps: ports, counters.

    A pod that is not in the map gets its packets over the bridge, cut.
    """
    return program(
        Counter.DELIVERED,
        [
            begin(),
            load(WORD, R2, SKB + SKB_GSO_SIZE),
            jump_if(R2, "==", 0, "not ours"),
            load(WORD, R2, SKB + SKB_INGRESS_IFINDEX),
            jump_if(R2, "!=", tun, "not ours"),
            load(WORD, R2, SKB + SKB_PROTOCOL),
            jump_if(R2, "!=", ETHERTYPE_IPV4, "not ours"),
            call(Helper.SKB_LOAD_BYTES, SKB, 0, KEY, 6),  # the destination's MAC address
            jump_if(R0, "!=", 0, "not ours"),
            call(Helper.MAP_LOOKUP_ELEM, "ports", KEY),
            jump_if(R0, "==", 0, "not ours"),
            leave_alone(),
            load(WORD, LENGTH, SKB + SKB_LEN),
            alu(LENGTH, "-=", ETHERNET),
            load(WORD, R1, R0 + 0),
            call(Helper.REDIRECT, R1, 0),
        ],
    )
