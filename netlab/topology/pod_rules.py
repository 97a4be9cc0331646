"""What the containers of a pod must obey. Paths in `container_faults` are relative to the pod's containers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netlab.topology.draft import Draft
from netlab.topology.findings import Finding, Loc, did_you_mean, listed, quote
from netlab.topology.pod_schema import ContainerPortSpec, ContainerSpec, EnvSpec, PodSpec, ProbeSpec


def container_forms(draft: Draft) -> Iterator[Finding]:
    """Find containers of a topology's pods that cannot be told apart or do not know what to do."""
    spec: PodSpec
    for loc, spec in draft.partial.entries("pods"):
        own: set[str] = set()
        served: dict[tuple[str, int], Loc] = {}
        for i, container in enumerate(spec.containers):
            here = (*loc, "containers", i)
            if container.name in own:
                yield Finding((*here, "name"), f"{quote(container.name)} is given twice in this pod")
            own.add(container.name)
            for finding in (
                *_program_faults(container),
                *port_name_faults(container.ports),
                *env_faults(container.env),
            ):
                yield finding.under(here)
            for j, port in enumerate(container.ports):
                first = served.setdefault((port.protocol, port.port), (*here, "ports", j))
                if first != (*here, "ports", j):
                    message = f"{port.protocol} port {port.port} is served in this pod already"
                    yield Finding((*here, "ports", j), message, first=first)
            for name, probe in (
                ("readinessProbe", container.readiness_probe),
                ("startupProbe", container.startup_probe),
            ):
                if probe is not None:
                    yield from _probe_faults(probe, container.ports, (*here, name))
            if container.startup_probe is not None and container.startup_probe.success_threshold > 1:
                yield Finding((*here, "startupProbe", "successThreshold"), "must be 1: it succeeds once")


def _program_faults(container: ContainerSpec) -> Iterator[Finding]:
    """Find containers with nothing to run."""
    if container.command is not None:
        return
    if not container.ports:
        yield Finding((), "lacks a `command`, or `ports` for the built-in echo server to answer on")
    elif container.args:
        yield Finding(("args",), "needs a `command`: the echo server takes none", at_key=True)


def port_name_faults(ports: Sequence[ContainerPortSpec]) -> Iterator[Finding]:
    """Find ports of one container that have the same name."""
    names: dict[str, Loc] = {}
    for i, port in enumerate(ports):
        loc: Loc = ("ports", i, "name")
        if port.name and (first := names.setdefault(port.name, loc)) != loc:
            yield Finding(loc, f"{quote(port.name)} is taken by another port", first=first)


def env_faults(variables: Sequence[EnvSpec]) -> Iterator[Finding]:
    """Find variables with two values."""
    for i, variable in enumerate(variables):
        if variable.value and variable.value_from is not None:
            yield Finding(("env", i, "valueFrom"), "cannot stand beside `value`", "keep one of the two")


def _probe_faults(probe: ProbeSpec, ports: Sequence[ContainerPortSpec], loc: Loc) -> Iterator[Finding]:
    """Find probes of a port by a name that the container does not have."""
    handler, step = (probe.http_get, "httpGet") if probe.http_get is not None else (probe.tcp_socket, "tcpSocket")
    names = [port.name for port in ports if port.name]
    if handler is not None and not handler.port.isdigit() and handler.port not in names:
        message = f"this container has no port called {quote(handler.port)}{did_you_mean(handler.port, names)}"
        hint = f"it has {listed(names)}" if names else "give it `ports` with names, or write a number"
        yield Finding((*loc, step, "port"), message, hint)
