"""Two nodes whose forwarders are started by hand, and the wire between them in a test's own hands.

nlw-p1 eth0 -- pod nlw-n1 eth0 ---- one nlw-wire two ---- eth0 nlw-n2 pod -- eth0 nlw-p2
              cni0 10.244.1.1/24      192.168.77.0/24       cni0 10.244.2.1/24
               flannel0 10.244.1.0                           flannel0 10.244.2.0

Read in order: `network` (namespaces and interfaces), `Process` (a forwarder), `Wire` (what becomes of frames).
Without a `Wire` nothing passes nlw-wire; `network(direct=True)` joins the nodes by a cable instead.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import NamedTuple

from netlab.kernel import netns
from netlab.supervisor.spec import NOTIFY
from netlab.tunnel import counters
from netlab.tunnel.config import Config, render
from netlab.tunnel.routes import Peer
from tests.root.ready import wait_until_ready
from tests.root.tunnel_nodes import ip
from tests.root.tunnel_traffic import Pod

OVERHEAD, PORT = 28, 8285
WIRE, PORTS = "nlw-wire", ("", "one", "two")
NODES = ("", "nlw-n1", "nlw-n2")  # counted from 1
ADDRESSES = ("", "192.168.77.1", "192.168.77.2")
PODS = (Pod("", ""), Pod("nlw-p1", "10.244.1.7"), Pod("nlw-p2", "10.244.2.7"))
PODS_V6 = (Pod("", ""), Pod("nlw-p1", "fd00:10:244:1::7"), Pod("nlw-p2", "fd00:10:244:2::7"))
RETRANSMIT = "rto_min 20ms"  # TCP's least patience is 200 ms: a test in which much is lost would take minutes


# --- the network -----------------------------------------------------------------------------------------------------


@contextmanager
def network(*, mtu: int = 1500, direct: bool = False) -> Iterator[None]:
    """Make nodes, pods and the underlay, whose links have an MTU, without forwarders."""
    names = [WIRE, *NODES[1:], *(pod.netns for pod in PODS[1:])]
    netns.create(names, lambda _: None)
    try:
        for number, port in ((1, PORTS[1]), (2, PORTS[2])):
            if not direct:
                ip(NODES[number], f"link add eth0 mtu {mtu} type veth peer name {port} mtu {mtu} netns {WIRE}")
                ip(WIRE, f"link set {port} addrgenmode none", f"link set {port} up")
        if direct:
            ip(NODES[1], f"link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {NODES[2]}")
        for number in (1, 2):
            _make_node(number, mtu - OVERHEAD)
        wait_until_ready(names)
        yield
    finally:
        netns.remove(names)


def _make_node(number: int, mtu: int) -> None:
    """Make a node's interfaces and its pod."""
    node, pod = NODES[number], PODS[number].netns
    ip(pod, f"link add eth0 mtu {mtu} type veth peer name pod mtu {mtu} netns {node}")
    ip(
        node,
        "tuntap add dev flannel0 mode tun",
        "link add cni0 type bridge",
        "link set pod master cni0",
        f"link set cni0 mtu {mtu}",
        f"link set flannel0 mtu {mtu}",
        *(f"link set {name} addrgenmode none" for name in ("eth0", "flannel0", "cni0", "pod")),
        *(f"link set {name} up" for name in ("lo", "eth0", "flannel0", "cni0", "pod")),
        f"addr add {ADDRESSES[number]}/24 dev eth0",
        f"addr add 10.244.{number}.0/32 dev flannel0",
        f"addr add 10.244.{number}.1/24 dev cni0",
        "addr add fe80::1/64 dev cni0 nodad",
        f"addr add fd00:10:244:{number}::1/64 dev cni0 nodad",
        "route add 10.244.0.0/16 dev flannel0",
        "route add fd00:10:244::/48 dev flannel0",
    )
    ip(
        pod,
        "link set eth0 addrgenmode none",
        "link set lo up",
        "link set eth0 up",
        f"addr add {PODS[number].address}/24 dev eth0",
        f"addr add {PODS_V6[number].address}/64 dev eth0 nodad",
        f"route add default via 10.244.{number}.1 {RETRANSMIT}",
        f"route add default via fd00:10:244:{number}::1 {RETRANSMIT}",
    )
    netns.call(node, _forward)


def _forward() -> None:
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path(f"/proc/sys/net/{setting}").write_text("1")


ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO = 0x17, 0x1F, 0x24, 0x2C  # linux/ethtool.h
SIOCETHTOOL = 0x8946


def make_real(number: int) -> None:
    """Let a node's uplink do as a network card without offloads: frames of the link's size with whole checksums.

    What it receives within a millisecond is put together by GRO, as it is from a card. Its pod gets such frames, too,
    and no longer takes a checksum that is still to be completed for one that is right.
    """
    for name in ("eth0", "pod"):
        netns.call(NODES[number], _set_offloads, name, [ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO], 0)
    ip(NODES[number], "link set eth0 gso_max_segs 1")  # not even what no feature forbids
    netns.call(WIRE, _set_offloads, PORTS[number], [ETHTOOL_STSO], 0)  # or veth leaves GRO out: it need not be
    netns.call(NODES[number], _set_offloads, "eth0", [ETHTOOL_SGRO], 1)
    waiting = "echo 1000000 > /sys/class/net/eth0/gro_flush_timeout"  # ip(8) mounts a /sys of the namespace
    subprocess.run(["ip", "netns", "exec", NODES[number], "sh", "-c", waiting], check=True)


def _set_offloads(interface: str, commands: Iterable[int], value: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        for command in commands:
            setting = ctypes.create_string_buffer(struct.pack("=II", command, value))
            fcntl.ioctl(opened, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(setting)))


# --- a forwarder -----------------------------------------------------------------------------------------------------


def peer(number: int) -> Peer:
    """Return a node as its peer knows it, with the podCIDRs of both IP versions."""
    cidrs = ip_network(f"10.244.{number}.0/24"), ip_network(f"fd00:10:244:{number}::/64")
    return Peer(IPv4Address(ADDRESSES[number]), cidrs)


def config_of(number: int, forwarder: str, *, mtu: int = 1500) -> Config:
    """Return what a node's forwarder is told."""
    return Config(
        device="flannel0",
        mtu=mtu - OVERHEAD,
        local=IPv4Address(ADDRESSES[number]),
        port=PORT,
        uplink="eth0",
        bridge="cni0",
        source=IPv4Address(f"10.244.{number}.0"),
        forwarder=forwarder,
        peers=(peer(3 - number),),
    )


class Process:
    """A node's forwarder, started as a person would and listened to as the supervisor does. `said`: what it is."""

    def __init__(self, number: int, config: Config, folder: Path, *, before: Callable[[], None] | None = None) -> None:
        """Start it and wait until it is ready; `before` is called in the new process first."""
        folder.chmod(0o755)  # it reads its configuration as nobody
        self.config = config
        self._file, self._counters = folder / f"{number}.json", folder / f"{number}.counters"
        self._log = folder / f"{number}.log"
        self._file.write_text(render(config))
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(20)
        argv = ["ip", "netns", "exec", NODES[number], sys.executable, "-m", "netlab.tunnel"]
        with theirs, self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*argv, str(self._file), str(self._counters)],
                stderr=log,
                env={**os.environ, NOTIFY: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                preexec_fn=before,  # noqa: PLW1509
            )
        self.pid = self._process.pid
        self.said = self._next_words()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._ours.close()

    def _next_words(self) -> str:
        found = self._ours.recv(4096).decode()
        assert found.startswith("ready "), f"{found} {self._log.read_text()}"
        return found.removeprefix("ready ")

    def tell(self, *peers: Peer) -> None:
        """Give it other peers, and wait until it has taken them in."""
        self.config = replace(self.config, peers=peers)
        self._file.write_text(render(self.config))
        os.kill(self.pid, signal.SIGHUP)
        self._next_words()

    def counted(self) -> Mapping[str, int]:
        """Return what it has carried and dropped until now."""
        found = counters.find_now(self._counters, self.pid)
        assert found
        self._next_words()
        return found

    def is_running(self) -> bool:
        """Say whether it has not ended."""
        return self._process.poll() is None

    def log(self) -> list[str]:
        """Return the lines that it has written."""
        return self._log.read_text().splitlines()


@contextmanager
def forwarders(
    kind: str, folder: Path, *, mtu: int = 1500, before: Callable[[], None] | None = None
) -> Iterator[tuple[Process, Process]]:
    """Start a forwarder of one kind on each node."""
    with (
        Process(1, config_of(1, kind, mtu=mtu), folder, before=before) as one,
        Process(2, config_of(2, kind, mtu=mtu), folder, before=before) as two,
    ):
        yield one, two


# --- the wire --------------------------------------------------------------------------------------------------------


class Fate(NamedTuple):
    """What becomes of datagrams: how many of a thousand are lost, come twice, or come after the next one."""

    lost: int = 0
    twice: int = 0
    late: int = 0


SOL_PACKET, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE = 263, 23, 33
ETH_P_ALL = 0x0003
LONGEST_FRAME = 65536
PAUSE = 0.02  # seconds: a datagram that is late comes now if there is no next one


class Wire:
    """Carries frames between the two nodes in a thread, and does to the tunnel's datagrams as `fate` says.

    `passed` are the frames of datagrams as they left, by the number of the node that sent them; `done` counts what has
    come and what was done to it. The same seed does the same to the same frames.
    """

    def __init__(self, fate: Fate = Fate(), *, seed: int = 1) -> None:  # noqa: B008
        self.fate = fate
        self.passed: dict[int, list[bytes]] = {1: [], 2: []}
        self.done: Counter[str] = Counter()
        self._draw = random.Random(seed)
        self._late: dict[int, bytes] = {}
        self._ports = {number: netns.call(WIRE, _open_port, PORTS[number]) for number in (1, 2)}
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="wire")

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stop, b"x")
        self._thread.join()
        for fd in (self._stop, self._stopped):
            os.close(fd)
        for port in self._ports.values():
            port.close()

    def has_late(self) -> bool:
        """Say whether a datagram waits for the next one, or for `PAUSE`, to pass it."""
        return bool(self._late)

    def _run(self) -> None:
        poll = select.poll()
        senders = {port.fileno(): number for number, port in self._ports.items()}
        for fd in (self._stopped, *senders):
            poll.register(fd, select.POLLIN)
        while True:
            ready = poll.poll(PAUSE * 1000 if self._late else None)
            if not ready:
                for number in list(self._late):
                    self._pass(number, self._late.pop(number))
            for fd, _ in ready:
                if fd == self._stopped:
                    return
                self._carry(senders[fd], self._ports[senders[fd]].recv(LONGEST_FRAME))

    def _carry(self, number: int, frame: bytes) -> None:
        """Decide about a frame from a node."""
        if not is_datagram(frame):  # ARP
            self._ports[3 - number].send(frame)
            return
        chance, (lost, twice, late) = self._draw.randrange(1000), self.fate
        self.done[f"from {number}"] += 1
        if chance < lost:
            self.done["lost"] += 1
            return
        if chance < lost + late and number not in self._late:
            self.done["late"] += 1
            self._late[number] = frame
            return
        self._pass(number, frame)
        if chance >= 1000 - twice:
            self.done["twice"] += 1
            self._pass(number, frame)
        if number in self._late:
            self._pass(number, self._late.pop(number))

    def _pass(self, number: int, frame: bytes) -> None:
        self.passed[number].append(frame)
        self._ports[3 - number].send(frame)


def is_datagram(frame: bytes) -> bool:
    """Say whether a frame has a datagram of the tunnel in it."""
    return frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP and frame[36:38] == PORT.to_bytes(2)


def _open_port(name: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    opened.bind((name, ETH_P_ALL))
    return opened
