"""Operations on links, addresses, routes and entries as rtnetlink messages.

Interface indexes of new links are chosen here, not asked for: a whole batch can be packed before any of it is sent.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from netlab.errors import KernelError
from netlab.kernel import rtnetlink, rtnl
from netlab.kernel.netlink import Message
from netlab.plan.diff import Action, Op
from netlab.plan.objects import (
    Addr,
    Bridge,
    FdbEntry,
    Ipip,
    Link,
    Loopback,
    Neighbor,
    Netns,
    Object,
    Route,
    Tun,
    Veth,
    Vxlan,
)

# The kernel numbers from 1 what it makes itself, and that can be at any moment: a tunnel module adds an interface to
# every namespace when it is loaded, by the first link of its kind (ipip's tunl0, sit's sit0...). Ours stay clear of it.
FIRST_INDEX = 100


class Indexes:
    """Interface indexes of one namespace by name, known and chosen."""

    def __init__(self, netns: Netns, known: Mapping[str, int]) -> None:
        self._netns = netns
        self._known = dict(known)
        self._next = max([FIRST_INDEX, *(index + 1 for index in self._known.values())])

    def get(self, name: str) -> int:
        """Return an interface's index. Raises KernelError when there is no such interface."""
        if name not in self._known:
            raise KernelError(errno.ENODEV, f"{self._netns}: interface {name}", "it was there a moment ago")
        return self._known[name]

    def learn(self, name: str, index: int) -> None:
        """Take note of an interface whose index the kernel chose."""
        self._known[name] = index
        self._next = max(self._next, index + 1)

    def take(self, name: str) -> int:
        """Choose a free index for a new interface."""
        self._known[name] = self._next
        self._next += 1
        return self._known[name]


def messages(op: Op, indexes: Mapping[Netns, Indexes], fds: Mapping[Netns, int]) -> Iterator[Message]:
    """Yield the messages for one operation, for the socket of `op.netns`. `fds` holds peers' namespaces, open."""
    here = indexes[op.netns]
    if op.action is Action.CREATE and isinstance(op.new, Link):
        yield from _create_link(op, here, indexes, fds)
    elif op.action is Action.CHANGE and isinstance(op.new, Link):
        yield from _change_link(op.old, op.new, here)
    elif op.action is Action.DELETE and op.old is not None:
        yield from _entry(op.old, here, deleting=True)
    elif op.new is not None:
        yield from _entry(op.new, here)


def _create_link(
    op: Op, here: Indexes, indexes: Mapping[Netns, Indexes], fds: Mapping[Netns, int]
) -> Iterator[Message]:
    match op.new:
        case Loopback():
            yield rtnl.set_link(here.get("lo"), up=True)
        case Bridge() as bridge:
            yield from rtnl.create_bridge(bridge, here.take(bridge.name))
        case Veth() as end if op.peer is not None:
            there = end.peer.netns
            peer_index = indexes[there].take(op.peer.name)
            master = here.get(end.master) if end.master else 0
            yield rtnl.create_veth(end, here.take(end.name), master, op.peer, peer_index, fds[there])
        case Vxlan() as vxlan:
            yield rtnl.create_vxlan(vxlan, here.take(vxlan.name), here.get(vxlan.parent))
        case Ipip() as ipip:
            yield rtnl.create_ipip(ipip, here.take(ipip.name))
        case Tun() as device:
            yield rtnl.set_tun(device, here.get(device.name))


def _change_link(old: Object | None, new: Link, here: Indexes) -> Iterator[Message]:
    def changed(name: str) -> bool:
        return getattr(new, name, None) != getattr(old, name, None)

    index = here.get(new.name)
    master: int | None = None
    if isinstance(new, Veth) and changed("master"):
        master = here.get(new.master) if new.master else 0
    yield rtnl.set_link(
        index,
        up=getattr(new, "up", None) if changed("up") else None,
        mtu=getattr(new, "mtu", None) if changed("mtu") else None,
        mac=getattr(new, "mac", None) if changed("mac") else None,
        gso_max_segs=getattr(new, "gso_max_segs", None) if changed("gso_max_segs") else None,
        master=master,
    )
    if isinstance(new, Veth) and changed("hairpin"):
        yield rtnl.set_hairpin(index, new.hairpin)


def _entry(entry: Object, here: Indexes, *, deleting: bool = False) -> Iterator[Message]:
    match entry:
        case Addr():
            yield rtnl.address(rtnetlink.RTM_DELADDR if deleting else rtnetlink.RTM_NEWADDR, entry, here.get(entry.dev))
        case Route():
            kind = rtnetlink.RTM_DELROUTE if deleting else rtnetlink.RTM_NEWROUTE
            yield rtnl.route(kind, entry, here.get(entry.dev) if entry.dev else 0)
        case Neighbor():
            kind = rtnetlink.RTM_DELNEIGH if deleting else rtnetlink.RTM_NEWNEIGH
            yield rtnl.neighbor(kind, entry, here.get(entry.dev))
        case FdbEntry():
            yield rtnl.fdb(rtnetlink.RTM_DELNEIGH if deleting else rtnetlink.RTM_NEWNEIGH, entry, here.get(entry.dev))
