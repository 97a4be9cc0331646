"""Where the names of one Service lead: its cluster IPs or endpoints, as CoreDNS finds them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netlab.dns.names import Name, dashed, fits
from netlab.dns.records import Endpoint, Kind, Port, Service
from netlab.topology.addresses import Address
from netlab.topology.service import Protocol

NO_PORT = Port("", Protocol.TCP, -1)  # CoreDNS's index: the address counts, SRV leaves it out


class Place(NamedTuple):
    """Where a name leads: an address and a port, and the name that has just this address."""

    address: Address
    port: Port
    target: Name


@dataclass(frozen=True, slots=True)
class Places:
    """Where a Service's own name leads, and each endpoint's label. One that is known twice is there twice."""

    shared: Sequence[Place]
    endpoints: dict[str, list[Place]]

    def find(self, labels: Name) -> Sequence[Place]:
        """Return where the labels in front of a Service's name lead: none, an endpoint's, or a port and a protocol.

        The last two may lack their underscore, and an underscore alone means any (plugin/kubernetes/parse.go).
        """
        match labels:
            case ():
                return self.shared
            case (endpoint,):
                return self.endpoints.get(endpoint, ())
            case (port, protocol):
                wanted = port.removeprefix("_"), protocol.removeprefix("_")
                return [place for place in self.shared if _is_at(place.port, *wanted)]
        return ()


def find_places(service: Service, base: Name) -> Places:
    """Return where a Service leads, whose own name is `base`; an ExternalName leads to no place."""
    endpoints: dict[str, list[Place]] = {}
    shared: list[Place] = []
    if not fits(base):
        return Places((), {})
    if service.kind is Kind.CLUSTER_IP:
        ports = service.ports or (NO_PORT,)
        shared += [Place(address, port, base) for port in ports for address in service.cluster_ips]
    for address, endpoint in published(service):
        label = endpoint_label(endpoint, address)
        if not fits((label, *base)):
            continue
        found = [Place(address, port, (label, *base)) for port in endpoint.ports or (NO_PORT,)]
        endpoints.setdefault(label, []).extend(found)
        if service.kind is Kind.HEADLESS:
            shared += found
    return Places(shared, endpoints)


def published(service: Service) -> Iterator[tuple[Address, Endpoint]]:
    """Yield each address of each published endpoint; an ExternalName has none."""
    for endpoint in service.endpoints if service.kind is not Kind.EXTERNAL_NAME else ():
        if endpoint.published:
            for address in endpoint.addresses:
                yield address, endpoint


def endpoint_label(endpoint: Endpoint, address: Address) -> str:
    """Return what an endpoint is called under its Service: its hostname, else its address with dashes."""
    label = dashed(address)
    return endpoint.hostname.lower() or (f"{label}0" if label.endswith("-") else label)


def _is_at(port: Port, name: str, protocol: str) -> bool:
    """Say whether a port has this name and protocol, in lower case; an empty one is any."""
    its_protocol = "" if port is NO_PORT else port.protocol.lower()
    return name in ("", port.name.lower()) and protocol in ("", its_protocol)
