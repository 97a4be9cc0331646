"""The udp backend's programs in the kernel: load them, attach them, fill their maps, read their counters.

What they do with packets is said in `programs`. Everything is held by file descriptors of this process: when it ends,
however it ends, the kernel detaches the programs, and packets go to the TUN's reader and the socket again. Filling
the maps and reading the counters need no privilege once they are open, so a process may drop its own after `attach`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple, TypeVar

from netlab.bpf import loader
from netlab.bpf.assembler import Program
from netlab.bpf.loader import Map, MapType, ProgramType, TcxHook
from netlab.errors import KernelError
from netlab.kernel import netns as namespaces
from netlab.tunnel import maps, programs
from netlab.tunnel.blocks import OVERHEAD
from netlab.tunnel.maps import Counter
from netlab.tunnel.routes import Peer

LICENCE = "Apache-2.0"  # none of the helpers is for the GPL only
MTU_MAX = 65535
ENTRIES = 1 << 16  # entries that the maps may have; they take memory as they are filled
REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # not root, or no tcx (Linux 6.6)


T = TypeVar("T")


class Count(NamedTuple):
    """Packets as they are on the wire, bytes from the inner IP header on, and batches: super-packets count once."""

    packets: int
    bytes: int
    batches: int


class FastPath:
    """The programs of a node, attached."""

    def __init__(self, netns: str | None, stack: ExitStack, tables: Mapping[str, Map]) -> None:
        self._netns = netns
        self._stack = stack
        self._tables = tables

    @classmethod
    def attach(
        cls,
        netns: str | None,
        tun: str,
        uplink: str,
        *,
        local: IPv4Address,
        port: int,
        peers: Iterable[Peer],
        bridge: str | None = None,
    ) -> FastPath:
        """Load the programs and attach them to interfaces of a namespace (None: this thread's).

        `uplink` is an Ethernet interface, `bridge` the pods' if they are on one (see `set_ports`). Raises KernelError,
        with the kernel's or the verifier's words: one of `REFUSALS` where this kernel or process cannot have it at all.
        """
        with ExitStack() as stack:
            path = cls(netns, stack, _make_maps(stack))
            path.set_peers(peers)
            path._inside(path._attach_all, tun, uplink, bridge, local, port)
            path._stack = stack.pop_all()
            return path

    def _inside(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in the namespace."""
        return function(*args) if self._netns is None else namespaces.call(self._netns, function, *args)

    def _attach_all(self, tun: str, uplink: str, bridge: str | None, local: IPv4Address, port: int) -> None:
        """Attach from the end of a packet's way to its beginning, so that no answer comes too early."""
        inside, outside = _index(tun), _index(uplink)
        if bridge is not None:
            self._attach("deliver", programs.deliver_program(tun=inside), _index(bridge), TcxHook.EGRESS)
        self._attach("receive", programs.receive_program(local, port, tun=inside), outside, TcxHook.INGRESS)
        self._attach("send", programs.send_program(local, port, uplink=outside), inside, TcxHook.EGRESS)

    def _attach(self, name: str, program: Program, ifindex: int, hook: TcxHook) -> None:
        fd = loader.load(program, ProgramType.SCHED_CLS, name=f"netlab_{name}", maps=self._tables, licence=LICENCE)
        try:
            self._stack.callback(os.close, loader.attach_tcx(fd, ifindex, hook))
        finally:
            os.close(fd)  # the link holds the program

    def set_peers(self, peers: Iterable[Peer], path_mtu: Callable[[IPv4Address], int] = lambda _: MTU_MAX) -> None:
        """Make the map say exactly this, while packets go on: what stays is not touched. IPv6 is user space's.

        Packets for plain peers are passed up: a virtual link never cuts super-packets nor completes checksums, which
        only a program at its other end can live with. So is what is too long for `path_mtu`, the MTU of the path to a
        peer in bytes. Raises KernelError, with ENOSPC beyond 65,536 routes.
        """
        routes = dict(
            maps.route(cidr, peer.address, longest=0 if peer.plain else path_mtu(peer.address) - OVERHEAD)
            for peer in peers
            for cidr in peer.pod_cidrs
            if isinstance(cidr, IPv4Network)
        )
        _make_equal(self._tables["routes"], routes)

    def set_ports(self, ports: Mapping[bytes, int]) -> None:
        """Make the map say exactly behind which port of the bridge a MAC address is: the port's interface index.

        A pod that is not named gets the same packets, but slower; one that is on another port, none. Raises
        KernelError.
        """
        _make_equal(self._tables["ports"], dict(maps.port(mac, ifindex) for mac, ifindex in ports.items()))

    def counters(self) -> dict[Counter, Count]:
        """Return what became of the packets since `attach`, summed over the CPUs. Counters never go back."""
        return {counter: self._read(counter) for counter in Counter}

    def _read(self, counter: Counter) -> Count:
        values = self._tables["counters"][maps.COUNTER_KEY.pack(counter)]
        packets, size, batches = (sum(column) for column in zip(*maps.COUNT.iter_unpack(values), strict=True))
        return Count(packets, size, batches)

    def close(self) -> None:
        """Detach the programs; packets go to user space from now on."""
        self._stack.close()


def _make_maps(stack: ExitStack) -> dict[str, Map]:
    def made(name: str, kind: MapType, key_size: int, value_size: int, entries: int) -> Map:
        return stack.enter_context(Map(name, kind, key_size=key_size, value_size=value_size, entries=entries))

    return {
        "routes": made("routes", MapType.LPM_TRIE, maps.ROUTE_KEY.size, maps.ROUTE_VALUE.size, ENTRIES),
        "ports": made("ports", MapType.HASH, maps.PORT_KEY.size, maps.PORT_VALUE.size, ENTRIES),
        "counters": made("counters", MapType.PERCPU_ARRAY, maps.COUNTER_KEY.size, maps.COUNT.size, len(Counter)),
    }


def _make_equal(table: Map, wanted: Mapping[bytes, bytes]) -> None:
    """Change what differs: add and replace first, so that no packet misses a route that stays."""
    present = {key: table[key] for key in table}
    for key, value in wanted.items():
        if present.get(key) != value:
            table[key] = value
    for key in present.keys() - wanted.keys():
        del table[key]


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError as exc:
        raise KernelError(errno.ENODEV, f"attach BPF programs to {interface}") from exc
