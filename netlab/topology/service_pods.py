"""Whether the pods that a Service selects are there, and serve what it wants.

Kubernetes takes a Service without such pods. In a topology it is a mistake, since its pods are all known; in a manifest
worth a warning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from netlab.topology.findings import Finding, Suggester, counted, listed, quote
from netlab.topology.pod import ContainerPort
from netlab.topology.service import Labels, Port, Service, ServiceType
from netlab.topology.service_schema import ServiceFields


class Candidate(NamedTuple):
    """A pod, or what makes pods. `ports` are those that each container declares."""

    namespace: str
    labels: Mapping[str, str]
    ports: tuple[tuple[ContainerPort, ...], ...]


class Candidates:
    """Every pod that a Service may select."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.having: dict[tuple[str, str, str], set[int]] = defaultdict(set)
        for i, candidate in enumerate(candidates):
            for key, value in candidate.labels.items():
                self.having[candidate.namespace, key, value].add(i)
        labels = {_shown(label): None for one in candidates for label in one.labels.items()}
        self.labels = dict(sorted(labels.items()))
        self.near_label = Suggester(self.labels)

    def select(self, namespace: str, selector: Labels) -> list[Candidate]:
        """Return those of a namespace that have all of some labels."""
        sets = sorted((self.having.get((namespace, key, value), set()) for key, value in selector), key=len)
        return [self.candidates[i] for i in sorted(sets[0].intersection(*sets[1:]))]

    def faults(self, service: Service, spec: ServiceFields) -> Iterator[Finding]:
        """Find what a Service wants and nobody has. Paths are relative to its `spec`."""
        if service.selector is None or service.type is ServiceType.EXTERNAL_NAME:
            return
        matching = self.select(service.namespace, service.selector)
        if not matching:
            yield self._nobody(service.namespace, service.selector)
            return
        declared = {port for candidate in matching for ports in candidate.ports for port in ports}
        all_known = all(any(candidate.ports) for candidate in matching)
        for i, port in enumerate(service.ports):
            if message := _no_target(port, declared, all_known=all_known):
                field = "port" if spec.ports[i].target_port is None else "targetPort"
                yield Finding(("ports", i, field), message, _declared(declared))

    def _nobody(self, namespace: str, selector: Labels) -> Finding:
        """Word a selector that matches nothing, with what was probably meant."""
        message = f"no pod of namespace {namespace} has these labels"
        wanted = dict(selector)
        unknown = next((label for label in selector if _shown(label) not in self.labels), None)
        if unknown is not None:
            hint = f"there are {listed(self.labels)}" if self.labels else "no pod has labels"
            return Finding(("selector", unknown[0]), message + self.near_label(_shown(unknown)), hint)
        elsewhere = {one.namespace for one in self.candidates if wanted.items() <= one.labels.items()}
        hint = f"pods of namespace {listed(sorted(elsewhere))} have them"
        if not elsewhere:
            hint = f"no pod has all {counted(len(selector), 'label')} at once"
        return Finding(("selector",), message, hint)


def _shown(label: tuple[str, str]) -> str:
    return f"{label[0]}: {label[1]}"


def _no_target(port: Port, declared: set[ContainerPort], *, all_known: bool) -> str:
    """Say why no pod that is selected serves a port; empty when one does or may."""
    target = port.target or str(port.port)
    if not target.isdigit():
        named = {one.name for one in declared if one.protocol is port.protocol and one.name}
        near = "" if target in named else Suggester(named)(target)
        what = f"{port.protocol} port that is called {quote(target)}"
        return "" if target in named else f"no pod that is selected has a {what}{near}"
    if not all_known or (int(target), port.protocol) in {(one.port, one.protocol) for one in declared}:
        return ""
    return f"no pod that is selected declares {port.protocol} port {target}"


def _declared(ports: set[ContainerPort]) -> str:
    """Return a hint with the ports that there are."""
    if not ports:
        return "they declare no ports"
    ordered = sorted(ports, key=lambda port: (port.port, port.protocol, port.name))
    return f"they declare {listed([f'{one.name} {one.port}/{one.protocol}'.strip() for one in ordered])}"
