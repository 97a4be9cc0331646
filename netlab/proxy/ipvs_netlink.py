"""The kernel's virtual servers by generic netlink, family IPVS (linux/ip_vs.h, facts.md 4.6).

pyroute2 has this family, but sends each request for itself and waits for its answer, about 0.3 ms for each of what can
be 100,000, and its IPv6 netmask must be written as an IPv4 address: so requests go in batches by `kernel.netlink`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from netlab.errors import KernelError, NotSupported
from netlab.kernel import features, netns
from netlab.kernel.netlink import Message, Socket, attribute, attribute_text, attribute_u32, attributes, nested
from netlab.service.ipvs import Flag, RealServer, VirtualKey
from netlab.service.ipvs_change import Command, Installed, Step
from netlab.topology.addresses import Address
from netlab.topology.service import Protocol

NETLINK_GENERIC = 16
GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
FAMILY_NAME, FAMILY_VERSION = b"IPVS\0", 1
GENL_HEADER = struct.Struct("=BBxx")  # command, version
GENL_BYTES = GENL_HEADER.size

GET_SERVICE, GET_DEST = 4, 8
ATTR_SERVICE, ATTR_DEST = 1, 2
SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK, SVC_SCHED_NAME, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK = range(1, 10)
DEST_ADDR, DEST_PORT, DEST_FWD_METHOD, DEST_WEIGHT, DEST_U_THRESH, DEST_L_THRESH = range(1, 7)
DEST_ACTIVE_CONNS, DEST_INACT_CONNS = 7, 8
STATS64 = 12  # of both
STATS_INPKTS, STATS_INBYTES = 2, 4

AF = {4: 2, 6: 10}
NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
PROTOCOLS = {number: protocol for protocol, number in NUMBERS.items()}
MASQUERADE = 0  # the forwarding method that is NAT
ALL_FLAGS = 0xFFFFFFFF
HASHED = 0x2  # a flag that is the kernel's own
NETMASK = {4: b"\xff\xff\xff\xff", 6: struct.pack("=I", 128)}  # IPv6: a prefix length in the host's order
FLAGS = struct.Struct("=II")  # flags, mask
# Attributes that every request has, packed at once: length, kind, value, padding; addresses have room for 16 bytes.
KEY = struct.Struct("=HHHxxHHHxxHH16sHH2sxx")
PLACE = struct.Struct("=HH16sHH2sxx")


class Load(NamedTuple):
    """How much a real server has to do: its weight and its connections."""

    weight: int
    active: int
    inactive: int


class Seen(NamedTuple):
    """What came for a server since it was made."""

    packets: int
    bytes: int


class Listed(NamedTuple):
    """A virtual server with what it has seen; `servers` are its real ones, each with its weight."""

    key: VirtualKey
    installed: Installed
    seen: Seen
    servers: tuple[tuple[RealServer, int, Seen], ...]


class Servers:
    """The virtual servers of one namespace. Made and used by any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._socket = netns.call(name, Socket, NETLINK_GENERIC)
        self._family = self._find_family()

    def close(self) -> None:
        """Close the socket, which lets go of the namespace."""
        self._socket.close()

    def _find_family(self) -> int:
        ask = Message(GENL_ID_CTRL, 0, GENL_HEADER.pack(CTRL_CMD_GETFAMILY, 1))
        found = 0
        for _, buffer, start, end in self._socket.dump(ask):
            family = attributes(buffer, start + GENL_BYTES, end)
            if family[CTRL_ATTR_FAMILY_NAME] == FAMILY_NAME:
                found = int.from_bytes(family[CTRL_ATTR_FAMILY_ID], "little")
        if not found:
            self._socket.close()
            features.require("ipvs", f"{self._name}: proxy ipvs")
            raise NotSupported("packet filter ipvs", f"{self._name}: proxy ipvs", "sudo modprobe ip_vs")
        return found

    def take(self, steps: Sequence[Step]) -> None:
        """Carry out steps in order. Raises KernelError naming the first that the kernel refused."""
        try:
            failures = self._socket.request([message(self._family, step) for step in steps])
        except OSError as exc:  # ENOBUFS: more refusals than a socket holds
            raise self._refusal(exc.errno, f"change virtual servers, from: {steps[0]}") from exc
        for failure in failures:
            raise self._refusal(failure.errno, str(steps[failure.position]), failure.reason)

    def read(self, version: int) -> dict[VirtualKey, Installed]:
        """Return every virtual server of an IP version with its real servers."""
        found = self.read_virtual(version)
        for key, server in found.items():
            server.weights = {real: load.weight for real, load in self.read_real(key).items()}
        return found

    def read_virtual(self, version: int) -> dict[VirtualKey, Installed]:
        """Return every virtual server of an IP version without its real servers. Those of a mark are not ours."""
        found = {}
        for fields in self._dump(GET_SERVICE, b"", ATTR_SERVICE):
            if SVC_FWMARK not in fields and fields[SVC_AF][0] == AF[version]:
                found[_key(fields, version)] = _installed(fields)
        return found

    def read_real(self, key: VirtualKey) -> dict[RealServer, Load]:
        """Return the real servers of a virtual server, none where it does not exist."""
        found = {}
        for fields in self._dump(GET_DEST, attribute(ATTR_SERVICE, _packed_key(key)), ATTR_DEST):
            counts = (_number(fields[kind]) for kind in (DEST_WEIGHT, DEST_ACTIVE_CONNS, DEST_INACT_CONNS))
            found[_real(fields, key)] = Load(*counts)
        return found

    def listing(self, version: int) -> list[Listed]:
        """Return every virtual server of an IP version that is not of a mark, with counts, by address and port."""
        found = []
        for fields in self._dump(GET_SERVICE, b"", ATTR_SERVICE):
            if SVC_FWMARK not in fields and fields[SVC_AF][0] == AF[version]:
                found.append((_key(fields, version), _installed(fields), _seen(fields)))
        return [Listed(*one, tuple(self._list_real(one[0]))) for one in sorted(found, key=lambda one: one[0])]

    def _list_real(self, key: VirtualKey) -> Iterator[tuple[RealServer, int, Seen]]:
        for fields in self._dump(GET_DEST, attribute(ATTR_SERVICE, _packed_key(key)), ATTR_DEST):
            yield _real(fields, key), _number(fields[DEST_WEIGHT]), _seen(fields)

    def _dump(self, command: int, body: bytes, kind: int) -> Iterator[dict[int, bytes]]:
        ask = Message(self._family, 0, GENL_HEADER.pack(command, FAMILY_VERSION) + body)
        try:
            for _, buffer, start, end in self._socket.dump(ask):
                entry = attributes(buffer, start + GENL_BYTES, end).get(kind)
                if entry is not None:
                    yield nested(entry)
        except OSError as exc:
            raise self._refusal(exc.errno, "read virtual servers") from exc

    def _refusal(self, code: int | None, what: str, reason: str = "") -> KernelError:
        if code == errno.EPERM:
            return NotSupported("the right to use IPVS", f"{self._name}: proxy ipvs", "run netlab with sudo")
        return KernelError(code, f"{self._name}: {what}", reason)


def message(family: int, step: Step) -> Message:
    """Return the request that carries out one step."""
    if step.command in (Command.NEW_SERVICE, Command.SET_SERVICE):
        body = attribute(ATTR_SERVICE, _packed_key(step.virtual.key) + _packed_options(step))
    else:
        body = attribute(ATTR_SERVICE, _packed_key(step.virtual.key))
    if step.server:
        options = b"" if step.command is Command.DEL_DEST else _packed_weight(step.weight)
        body += attribute(ATTR_DEST, _packed_place(step.server) + options)
    return Message(family, 0, GENL_HEADER.pack(step.command, FAMILY_VERSION) + body)


def _packed_key(key: VirtualKey) -> bytes:
    address, protocol, port = key
    family, place = AF[address.version], (20, SVC_ADDR, address.packed, 6, SVC_PORT, port.to_bytes(2, "big"))
    return KEY.pack(6, SVC_AF, family, 6, SVC_PROTOCOL, NUMBERS[protocol], *place)


def _packed_place(server: RealServer) -> bytes:
    return PLACE.pack(20, DEST_ADDR, server.address.packed, 6, DEST_PORT, server.port.to_bytes(2, "big"))


def _packed_options(step: Step) -> bytes:
    server = step.virtual
    return (
        attribute_text(SVC_SCHED_NAME, server.scheduler)
        + attribute(SVC_FLAGS, FLAGS.pack(server.flags, ALL_FLAGS))
        + attribute_u32(SVC_TIMEOUT, server.timeout)
        + attribute(SVC_NETMASK, NETMASK[server.key.address.version])
    )


@cache
def _packed_weight(weight: int) -> bytes:
    options = ((DEST_FWD_METHOD, MASQUERADE), (DEST_WEIGHT, weight), (DEST_U_THRESH, 0), (DEST_L_THRESH, 0))
    return b"".join(attribute_u32(kind, value) for kind, value in options)


def _key(fields: dict[int, bytes], version: int) -> VirtualKey:
    protocol = PROTOCOLS[int.from_bytes(fields[SVC_PROTOCOL], "little")]
    return VirtualKey(_address(fields[SVC_ADDR], version), protocol, int.from_bytes(fields[SVC_PORT], "big"))


def _installed(fields: dict[int, bytes]) -> Installed:
    flags = Flag(FLAGS.unpack(fields[SVC_FLAGS])[0] & ~HASHED)
    return Installed(fields[SVC_SCHED_NAME].rstrip(b"\0").decode(), flags, _number(fields[SVC_TIMEOUT]))


def _real(fields: dict[int, bytes], key: VirtualKey) -> RealServer:
    address = _address(fields[DEST_ADDR], key.address.version)
    return RealServer(address, int.from_bytes(fields[DEST_PORT], "big"))


def _seen(fields: dict[int, bytes]) -> Seen:
    counts = nested(fields[STATS64])
    return Seen(_number(counts[STATS_INPKTS]), _number(counts[STATS_INBYTES]))


def _address(packed: bytes, version: int) -> Address:
    return IPv4Address(packed[:4]) if version == 4 else IPv6Address(packed[:16])


def _number(packed: bytes) -> int:
    return int.from_bytes(packed, "little")


def idle(loads: Iterable[tuple[RealServer, Load]]) -> frozenset[RealServer]:
    """Return the real servers that have weight 0 and no connection left."""
    return frozenset(server for server, load in loads if not any(load))


def virtual_servers(name: str, version: int) -> list[Listed]:
    """List the virtual servers of a namespace, of an IP version, once."""
    servers = Servers(name)
    try:
        return servers.listing(version)
    finally:
        servers.close()
