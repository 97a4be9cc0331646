"""A packet's way as a lab's tables have it, without a packet: what `netlab explain` shows. Pure; `World` is asked.

Each function is a place that a packet comes to, in the order in which it may: a namespace sends it (`send`), it leaves
by a device (`_leave`), goes over a cable (`_arrive`), into IP (`_enter`). What is found is written down as sightings,
with the number of the step for a time, so that `explain` gives them the same causes as those of a real packet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from netlab.topology.addresses import Address, Network
from netlab.trace.headers import IPIP, IPV6, UDP, Ethernet, Header, Headers, Ip, Tcp, Udp, Vxlan, innermost
from netlab.trace.layout import Kind
from netlab.trace.sighting import Sighting
from netlab.trace.tables import Device, RouteEntry, Tables

MOST_STEPS = 64  # then it goes round in a circle
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
BROADCAST = "ff:ff:ff:ff:ff:ff"
TTL = 64

End = tuple[str, str]  # namespace, device


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the destinations that rules may give to a packet, with its probability in words."""

    address: Address
    port: int
    chance: str
    masqueraded: bool = False


@dataclass(frozen=True)
class World:
    """What a way is found by. `tunnels` gives flannel's UDP forwarders their peers: a node's address by podCIDR.

    `peer` finds a cable's other end, `owner` the MAC of who has an address, "" for nobody. `translate` says what rules
    of a namespace make of a packet that comes to it, or that it sends: nothing, or the choices that they have.
    """

    find_tables: Callable[[str], Tables | None]
    peer: Callable[[str, str], End | None]
    owner: Callable[[Address], str]
    tunnels: Mapping[Network, Address]
    tunnel_port: int
    vxlan_port: int
    translate: Callable[[str, Headers], tuple[Choice, ...]]


@dataclass
class Prediction:
    """The steps of a way, and how it ends. `choices` are those that another packet might have taken."""

    steps: list[Sighting] = field(default_factory=list)
    end: str = ""
    arrives: bool = False
    choices: tuple[Choice, ...] = ()


def predict(world: World, namespace: str, packet: Headers) -> Prediction:
    """Follow a packet that a namespace is to send: its IP header, with a source of zeros, and the next header."""
    found = Prediction()
    _Way(world, found).send(namespace, packet)
    return found


class _Way:
    def __init__(self, world: World, found: Prediction) -> None:
        self._world = world
        self._found = found
        self._masquerades: set[str] = set()

    # --- places ---

    def send(self, namespace: str, packet: Headers) -> None:
        """Send a packet of the namespace's own."""
        tables = self._tables(namespace)
        if tables is None:
            return
        packet = self._translate(namespace, packet)
        ip = _ip(packet)
        found = tables.route(ip.dst, None, "", 0)
        if isinstance(found, str):
            self._end(f"{namespace} has no route to {ip.dst}: {found}")
        elif found.kind not in ("unicast", "local"):
            self._end(f"{namespace}'s route to {ip.dst} is {found.kind}")
        elif found.kind == "local":
            self._deliver(namespace, found.device, packet)
        else:
            source = found.source or self._own_address(namespace, found) or ip.src
            packet = _with_ip(packet, src=source) if ip.src.is_unspecified else packet
            self._leave(namespace, found, packet, tables)

    def _enter(self, namespace: str, device: str, packet: Headers) -> None:
        """A packet comes to IP by a device."""
        tables = self._tables(namespace)
        if tables is None:
            return
        packet = self._translate(namespace, packet)
        ip = _ip(packet)
        found = tables.route(ip.dst, ip.src, device, 0)
        if isinstance(found, str):
            self._end(f"{namespace} has no route to {ip.dst}: {found}")
        elif found.kind == "local":
            self._come_home(namespace, device, packet, tables)
        elif found.kind != "unicast":
            self._end(f"{namespace}'s route to {ip.dst} is {found.kind}")
        elif ip.ttl <= 1:
            self._end(f"its TTL is used up in {namespace}")
        else:
            self._leave(namespace, found, _with_ip(packet, ttl=ip.ttl - 1), tables)

    def _leave(self, namespace: str, route: RouteEntry, packet: Headers, tables: Tables) -> None:
        """A packet leaves by the device that its route names."""
        packet = _unframed(packet)
        device = tables.device(route.device)
        if device is None or not device.up:
            self._end(f"{route.device or 'the device'} of {namespace} is {'down' if device else 'gone'}")
            return
        if namespace in self._masquerades:
            self._masquerades.remove(namespace)
            packet = _with_ip(packet, src=tables.address(device.name, _ip(packet).version) or _ip(packet).src)
        ip = _ip(packet)
        if ip.length > device.mtu and ip.dont_fragment:
            self._end(f"its {ip.length} bytes are more than the MTU {device.mtu} of {device.name} in {namespace}")
            return
        next_hop = route.via or ip.dst
        match device.kind:
            case "vxlan":
                self._wrap_vxlan(namespace, device, next_hop, packet, tables)
            case "ipip":
                self._note(Kind.OUT, namespace, device.name, packet)
                self._wrap(namespace, next_hop, (), packet, IPIP if ip.version == 4 else IPV6)
            case "tun":
                self._note(Kind.OUT, namespace, device.name, packet)
                self._wrap_udp(namespace, packet)
            case _:
                mac = self._resolve(namespace, next_hop, device, tables)
                if mac:
                    self._put(namespace, device, _framed(packet, device.mac, mac), tables)

    def _put(self, namespace: str, device: Device, frame: Headers, tables: Tables) -> None:
        """A frame leaves by a device: a bridge chooses a port, a cable leads to another namespace."""
        self._note(Kind.OUT, namespace, device.name, frame)
        if device.kind == "bridge":
            self._bridge(namespace, device, frame, tables, "")
        elif peer := self._world.peer(namespace, device.name):
            self._arrive(*peer, frame)
        else:
            self._end(f"{device.name} of {namespace} leads nowhere")

    def _arrive(self, namespace: str, name: str, frame: Headers) -> None:
        """A frame comes in by a device."""
        tables = self._tables(namespace)
        device = tables.device(name) if tables else None
        if tables is None or device is None or not device.up:
            self._end(f"{name} of {namespace} is {'down' if device else 'gone'}")
            return
        if not self._note(Kind.IN, namespace, name, frame):
            return
        if device.bridge:
            bridge = tables.device(device.bridge)
            if bridge:
                self._bridge(namespace, bridge, frame, tables, name)
        elif _mac(frame) not in (device.mac, BROADCAST):
            self._end(f"it is for MAC {_mac(frame)}, which is not that of {name} in {namespace}")
        else:
            self._enter(namespace, name, frame)

    def _bridge(self, namespace: str, bridge: Device, frame: Headers, tables: Tables, arrived_by: str) -> None:
        """A bridge passes a frame up, or on to the port that its FDB names."""
        mac = _mac(frame)
        if arrived_by and mac in (bridge.mac, BROADCAST):
            self._pass_up(namespace, bridge, frame, tables)
            return
        entry = tables.fdb(mac, bridge.name)
        port = tables.device(entry.device) if entry and not entry.is_local else self._port_of(namespace, mac)
        if port is None:
            self._end(f"no port of {bridge.name} in {namespace} leads to {mac}")
        elif port.name == arrived_by:
            self._end(f"{bridge.name} does not send it back to {arrived_by}, unless that is in hairpin mode")
        else:
            self._put(namespace, port, frame, tables)

    def _pass_up(self, namespace: str, bridge: Device, frame: Headers, tables: Tables) -> None:
        """A frame is for the bridge itself; but what NAT gives an address behind the same bridge stays on it.

        br_netfilter then gives the frame its new receiver's MAC (net/bridge/br_netfilter_hooks.c).
        """
        translated = self._translate(namespace, frame)
        if translated is not frame:
            ip = _ip(translated)
            found = tables.route(ip.dst, None, "", 0)
            if isinstance(found, RouteEntry) and found.device == bridge.name and not found.via:
                mac = self._resolve(namespace, ip.dst, bridge, tables)
                if mac:
                    self._bridge(namespace, bridge, _framed(translated, bridge.mac, mac), tables, "")
                return
        self._note(Kind.IN, namespace, bridge.name, translated)
        self._enter(namespace, bridge.name, translated)

    def _come_home(self, namespace: str, device: str, packet: Headers, tables: Tables) -> None:
        """A packet is at its address: it is taken out of its tunnel, or delivered."""
        inner = innermost(packet)
        if len(inner) == len(_unframed(packet)):
            self._deliver(namespace, device, packet)
            return
        vni = next((header.vni for header in packet if isinstance(header, Vxlan)), None)
        frame = packet[packet.index(inner[0]) - 1] if vni is not None else None
        tunnels = self._tunnels(tables, vni, packet)
        if not tunnels:
            self._end(f"{namespace} has no tunnel device that would unwrap it")
            return
        tunnel = tunnels[0]
        if isinstance(frame, Ethernet):
            tunnel = next((one for one in tunnels if one.mac == frame.dst), tunnel)
            if frame.dst not in (tunnel.mac, BROADCAST):
                self._end(f"it is for MAC {frame.dst}, which is not that of {tunnel.name} in {namespace}")
                return
        ip = _ip(inner)
        if tunnel.kind == "tun":  # the process that reads it pays a TTL, as a router would
            inner = _with_ip(inner, ttl=ip.ttl - 1)
        arrived = (frame, *inner) if isinstance(frame, Ethernet) else inner
        if self._note(Kind.IN, namespace, tunnel.name, arrived):
            self._enter(namespace, tunnel.name, arrived)

    def _deliver(self, namespace: str, device: str, packet: Headers) -> None:
        self._note(Kind.CONSUMED, namespace, device, packet)
        self._found.arrives = True

    # --- tunnels ---

    def _wrap_vxlan(self, namespace: str, device: Device, next_hop: Address, packet: Headers, tables: Tables) -> None:
        entry = tables.neighbor(next_hop, device.name)
        if entry is None or not entry.mac:
            self._note(Kind.OUT, namespace, device.name, packet)
            self._end(f"{next_hop} is not among the neighbours of {device.name} in {namespace}")
            return
        frame = _framed(packet, device.mac, entry.mac)
        self._note(Kind.OUT, namespace, device.name, frame)
        target = tables.fdb(entry.mac, device.name)
        if target is None or target.remote is None:
            self._end(f"{device.name} of {namespace} has no FDB entry for {entry.mac}")
            return
        around = (Udp(0, self._world.vxlan_port), Vxlan(device.vni))
        self._wrap(namespace, target.remote, around, frame, UDP)

    def _wrap_udp(self, namespace: str, packet: Headers) -> None:
        ip = _ip(packet)
        peers = [address for network, address in self._world.tunnels.items() if ip.dst in network]
        if not peers:
            self._end(f"the forwarder of {namespace} has no route to {ip.dst}")
            return
        port = self._world.tunnel_port
        self._wrap(namespace, peers[0], (Udp(port, port),), _with_ip(packet, ttl=ip.ttl - 1), UDP)

    def _wrap(
        self, namespace: str, remote: Address, around: tuple[Header, ...], packet: Headers, protocol: int
    ) -> None:
        if len(self._found.steps) == MOST_STEPS:  # the tunnel's own packets are routed into it
            self._end("it goes round in a circle")
            return
        nowhere = remote.__class__(0)
        outer = Ip(remote.version, nowhere, remote, protocol, TTL, 0)
        self.send(namespace, (outer, *around, *packet))

    @staticmethod
    def _tunnels(tables: Tables, vni: int | None, packet: Headers) -> list[Device]:
        """Return the devices that may unwrap a packet: with both IP versions there are two of a VNI."""
        kind = "vxlan" if vni is not None else "tun" if _ip(packet).protocol == UDP else "ipip"
        return [one for one in tables.devices() if one.kind == kind and one.up and vni in (None, one.vni)]

    # --- what is asked ---

    def _tables(self, namespace: str) -> Tables | None:
        found = self._world.find_tables(namespace)
        if found is None:
            self._end(f"there is no namespace {namespace}")
        return found

    def _translate(self, namespace: str, packet: Headers) -> Headers:
        """Have the rules of a namespace choose another destination, if they do: the first choice is followed."""
        choices = self._world.translate(namespace, packet)
        if not choices:
            return packet
        self._found.choices = choices
        chosen = choices[0]
        self._masquerades |= {namespace} if chosen.masqueraded else set()
        packet = _with_ip(packet, dst=chosen.address)
        return tuple(
            replace(header, dport=chosen.port) if isinstance(header, (Tcp, Udp)) else header for header in packet
        )

    def _resolve(self, namespace: str, address: Address, device: Device, tables: Tables) -> str:
        """Return the MAC of a neighbour, by the table or by who would answer when asked; "" when nobody would."""
        entry = tables.neighbor(address, device.name)
        mac = entry.mac if entry and entry.mac else self._world.owner(address)
        if not mac:
            self._end(f"nobody has the address {address} that {namespace} asks for on {device.name}")
        return mac

    def _own_address(self, namespace: str, route: RouteEntry) -> Address | None:
        tables = self._tables(namespace)
        return tables.address(route.device, route.dst.version) if tables else None

    def _port_of(self, namespace: str, mac: str) -> Device | None:
        """Return the port that a flooded frame's receiver is behind."""
        tables = self._tables(namespace)
        for port in tables.devices() if tables else ():
            there, name = self._world.peer(namespace, port.name) or ("", "")
            other = self._world.find_tables(there) if there else None
            device = other.device(name) if other else None
            if device and device.mac == mac:
                return port
        return None

    # --- what is found ---

    def _note(self, kind: Kind, namespace: str, device: str, packet: Headers) -> bool:
        """Write a step down; False when there were too many."""
        number = len(self._found.steps)
        if number == MOST_STEPS:
            self._end("it goes round in a circle")
            return False
        self._found.steps.append(Sighting(number, kind, namespace, device, 0, packet, b"", b"", 0))
        return True

    def _end(self, why: str) -> None:
        if not self._found.end:
            self._found.end = why


def _ip(packet: Headers) -> Ip:
    """Return the outermost IP header, which decides the way."""
    return next(header for header in packet if isinstance(header, Ip))


def _with_ip(packet: Headers, **changes: object) -> Headers:
    ip = _ip(packet)
    return tuple(replace(header, **changes) if header is ip else header for header in packet)  # type: ignore[arg-type]


def _unframed(packet: Headers) -> Headers:
    return packet[1:] if packet and isinstance(packet[0], Ethernet) else packet


def _framed(packet: Headers, src: str, dst: str) -> Headers:
    return (Ethernet(src, dst, ETHERTYPES[_ip(packet).version]), *_unframed(packet))


def _mac(frame: Headers) -> str:
    return frame[0].dst if frame and isinstance(frame[0], Ethernet) else ""
