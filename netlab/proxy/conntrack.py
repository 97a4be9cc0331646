"""Deletes UDP flows that conntrack still sends to endpoints that a Service no longer has (facts.md 3.9).

A flow that goes on keeps its entry alive, and so its old destination: an endpoint that is gone, or none at all where
there was none yet. This is what kube-proxy does since 1.32, for the ports that changed.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from netlab.errors import KernelError
from netlab.kernel import netlink, netns
from netlab.proxy.proxier import Changes, PortKey
from netlab.service.model import Protocol, ServicePort

NETLINK_NETFILTER = 12
GET, DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET and _DELETE
ORIGINAL, REPLY, ZONE, ID = 1, 2, 18, 12  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE, CTA_ID
TUPLE_IP, TUPLE_PROTO = 1, 2
SOURCES, DESTINATIONS = (1, 3), (2, 4)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; CTA_IP_V4_DST, CTA_IP_V6_DST
PROTO_NUM, PROTO_SOURCE, PROTO_DESTINATION = 1, 2, 3
UDP = b"\x11"
FAMILIES = {4: 2, 6: 10}
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")  # of the reader's namespace
ATTEMPTS = 5  # the kernel may break a dump off (EINTR) where the table changes meanwhile

Place = tuple[bytes, bytes]  # address and port, as netlink has them
Targets = Mapping[Place, frozenset[Place]]  # where clients send to -> endpoints; the address of a NodePort is b""


class Cleaner:
    """Remembers which UDP ports changed, and cleans a node's conntrack table after the rules are written."""

    def __init__(self, name: str) -> None:
        self._netns = name
        self._changed: dict[PortKey, tuple[frozenset[Place], ServicePort | None]] = {}

    def note(self, changes: Changes, known: Mapping[PortKey, ServicePort]) -> None:
        """Remember changes of the ports that were known, for `clean`."""
        for key, port in changes.items():
            if key[3] is Protocol.UDP:
                earlier = self._changed[key][0] if key in self._changed else frozenset()
                before = known.get(key)
                self._changed[key] = (earlier | (_addresses(before) if before else frozenset()), port)

    def note_all(self, ports: Mapping[PortKey, ServicePort]) -> None:
        """Remember every port: of what flows met before their rules are written anew nobody knows."""
        for key, port in ports.items():
            if key[3] is Protocol.UDP:
                self._changed.setdefault(key, (frozenset(), port))

    def clean(self) -> int:
        """Delete flows to addresses of changed ports that go to none of their endpoints; return how many."""
        deleted = 0
        for version in FAMILIES:
            targets = _targets({key: change for key, change in self._changed.items() if key[-1] == version})
            if targets:
                deleted += _clean(self._netns, version, targets)
        self._changed.clear()
        return deleted


def _targets(changed: Mapping[PortKey, tuple[frozenset[Place], ServicePort | None]]) -> Targets:
    """Return where flows may stay: with whom rules may choose, and with those that end and serve on.

    An endpoint can be ready and not serve, by publishNotReadyAddresses (service/choice.py).
    """
    found: dict[Place, set[Place]] = defaultdict(set)
    for before, port in changed.values():
        kept = [end for end in port.endpoints if end.ready or end.serving] if port else []
        for place in before | (_addresses(port) if port else frozenset()):
            found[place].update(_place(end.address.packed, end.port) for end in kept)
    return {place: frozenset(endpoints) for place, endpoints in found.items()}


def _addresses(port: ServicePort) -> frozenset[Place]:
    addresses = (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)
    node_port = [_place(b"", port.node_port)] if port.node_port else []
    return frozenset([*(_place(address.packed, port.port) for address in addresses), *node_port])


def _place(address: bytes, port: int) -> Place:
    return address, port.to_bytes(2, "big")


def _clean(name: str, version: int, targets: Targets) -> int:
    """Delete flows in one namespace and IP version."""
    opened = netns.call(name, _open)
    if opened is None:
        return 0
    header = bytes([FAMILIES[version], 0, 0, 0])  # struct nfgenmsg
    try:
        stuck = [flow for flow in _flows(opened, header) if _is_stuck(flow, targets)]
        messages = [netlink.Message(DELETE, 0, header + flow.name) for flow in stuck]
        failures = [failure for failure in opened.request(messages) if failure.errno != errno.ENOENT]  # it ended itself
    except OSError as exc:
        raise KernelError(exc.errno, f"{name}: read the conntrack table") from exc
    finally:
        opened.close()
    if failures:
        flow = stuck[failures[0].position]
        raise KernelError(failures[0].errno, f"{name}: delete the conntrack entry to {flow}")
    return len(stuck)


def _open() -> netlink.Socket | None:
    """Open a socket in this thread's namespace; None where there is no flow: an empty table takes 15 ms to read."""
    with suppress(FileNotFoundError):  # some kernels hide it in a user namespace
        if not int(COUNT.read_text()):
            return None
    return netlink.Socket(NETLINK_NETFILTER)


class _Flow(NamedTuple):
    """A UDP entry: where its first packet went, where answers come from, and what names it to the kernel."""

    destination: Place
    answers_from: Place
    name: bytes

    def __str__(self) -> str:
        return f"{ip_address(self.destination[0])} port {int.from_bytes(self.destination[1], 'big')}"


def _is_stuck(flow: _Flow, targets: Targets) -> bool:
    endpoints = targets.get(flow.destination)
    if endpoints is None:
        endpoints = targets.get((b"", flow.destination[1]))
    return endpoints is not None and flow.answers_from not in endpoints


def _flows(opened: netlink.Socket, header: bytes) -> list[_Flow]:
    for attempt in range(ATTEMPTS):
        try:
            return list(_dumped(opened, header))
        except OSError as exc:
            if exc.errno != errno.EINTR or attempt == ATTEMPTS - 1:
                raise
    return []


def _dumped(opened: netlink.Socket, header: bytes) -> Iterator[_Flow]:
    for _, buffer, start, end in opened.dump(netlink.Message(GET, 0, header)):
        found = netlink.attributes(buffer, start + 4, end)
        original, reply = netlink.nested(found[ORIGINAL]), netlink.nested(found[REPLY])
        ports = netlink.nested(original[TUPLE_PROTO])
        if ports.get(PROTO_NUM) != UDP:
            continue
        name = netlink.attribute(ORIGINAL | netlink.NLA_F_NESTED, found[ORIGINAL])
        name += b"".join(netlink.attribute(kind, found[kind]) for kind in (ID, ZONE) if kind in found)
        yield _Flow(
            (_address(original, DESTINATIONS), ports[PROTO_DESTINATION]),
            (_address(reply, SOURCES), netlink.nested(reply[TUPLE_PROTO])[PROTO_SOURCE]),
            name,
        )


def _address(of: Mapping[int, bytes], kinds: tuple[int, int]) -> bytes:
    addresses = netlink.nested(of[TUPLE_IP])
    return next(addresses[kind] for kind in kinds if kind in addresses)
