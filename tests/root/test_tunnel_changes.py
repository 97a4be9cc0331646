"""What changes under a forwarder while it carries: its peer's address, the link's MTU, its own luck."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netlab.lab import Lab
from netlab.topology.model import ForwarderKind, UdpBackend
from tests.labs import topology
from tests.root.forwarders import KINDS, pid_of, pings, words
from tests.root.journeys import run
from tests.root.tunnel_nodes import ip
from tests.root.tunnel_traffic import (
    datagram_sockets,
    datagrams,
    errors,
    may_be_fragmented,
    pods,
    transfer,
    transfer_through,
)
from tests.root.tunnel_wire import NODES, PODS, Process, config_of, forwarders, network, peer
from tests.volume import VOLUME
from tests.waiting import until

pytestmark = pytest.mark.root

TRANSFER = 24 * VOLUME


@pytest.fixture
def lab(kind: ForwarderKind) -> Iterator[Lab]:
    with Lab(topology("tpch", nodes=2, pods=2, backend=UdpBackend(forwarder=kind))) as lab:
        pids = [pid_of(lab, node) for node in ("n1", "n2")]
        yield lab
        until(lambda: pings(lab))
        transfer(*pods(lab), VOLUME)
        assert [pid_of(lab, node) for node in ("n1", "n2")] == pids
        assert errors(*pods(lab)) == {}


def by_programs(kind: ForwarderKind) -> bool:
    """Say whether packets are forwarded in the kernel."""
    return words(kind) == "ebpf"


# --- what it is told -------------------------------------------------------------------------------------------------


def test_a_peers_address_changes_under_a_transfer(kind: ForwarderKind, tmp_path: Path) -> None:
    """Node 2 moves; its forwarder is started again, node 1's is told."""
    elsewhere = IPv4Address("192.168.77.22")
    with network(direct=True), Process(1, config_of(1, kind.value), tmp_path) as staying:
        moving = [Process(2, config_of(2, kind.value), tmp_path)]

        def move() -> None:
            moving.pop().__exit__()
            ip(NODES[2], "addr flush dev eth0", f"addr add {elsewhere}/24 dev eth0")
            moving.append(Process(2, replace(config_of(2, kind.value), local=elsewhere), tmp_path))
            staying.tell(replace(peer(2), address=elsewhere))

        try:
            transfer_through(*PODS[1:], TRANSFER, move)
            transfer_through(PODS[2], PODS[1], TRANSFER, lambda: None)
        finally:
            moving.pop().__exit__()
        assert staying.is_running()
        assert errors(*PODS[1:]) == {}


# --- the link --------------------------------------------------------------------------------------------------------


def test_the_links_mtu_shrinks_under_a_transfer(kind: ForwarderKind, tmp_path: Path) -> None:
    """What is too long then goes as fragments of the outer packet: pods do not know, and need not."""
    one, two = PODS[1:]
    with network(direct=True), forwarders(kind.value, tmp_path) as ends:

        def shrink() -> None:
            for number in (1, 2):
                ip(NODES[number], "link set eth0 mtu 1400")

        transfer_through(one, two, TRANSFER, shrink)
        payloads = [random.Random(length).randbytes(length) for length in range(1200, 1600)]
        assert datagrams(one, two, payloads, setup=may_be_fragmented) == payloads
        assert datagrams(two, one, payloads, setup=may_be_fragmented) == payloads
        transfer(one, two, VOLUME)
        assert all(end.is_running() for end in ends)
        assert errors(one, two) == {}


def test_the_link_goes_down_under_a_transfer(lab: Lab, kind: ForwarderKind) -> None:
    one, two = pods(lab)

    def interrupt() -> None:
        run(lab, "n1", "ip link set eth0 down")
        assert not pings(lab)
        run(lab, "n1", "ip link set eth0 up")

    transfer_through(one, two, TRANSFER, interrupt)
    if not by_programs(kind):
        assert lab.counters("n1")["refused"] > 0


# --- queues ----------------------------------------------------------------------------------------------------------


def test_one_that_is_held_up_goes_on_with_what_waits(lab: Lab, kind: ForwarderKind) -> None:
    """The device's queue and the socket's fill up and overflow: what found room comes out, in order and once."""
    one, two = pods(lab)
    payloads = [number.to_bytes(4) * 300 for number in range(3000)]
    pid = pid_of(lab)
    with datagram_sockets(one, two) as there, datagram_sockets(two, one) as back:
        os.kill(pid, signal.SIGSTOP)
        try:
            for payload in payloads:
                there[0].send(payload)
                back[0].send(payload)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: pings(lab))  # the queues are empty now
        for sending, receiving in (there, back):
            sending.send(b"last")
            found = []
            while (payload := receiving.recv(2000)) != b"last":
                found.append(payload)
            assert found == sorted(set(found))
            assert found[:400] == payloads[:400]
            if sending is there[0]:  # on the way back node 2's device may have overflowed, too
                assert (len(found) == len(payloads)) == by_programs(kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not by_programs(kind)])  # theirs do not pass a socket
def test_a_slow_link_fills_the_sockets_queue(lab: Lab) -> None:
    """EAGAIN: what does not fit is dropped and counted, and the rest goes on when the link is fast again."""
    run(lab, "n1", "tc qdisc add dev eth0 root tbf rate 1mbit burst 32k limit 64mb")
    with datagram_sockets(*pods(lab)) as (sending, _):

        def flood() -> bool:
            for _ in range(200):
                sending.send(bytes(1400))
            return lab.counters("n1")["queue-full"] > 0

        until(flood, 30)
    run(lab, "n1", "tc qdisc del dev eth0 root")
