"""The kinds of object that `netlab get`, `delete` and `scale` know, under kubectl's names and short names. Pure."""

from __future__ import annotations

import difflib
from enum import StrEnum
from typing import NamedTuple

from netlab.errors import UsageError
from netlab.topology.pod import WorkloadKind


class Resource(StrEnum):
    """A kind of object, by its plural."""

    SERVICES = "services"
    ENDPOINTS = "endpoints"
    ENDPOINT_SLICES = "endpointslices"
    PODS = "pods"
    DEPLOYMENTS = "deployments"
    STATEFUL_SETS = "statefulsets"
    DAEMON_SETS = "daemonsets"
    NODES = "nodes"
    NAMESPACES = "namespaces"


SHORT = {
    Resource.SERVICES: ("service", "svc"),
    Resource.ENDPOINTS: ("endpoint", "ep"),
    Resource.ENDPOINT_SLICES: ("endpointslice",),
    Resource.PODS: ("pod", "po"),
    Resource.DEPLOYMENTS: ("deployment", "deploy"),
    Resource.STATEFUL_SETS: ("statefulset", "sts"),
    Resource.DAEMON_SETS: ("daemonset", "ds"),
    Resource.NODES: ("node", "no"),
    Resource.NAMESPACES: ("namespace", "ns"),
}
BY_NAME = {name: kind for kind, names in SHORT.items() for name in (kind.value, *names)}
WORKLOADS = {
    Resource.DEPLOYMENTS: WorkloadKind.DEPLOYMENT,
    Resource.STATEFUL_SETS: WorkloadKind.STATEFUL_SET,
    Resource.DAEMON_SETS: WorkloadKind.DAEMON_SET,
}


class Reference(NamedTuple):
    """One object, or with an empty name all of a kind."""

    kind: Resource
    name: str = ""

    def __str__(self) -> str:
        return f"{SHORT[self.kind][0]}/{self.name}"


def find_kind(word: str) -> Resource:
    """Return the kind that a word names. Raises UsageError."""
    found = BY_NAME.get(word.lower())
    if found is None:
        close = difflib.get_close_matches(word.lower(), BY_NAME, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(Resource)}"
        raise UsageError(f"there is no kind of object {word!r}", hint)
    return found


def parse(words: tuple[str, ...]) -> list[Reference]:
    """Return what `deployment/web`, `deployment web api`, `pods` or `svc,pods` mean. Raises UsageError."""
    if not words:
        raise UsageError("no object was named", "as in `deployment/web`")
    if any("/" in word for word in words):
        pairs = [word.partition("/") for word in words]
        if not all(name for _, _, name in pairs):
            raise UsageError(f"{' '.join(words)} names a kind without an object", "as in `deployment/web`")
        return [Reference(find_kind(kind), name) for kind, _, name in pairs]
    kinds = [find_kind(word) for word in words[0].split(",")]
    return [Reference(kind, name) for kind in kinds for name in words[1:] or ("",)]
