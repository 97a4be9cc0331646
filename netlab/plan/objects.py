"""The kernel objects that a lab is made of. One frozen value each; equality is what decides drift.

A plan says which objects should exist in each namespace, a state which do: both are `Objects`, so their difference is
set arithmetic. Two values with the same `key` in one namespace are two versions of one object: it is changed in
place where `CHANGEABLE` allows it and made anew otherwise.

All names are as in `ip` and `bridge`: a port's `master` is its bridge, `hairpin` lets a frame leave where it came in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import ClassVar

from netlab.topology.model import Address as IpAddress
from netlab.tunnel.routes import Peer

Netns = str
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class End:
    """One end of a cable: an interface name in a namespace."""

    netns: Netns
    name: str


@dataclass(frozen=True, slots=True)
class Loopback:
    """The namespace's `lo`, up."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"up"})
    name: str = "lo"
    up: bool = True

    @property
    def key(self) -> Key:
        return ("link", self.name)


GSO_MAX_SEGS = 65535  # segments of a super-packet, where nothing else is said (linux/netdevice.h)


@dataclass(frozen=True, slots=True)
class Veth:
    """One end of a veth pair. Its other end is an object of its own, in the namespace `peer.netns`.

    `gso_max_segs` bounds TCP's super-packets (ip-link(8)).
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mtu", "mac", "master", "hairpin", "up", "gso_max_segs"})
    name: str
    peer: End = field(compare=False)
    mtu: int
    mac: str
    master: str | None = None
    hairpin: bool = False
    up: bool = True
    gso_max_segs: int = GSO_MAX_SEGS

    @property
    def key(self) -> Key:
        return ("link", self.name)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A learning layer-2 switch without spanning tree."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mtu", "mac", "up"})
    name: str
    mtu: int
    mac: str
    up: bool = True

    @property
    def key(self) -> Key:
        return ("link", self.name)


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN tunnel endpoint (VTEP) with fixed neighbours. `parent` is the underlay interface."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mtu", "mac", "up"})
    name: str
    vni: int
    port: int
    local: IpAddress
    parent: str
    mtu: int
    mac: str
    learning: bool = False
    gbp: bool = False
    up: bool = True

    @property
    def key(self) -> Key:
        return ("link", self.name)


@dataclass(frozen=True, slots=True)
class Ipip:
    """An IP-in-IP tunnel. With any remote end (none given) the route's gateway becomes the outer destination."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mtu", "up"})
    name: str
    local: IpAddress
    mtu: int
    remote: IpAddress | None = None
    up: bool = True

    @property
    def key(self) -> Key:
        return ("link", self.name)


@dataclass(frozen=True, slots=True)
class Tun:
    """A TUN device: what the kernel routes to it, a process reads. It is persistent: it stays when the process ends."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mtu", "up", "gso_max_segs"})
    name: str
    mtu: int
    up: bool = True
    gso_max_segs: int = GSO_MAX_SEGS

    @property
    def key(self) -> Key:
        return ("link", self.name)


@dataclass(frozen=True, slots=True)
class OtherLink:
    """An interface that somebody else made in a lab's namespace. Only ever observed."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset()
    name: str
    kind: str

    @property
    def key(self) -> Key:
        return ("link", self.name)


@dataclass(frozen=True, slots=True)
class Addr:
    """An address on an interface, with its prefix length."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset()
    dev: str
    ip: IPv4Interface | IPv6Interface

    @property
    def key(self) -> Key:
        return ("addr", self.dev, str(self.ip))


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table. Without `via` the destination is on the link itself.

    A plan holds unicast routes only; somebody's `blackhole`, `unreachable` or `prohibit` is observed with no `dev`.
    To another device it goes by way of deletion: for IPv6 the kernel checks an onlink gateway against the old route.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"via", "onlink"})
    dst: IPv4Network | IPv6Network
    dev: str
    via: IpAddress | None = None
    onlink: bool = False
    kind: str = "unicast"

    @property
    def key(self) -> Key:
        return ("route", str(self.dst))


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A permanent ARP or NDP entry."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mac"})
    ip: IpAddress
    mac: str
    dev: str

    @property
    def key(self) -> Key:
        return ("neighbor", self.dev, str(self.ip))


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """Which underlay address a VXLAN device sends a MAC's frames to."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"dst"})
    mac: str
    dst: IpAddress
    dev: str

    @property
    def key(self) -> Key:
        return ("fdb", self.dev, self.mac)


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting under /proc/sys, in path notation ("net/ipv4/ip_forward"); `dev` names the interface it belongs to."""

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"value"})
    path: str
    value: str
    dev: str = ""

    @property
    def key(self) -> Key:
        return ("sysctl", self.path)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Packet-filter rules, owned and replaced as one.

    `tool` is `iptables`, `ip6tables` or `nft`. For iptables `table` is `nat` or `filter`, `chain` the chain that is
    wholly ours, `rules` its rules and `jump` the one rule in a built-in chain that leads to it, all exactly as
    `iptables-save` prints them (without `-A CHAIN`). For nft `table` is the family and name of a table that is wholly
    ours, `chain` and `jump` are empty and `rules` are the lines of `nft list table`.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"rules", "jump"})
    tool: str
    table: str
    chain: str
    rules: tuple[str, ...]
    jump: str = ""

    @property
    def key(self) -> Key:
        return ("ruleset", self.tool, self.table, self.chain)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that the lab keeps: a pod's pause or one of its containers.

    `pod` names the pod, `name` the process within it ("pause" holds the pod). `identity` and so `key` follow from both.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset()
    pod: str
    name: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = "/"
    restart: bool = True
    grace: float = 3.0  # seconds between its SIGTERM and its SIGKILL

    @property
    def key(self) -> Key:
        return ("process", self.pod, self.name)


@dataclass(frozen=True, slots=True)
class Forwarder:
    """The process of a node that carries packets between its TUN device and UDP: `netlab.tunnel`, kept by the lab.

    `local` and `port` are where it receives, `uplink` and `bridge` name the interfaces to the underlay and to the pods,
    `source` is the address of its ICMP errors. It learns of other peers and
    of another MTU as it runs; for everything else it is started again.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mtu", "peers"})
    node: str
    dev: str
    mtu: int
    local: IPv4Address
    port: int
    uplink: str
    bridge: str
    source: IPv4Address
    kind: str
    peers: tuple[Peer, ...]

    @property
    def key(self) -> Key:
        return ("forwarder", self.node)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The lab's one control plane: `netlab.control`, which makes Services work on every node.

    `version` stands for all that it has to read again; it learns of another one as it runs.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"version"})
    version: str

    @property
    def key(self) -> Key:
        return ("control-plane",)


Link = Loopback | Veth | Bridge | Vxlan | Ipip | Tun | OtherLink
Kept = Process | Forwarder | ControlPlane
Object = Link | Addr | Route | Neighbor | FdbEntry | Sysctl | Ruleset | Kept
Objects = Mapping[Netns, frozenset[Object]]

LINKS = (Loopback, Veth, Bridge, Vxlan, Ipip, Tun, OtherLink)
KEPT = (Process, Forwarder, ControlPlane)  # by the lab's supervisor
PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a backend must leave out, and why: a host-gw route whose next hop is on no link of the node."""

    netns: Netns
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What should exist. A namespace is in `objects` when it should exist, even with nothing in it."""

    objects: Objects
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What exists. `foreign` was made by somebody else inside the lab's namespaces: reported, never touched."""

    objects: Objects
    foreign: Objects = field(default_factory=dict)
