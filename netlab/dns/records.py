"""Which records each name of the cluster has: the Kubernetes DNS specification as CoreDNS keeps it. Pure.

A Zone is made once per change and costs little: a Service's names are worked out when somebody asks for one of them.
Names are tuples of lower-case labels without the root. Facts: facts.md 7.1 (records) and 7.2 (which answer is which).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from ipaddress import ip_address
from typing import Any, NamedTuple, cast

from netlab.dns.names import REVERSE, Name, dashed_address, fits, labels_of, reversed_address
from netlab.service.model import Protocol
from netlab.topology.model import Address

SCHEMA_VERSION = "1.1.0"
SCHEMA_TTL = 28800  # seconds
SERVER = "kube-system", "kube-dns"  # the Service that this server is behind
LONGEST_CHAIN = 8  # CNAMEs that are followed: CoreDNS, plugin/backend_lookup.go


class Type(IntEnum):
    """The record types that a cluster has."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33


ADDRESS_TYPE = {4: Type.A, 6: Type.AAAA}


class Kind(StrEnum):
    """What a Service is to DNS: types LoadBalancer and NodePort are ClusterIP here."""

    CLUSTER_IP = "ClusterIP"
    HEADLESS = "Headless"
    EXTERNAL_NAME = "ExternalName"


class PodRecords(StrEnum):
    """CoreDNS's option "pods": the plugin's own default is disabled, that of kubeadm's Corefile insecure."""

    DISABLED = "disabled"  # no pod has a name
    INSECURE = "insecure"  # any address has, without a look
    VERIFIED = "verified"  # only addresses of pods


class Port(NamedTuple):
    """A port of a Service, or one of an endpoint with the number that it has there. The name may be empty."""

    name: str
    protocol: Protocol
    number: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod behind a Service. Published: ready, or its Service has publishNotReadyAddresses."""

    addresses: tuple[Address, ...]
    hostname: str = ""
    published: bool = True
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """A Service as DNS sees it."""

    namespace: str
    name: str
    kind: Kind = Kind.CLUSTER_IP
    cluster_ips: tuple[Address, ...] = ()
    external_name: str = ""
    ports: tuple[Port, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


class Pod(NamedTuple):
    """An address of a pod."""

    namespace: str
    address: Address


class Srv(NamedTuple):
    """The content of an SRV record."""

    priority: int
    weight: int
    port: int
    target: Name


class Record(NamedTuple):
    """One record; its TTL is in seconds. The value of TXT is a string, that of NS, CNAME and PTR a name."""

    name: Name
    type: Type
    ttl: int
    value: Address | Name | Srv | str


class Outcome(Enum):
    """What a lookup comes to."""

    ANSWER = "answer"
    NODATA = "the name exists, but not with this type"
    NXDOMAIN = "no such name"
    OUTSIDE = "not a name of this cluster"


@dataclass(frozen=True, slots=True)
class Found:
    """What a lookup gives; `origin` is the zone that the name is in, for the SOA."""

    outcome: Outcome
    origin: Name = ()
    answers: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()


Types = Mapping[int, Found]  # what a name that exists has, by record type
EXISTS: Types = {}


class _Place(NamedTuple):
    """Where a name leads: an address and a port, and the name that has just this address."""

    address: Address
    port: Port
    target: Name


_NO_PORT = Port("", Protocol.TCP, -1)  # CoreDNS's index: the address counts, SRV leaves it out


@dataclass(frozen=True, slots=True, eq=False)
class Zone:
    """Every name of a cluster, forward and reverse. Make it with `of`.

    `replies` belongs to answer.py: what it made of this zone already.
    """

    domain: Name
    ttl: int
    pod_records: PodRecords
    namespaces: frozenset[str]
    services: Mapping[tuple[str, str], Service]  # by namespace and name
    pods: frozenset[Pod]
    replies: dict[tuple[bytes, bool], Any] = field(default_factory=dict)
    _names: dict[tuple[str, str], dict[Name, Types]] = field(default_factory=dict)
    _services_at: dict[Address, Service] = field(default_factory=dict)  # by cluster IP
    _endpoints_at: dict[Address, list[tuple[Service, Endpoint]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        services: Iterable[Service],
        pods: Iterable[Pod],
        namespaces: Iterable[str],
        *,
        domain: str = "cluster.local",
        ttl: int = 5,
        pod_records: PodRecords = PodRecords.INSECURE,
    ) -> Zone:
        """Index a cluster; TTL in seconds. Raise ValueError for a domain that DNS cannot carry."""
        labels = labels_of(domain)
        if not labels or not fits(("hostmaster", *labels)):
            raise ValueError(f"cluster domain {domain!r}: no name that DNS can carry")
        return cls(
            domain=labels,
            ttl=ttl,
            pod_records=pod_records,
            namespaces=frozenset(namespace.lower() for namespace in namespaces),
            services={(service.namespace.lower(), service.name.lower()): service for service in services},
            pods=frozenset(pods),
        )

    def look_up(self, name: Name, kind: int) -> Found:
        """Return what a name (lower-case labels, without the root) has of a record type (its number)."""
        origin = self._origin(name)
        if origin is None:
            return Found(Outcome.OUTSIDE)
        types = self._types(name, origin)
        if types is None:
            return Found(Outcome.NXDOMAIN, origin)
        if kind in (Type.A, Type.AAAA) and Type.CNAME in types:
            return self._follow(types[Type.CNAME].answers[0], kind)
        return types.get(kind) or Found(Outcome.NODATA, origin)

    def _origin(self, name: Name) -> Name | None:
        if name[-len(self.domain) :] == self.domain:
            return self.domain
        return next((origin for origin in REVERSE.values() if name[-2:] == origin), None)

    def _types(self, name: Name, origin: Name) -> Types | None:
        """Return what a name has by record type, empty for one that only others are under, None for no such name."""
        match name[: len(name) - len(origin)]:
            case ():
                return self._apex_types(name)
            case ("ns", "dns"):
                return self._server_types(name, origin)
            case labels if origin != self.domain:
                return self._reverse_types(name, labels)
            case ("dns-version",):
                return {Type.TXT: self._one(Record(name, Type.TXT, SCHEMA_TTL, SCHEMA_VERSION))}
            case ("svc",) | ("pod",):
                return EXISTS
            case (*_, namespace, _) if namespace not in self.namespaces:
                return None
            case (_, "svc"):
                return EXISTS
            case (*_, service, namespace, "svc"):
                return self._service_names(namespace, service).get(name)
            case (*labels, namespace, "pod") if self.pod_records is not PodRecords.DISABLED and len(labels) < 2:
                return self._pod_types(name, namespace, labels[0]) if labels else EXISTS
        return None

    def _apex_types(self, origin: Name) -> Types:
        """Return the zone's NS: the Service that this server is behind (CoreDNS, plugin/kubernetes/ns.go).

        CoreDNS names it below each zone that it serves, also the reverse ones.
        """
        namespace, name = SERVER
        target = (name, namespace, "svc", *origin)
        addresses = self._server_addresses()
        if not addresses or not fits(target):
            return EXISTS
        extra = tuple(Record(target, ADDRESS_TYPE[address.version], self.ttl, address) for address in addresses)
        return {Type.NS: Found(Outcome.ANSWER, origin, (Record(origin, Type.NS, self.ttl, target),), extra)}

    def _server_types(self, name: Name, origin: Name) -> Types:
        """Return what the SOA's primary server has: ns.dns.<zone>."""
        types: dict[int, Found] = {}
        for address in self._server_addresses():
            kind = ADDRESS_TYPE[address.version]
            types[kind] = Found(Outcome.ANSWER, origin, (Record(name, kind, self.ttl, address),))
        return types

    def _server_addresses(self) -> tuple[Address, ...]:
        service = self.services.get(SERVER)
        return service.cluster_ips if service and service.kind is Kind.CLUSTER_IP else ()

    def _one(self, record: Record) -> Found:
        return Found(Outcome.ANSWER, self.domain, (record,))

    def _service_names(self, namespace: str, name: str) -> dict[Name, Types]:
        """Return every name of a Service with what it has: made when first asked for."""
        if (names := self._names.get((namespace, name))) is not None:
            return names
        service = self.services.get((namespace, name))
        if service is None:
            return {}
        base = self._base(service)
        if service.kind is Kind.EXTERNAL_NAME:
            target = _external_target(service.external_name)
            names = {base: {Type.CNAME: self._one(Record(base, Type.CNAME, self.ttl, target))}} if target else {}
        else:
            names = {name: self._place_types(name, places) for name, places in _places(service, base).items()}
        self._names[namespace, name] = names
        return names

    def _place_types(self, name: Name, places: Collection[_Place]) -> Types:
        named = [place for place in places if place.port.name]  # a port without a name has no SRV record
        weight = max(1, 100 // max(1, len(named)))  # before equal ones fall together: CoreDNS, backend_lookup.go
        answers: dict[Type, dict[Record, None]] = {}
        for address in (place.address for place in places):
            kind = ADDRESS_TYPE[address.version]
            answers.setdefault(kind, {})[Record(name, kind, self.ttl, address)] = None
        for place in named:
            content = Srv(0, weight, place.port.number, place.target)
            answers.setdefault(Type.SRV, {})[Record(name, Type.SRV, self.ttl, content)] = None
        extra = dict.fromkeys(Record(p.target, ADDRESS_TYPE[p.address.version], self.ttl, p.address) for p in named)
        return {
            kind: Found(Outcome.ANSWER, self.domain, tuple(found), tuple(extra) if kind is Type.SRV else ())
            for kind, found in answers.items()
        }

    def _pod_types(self, name: Name, namespace: str, label: str) -> Types | None:
        address = dashed_address(label)
        if address is None:
            return None
        if self.pod_records is PodRecords.VERIFIED and Pod(namespace, address) not in self.pods:
            return None
        kind = ADDRESS_TYPE[address.version]
        return {kind: self._one(Record(name, kind, self.ttl, address))}

    def _reverse_types(self, name: Name, labels: Name) -> Types | None:
        address = reversed_address(labels, name[len(labels) :])
        if address is None:
            return None
        targets = [target for target in self._names_of(address) if fits(target)]
        answers = tuple(dict.fromkeys(Record(name, Type.PTR, self.ttl, target) for target in targets))
        return {Type.PTR: Found(Outcome.ANSWER, REVERSE[address.version], answers)} if answers else None

    def _names_of(self, address: Address) -> Iterator[Name]:
        """Yield the name of the Service with this cluster IP, else those of the endpoints with this address."""
        if not self._services_at:
            clustered = (service for service in self._exposed() if service.kind is Kind.CLUSTER_IP)
            self._services_at.update((ip, service) for service in clustered for ip in service.cluster_ips)
        if (owner := self._services_at.get(address)) is not None:
            yield self._base(owner)
            return
        if not self._endpoints_at:
            for service in self._exposed():
                for one, endpoint in _published(service):
                    self._endpoints_at.setdefault(one, []).append((service, endpoint))
        for service, endpoint in self._endpoints_at.get(address, ()):
            yield endpoint_label(endpoint, address), *self._base(service)

    def _exposed(self) -> Iterator[Service]:
        return (service for (namespace, _), service in self.services.items() if namespace in self.namespaces)

    def _base(self, service: Service) -> Name:
        return service.name.lower(), service.namespace.lower(), "svc", *self.domain

    def _follow(self, first: Record, kind: int) -> Found:
        """Return an ExternalName's CNAME, and the addresses that it leads to where that is inside the cluster.

        A chain that ends inside the cluster without an address is NODATA, as CoreDNS answers it.
        """
        chain = {first.name: first}
        target = cast(Name, first.value)
        while target not in chain and len(chain) <= LONGEST_CHAIN:
            if self._origin(target) != self.domain:
                return Found(Outcome.ANSWER, self.domain, tuple(chain.values()))  # the resolver goes on from there
            types = self._types(target, self.domain) or EXISTS
            if Type.CNAME not in types:
                found = types.get(kind)
                answers = (*chain.values(), *found.answers) if found else ()
                return Found(Outcome.ANSWER if found else Outcome.NODATA, self.domain, answers)
            chain[target] = types[Type.CNAME].answers[0]
            target = cast(Name, chain[target].value)
        return Found(Outcome.NODATA, self.domain)


def endpoint_label(endpoint: Endpoint, address: Address) -> str:
    """Return what an endpoint is called under its Service: its hostname, else its address with dashes."""
    return endpoint.hostname.lower() or str(address).replace(".", "-").replace(":", "-")


def _published(service: Service) -> Iterator[tuple[Address, Endpoint]]:
    """Yield each address of each published endpoint; an ExternalName has none."""
    for endpoint in service.endpoints if service.kind is not Kind.EXTERNAL_NAME else ():
        if endpoint.published:
            for address in endpoint.addresses:
                yield address, endpoint


def _places(service: Service, base: Name) -> dict[Name, dict[_Place, None]]:
    """Return each name of a Service with an address, and where it leads, in order and without duplicates."""
    found: dict[Name, dict[_Place, None]] = {}
    shared = []  # what the Service's own name leads to
    if service.kind is Kind.CLUSTER_IP:
        found[base] = {}
        ports = service.ports or (_NO_PORT,)
        shared += [_Place(address, port, base) for port in ports for address in service.cluster_ips]
    for address, endpoint in _published(service):
        own = (endpoint_label(endpoint, address), *base)
        if not fits(own):
            continue
        places = [_Place(address, port, own) for port in endpoint.ports or (_NO_PORT,)]
        found.setdefault(own, {}).update(dict.fromkeys(places))
        if service.kind is Kind.HEADLESS:
            shared += places
    for place in shared:
        found.setdefault(base, {})[place] = None
        if place.port.name:
            port = (f"_{place.port.name}".lower(), f"_{place.port.protocol}".lower(), *base)
            found.setdefault(port, {})[place] = None
    return {name: places for name, places in found.items() if fits(name)}


def _external_target(text: str) -> Name:
    """Return the name that an ExternalName stands for; empty for an address, which has no CNAME, and for no name."""
    try:
        ip_address(text)
    except ValueError:
        target = labels_of(text)
        return target if fits(target) else ()
    return ()
