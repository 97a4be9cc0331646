"""What Services take from the cluster that nobody else can have, and where it must come from.

Paths are relative to the fields of a Service's `spec`; topologies and manifests share these rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netlab.topology.addresses import Address, Network
from netlab.topology.findings import Finding, Loc
from netlab.topology.service import Protocol, Service, ServiceType
from netlab.topology.service_schema import ServiceFields

DNS_OFFSET, API_OFFSET = 10, 1  # of a serviceCIDR: kubeadm's and the API server's own Services
RESERVED = {API_OFFSET: "the Service kubernetes", DNS_OFFSET: "the Service kube-dns"}
OWN_SERVICES = frozenset({("default", "kubernetes"), ("kube-system", "kube-dns")})


class Claim(NamedTuple):
    """Something that one Service alone can have. `protocol` and `port` are empty for a whole address."""

    address: Address | None
    protocol: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.address is None:
            return f"node port {self.protocol} {self.port}"
        return f"{self.address} {self.protocol} {self.port}" if self.protocol else str(self.address)


class Asked(NamedTuple):
    """A claim and the field that makes it."""

    loc: Loc
    claim: Claim


def claims(service: Service, spec: ServiceFields | None = None) -> Iterator[Asked]:
    """Yield what a Service asks for by name. Without `spec` the paths mean nothing."""
    listed = spec is not None and bool(spec.cluster_ips)
    for i, address in enumerate(service.cluster_ips):
        yield Asked(("clusterIPs", i) if listed else ("clusterIP",), Claim(address))
    for i, port in enumerate(service.ports):
        if port.node_port:
            yield Asked(("ports", i, "nodePort"), Claim(None, port.protocol, port.node_port))
    if service.health_check_node_port:
        yield Asked(("healthCheckNodePort",), Claim(None, Protocol.TCP, service.health_check_node_port))
    for i, address in enumerate(service.external_ips):
        for port in service.ports:
            yield Asked(("externalIPs", i), Claim(address, port.protocol, port.port))
    if service.load_balancer_ip is not None:
        for port in service.ports:
            yield Asked(("loadBalancerIP",), Claim(service.load_balancer_ip, port.protocol, port.port))


def service_families(service: Service, cluster: Sequence[int]) -> tuple[int, ...]:
    """Return the IP versions that a Service has in a cluster of some versions."""
    asked = service.ip_families or tuple(address.version for address in service.cluster_ips)
    if service.dual_stack:
        return tuple(dict.fromkeys((*asked, *cluster)))
    return asked or tuple(cluster[:1])


def range_faults(service: Service, spec: ServiceFields, cidrs: Sequence[Network]) -> Iterator[Finding]:
    """Find addresses that the cluster cannot give a Service, and IP versions that it does not have."""
    by_version = {cidr.version: cidr for cidr in cidrs}
    if service.type is ServiceType.EXTERNAL_NAME:
        return
    for i, address in enumerate(service.cluster_ips):
        loc: Loc = ("clusterIPs", i) if spec.cluster_ips else ("clusterIP",)
        if message := _unfit(address, by_version.get(address.version), cidrs):
            yield Finding(loc, message)
    for i, version in enumerate(service.ip_families):
        if version not in by_version:
            yield Finding(("ipFamilies", i), f"the cluster has no IPv{version}: serviceCIDR is {_listed(cidrs)}")
    if spec.ip_family_policy == "RequireDualStack" and len(by_version) < 2:
        message = f"RequireDualStack needs two IP versions, and serviceCIDR is {_listed(cidrs)}"
        yield Finding(("ipFamilyPolicy",), message, "`PreferDualStack` takes what there is")
    yield from _foreign_versions(service, service_families(service, tuple(by_version)))


def _unfit(address: Address, cidr: Network | None, cidrs: Sequence[Network]) -> str:
    """Say why no Service can have an address; empty when one can."""
    if cidr is None or address not in cidr:
        return f"{address} is not in the serviceCIDR {_listed(cidrs)}"
    offset = int(address) - int(cidr.network_address)
    if offset == 0:
        return f"{address} is the network address of {cidr}"
    if cidr.version == 4 and address == cidr.broadcast_address:
        return f"{address} is the broadcast address of {cidr}"
    return f"{address} is kept for {RESERVED[offset]}" if offset in RESERVED else ""


def _foreign_versions(service: Service, versions: Sequence[int]) -> Iterator[Finding]:
    """Find outside addresses and source ranges of an IP version that the Service does not have."""
    has = " and ".join(f"IPv{version}" for version in versions)
    outside: list[tuple[Loc, Address | Network]] = [
        *((("externalIPs", i), address) for i, address in enumerate(service.external_ips)),
        *((("loadBalancerSourceRanges", i), cidr) for i, cidr in enumerate(service.source_ranges)),
    ]
    if service.load_balancer_ip is not None:
        outside.append((("loadBalancerIP",), service.load_balancer_ip))
    for loc, one in outside:
        if one.version not in versions:
            yield Finding(loc, f"{one} is IPv{one.version}, and the Service has {has} only")


def _listed(cidrs: Sequence[Network]) -> str:
    return ", ".join(map(str, cidrs))
