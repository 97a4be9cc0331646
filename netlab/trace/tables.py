"""What decides a packet's way in a namespace: values for links, routes, neighbours and forwarding entries. Pure.

`Tables` is what `explain` asks; `netlab.kernel.lookup` answers from the kernel, tests from a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from netlab.topology.addresses import Address, Network


@dataclass(frozen=True, slots=True)
class Device:
    """An interface. `kind` is rtnetlink's ("veth", "bridge", "vxlan", "ipip", "tun"), "" for a loopback."""

    name: str
    ifindex: int
    kind: str
    mac: str
    mtu: int
    up: bool
    bridge: str = ""  # that it is a port of
    vni: int = 0


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """The entry of a routing table that a lookup met. `kind` is ip-route(8)'s word, "unicast" for most."""

    kind: str
    dst: Network
    via: Address | None
    device: str
    table: int
    protocol: int
    source: Address | None = None
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class NeighborEntry:
    """Who is behind an address on a device; `state` is ip-neighbour(8)'s word."""

    address: Address
    mac: str
    state: str
    device: str


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """Where a MAC is: behind a bridge's port, or for a VXLAN device at `remote`."""

    mac: str
    device: str
    remote: Address | None = None
    is_local: bool = False  # the bridge's own, or its port's
    is_static: bool = False


class Tables(Protocol):
    """One namespace's tables."""

    def device(self, name: str) -> Device | None:
        """Return an interface."""

    def devices(self) -> Iterable[Device]:
        """Return every interface."""

    def address(self, device: str, version: int) -> Address | None:
        """Return the first address of an interface that others can reach."""

    def route(self, dst: Address, src: Address | None, arrived_by: str, mark: int) -> RouteEntry | str:
        """Return the entry that a packet meets, `arrived_by` "" for the namespace's own; or why there is none."""

    def neighbor(self, address: Address, device: str) -> NeighborEntry | None:
        """Return who is behind an address."""

    def fdb(self, mac: str, device: str) -> FdbEntry | None:
        """Return the entry of a bridge or VXLAN device for a MAC."""
