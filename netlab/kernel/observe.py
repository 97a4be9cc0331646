"""Read a namespace back into objects: what netlab made (`ours`) and what somebody else did (`foreign`).

Ours are the interfaces that bear netlab's link group and all addresses, permanent neighbours and FDB entries on them,
the routes that bear netlab's protocol number, and whatever stands where the plan wants something.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from netlab.errors import KernelError
from netlab.kernel import decode, rtnetlink
from netlab.kernel.netlink import Socket
from netlab.plan.objects import LINKS, Netns, Object, OtherLink, Route, Vxlan

TIMEOUT = 15.0  # seconds for what the kernel does in the background
SLOW_END = 0.05  # seconds that one namespace may need to end; an emulated machine needs 0.02 for each
KERNEL_MADE = {"tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"}
PROXY_DEVICE = "kube-ipvs0"  # the control plane's, with the addresses of all Services in mode ipvs
NOT_REPORTED = KERNEL_MADE | {PROXY_DEVICE}
SLOW_CARRIER = 0.02  # seconds for one cable: two interfaces of the hundred a second of a busy kernel before 6.8
ANSWERS_AT_ONCE = 32  # of some 4 KiB each, in a receive buffer of 208 KiB (net.core.rmem_default)


@dataclass(frozen=True, slots=True)
class Namespace:
    """What was read in one namespace, with the interface indexes that hold for now."""

    ours: frozenset[Object]
    foreign: frozenset[Object]
    indexes: dict[str, int]


def namespace(socket: Socket, like: frozenset[Object]) -> Namespace:
    """Read links, addresses, routes, neighbours and FDB entries. `like` is what the plan wants here."""
    raw_links = links(socket)
    names_by_index = {raw.index: raw.name for raw in raw_links}
    ours: set[Object] = set()
    foreign: set[Object] = set()
    for raw in raw_links:
        if raw.name == "lo":
            if raw.up:
                ours.add(decode.loopback_object(raw))
            continue
        link = decode.link_object(raw, names_by_index) if raw.is_ours else None
        if link:
            ours.add(link)
        elif raw.name not in NOT_REPORTED:
            foreign.add(OtherLink(raw.name, raw.kind or "unknown"))
    devices = {entry.name for entry in ours if isinstance(entry, LINKS)}
    for entry in _entries(socket, raw_links, names_by_index):
        if getattr(entry, "dev", None) == PROXY_DEVICE:
            continue
        (ours if getattr(entry, "dev", None) in devices else foreign).add(entry)
    wanted = {entry.key for entry in like}
    for route, is_ours in _routes(socket, names_by_index):
        (ours if is_ours or route.key in wanted else foreign).add(route)
    return Namespace(frozenset(ours), frozenset(foreign), {raw.name: raw.index for raw in raw_links})


def links(socket: Socket) -> list[decode.RawLink]:
    """Read all interfaces of a namespace."""
    return [decode.RawLink(buffer, start, end) for _, buffer, start, end in socket.dump(rtnetlink.DUMP_LINKS)]


def _entries(socket: Socket, raw_links: list[decode.RawLink], names_by_index: dict[int, str]) -> Iterator[Object]:
    for _, buffer, start, end in socket.dump(rtnetlink.DUMP_ADDRESSES):
        addr = decode.address_object(buffer, start, end, names_by_index)
        if addr:
            yield addr
    for _, buffer, start, end in socket.dump(rtnetlink.DUMP_NEIGHBORS):
        neighbor = decode.neighbor_object(buffer, start, end, names_by_index)
        if neighbor:
            yield neighbor
    for raw in raw_links:
        if raw.kind == Vxlan.__name__.lower():
            for _, buffer, start, end in socket.dump(rtnetlink.dump_fdb(raw.index)):
                entry = decode.fdb_object(buffer, start, end, names_by_index)
                if entry:
                    yield entry


def _routes(socket: Socket, names_by_index: dict[int, str]) -> Iterator[tuple[Route, bool]]:
    for version in (4, 6):
        try:
            for _, buffer, start, end in socket.dump(rtnetlink.dump_routes(version)):
                found = decode.route_object(buffer, start, end, names_by_index)
                if found:
                    yield found
        except FileNotFoundError:
            continue  # "FIB table does not exist": nothing was ever routed in this namespace


def wait_for_ports(socket: Socket, netns: Netns, ports: set[str]) -> None:
    """Wait until bridge ports forward: the kernel notices a new cable's carrier in the background (link_watch.c).

    Where others keep it busy it does so for a hundred interfaces a second only, so those that are left are asked for.
    CNI's bridge plugin waits for the same (facts.md 2.6). Raises KernelError after TIMEOUT.
    """

    def waiting() -> list[str]:
        left = [raw for raw in links(socket) if raw.name in ports and not raw.is_forwarding]
        for start in range(0, len(left), ANSWERS_AT_ONCE):
            socket.request([rtnetlink.get_link(raw.index) for raw in left[start : start + ANSWERS_AT_ONCE]])
        return [raw.name for raw in left]

    if left := _wait_until_empty(waiting, TIMEOUT + SLOW_CARRIER * len(ports)):
        hint = "see `bridge link` there; the cable's other end may be down"
        raise KernelError(errno.ETIMEDOUT, f"{netns}: wait for ports {' '.join(left)}", "they do not forward", hint)


def wait_for_cables_to_go(namespaces: int) -> None:
    """Wait until no veth is left in this thread's namespace: those of `namespaces` namespaces that end go with them.

    The kernel ends namespaces in the background, in batches. Raises KernelError when they outlive TIMEOUT and SLOW_END.
    """
    socket = Socket()
    timeout = TIMEOUT + SLOW_END * namespaces
    left = _wait_until_empty(lambda: [raw.name for raw in links(socket) if raw.kind == "veth" and raw.is_ours], timeout)
    socket.close()
    if left:
        hint = "see who is inside: `ip netns pids NAME`, or lsns -t net"
        raise KernelError(errno.EBUSY, f"remove {len(left)} cables", "a process still holds a namespace", hint)


def _wait_until_empty(find: Callable[[], list[str]], timeout: float = TIMEOUT) -> list[str]:
    """Look again and again until nothing is found any more; return what is left after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while (left := find()) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return left
