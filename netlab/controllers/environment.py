"""The environment variables of a container, with the pod's own fields filled in. Pure.

A field is known when the pod has its node and addresses. `$(NAME)` in a value stands for a variable that was set above
it, `$$` for one dollar sign, as Kubernetes has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from netlab.errors import PlanError
from netlab.topology.addresses import Address
from netlab.topology.pod import Container, Pod

FIELDS = (  # what fieldRef.fieldPath may name
    "metadata.name",
    "metadata.namespace",
    "metadata.labels['<key>']",
    "spec.nodeName",
    "status.podIP",
    "status.podIPs",
    "status.hostIP",
    "status.hostIPs",
)
_LABEL = re.compile(r"metadata\.labels\['([^']+)'\]")
_REFERENCE = re.compile(r"\$(?:(\$)|\(([^)]*)\))")


def environment(
    container: Container, pod: Pod, addresses: Sequence[Address], node_addresses: Sequence[Address]
) -> tuple[tuple[str, str], ...]:
    """Return a container's variables in order, the last one of a name only. Raises PlanError for an unknown field."""
    found: dict[str, str] = {}
    for variable in container.env:
        if variable.field_path:
            value = field_value(variable.field_path, pod, addresses, node_addresses)
        else:
            value = expand(variable.value, found)
        found.pop(variable.name, None)
        found[variable.name] = value
    return tuple(found.items())


def is_field(path: str) -> bool:
    """Say whether fieldRef.fieldPath may be this."""
    return (path in FIELDS and "<" not in path) or _LABEL.fullmatch(path) is not None


def field_value(path: str, pod: Pod, addresses: Sequence[Address], node_addresses: Sequence[Address]) -> str:
    """Return a field of a pod as text: empty for what it does not have. Raises PlanError for an unknown path."""
    if label := _LABEL.fullmatch(path):
        return dict(pod.labels).get(label[1], "")
    match path:
        case "metadata.name":
            return pod.name
        case "metadata.namespace":
            return pod.namespace
        case "spec.nodeName":
            return pod.node
        case "status.podIP" | "status.hostIP":
            return ",".join(map(str, (addresses if path == "status.podIP" else node_addresses)[:1]))
        case "status.podIPs" | "status.hostIPs":
            return ",".join(map(str, addresses if path == "status.podIPs" else node_addresses))
    hint = f"there are {', '.join(FIELDS)}"
    raise PlanError(f"pod {pod.namespace}/{pod.name}: fieldPath {path}: no such field", hint)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return a text with each `$(NAME)` replaced; one that is not in `values` stays as it is."""
    return _REFERENCE.sub(lambda found: "$" if found[1] else values.get(found[2], found[0]), text)
