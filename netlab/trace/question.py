"""What is to be traced: the words of a command line as a value. Pure.

SRC and DST are members of a lab by name, `pod/web-1` or `node/n1` for clarity; DST may also be a Service (`svc/web:80`,
with `svc/web.shop:80` for one of another namespace) or any address. Without a port an echo request is sent.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING

from netlab.errors import UsageError
from netlab.store.store import Snapshot
from netlab.topology.addresses import Address
from netlab.topology.model import Role, Topology
from netlab.topology.service import Service, ServiceType
from netlab.trace.headers import with_port

if TYPE_CHECKING:
    from netlab.service.known import Known

UDP_PORT, TCP_PORT = 33434, 80  # traceroute's first, and HTTP's: where the user names none
LARGEST = 65535

FindService = Callable[[str, str], "Known"]  # namespace, name
FindAddresses = Callable[[str], Sequence[Address]]  # of a member

_REFERENCE = re.compile(
    r"(?:(?P<kind>[a-z]+)/)?(?P<name>\[[^\[\]]+\]|[^:\[\]/]+|[0-9A-Fa-f:.]*::?[0-9A-Fa-f:.]*)(?::(?P<port>\w[-\w]*))?"
)
KINDS = {
    **dict.fromkeys(("pod", "pods", "po"), "pod"),
    **dict.fromkeys(("node", "nodes", "no"), "node"),
    **dict.fromkeys(("svc", "service", "services"), "svc"),
    **dict.fromkeys(("machine", "external"), "machine"),
}


class Protocol(StrEnum):
    """What a probe is."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Reference:
    """A word for a member, Service or address: its kind, "" where it is not said, and its port, a number or a name."""

    kind: str
    name: str
    port: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How to send: bytes of the IP packet, don't fragment, TTL, seconds to wait. None: the usual."""

    size: int | None = None
    dont_fragment: bool = False
    ttl: int | None = None
    wait: float = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """A probe to send. `destination` and `source` are the user's words for whom; `port` is 0 for an echo request."""

    source: str
    destination: str
    address: Address
    protocol: Protocol
    port: int
    options: Options

    def __str__(self) -> str:
        at = with_port(self.address, self.port) if self.port else str(self.address)
        return f"{self.source} -> {self.destination} ({self.protocol} to {at})"


def parse(text: str) -> Reference:
    """Take a reference apart. Raises UsageError."""
    found = _REFERENCE.fullmatch(text)
    kind = found["kind"] if found else None
    if found is None or (kind and kind not in KINDS):
        known = "pod/NAME, node/NAME, svc/NAME:PORT, a name or an address"
        raise UsageError(f"{text!r} is not something to trace to or from", f"write {known}")
    return Reference(KINDS[kind] if kind else "", found["name"].strip("[]"), found["port"] or "")


def ask(
    topology: Topology,
    snapshot: Snapshot,
    words: tuple[str, str],
    *,
    protocol: Protocol | None,
    version: int | None,
    options: Options,
    find_service: FindService,
    find_addresses: FindAddresses,
) -> Question:
    """Make sense of SRC and DST. `version`: of IP, None for the first that both have. Raises UsageError."""
    source, destination = source_member(topology, words[0]), parse(words[1])
    address, port, default = _destination(topology, destination, find_service, find_addresses, version)
    chosen = protocol or default or (Protocol.TCP if port else Protocol.ICMP)
    if chosen is Protocol.ICMP and port:
        raise UsageError(f"{words[1]!r}: an echo request has no port", "leave --icmp or the port out")
    usual = {Protocol.ICMP: 0, Protocol.TCP: TCP_PORT, Protocol.UDP: UDP_PORT}
    return Question(source, words[1], address, chosen, port or usual[chosen], options)


def source_member(topology: Topology, text: str) -> str:
    """Return the name of a member that sends. Raises UsageError."""
    source = parse(text)
    _require_member(topology, source)
    if source.port:
        raise UsageError(f"{text!r}: a source has no port", "the kernel chooses one")
    return source.name


def _require_member(topology: Topology, one: Reference) -> None:
    """Raise UsageError unless a member of this name, and kind if it is said, is there."""
    kinds = {
        "pod": [pod.name for pod in topology.pods],
        "node": [node.name for node in topology.cluster_nodes],
        "machine": [node.name for node in topology.nodes if node.role is Role.EXTERNAL],
    }
    if one.kind == "svc":
        raise UsageError(f"service {one.name!r} cannot send", "a Service is only an address: trace from a pod or node")
    among = kinds[one.kind] if one.kind else list(topology.members())
    if one.name not in among:
        close = difflib.get_close_matches(one.name, among, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(among) or 'none'}"
        raise UsageError(f"lab {topology.name} has no {one.kind or 'member'} {one.name!r}", hint)


def _destination(
    topology: Topology, one: Reference, find_service: FindService, find_addresses: FindAddresses, version: int | None
) -> tuple[Address, int, Protocol | None]:
    if one.kind == "svc":
        return _service(one, find_service, version)
    try:
        address = ip_address(one.name)
    except ValueError:
        _require_member(topology, one)
        address = _choose(find_addresses(one.name), one.name, version)
    if one.port and not one.port.isdecimal():
        raise UsageError(f"{one.port!r} is not a port's number", "names of ports are for Services")
    port = int(one.port or 0)
    if port > LARGEST or (one.port and not port):
        raise UsageError(f"there is no port {one.port}", "ports are 1 to 65535")
    return address, port, None


def _service(one: Reference, find_service: FindService, version: int | None) -> tuple[Address, int, Protocol]:
    name, _, namespace = one.name.partition(".")
    known = find_service(namespace or "default", name)
    if known.service is None:
        names = [f"{other}" if held == "default" else f"{other}.{held}" for held, other in known.names]
        close = difflib.get_close_matches(one.name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names) or 'none'}"
        raise UsageError(f"there is no service {one.name!r}", hint)
    ports = [port for port in known.ports if one.port in ("", str(port.port), port.port_name)]
    if not known.ports:
        raise _portless(one.name, known.service)
    if not ports:
        listed = ", ".join(f"{port.port}/{port.protocol}" for port in known.ports)
        raise UsageError(f"service {one.name} has no port {one.port!r}", f"it has {listed}")
    chosen = ports[0]
    if chosen.protocol.lower() not in (Protocol.TCP, Protocol.UDP):
        raise UsageError(
            f"port {chosen.port} of service {one.name} is {chosen.protocol}", "probes are TCP, UDP or ICMP"
        )
    address = _choose([port.cluster_ip for port in ports], one.name, version)
    return address, chosen.port, Protocol(chosen.protocol.lower())


def _portless(name: str, service: Service) -> UsageError:
    if service.headless or service.type is ServiceType.EXTERNAL_NAME:
        return UsageError(f"service {name} has no cluster IP", "it is one of names only: trace to one of its pods")
    return UsageError(
        f"service {name} has no rules yet", "the lab's control plane does not answer: see `netlab status`"
    )


def _choose(addresses: Sequence[Address], name: str, version: int | None) -> Address:
    for address in addresses:
        if version in (None, address.version):
            return address
    raise UsageError(
        f"{name} has no IPv{version} address" if version else f"{name} has no address", "see `netlab inspect`"
    )
