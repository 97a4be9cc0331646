"""What is sent over a way, and what that costs: TCP by iperf3, trains of small UDP packets, and one packet to and fro.

Sockets are opened inside namespaces and used here. Whoever sends is a forked child, so that nobody shares a processor's
time, or Python's lock, with the one who takes the time.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from netlab.kernel import netns
from tests.bench.measure import BenchError
from tests.bench.path import Way

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAYLOAD = bytes(64)
PORT = 5202  # of the UDP tests; iperf3 has 5201
PATIENCE = 5.0  # seconds until a way carries packets, and iperf3 has come to an end
GLANCE, CALM = 0.1, 0.5  # seconds; of one processor's time that may be busy
ROUND_TRIPS = 2000
LOST = struct.pack("ll", 1, 0)  # struct timeval: how long an answer may take
SETTLE = 0.1  # of the seconds: what arrives before is not counted
ROOM = 4 * 2**20  # bytes of the receiver's queue: many packets at once must not be lost at the end of their way
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BATCH = 64  # datagrams for each sendmmsg(2) and recvmmsg(2)
MSG_WAITFORONE = 0x10000


@dataclass(frozen=True, slots=True)
class Transfer:
    """What TCP carried. CPU in seconds per gigabyte: of the whole machine, and of the forwarders alone."""

    gigabits: float  # per second
    retransmissions: float
    cpu: float
    forwarders: float


@contextmanager
def apart(ours: int, theirs: int, forwarders: Sequence[int]) -> Iterator[None]:
    """Give each node a half of the processors, as if it were a machine, until the end of the block.

    `ours` runs on the first node, `theirs` on the second; `forwarders` has one for each, or none. Where the scheduler
    puts programs that wait for each other doubles or halves what they reach, and is chance.
    """
    everywhere = sorted(os.sched_getaffinity(0))
    half = max(1, len(everywhere) // 2)
    nodes = [(ours, *forwarders[:1]), (theirs, *forwarders[1:])]
    for pids, own in zip(nodes, (everywhere[:half], everywhere[-half:]), strict=True):
        for pid in pids:
            os.sched_setaffinity(pid, own)
    try:
        yield
    finally:
        for pid in itertools.chain(*nodes):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(pid, everywhere)


def await_answer(way: Way) -> None:
    """Wait until a way carries packets: a bridge forwards a moment after it was made. Raises BenchError."""
    deadline = time.monotonic() + PATIENCE
    argv = ["ip", "netns", "exec", way.client, "ping", "-q", "-c1", "-W0.2", way.address]
    while subprocess.run(argv, capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise BenchError(f"nothing answers in {way.server}")


# --- TCP -------------------------------------------------------------------------------------------------------------


@contextmanager
def server(netns_name: str) -> Iterator[int]:
    """Run iperf3's server in a namespace for one client; yield its process id when it listens."""
    argv = ["ip", "netns", "exec", netns_name, "iperf3", "--server", "--one-off", "--forceflush"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        if not any("listening" in line for line in process.stdout):
            raise BenchError(f"iperf3 does not listen in {netns_name}")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def transfer(way: Way, seconds: int, streams: int, forwarders: Sequence[int]) -> Transfer:
    """Send over TCP for some seconds, whole ones, as iperf3 knows no others. Raises BenchError.

    `forwarders` are processes whose time is counted.
    """
    argv = ["ip", "netns", "exec", way.client, "iperf3", "--client", way.address, "--json"]
    argv += ["--time", str(seconds), "--parallel", str(streams)]
    with server(way.server):
        busy, own = busy_seconds(), sum(map(process_seconds, forwarders))
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds + 2 * PATIENCE)
            result = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as exc:
            raise BenchError(f"iperf3 in {way.client}: {exc}") from exc
        busy, own = busy_seconds() - busy, sum(map(process_seconds, forwarders)) - own
    if done.returncode or "error" in result:
        raise BenchError(f"iperf3 in {way.client}: {result.get('error', done.stderr)}")
    end = result["end"]
    gigabytes = end["sum_received"]["bytes"] / 1e9
    if not gigabytes:
        raise BenchError(f"iperf3 in {way.client}: nothing arrived")
    speed = end["sum_received"]["bits_per_second"] / 1e9
    return Transfer(speed, end["sum_sent"]["retransmits"], busy / gigabytes, own / gigabytes)


def busy_seconds() -> float:
    """Return what all processors together have worked since the start (proc_stat(5)); not what a hypervisor took."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) * TICK


def is_calm() -> bool:
    """Say whether the processors have hardly anything to do."""
    started, before = time.monotonic(), busy_seconds()
    time.sleep(GLANCE)
    return busy_seconds() - before < CALM * (time.monotonic() - started)


def process_seconds(pid: int) -> float:
    """Return the user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


# --- small packets ---------------------------------------------------------------------------------------------------


def packets_per_second(way: Way, seconds: float) -> float:
    """Send datagrams of 64 bytes as fast as one process can; return how many arrive. Raises BenchError.

    Not `apart`: on one processor a forwarder takes turns with the sender for every packet, and nothing is batched.
    """
    with _open(way.server) as receiver, _open(way.client) as sender:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        receiver.bind((way.address, PORT))
        sender.connect((way.address, PORT))
        with _child(_flood, sender):
            return _count(receiver, seconds)


def _flood(sender: socket.socket) -> None:
    batch = _Batch(sender)
    while True:
        batch.send()


def _count(receiver: socket.socket, seconds: float) -> float:
    """Return how many datagrams arrive each second."""
    receive = _Batch(receiver).receive
    receive()
    begin = time.monotonic() + SETTLE * seconds
    while time.monotonic() < begin:
        receive()
    count, begin = 0, time.monotonic()
    while (now := time.monotonic()) < begin + seconds:
        count += receive()
    return count / (now - begin)


class _Batch:
    """Many datagrams by one call, each of them a packet of its own: who sends and counts must not be what is slow."""

    def __init__(self, end: socket.socket) -> None:
        self._buffer = ctypes.create_string_buffer(PAYLOAD, len(PAYLOAD))  # all in one place: nobody looks at them
        self._part = (ctypes.c_void_p * 2)(ctypes.addressof(self._buffer), len(PAYLOAD))  # struct iovec
        header = struct.pack("@PiPNPNi0PI0P", 0, 0, ctypes.addressof(self._part), 1, 0, 0, 0, 0)  # struct mmsghdr
        self._headers = ctypes.create_string_buffer(header * BATCH)
        self._end = end
        libc = ctypes.CDLL(None, use_errno=True)
        self._recvmmsg, self._sendmmsg = libc.recvmmsg, libc.sendmmsg

    def send(self) -> None:
        """Send as many as there is room for; where there is none, or an ICMP error has come, go on all the same."""
        self._sendmmsg(self._end.fileno(), self._headers, BATCH, 0)

    def receive(self) -> int:
        """Wait for datagrams and return how many there were. Raises BenchError when none comes for a second."""
        count: int = self._recvmmsg(self._end.fileno(), self._headers, BATCH, MSG_WAITFORONE, None)
        if count < 0:
            raise BenchError(f"no small packet arrives: {os.strerror(ctypes.get_errno())}")
        return count


# --- one packet to and fro -------------------------------------------------------------------------------------------


def round_trips(way: Way, forwarders: Sequence[int]) -> tuple[float, float]:
    """Return the median and the 99th percentile of many round trips of a 64-byte UDP datagram, in seconds."""
    with _open(way.server) as echo, _open(way.client) as client:
        echo.bind((way.address, PORT))
        client.connect((way.address, PORT))
        with _child(_echo, echo) as pid, apart(os.getpid(), pid, forwarders):
            times = sorted(_round_trip(client) for _ in range(ROUND_TRIPS))
    return statistics.median(times), times[len(times) * 99 // 100]


def _round_trip(client: socket.socket) -> float:
    started = time.perf_counter()
    client.send(PAYLOAD)
    try:
        client.recv(len(PAYLOAD))
    except BlockingIOError as exc:  # SO_RCVTIMEO
        raise BenchError("a packet was lost on an idle way") from exc
    return time.perf_counter() - started


def _echo(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16))  # for ever
    while True:
        opened.sendto(*opened.recvfrom(len(PAYLOAD)))


# --- both ------------------------------------------------------------------------------------------------------------


def _open(netns_name: str) -> socket.socket:
    opened = netns.call(netns_name, socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LOST)  # settimeout would cost a call of poll(2) each time
    return opened


@contextmanager
def _child(function: Callable[[socket.socket], None], opened: socket.socket) -> Iterator[int]:
    """Let a child do something with a socket until the end of the block; yield its process id."""
    child = multiprocessing.get_context("fork").Process(target=function, args=(opened,), daemon=True)
    child.start()
    assert child.pid is not None
    try:
        yield child.pid
    finally:
        child.kill()
        child.join()
