"""`netlab apply`: Kubernetes manifests become Services, pods and workloads of a lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from netlab.cli.objects import await_rollout, control_plane, lab_option
from netlab.cli.sctp import warn_of_sctp
from netlab.codec import from_json, to_json
from netlab.control.protocol import ask
from netlab.control.resources import WORKLOADS, Reference, Resource
from netlab.errors import ManifestError, NetlabError, Problem

if TYPE_CHECKING:
    from netlab.manifest.against import ExistingObjects
    from netlab.manifest.model import Manifests
    from netlab.topology.pod import Container


@click.command("apply")
@lab_option
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(allow_dash=True),
    help="A file of manifests; `-` is standard input.",
)
@click.option("--dry-run", is_flag=True, help="Only say what is wrong.")
@click.option("--allow-unmatched", is_flag=True, help="Take Services that no pod backs yet, as the API server does.")
@click.option("--wait", is_flag=True, help="Return when all pods of the workloads are there and available.")
def apply_command(lab: str | None, files: tuple[str, ...], dry_run: bool, allow_unmatched: bool, wait: bool) -> None:
    """Make what manifests declare: v1 Namespace, Service and Pod, EndpointSlice, Deployment, StatefulSet, DaemonSet.

    All of it or, where anything is wrong with it, nothing. What does not touch the network is ignored. A container
    without a command is netlab's echo server, which says who it is and which client it sees.
    """
    from netlab.manifest.against import check_against
    from netlab.manifest.model import merge

    read = [_load_sound(file) for file in files]
    found = merge([sound for sound, _ in read])
    if problems := [problem for _, faults in read for problem in faults]:
        raise ManifestError([*problems, *_clashes(lab, found, problems, allow_unmatched=allow_unmatched)])
    name = control_plane(lab)
    existing = _existing(name)
    verdict = check_against(found, existing)
    if problems := verdict.refused(allow_unmatched=allow_unmatched):
        raise ManifestError(problems)
    for unmatched in verdict.unmatched:
        click.echo(f"warning: {unmatched}", err=True)
    for line in found.ignored_lines():
        click.echo(f"note: {line}", err=True)
    warn_of_sctp((one.value for one in found.services), _containers(found))
    if dry_run:
        return
    for line in ask(name, {"verb": "apply", **_values(found)})["outcomes"]:
        click.echo(line)
    if wait:
        for workload in (declared.value for declared in found.workloads):
            kind = next(kind for kind, workloads in WORKLOADS.items() if workloads is workload.kind)
            key = {"kind": kind, "namespace": workload.namespace, "name": workload.name}
            await_rollout(name, key, Reference(kind, workload.name), 600.0)


def _load_sound(file: str) -> tuple[Manifests, list[Problem]]:
    from netlab.manifest.read import load_sound

    return load_sound(file)


def _clashes(lab: str | None, found: Manifests, known: list[Problem], *, allow_unmatched: bool) -> list[Problem]:
    """Return what the lab, if it can be asked, could not take of files with which something is wrong already."""
    from netlab.manifest.against import check_against

    places = {(problem.file, problem.line, problem.column) for problem in known}
    with suppress(NetlabError):
        verdict = check_against(found, _existing(control_plane(lab)))
        problems = verdict.refused(allow_unmatched=allow_unmatched)
        return [problem for problem in problems if (problem.file, problem.line, problem.column) not in places]
    return []


def _load(file: str) -> Manifests:
    from netlab.manifest.read import load

    return load(file)


def _containers(found: Manifests) -> Iterator[tuple[str, Container]]:
    """Yield each container that is declared, with what a message calls its owner."""
    for workload in (one.value for one in found.workloads):
        for container in workload.template.containers:
            yield f"{workload.kind.lower()} {workload.name}", container
    for pod in (one.value for one in found.pods):
        for container in pod.containers:
            yield f"pod {pod.name}", container


def _values(found: Manifests) -> dict[str, list[Any]]:
    return {
        "namespaces": [to_json(one.value) for one in found.namespaces],
        "services": [to_json(one.value) for one in found.services],
        "workloads": [to_json(one.value) for one in found.workloads],
        "pods": [to_json(one.value) for one in found.pods],
        "slices": [to_json(one.value) for one in found.slices],
    }


def _existing(lab: str) -> ExistingObjects:
    """Return what the lab has already."""
    from netlab.controllers.allocate import Allocation
    from netlab.manifest.against import ExistingObjects
    from netlab.topology.model import Topology
    from netlab.topology.pod import Workload
    from netlab.topology.service import Service

    state = ask(lab, {"verb": "state"})
    return ExistingObjects(
        topology=from_json(Topology, state["topology"]),
        services=[from_json(Service, value) for value in state["services"]],
        workloads=[from_json(Workload, value) for value in state["workloads"]],
        allocations={(key[0], key[1]): from_json(Allocation, value) for key, value in state["allocations"]},
    )


def references(file: str) -> list[tuple[Reference, str]]:
    """Return the objects that a file declares, each with its namespace: those that others need last."""
    found = _load(file)
    named: list[tuple[Reference, str]] = []
    for one in found.workloads:
        kind = next(kind for kind, workloads in WORKLOADS.items() if workloads is one.value.kind)
        named.append((Reference(kind, one.value.name), one.value.namespace))
    named += [(Reference(Resource.PODS, one.value.name), one.value.namespace) for one in found.pods]
    named += [(Reference(Resource.ENDPOINT_SLICES, one.value.name), one.value.namespace) for one in found.slices]
    named += [(Reference(Resource.SERVICES, one.value.name), one.value.namespace) for one in found.services]
    named += [(Reference(Resource.NAMESPACES, one.value.name), one.value.name) for one in found.namespaces]
    return named
