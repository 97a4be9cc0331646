"""Which records each name of the cluster has: the Kubernetes DNS specification as CoreDNS keeps it. Pure.

A Zone is made once per change and costs little: a Service's names are worked out when somebody asks for one of them.
Names are tuples of lower-case labels without the root. Facts: facts.md 7.1 (records) and 7.2 (which answer is which);
tests/root/test_dns_coredns.py holds every answer against CoreDNS's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, cast

from netlab.dns.names import REVERSE, Name, dashed, dashed_address, fits, labels_of, lower, reversed_address
from netlab.dns.places import Place, Places, endpoint_label, find_places, published
from netlab.dns.records import (
    ADDRESS_TYPE,
    Endpoint,
    Found,
    Kind,
    Outcome,
    Pod,
    PodRecords,
    Port,
    Record,
    Service,
    Srv,
    Type,
)
from netlab.topology.addresses import Address
from netlab.topology.service import Protocol

SCHEMA_VERSION = "1.1.0"
SCHEMA_TTL = 28800  # seconds
SERVER = "kube-system", "kube-dns"  # the Service that this server is behind
LONGEST_CHAIN = 11  # CNAMEs that are followed: CoreDNS, plugin/backend_lookup.go
POD_PORT = Port("", Protocol.TCP, 0)  # CoreDNS gives pods' names an SRV record with it

Types = Mapping[int, Found]  # what a name that exists has, by record type
EXISTS: Types = {}


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
    _places: dict[tuple[str, str], Places] = field(default_factory=dict)  # of Services that were asked for
    _names: dict[Name, Types] = field(default_factory=dict)  # those of Services that were asked for
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
        if kind == Type.SOA:  # without a look at the name; at the apex the SOA is the answer (answer.py)
            return Found(Outcome.NODATA, origin)
        types = self._types(name, origin)
        if types is None or (kind not in types and self._is_hidden(name[: len(name) - len(origin)], origin, kind)):
            return Found(Outcome.NXDOMAIN, origin)
        if kind in (Type.A, Type.AAAA) and Type.CNAME in types:
            return self._follow(types[Type.CNAME].answers[0], kind)
        return types.get(kind) or Found(Outcome.NODATA, origin)

    def _origin(self, name: Name) -> Name | None:
        if name[-len(self.domain) :] == self.domain:
            return self.domain
        return next((origin for origin in REVERSE.values() if name[-2:] == origin), None)

    def _is_hidden(self, labels: Name, origin: Name, kind: int) -> bool:
        """Say whether a name that exists is NXDOMAIN for a type that it lacks, which CoreDNS answers in these cases."""
        match labels:
            case ("ns", "dns"):
                return kind in (Type.PTR, Type.TXT)
            case ("dns-version",):
                return True
            case () | ("svc",) | ("pod",) | (_, "svc") | (_, "pod"):  # nothing but other names
                return kind == Type.TXT
        return origin != self.domain

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
            case (*labels, service, namespace, "svc"):
                return self._service_types(name, namespace, service, tuple(labels))
            case (*labels, namespace, "pod") if self.pod_records is not PodRecords.DISABLED and len(labels) <= 3:
                return self._pod_types(name, namespace, labels[-1]) if labels else EXISTS
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

    def _service_types(self, name: Name, namespace: str, service_name: str, labels: Name) -> Types | None:
        """Return what a name at or below a Service has."""
        if (known := self._names.get(name)) is not None:
            return known
        service = self.services.get((namespace, service_name))
        if service is None:
            return None
        if service.kind is Kind.EXTERNAL_NAME:
            target = _external_target(service.external_name)
            if labels or not target:
                return None
            return {Type.CNAME: self._one(Record(name, Type.CNAME, self.ttl, target))}
        places = self._places.get((namespace, service_name))
        if places is None:
            places = self._places[namespace, service_name] = find_places(service, self._base(service))
        found = places.find(labels)
        if not found:
            return None
        return self._names.setdefault(name, self._place_types(name, found))

    def _place_types(self, name: Name, places: Sequence[Place]) -> Types:
        """Return what a name has that leads to these places; each counts for the weight (backend_lookup.go)."""
        weight = max(1, 100 // len(places))
        answers: dict[Type, dict[Record, None]] = {}
        extra: dict[Record, None] = {}
        for place in places:
            kind = ADDRESS_TYPE[place.address.version]
            answers.setdefault(kind, {})[Record(name, kind, self.ttl, place.address)] = None
            if place.port.number >= 0:
                content = Srv(0, weight, place.port.number, place.target)
                answers.setdefault(Type.SRV, {})[Record(name, Type.SRV, self.ttl, content)] = None
                extra[Record(place.target, kind, self.ttl, place.address)] = None
        return {
            kind: Found(Outcome.ANSWER, self.domain, tuple(found), tuple(extra) if kind is Type.SRV else ())
            for kind, found in answers.items()
        }

    def _pod_types(self, name: Name, namespace: str, label: str) -> Types | None:
        """Return what a pod's name has; one or two labels in front of it change nothing (CoreDNS, findPods)."""
        address = dashed_address(label)
        if address is None:
            return None
        is_known = label == dashed(address) and Pod(namespace, address) in self.pods  # looked for as it is spelt
        if self.pod_records is PodRecords.VERIFIED and not is_known:
            return None
        return self._place_types(name, [Place(address, POD_PORT, (label, namespace, "pod", *self.domain))])

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
                for one, endpoint in published(service):
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
        written = cast(Name, first.value)  # in the letters of the Service that says so
        while (target := lower(written)) not in chain and len(chain) <= LONGEST_CHAIN:
            if self._origin(target) != self.domain:
                return Found(Outcome.ANSWER, self.domain, tuple(chain.values()))  # the resolver goes on from there
            types = self._types(target, self.domain) or EXISTS
            if Type.CNAME not in types:
                found = types.get(kind)
                last = tuple(record._replace(name=written) for record in found.answers) if found else ()
                outcome = Outcome.ANSWER if found else Outcome.NODATA
                return Found(outcome, self.domain, (*chain.values(), *last) if found else ())
            chain[target] = types[Type.CNAME].answers[0]._replace(name=written)
            written = cast(Name, chain[target].value)
        return Found(Outcome.NODATA, self.domain)


def _external_target(text: str) -> Name:
    """Return the name that an ExternalName stands for; empty for an address, which has no CNAME, and for no name."""
    try:
        ip_address(text)
    except ValueError:
        target = tuple(text.removesuffix(".").split("."))
        return target if fits(target) else ()
    return ()
