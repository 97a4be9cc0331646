"""What Services take from the cluster that nobody else can have, and where it must come from.

Paths are relative to the fields of a Service's `spec`; topologies and manifests share these rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netlab.topology.addresses import Address, Network
from netlab.topology.findings import Finding, Loc
from netlab.topology.service import Service, ServiceType
from netlab.topology.service_schema import ServiceFields
from netlab.topology.system import SERVICES


class Claim(NamedTuple):
    """Something that one Service alone can have.

    `protocol` and `port` are empty for a whole address, `address` and `protocol` for a node port: the API server gives
    no two Services one number, though their protocols differ.
    """

    address: Address | None
    protocol: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.address is None:
            return f"node port {self.port}"
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
    node_ports: set[int] = set()
    for i, port in enumerate(service.ports):
        if port.node_port and port.node_port not in node_ports:  # service_faults knows who may share one
            yield Asked(("ports", i, "nodePort"), Claim(None, port=port.node_port))
        node_ports.add(port.node_port)
    if service.health_check_node_port:
        yield Asked(("healthCheckNodePort",), Claim(None, port=service.health_check_node_port))
    if service.load_balancer_ip is not None:
        yield Asked(("loadBalancerIP",), Claim(service.load_balancer_ip))
        for port in service.ports:
            yield Asked(("loadBalancerIP",), Claim(service.load_balancer_ip, port.protocol, port.port))
    for i, address in enumerate(service.external_ips):
        for port in service.ports:
            yield Asked(("externalIPs", i), Claim(address, port.protocol, port.port))


def service_families(service: Service, cluster: Sequence[int]) -> tuple[int, ...]:
    """Return the IP versions that a Service has in a cluster of some versions."""
    asked = service.ip_families or tuple(address.version for address in service.cluster_ips)
    is_open = service.headless and not service.selector and not asked  # for whatever its endpoints are
    if service.dual_stack or is_open:
        return tuple(dict.fromkeys((*asked, *cluster)))
    return asked or tuple(cluster[:1])


def range_faults(
    service: Service, spec: ServiceFields, cidrs: Sequence[Network], balancers: Sequence[Network]
) -> Iterator[Finding]:
    """Find addresses that the cluster cannot give a Service, and IP versions that it does not have.

    `cidrs` are serviceCIDR's, `balancers` loadBalancerCIDR's.
    """
    by_version = {cidr.version: cidr for cidr in cidrs}
    if service.type is ServiceType.EXTERNAL_NAME:
        return
    for i, address in enumerate(service.cluster_ips):
        loc: Loc = ("clusterIPs", i) if spec.cluster_ips else ("clusterIP",)
        if message := _unfit(address, cidrs, "serviceCIDR") or _kept(address, by_version[address.version], service):
            yield Finding(loc, message)
    wanted = service.load_balancer_ip
    if wanted is not None and (message := _unfit(wanted, balancers, "loadBalancerCIDR")):
        yield Finding(("loadBalancerIP",), message)
    for i, version in enumerate(service.ip_families):
        if version not in by_version:
            yield Finding(("ipFamilies", i), f"the cluster has no IPv{version}: serviceCIDR is {_listed(cidrs)}")
    if spec.ip_family_policy == "RequireDualStack" and len(by_version) < 2:
        message = f"RequireDualStack needs two IP versions, and serviceCIDR is {_listed(cidrs)}"
        yield Finding(("ipFamilyPolicy",), message, "`PreferDualStack` takes what there is")
    yield from _foreign_versions(service, service_families(service, tuple(by_version)))


def _unfit(address: Address, cidrs: Sequence[Network], name: str) -> str:
    """Say why no Service can have an address of a range; empty when one can."""
    cidr = next((cidr for cidr in cidrs if address in cidr), None)
    if cidr is None:
        return f"{address} is not in the {name} {_listed(cidrs)}"
    if address == cidr.network_address and cidr.num_addresses > 2:
        return f"{address} is the network address of {cidr}"
    if cidr.version == 4 and address == cidr.broadcast_address and cidr.num_addresses > 2:
        return f"{address} is the broadcast address of {cidr}"
    return ""


def _kept(address: Address, cidr: Network, service: Service) -> str:
    """Say whom a cluster IP is kept for; empty when it is for anybody, or for this Service."""
    offset = int(address) - int(cidr.network_address)
    keeper = next((key for key, place in SERVICES.items() if place == offset and key != service.key), None)
    return "" if keeper is None else f"{address} is kept for the Service {'/'.join(keeper)}"


def _foreign_versions(service: Service, versions: Sequence[int]) -> Iterator[Finding]:
    """Find outside addresses and source ranges of an IP version that the Service does not have."""
    has = " and ".join(f"IPv{version}" for version in versions)
    outside: list[tuple[Loc, Address | Network]] = [
        *((("externalIPs", i), address) for i, address in enumerate(service.external_ips)),
        *((("loadBalancerSourceRanges", i), cidr) for i, cidr in enumerate(service.source_ranges)),
        *((("loadBalancerIP",), address) for address in (service.load_balancer_ip,) if address is not None),
    ]
    for loc, one in outside:
        if one.version not in versions:
            yield Finding(loc, f"{one} is IPv{one.version}, and the Service has {has} only")


def _listed(cidrs: Sequence[Network]) -> str:
    return ", ".join(map(str, cidrs))
