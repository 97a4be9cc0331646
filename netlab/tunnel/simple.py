"""The textbook loop: read a packet, look its node up, send it; receive one, check it, hand it to the kernel.

Four crossings between kernel and program for each packet and node: one to wait, one to read, one to send, and the way
back. That, and not the language, is what makes it slow: `batched` does the same for many packets at a time.

A hop is taken at each end, as in flannel: with the two nodes' own that makes four between pods (facts.md 1.9). Unlike
flannel's, a packet whose hops are used up is answered, and not everybody may send.
"""

from __future__ import annotations

import contextlib
import os
import select

from netlab.tunnel.endpoint import Endpoint, drop_reason
from netlab.tunnel.packet import (
    Drop,
    MutableBuffer,
    check,
    destination,
    net_unreachable,
    source,
    take_hop,
    time_exceeded,
)
from netlab.tunnel.routes import Peer

BURST = 16  # packets of one way before the other has its turn
LARGEST = 65535  # bytes of an IP packet


def run(end: Endpoint) -> None:
    """Carry packets both ways until the TUN device is gone. Raises OSError then."""
    ways = {end.tun: send_one, end.socket.fileno(): receive_one, end.asked: Endpoint.reload}
    poll = select.poll()
    for fd in ways:
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            with contextlib.suppress(BlockingIOError):  # nothing more to read
                for _ in range(BURST):
                    ways[fd](end)


def send_one(end: Endpoint) -> None:
    """Send one packet, which the kernel has routed to the TUN device, to the node that holds its destination."""
    packet = bytearray(os.read(end.tun, LARGEST))
    if peer := find_way(end, packet):
        try:
            end.socket.sendto(packet, end.place_of(peer))
        except OSError as exc:
            return end.drop(drop_reason(exc))
        end.counters.sent(len(packet))


def receive_one(end: Endpoint) -> None:
    """Take one packet in, from a node that may send it, and let the kernel route it to its pod."""
    received, (sender, _port) = end.socket.recvfrom(LARGEST)
    packet = bytearray(received)
    if admit(end, packet, sender):
        try:
            os.write(end.tun, packet)
        except OSError as exc:
            return end.drop(drop_reason(exc))
        end.counters.received(len(packet))


def find_way(end: Endpoint, packet: MutableBuffer) -> Peer | None:
    """Return the node that a packet goes to, and take a hop from it. None: it goes nowhere, and that is settled."""
    peer = None
    if reason := check(packet):
        end.drop(reason)
    elif not (holder := end.routes.find(destination(packet))):
        end.drop(Drop.NO_ROUTE, net_unreachable(packet, end.source))
    elif not take_hop(packet):
        end.drop(Drop.TTL_EXCEEDED, time_exceeded(packet, end.source))
    else:
        peer = holder
    return peer


def admit(end: Endpoint, packet: MutableBuffer, sender: str) -> bool:
    """Say whether a packet may come in from a sender, and take a hop from it. False: it may not, which is settled."""
    if reason := check(packet) or end.routes.refusal(sender, source(packet)):
        end.refuse(reason, sender)
    elif not take_hop(packet):
        end.drop(Drop.TTL_EXCEEDED, time_exceeded(packet, end.source))
    else:
        return True
    return False
