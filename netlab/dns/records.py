"""What cluster DNS is made of, and what it finds, as values: Services, endpoints and pods; records. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import NamedTuple

from netlab.dns.names import Name
from netlab.topology.addresses import Address
from netlab.topology.service import Protocol


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
    """One record; its TTL is in seconds. The value of TXT is a string, that of NS, CNAME and PTR a name.

    What an ExternalName leads to keeps its letters, as CoreDNS writes it; all other names are of lower case.
    """

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
