"""Manifests held against a running lab: what it cannot take, and which Services would have no pods in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, cast

from netlab.controllers.allocate import NOTHING, Allocation
from netlab.errors import Problem
from netlab.manifest.model import Declared, Manifests
from netlab.manifest.schema import HOSTNAME_LABEL, PodBody, PodObject, ServiceObject
from netlab.manifest.values import MANIFEST, node_of
from netlab.manifest.workload_schema import DaemonSet, Deployment, StatefulSet
from netlab.topology.diagnose import FINDINGS_MAX
from netlab.topology.findings import Finding, Loc, Suggester, listed, quote
from netlab.topology.model import Role, Topology
from netlab.topology.pod import Pod, Workload, WorkloadKind
from netlab.topology.service import Service
from netlab.topology.service_claims import Claim, claims, range_faults
from netlab.topology.service_pods import Candidate, Candidates

Key = tuple[str, str]  # namespace and name
UNIQUE = "names are unique across namespaces, since `netlab exec NAME` takes any of them"
ALLOW = "--allow-unmatched takes it as it is"
ORDINAL = re.compile(r"(.*)-(0|[1-9][0-9]*)\Z")


@dataclass(frozen=True, slots=True)
class ExistingObjects:
    """What a lab has: its topology with every pod that there is, what was applied to it, and what was given out.

    `services` are those of the topology and those that were applied; `allocations` are theirs, by namespace and name.
    """

    topology: Topology
    services: Collection[Service] = ()
    workloads: Collection[Workload] = ()
    allocations: Mapping[Key, Allocation] = field(default_factory=dict)


class Verdict(NamedTuple):
    """What is wrong, in file order.

    `problems`: what the API server refuses, too. `unmatched`: Services that select no pod, or want a port that no such
    pod has; Kubernetes takes them.
    """

    problems: list[Problem]
    unmatched: list[Problem]

    def refused(self, *, allow_unmatched: bool) -> list[Problem]:
        """Return what is a reason to apply nothing."""
        return self.problems if allow_unmatched else [*self.problems, *map(_hinted, self.unmatched)]


def _hinted(problem: Problem) -> Problem:
    return replace(problem, hint="; ".join(filter(None, (problem.hint, ALLOW))))


def check_against(manifests: Manifests, existing: ExistingObjects) -> Verdict:
    """Hold manifests against a lab."""
    problems = {
        *_doubles(manifests),
        *_service_problems(manifests, existing),
        *_pod_name_problems(manifests, existing),
        *_node_problems(manifests, existing),
        *_immutable_problems(manifests, existing),
    }
    return Verdict(sorted(problems), sorted(set(islice(_unmatched(manifests, existing), FINDINGS_MAX))))


def _doubles(manifests: Manifests) -> Iterator[Problem]:
    """Find objects that two files declare; `read` knows those of one."""
    seen: dict[tuple[str, ...], Declared[Any]] = {}
    everything: tuple[Declared[Any], ...] = (*manifests.services, *manifests.workloads, *manifests.slices)
    for one in everything:
        first = seen.setdefault((one.kind, *one.value.key), one)
        if first is not one:
            message = f"{one.kind} {one.value.namespace}/{one.value.name} is there already ({first.seen_from(one)})"
            yield one.problem(Finding(("metadata", "name"), message, "keep one of the two"))


def _service_problems(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find addresses and node ports that the cluster does not have, or that another Service has."""
    if not manifests.services:
        return
    taken = _taken(existing)
    topology = existing.topology
    declared = {service.key for service in topology.services}
    here: dict[Claim, Declared[Service]] = {}
    for one in manifests.services:
        service, spec = one.value, cast(ServiceObject, one.spec).spec
        if service.key in declared:
            message = f"Service {_shown(service.key)} is declared by the lab's topology"
            yield one.problem(Finding(("metadata", "name"), message, "change the topology file and run `netlab up`"))
        for finding in range_faults(service, spec, topology.service_cidrs, topology.load_balancer_cidrs):
            yield one.problem(finding.under(("spec",)))
        told: set[Loc] = set()
        for asked in claims(service, spec):
            holder, first = taken.get(asked.claim), here.setdefault(asked.claim, one)
            if asked.loc in told:
                continue
            if first is not one:
                message = f"{asked.claim} is taken by Service {_shown(first.value.key)} ({first.seen_from(one)})"
            elif holder is not None and holder != service.key:
                message = f"{asked.claim} is taken by Service {_shown(holder)}"
            else:
                continue
            told.add(asked.loc)
            yield one.problem(Finding(("spec", *asked.loc), message))


def _shown(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def _taken(existing: ExistingObjects) -> dict[Claim, Key]:
    """Return the Service that holds each address and node port."""
    taken = {asked.claim: service.key for service in existing.services for asked in claims(service)}
    ports = {service.key: service.ports for service in existing.services}
    for key, held in existing.allocations.items():
        for address in (*held.cluster_ips, *held.load_balancer_ips):
            taken[Claim(address)] = key
        for address in held.load_balancer_ips:
            taken |= {Claim(address, port.protocol, port.port): key for port in ports.get(key, ())}
        for number in (*held.node_ports, held.health_check_node_port):
            if number:
                taken[Claim(None, port=number)] = key
    return taken


def _pod_name_problems(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find names that `netlab exec NAME` would have twice: of pods, and of pods that a StatefulSet makes."""
    if not manifests.pods and all(one.value.kind is not WorkloadKind.STATEFUL_SET for one in manifests.workloads):
        return
    names = set(existing.topology.members())
    pods = {pod.name: pod for pod in existing.topology.pods}
    here: dict[str, Declared[Pod]] = {}
    for one in manifests.pods:
        pod, loc, present = one.value, ("metadata", "name"), pods.get(one.value.name)
        first = here.setdefault(pod.name, one)
        if first is not one:
            yield one.problem(Finding(loc, f"{quote(pod.name)} is taken ({first.seen_from(one)})", UNIQUE))
        elif present is not None and (present.owner, present.namespace) == (MANIFEST, pod.namespace):
            if replace(present, node=pod.node or present.node) != replace(pod, node=pod.node or present.node):
                message = f"pod {pod.name} is there already, and pods cannot be changed"
                yield one.problem(Finding(loc, message, "delete it first"))
        elif pod.name in names:
            what = "a machine" if present is None else f"pod {present.namespace}/{present.name}"
            of = f" of {present.owner}" if present is not None and present.owner not in ("", MANIFEST) else ""
            yield one.problem(Finding(loc, f"{quote(pod.name)} is taken by {what}{of}", UNIQUE))
    made = {pod.name: pod.owner for pod in pods.values()}
    stems = _by_stem({*names, *here})
    for workload in manifests.workloads:
        if workload.value.kind is WorkloadKind.STATEFUL_SET:
            yield from _ordinal_problems(workload, stems, made)


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
    for one in manifests.services:
        held = existing.allocations.get(one.value.key, NOTHING).cluster_ips
        for asked in claims(one.value, cast(ServiceObject, one.spec).spec):
            address = asked.claim.address
            if address is None or asked.loc[0] not in ("clusterIP", "clusterIPs"):
                continue
            has = next((other for other in held if other.version == address.version), address)
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


def _unmatched(manifests: Manifests, existing: ExistingObjects) -> Iterator[Problem]:
    """Find Services that select nothing, or want ports that no pod has."""
    if manifests.incomplete:  # what cannot be read may be what they select
        return
    made = {(one.value.namespace, one.value.name) for one in manifests.pods}
    kept = {one.value.key for one in manifests.workloads}
    pods = [one.value for one in manifests.pods]
    pods += [pod for pod in existing.topology.pods if (pod.namespace, pod.name) not in made]
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
