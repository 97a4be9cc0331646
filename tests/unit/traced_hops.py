"""Hops, tables and questions for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from netlab.topology.addresses import Address
from netlab.trace.headers import UDP, Ethernet, Headers, Ip, Udp
from netlab.trace.layout import Kind
from netlab.trace.model import Event, Hop, Places
from netlab.trace.question import Options, Protocol, Question
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Device, FdbEntry, NeighborEntry, RouteEntry

A, B = ip_address("10.244.1.2"), ip_address("10.244.2.2")
NODE1, NODE2 = ip_address("172.18.0.2"), ip_address("172.18.0.3")
MAC1, MAC2, MAC3, MAC4 = (f"02:00:00:00:00:0{number}" for number in range(1, 5))
PLACES = Places(
    {"lab.p": "p", "lab.n1": "n1", "lab.n2": "n2", "lab.q": "q"},
    {ip_network("10.244.2.0/24"): "n2"},
    80,
)
QUESTION = Question("p", "q", B, Protocol.UDP, 53, Options())


def ip(src: Address = A, dst: Address = B, protocol: int = UDP, ttl: int = 64, ident: int = 7) -> Ip:
    return Ip(src.version, src, dst, protocol, ttl, 44, ident if src.version == 4 else 0)


PACKET: Headers = (ip(), Udp(40000, 53))
FRAME: Headers = (Ethernet(MAC1, MAC2, 0x0800), *PACKET)


def hop(
    place: str = "n1/eth0",
    event: Event = Event.IN,
    *,
    headers: Headers = FRAME,
    changes: tuple[str, ...] = (),
    ifindex: int = 0,
    time: int = 0,
) -> Hop:
    member, _, device = place.partition("/")
    return Hop(time, member, f"lab.{member}", device, ifindex, event, headers, changes)


def seen(place: str, kind: Kind = Kind.IN, headers: Headers = FRAME, *, time: int = 0, mark: int = 0) -> Sighting:
    member, _, device = place.partition("/")
    return Sighting(time, kind, f"lab.{member}", device, 3, headers, b"", b"", 58, mark=mark)


def device(
    name: str, kind: str = "veth", mac: str = MAC1, *, bridge: str = "", vni: int = 0, mtu: int = 1500
) -> Device:
    return Device(name, 3, kind, mac, mtu, True, bridge, vni)


def route(dst: str, dev: str, via: Address | None = None, *, kind: str = "unicast", protocol: int = 80) -> RouteEntry:
    return RouteEntry(kind, ip_network(dst), via, dev, 254, protocol)


@dataclass
class FakeTables:
    """A namespace's tables as dictionaries. `asked` are the routes that were asked for."""

    links: Iterable[Device] = ()
    routes: Iterable[RouteEntry] = ()
    neighbors: Mapping[tuple[Address, str], str] = field(default_factory=dict)
    forwards: Mapping[tuple[str, str], FdbEntry] = field(default_factory=dict)
    addresses: Mapping[tuple[str, int], Address] = field(default_factory=dict)
    asked: list[tuple[Address, Address | None, str, int]] = field(default_factory=list)

    def device(self, name: str) -> Device | None:
        return next((one for one in self.links if one.name == name), None)

    def devices(self) -> Iterable[Device]:
        return self.links

    def address(self, device: str, version: int) -> Address | None:
        return self.addresses.get((device, version))

    def route(self, dst: Address, src: Address | None, arrived_by: str, mark: int) -> RouteEntry | str:
        self.asked.append((dst, src, arrived_by, mark))
        found = [one for one in self.routes if dst in one.dst]
        return max(found, key=lambda one: one.dst.prefixlen) if found else "Network is unreachable"

    def neighbor(self, address: Address, device: str) -> NeighborEntry | None:
        mac = self.neighbors.get((address, device))
        return None if mac is None else NeighborEntry(address, mac, "REACHABLE" if mac else "FAILED", device)

    def fdb(self, mac: str, device: str) -> FdbEntry | None:
        return self.forwards.get((mac, device))
