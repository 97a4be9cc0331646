"""What one Service must obey by itself: the API server's rules (pkg/apis/core/validation, ValidateService).

Paths are relative to the fields of `spec`. Where the API server lets a field stand that does nothing in a Service of
that type, it is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator

from netlab.topology.findings import Finding, Loc, quote
from netlab.topology.service_schema import ServiceFields
from netlab.topology.values import DUAL_STACK, HEADLESS, cluster_ips

KUBELET_PORT = 10250
# The types that a field is for. What else it takes is in _policy_faults.
BELONGS: dict[str, tuple[str, ...]] = {
    "selector": ("ClusterIP", "NodePort", "LoadBalancer"),
    "cluster_ip": ("ClusterIP", "NodePort", "LoadBalancer"),
    "cluster_ips": ("ClusterIP", "NodePort", "LoadBalancer"),
    "ip_families": ("ClusterIP", "NodePort", "LoadBalancer"),
    "ip_family_policy": ("ClusterIP", "NodePort", "LoadBalancer"),
    "external_ips": ("ClusterIP", "NodePort", "LoadBalancer"),
    "external_policy": ("ClusterIP", "NodePort", "LoadBalancer"),
    "external_name": ("ExternalName",),
    "load_balancer_ip": ("LoadBalancer",),
    "source_ranges": ("LoadBalancer",),
    "allocates_node_ports": ("LoadBalancer",),
    "health_check_node_port": ("LoadBalancer",),
}
ALIASES = {name: ServiceFields.model_fields[name].alias or name for name in BELONGS}


def service_faults(spec: ServiceFields) -> Iterator[Finding]:
    """Find what is wrong with a Service by itself."""
    yield from _type_faults(spec)
    yield from _port_faults(spec)
    yield from _policy_faults(spec)
    yield from _address_faults(spec)
    yield from _family_faults(spec)


def is_headless(spec: ServiceFields) -> bool:
    """Say whether a Service wants no address of its own."""
    return HEADLESS in (spec.cluster_ip, *spec.cluster_ips)


def _type_faults(spec: ServiceFields) -> Iterator[Finding]:
    """Find fields that a Service of this type lacks, or has no use for."""
    for name, types in BELONGS.items():
        if getattr(spec, name) not in (None, [], {}, "") and spec.type not in types:
            only = types[0] if len(types) == 1 else "a Service that is not of type ExternalName"
            message = f"belongs to {only}, and this one is of type {spec.type}"
            yield Finding((ALIASES[name],), message, "leave it out, or change `type`", at_key=True)
    if spec.type == "ExternalName" and not spec.external_name:
        yield Finding(("type",), "ExternalName needs an `externalName`: the name that clients are sent to")
    if is_headless(spec) and spec.type in ("NodePort", "LoadBalancer"):
        loc: Loc = ("clusterIP",) if spec.cluster_ip is not None else ("clusterIPs", 0)
        yield Finding(loc, f"a headless Service cannot be of type {spec.type}, which needs an address")
    if not spec.ports and not is_headless(spec) and spec.type != "ExternalName":
        hint = "only a headless Service or one of type ExternalName goes without"
        yield Finding(("ports",) if "ports" in spec.model_fields_set else (), "needs at least one port", hint)


def _port_faults(spec: ServiceFields) -> Iterator[Finding]:
    """Find ports that cannot be told apart, or that the type does not have."""
    names: dict[str, Loc] = {}
    ports: dict[tuple[str, int], Loc] = {}
    node_ports: dict[int, int] = {}  # place among the ports by node port
    for i, port in enumerate(spec.ports):
        loc: Loc = ("ports", i)
        if not port.name and len(spec.ports) > 1:
            yield Finding(loc, "lacks a `name`, which each of several ports needs")
        elif port.name and (first := names.setdefault(port.name, (*loc, "name"))) != (*loc, "name"):
            yield Finding((*loc, "name"), f"{quote(port.name)} is taken by another port", first=first)
        if (first := ports.setdefault((port.protocol, port.port), loc)) != loc:
            yield Finding((*loc, "port"), f"{port.protocol} port {port.port} is given twice", first=(*first, "port"))
        if port.port == KUBELET_PORT and spec.type == "LoadBalancer":
            yield Finding((*loc, "port"), f"{KUBELET_PORT} is the kubelet's, and no LoadBalancer may expose it")
        if port.node_port is None:
            continue
        here = (*loc, "nodePort")
        if spec.type not in ("NodePort", "LoadBalancer"):
            message = f"belongs to NodePort and LoadBalancer, and this Service is of type {spec.type}"
            yield Finding(here, message, "add `type: NodePort`", at_key=True)
            continue
        first_place = node_ports.setdefault(port.node_port, i)
        other = spec.ports[first_place]
        if first_place != i and (other.port != port.port or other.protocol == port.protocol):
            hint = "ports of one number share theirs when their protocols differ; others cannot"
            first = ("ports", first_place, "nodePort")
            yield Finding(here, f"{port.node_port} is given twice", hint, first=first)


def _policy_faults(spec: ServiceFields) -> Iterator[Finding]:
    """Find affinity and policies without what they are about."""
    if spec.affinity_config is not None and spec.session_affinity != "ClientIP":
        yield Finding(("sessionAffinityConfig",), "needs `sessionAffinity: ClientIP` beside it", at_key=True)
    if spec.external_policy is not None and spec.type == "ClusterIP" and not spec.external_ips:
        message = "is for clients outside of the cluster, and they have no way to this Service"
        hint = "leave it out; `internalTrafficPolicy` is for clients of the cluster"
        yield Finding(("externalTrafficPolicy",), message, hint, at_key=True)
    if spec.health_check_node_port is not None and spec.type == "LoadBalancer" and spec.external_policy != "Local":
        yield Finding(("healthCheckNodePort",), "needs `externalTrafficPolicy: Local` beside it", at_key=True)


def _address_faults(spec: ServiceFields) -> Iterator[Finding]:
    """Find addresses that contradict each other."""
    given: list[object] = [*spec.cluster_ips]
    if given and spec.cluster_ip is not None and spec.cluster_ip != given[0]:
        yield Finding(("clusterIPs", 0), "is not what `clusterIP` says; it must be the same")
    if len(given) > 1 and HEADLESS in given:
        yield Finding(("clusterIPs", given.index(HEADLESS)), "None cannot stand beside an address")
    if "" in given:
        yield Finding(("clusterIPs", given.index("")), "is empty")
    versions = [address.version for address in cluster_ips(spec)]
    if len(versions) == 2 and versions[0] == versions[1]:
        yield Finding(("clusterIPs", 1), f"is IPv{versions[1]} as the first is; at most one of each version is allowed")
    for i, (family, version) in enumerate(zip(spec.ip_families, versions, strict=False)):
        if family != f"IPv{version}":
            loc: Loc = ("clusterIPs", i) if spec.cluster_ips else ("clusterIP",)
            yield Finding(loc, f"is IPv{version}, and `ipFamilies` says {family}")


def _family_faults(spec: ServiceFields) -> Iterator[Finding]:
    """Find IP versions named twice, or more than the policy allows."""
    if len(spec.ip_families) == 2 and spec.ip_families[0] == spec.ip_families[1]:
        yield Finding(("ipFamilies", 1), f"{spec.ip_families[1]} is given twice")
    several = "ipFamilies" if len(spec.ip_families) > 1 else "clusterIPs" if len(spec.cluster_ips) > 1 else ""
    if several and spec.type != "ExternalName" and spec.ip_family_policy not in DUAL_STACK:
        hint = "add `ipFamilyPolicy: PreferDualStack`"
        yield Finding((several,), "holds two, and a Service is SingleStack without an `ipFamilyPolicy`", hint)
