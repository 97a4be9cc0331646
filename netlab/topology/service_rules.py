"""What the Services of a topology must obey, together and beside its pods. Each rule yields what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from netlab.topology.draft import LOAD_BALANCER_DEFAULTS, Draft
from netlab.topology.findings import Finding, Loc, listed, quote
from netlab.topology.model import Role
from netlab.topology.pod_schema import PodSpec
from netlab.topology.service_claims import Claim, claims, range_faults
from netlab.topology.service_faults import service_faults
from netlab.topology.service_pods import Candidate, Candidates
from netlab.topology.service_schema import ServiceSpec
from netlab.topology.system import DNS_SERVER, SERVICES
from netlab.topology.values import container_ports


def service_forms(draft: Draft) -> Iterator[Finding]:
    """Find Services that the API server would refuse whatever else there is."""
    spec: ServiceSpec
    for loc, spec in draft.partial.entries("services"):
        for finding in service_faults(spec):
            yield finding.under(loc)


def service_names(draft: Draft) -> Iterator[Finding]:
    """Find Services of one name in one namespace."""
    seen: dict[tuple[str, str], Loc] = {}
    for loc, service in draft.services:
        first = seen.setdefault(service.key, loc)
        if first != loc:
            message = f"{quote(service.name)} is taken in namespace {service.namespace}"
            yield Finding((*loc, "name"), message, first=(*first, "name"))


def service_ranges(draft: Draft) -> Iterator[Finding]:
    """Find Services with addresses that the cluster does not have."""
    cidrs = [cidr for _, cidr in draft.service_cidrs]
    balancers = [cidr for _, cidr in draft.load_balancer_cidrs]
    for loc, service in draft.services:
        for finding in range_faults(service, draft.spec.services[int(loc[1])], cidrs, balancers):
            yield finding.under(loc)


def service_claims(draft: Draft) -> Iterator[Finding]:
    """Find addresses and node ports that two Services ask for."""
    seen: dict[Claim, Loc] = {}
    told: set[Loc] = set()
    for loc, service in draft.services:
        for asked in claims(service, draft.spec.services[int(loc[1])]):
            here = (*loc, *asked.loc)
            first = seen.setdefault(asked.claim, here)
            if first != here and here not in told:
                told.add(here)
                is_own = first[: len(loc)] == loc
                yield Finding(here, f"{asked.claim} is {'given twice' if is_own else 'taken'}", first=first)


def load_balancer_families(draft: Draft) -> Iterator[Finding]:
    """Find load balancer ranges of an IP version that pods do not have."""
    for loc, cidr in draft.load_balancer_cidrs:
        if cidr.version not in draft.families:
            defaults = listed([str(LOAD_BALANCER_DEFAULTS[version]) for version in draft.families])
            message = f"{cidr} is IPv{cidr.version}, and clusterCIDR has no IPv{cidr.version} network"
            yield Finding(loc, message, f"leave it out, or write {defaults}")


def room_for_dns(draft: Draft) -> Iterator[Finding]:
    """Find service CIDRs without a tenth address, which cluster DNS has."""
    if draft.spec.proxy == "none":
        return
    for loc, cidr in draft.service_cidrs:
        if cidr.num_addresses <= DNS_SERVER:
            longest = 28 if cidr.version == 4 else 124
            message = f"{cidr} is too small: cluster DNS has address number {DNS_SERVER}"
            yield Finding(loc, message, f"a prefix length of at most {longest}, or `proxy: none`")


def node_proxies(draft: Draft) -> Iterator[Finding]:
    """Find machines outside of the cluster that are to carry out Services."""
    for loc, node in draft.nodes:
        if node.role is Role.EXTERNAL and node.proxy is not None:
            message = "belongs to nodes: a machine outside of the cluster carries out no Services"
            yield Finding((*loc, "proxy"), message, "leave it out", at_key=True)


def service_pods(draft: Draft) -> Iterator[Finding]:
    """Find selectors that match no pod, and target ports that no matching pod serves."""
    pods: list[PodSpec] = draft.spec.pods
    candidates = Candidates(
        [
            Candidate(pod.namespace, pod.labels, tuple(container_ports(one.ports) for one in pod.containers))
            for pod in pods
        ]
    )
    for loc, service in draft.services:
        if service.key in SERVICES:  # whose pod comes with the lab
            continue
        for finding in candidates.faults(service, draft.spec.services[int(loc[1])]):
            yield finding.under(loc)
