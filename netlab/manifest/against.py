"""Manifests held against a running lab: what it cannot take, and what will do nothing in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from netlab.errors import Problem
from netlab.manifest.model import Declared, Manifests
from netlab.manifest.schema import HOSTNAME_LABEL, PodBody, PodObject, ServiceObject
from netlab.manifest.values import MANIFEST, node_of
from netlab.manifest.workload_schema import DaemonSet, Deployment, StatefulSet
from netlab.topology.addresses import Address
from netlab.topology.findings import Finding, Loc, Suggester, listed, quote
from netlab.topology.model import Role, Topology
from netlab.topology.pod import Pod, Workload, WorkloadKind
from netlab.topology.service import Protocol, Service
from netlab.topology.service_claims import OWN_SERVICES, Claim, claims, range_faults
from netlab.topology.service_pods import Candidate, Candidates

Key = tuple[str, str]  # namespace and name
ORDINAL = re.compile(r"(.*)-(0|[1-9][0-9]*)\Z")


@dataclass(frozen=True, slots=True)
class ExistingObjects:
    """What a lab has: its topology, what was applied to it, and what its controllers gave out.

    `services` and `pods` hold those of the topology too. cluster_ips, node_ports: every address and node port in use,
    also those that nobody asked for, with the Service that has it.
    """

    topology: Topology
    services: Collection[Service] = ()
    workloads: Collection[Workload] = ()
    pods: Collection[Pod] = ()
    cluster_ips: Mapping[Address, Key] = field(default_factory=dict)
    node_ports: Mapping[tuple[Protocol, int], Key] = field(default_factory=dict)


class Verdict(NamedTuple):
    """What is wrong, in file order: with any of `problems` nothing can be applied."""

    problems: list[Problem]
    warnings: list[Problem]


def check_against(manifests: Manifests, existing: ExistingObjects) -> Verdict:
    """Hold manifests against a lab."""
    problems = {
        *_service_problems(manifests, existing),
        *_pod_name_problems(manifests, existing),
        *_node_problems(manifests, existing),
        *_immutable_problems(manifests, existing),
    }
    return Verdict(sorted(problems), sorted(set(_warnings(manifests, existing))))


def _service_problems(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find addresses and node ports that the cluster does not have, or that another Service has."""
    taken = _taken(existing)
    here: dict[Claim, tuple[Key, int]] = {}
    for one in manifests.services:
        service, spec = one.value, cast(ServiceObject, one.spec).spec
        if service.key in OWN_SERVICES:
            yield one.problem(Finding(("metadata", "name"), f"{'/'.join(service.key)} is the cluster's own Service"))
        for finding in range_faults(service, spec, existing.topology.service_cidrs):
            yield one.problem(finding.under(("spec",)))
        for asked in claims(service, spec):
            holder = taken.get(asked.claim)
            first, line = here.setdefault(asked.claim, (service.key, one.line))
            if first != service.key:
                message = f"{asked.claim} is taken by Service {'/'.join(first)} (line {line})"
            elif holder is not None and holder != service.key:
                message = f"{asked.claim} is taken by Service {'/'.join(holder)}"
            else:
                continue
            yield one.problem(Finding(("spec", *asked.loc), message))


def _taken(existing: ExistingObjects) -> dict[Claim, Key]:
    """Return the Service that holds each address and node port."""
    taken = {asked.claim: service.key for service in existing.services for asked in claims(service)}
    taken |= {Claim(address): key for address, key in existing.cluster_ips.items()}
    taken |= {Claim(None, protocol, port): key for (protocol, port), key in existing.node_ports.items()}
    return taken


def _pod_name_problems(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find names that `netlab exec NAME` would have twice: of pods, and of pods that a StatefulSet makes."""
    owners = dict.fromkeys(existing.topology.members(), "the lab's topology")
    owners |= {pod.name: f"pod {pod.namespace}/{pod.name}" for pod in existing.pods}
    same = {pod.name for pod in existing.pods if pod.owner == MANIFEST}
    keys = {(pod.namespace, pod.name) for pod in existing.pods}
    lines: dict[str, int] = {}
    for one in manifests.pods:
        pod, loc = one.value, ("metadata", "name")
        first = lines.setdefault(pod.name, one.line)
        hint = "names are unique across namespaces, since `netlab exec NAME` takes any of them"
        if first != one.line:
            yield one.problem(Finding(loc, f"{quote(pod.name)} is taken (line {first})", hint))
        elif pod.name in owners and not (pod.name in same and (pod.namespace, pod.name) in keys):
            yield one.problem(Finding(loc, f"{quote(pod.name)} is taken by {owners[pod.name]}", hint))
    made = {pod.name: pod.owner for pod in existing.pods}
    names = _by_stem({*owners, *lines})
    for workload in manifests.workloads:
        if workload.value.kind is WorkloadKind.STATEFUL_SET:
            yield from _ordinal_problems(workload, names, made)


def _by_stem(names: Collection[str]) -> dict[str, list[int]]:
    """Return the ordinals of names such as web-0 by what stands before."""
    stems: dict[str, list[int]] = {}
    for name in names:
        if match := ORDINAL.match(name):
            stems.setdefault(match[1], []).append(int(match[2]))
    return stems


def _ordinal_problems(
    one: Declared[Workload], names: Mapping[str, list[int]], made: Mapping[str, str]
) -> Iterator[Problem]:
    """Find names of a StatefulSet's pods that somebody else has."""
    for ordinal in sorted(names.get(one.value.name, ())):
        name = f"{one.value.name}-{ordinal}"
        if ordinal < one.value.replicas and made.get(name) != one.value.owner:
            yield one.problem(Finding(("metadata", "name"), f"its pod {quote(name)} would have a name that is taken"))


def _node_problems(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find nodes that do not exist."""
    known = dict.fromkeys(node.name for node in existing.topology.cluster_nodes)
    outside = {node.name for node in existing.topology.nodes if node.role is Role.EXTERNAL}
    did_you_mean = Suggester(known)
    places: list[tuple[Declared[Any], Loc, str]] = []
    bodies: tuple[Declared[Any], ...] = (*manifests.pods, *manifests.workloads)
    for declared in bodies:
        loc, body = _pod_body(declared)
        field = ("nodeName",) if body.node_name else ("nodeSelector", HOSTNAME_LABEL)
        places.append((declared, (*loc, *field), node_of(body)))
    for part in manifests.slices:
        nodes = [endpoint.node for endpoint in part.value.endpoints]
        places += [(part, ("endpoints", i, "nodeName"), node) for i, node in enumerate(nodes)]
    for declared, loc, node in places:
        if node in outside:
            message = f"{quote(node)} is outside of the cluster: only its nodes carry pods"
        elif node and node not in known:
            message = f"no node is called {quote(node)}{did_you_mean(node)}"
        else:
            continue
        yield declared.problem(Finding(loc, message, f"the nodes are {listed(known)}"))


def _pod_body(declared: Declared[Any]) -> tuple[Loc, PodBody]:
    """Return the `spec` of a pod or of a template, with its path."""
    spec = declared.spec
    if isinstance(spec, PodObject):
        return ("spec",), spec.spec
    assert isinstance(spec, Deployment | StatefulSet | DaemonSet)
    return ("spec", "template", "spec"), spec.spec.template.spec


def _immutable_problems(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find changes of what the API server lets nobody change."""
    held: dict[tuple[Key, int], Address] = {(key, ip.version): ip for ip, key in existing.cluster_ips.items()}
    for one in manifests.services:
        for asked in claims(one.value, cast(ServiceObject, one.spec).spec):
            address = asked.claim.address
            if address is None or asked.claim.port:
                continue
            has = held.get((one.value.key, address.version), address)
            if has != address:
                message = f"{address} is not the address that the Service has, {has}, which cannot be changed"
                yield one.problem(Finding(("spec", *asked.loc), message, "delete the Service first"))
    workloads = {workload.key: workload for workload in existing.workloads}
    for workload in manifests.workloads:
        before = workloads.get(workload.value.key)
        if before is not None and dict(before.selector) != dict(workload.value.selector):
            message = "is not the selector that it has, which cannot be changed"
            finding = Finding(("spec", "selector"), message, f"delete the {workload.kind} first")
            yield workload.problem(finding)


def _warnings(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find Services that select nothing, or want ports that no pod has: Kubernetes takes them."""
    made = {(one.value.namespace, one.value.name) for one in manifests.pods}
    kept = {one.value.key for one in manifests.workloads}
    pods = [one.value for one in manifests.pods]
    pods += [pod for pod in existing.pods if (pod.namespace, pod.name) not in made]
    workloads = [one.value for one in manifests.workloads]
    workloads += [workload for workload in existing.workloads if workload.key not in kept]
    replaced = {workload.owner for workload in workloads}
    candidates = [
        Candidate(pod.namespace, dict(pod.labels), tuple(one.ports for one in pod.containers))
        for pod in pods
        if pod.owner not in replaced
    ]
    candidates += [
        Candidate(one.namespace, dict(one.template.labels), tuple(c.ports for c in one.template.containers))
        for one in workloads
    ]
    everyone = Candidates(candidates)
    for service in manifests.services:
        for finding in everyone.faults(service.value, cast(ServiceObject, service.spec).spec):
            yield service.problem(finding.under(("spec",)))
