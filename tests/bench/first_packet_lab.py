"""Nodes that have the same Services in different modes, side by side: a client behind each, one server behind all.

To be used in a sandbox. Every client's way to the server leads through its own node; BARE is one without rules, and
without conntrack. The server owns the endpoints' addresses only, so a connection to a cluster IP needs the node's rule.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from netlab.kernel import netns
from netlab.proxy import listing, tools
from netlab.service.model import ProxyNode
from tests.bench import modes
from tests.bench.first_packet_figures import BARE
from tests.bench.measure import BenchError
from tests.bench.modes import FIRST_IP, POD_PORT

SERVER = "nl-first-server"
CLUSTER = IPv4Network("10.0.0.0/8")
PODS = IPv4Network("10.128.0.0/10")
OUTSIDE = "10.191.0.1"  # a pod that is behind no Service
ENDPOINTS = 2  # of each Service
BACKLOG = 4096  # as net.core.somaxconn
WARM_UP = 10  # connections of a block that are not counted: thread and caches are cold
RESET = struct.pack("ii", 1, 0)  # struct linger: close(2) sends RST, and no TIME_WAIT is left
TRIES = 2  # more of a SYN that is lost: 7 s in all (tcp(7), TCP_SYNCNT)


@dataclass(frozen=True, slots=True)
class Way:
    """A client and the node that it sends through. `cluster_ips` are in the order in which rules are tried."""

    variant: str
    client: str
    node: str
    cluster_ips: Sequence[str] = ()


@contextmanager
def ways(variants: Sequence[str], services: int) -> Iterator[tuple[list[Way], socket.socket, dict[str, float]]]:
    """Make the lab with so many Services; yield its ways, BARE first, the server, and the seconds of each sync."""
    names = [BARE, *variants]
    everybody = [SERVER, *(f"nl-first-{kind}-{name}" for name in names for kind in ("client", "node"))]
    with ExitStack() as stack:
        netns.create(everybody, lambda _: None)
        stack.callback(netns.remove, everybody)
        _ip(SERVER, "link set lo up", f"route add local {PODS} dev lo")
        made, took = [], {}
        for number, name in enumerate(names):
            way = _wire(Way(name, f"nl-first-client-{name}", f"nl-first-node-{name}"), number)
            if name != BARE:
                node = ProxyNode("n1", (IPv4Address(f"10.200.{number}.1"),), CLUSTER)
                proxier = modes.proxier(name, way.node, node)
                stack.callback(proxier.close)
                start = time.perf_counter()
                proxier.sync({port.key: port for port in modes.ports(services, ENDPOINTS)})
                took[name] = time.perf_counter() - start
                netns.call(way.node, _forget_soon)
                way = Way(name, way.client, way.node, _in_order(way, services))
            made.append(way)
        yield made, stack.enter_context(_listening()), took


def _wire(way: Way, number: int) -> Way:
    """Give a node two links, to its client and to the server, and everybody the routes."""
    near, far = (f"10.{second}.{number}" for second in (200, 201))
    _ip(way.node, "link set lo up")
    _ip(way.node, f"link add near type veth peer name eth0 netns {way.client}")
    _ip(way.node, f"link add far type veth peer name eth{number} netns {SERVER}")
    _ip(
        way.node,
        f"addr add {near}.1/30 dev near",
        f"addr add {far}.1/30 dev far",
        "link set near up",
        "link set far up",
    )
    _ip(way.client, f"addr add {near}.2/30 dev eth0", "link set eth0 up", f"route add default via {near}.1")
    _ip(SERVER, f"addr add {far}.2/30 dev eth{number}", f"link set eth{number} up")
    _ip(SERVER, f"route add {near}.0/30 via {far}.1")
    _ip(way.node, f"route add default via {far}.2")
    netns.call(way.node, Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
    return way


def _ip(name: str, *commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", "-n", name, *command.split()], check=True)


def _forget_soon() -> None:
    """Shorten the life of conntrack's entries of connections that were reset: tens of thousands come and go."""
    with suppress(FileNotFoundError):
        Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close").write_text("1")


# --- the rules -------------------------------------------------------------------------------------------------------


def _in_order(way: Way, services: int) -> list[str]:
    """Return the cluster IPs in the order of KUBE-SERVICES; the other modes have none."""
    if not way.variant.startswith("iptables"):
        return [str(FIRST_IP + number) for number in range(services)]
    rules = listing.parse(tools.save(way.node, way.variant, 4))["nat"]["KUBE-SERVICES"]
    found = [rule.split()[1].removesuffix("/32") for rule in rules if rule.startswith("-d ")]
    assert len(found) == services
    return found


# --- connections -----------------------------------------------------------------------------------------------------


@contextmanager
def _listening() -> Iterator[socket.socket]:
    """Listen in the server, and keep to one processor, before neighbours where that is allowed: p99 is theirs else."""
    processors = sorted(os.sched_getaffinity(0))
    listener = netns.call(SERVER, lambda: socket.create_server(("", POD_PORT), backlog=BACKLOG))
    listener.setblocking(False)
    os.sched_setaffinity(0, processors[-1:])
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield listener
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, processors)
        listener.close()


def connect(way: Way, listener: socket.socket, targets: Sequence[tuple[str, int]]) -> tuple[list[float], float]:
    """Connect to at most 4,000 from a way's client; return seconds from SYN to SYN/ACK of each, and of the whole.

    SYN, SYN/ACK and RST take all their hops within the client's own calls. The server accepts afterwards: to wake it,
    or to find it awake, would be a part of the time by chance. Raises BenchError unless all have come to it.
    """
    try:
        found = netns.call(way.client, _connect, targets)
    except OSError as exc:
        raise BenchError(f"{way.variant}: a connection to one of {targets[0]} to {targets[-1]} failed: {exc}") from exc
    arrived, made = _accept_all(listener), len(targets[:WARM_UP]) + len(targets)
    if arrived != made:
        raise BenchError(f"{way.variant}: {arrived} of {made} connections came to the server")
    return found


def _connect(targets: Sequence[tuple[str, int]]) -> tuple[list[float], float]:
    for target in targets[:WARM_UP]:
        _first_packet(target)
    start = time.perf_counter()
    found = [_first_packet(target) for target in targets]
    return found, time.perf_counter() - start


def _first_packet(target: tuple[str, int]) -> float:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, TRIES)
        start = time.perf_counter()
        client.connect(target)
        return time.perf_counter() - start


def _accept_all(listener: socket.socket) -> int:
    """Take what has come, and return how many."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count
