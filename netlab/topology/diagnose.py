"""pydantic's errors, put in the words of the topology file.

pydantic says what kind of error it is and where; this module looks at what the file has there and says what was found,
what is allowed and what was probably meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from netlab.topology.document import Document, Place
from netlab.topology.fields import LABEL, PATTERNS
from netlab.topology.findings import Finding, Loc, find_similar, listed, quote, suggest
from netlab.topology.pod_schema import ContainerSpec, PodSpec, ProbeSpec
from netlab.topology.proxy_schema import ConntrackSpec, IptablesSpec, IpvsSpec, NftablesSpec
from netlab.topology.scalars import Unclear
from netlab.topology.schema import (
    BACKENDS,
    CheckSpec,
    NodeSpec,
    SegmentSpec,
    TopologyFile,
    UnderlaySpec,
    VxlanSpec,
)
from netlab.topology.service_schema import ServicePortSpec, ServiceSpec
from netlab.topology.spec import field_names

# What other tools call it: Kubernetes, kind, kubeadm, flannel, containerlab.
OTHER_NAMES = {
    "nodeName": "node",
    "podCIDR": "clusterCIDR",
    "podSubnet": "clusterCIDR",
    "podNetworkCIDR": "clusterCIDR",
    "Network": "clusterCIDR",
    "serviceSubnet": "serviceCIDR",
    "serviceClusterIPRange": "serviceCIDR",
    "SubnetLen": "nodeCIDRMaskSizeIPv4",
    "IPv6SubnetLen": "nodeCIDRMaskSizeIPv6",
    "nodeCIDRMaskSize": "nodeCIDRMaskSizeIPv4",
    "subnet": "cidr",
    "address": "ip",
    "podIP": "ip",
    "count": "replicas",
    "networkMode": "hostNetwork",
    "environment": "env",
    "cmd": "command",
    "cwd": "workingDir",
    "src": "from",
    "dst": "to",
    "port": "tcp",
    "podSelector": "selector",
    "externalIP": "externalIPs",
    "probe": "readinessProbe",
    "grace": "terminationGracePeriodSeconds",
    "proxyMode": "proxy",
    "lbCIDR": "loadBalancerCIDR",
}
NO_MANIFEST = "this is no Kubernetes manifest: the fields stand at the top, without apiVersion, kind and spec"
NOT_OFFERED = {
    **dict.fromkeys(("apiVersion", "kind", "metadata", "spec"), NO_MANIFEST),
    "image": "containers are programs of this machine, without an image: name one in `command`, or leave it out too"
    " for the built-in echo server",
    "links": "cables follow from `nodes`, `underlay` and `pods`: nothing to list",
    "livenessProbe": "containers that end are started again; nothing else does it",
    "grpc": "probe with exec, tcpSocket or httpGet",
    **dict.fromkeys(
        ("configMapKeyRef", "secretKeyRef", "resourceFieldRef"), "there are pods' fields only: fieldRef; or a `value`"
    ),
}
EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
}
PARTS: dict[str, type[BaseModel]] = {
    "underlay": UnderlaySpec,
    "a segment of underlay": SegmentSpec,
    "iptables": IptablesSpec,
    "nftables": NftablesSpec,
    "ipvs": IpvsSpec,
    "conntrack": ConntrackSpec,
    "an entry of nodes": NodeSpec,
    "an entry of pods": PodSpec,
    "a container of a pod": ContainerSpec,
    "a readinessProbe": ProbeSpec,
    "an entry of services": ServiceSpec,
    "a port of a service": ServicePortSpec,
    "an entry of checks": CheckSpec,
    "backend": VxlanSpec,
}
NAMED_LISTS = frozenset({"nodes", "external", "pods", "services"})
TEXTS = frozenset({"text", "a text or a list", "a name or a mapping of fields", "an IP address", "a CIDR"})
BOOLEANS = frozenset({"true", "false", "yes", "no", "on", "off"})
FINDINGS_MAX = 1000
BOUNDS = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}


@dataclass(frozen=True)
class Dialect:
    """The words of one kind of file. `root` is the model of the whole, or of the part that stands at `base`.

    other_names: what else fields are called. not_offered: what to say of some that do not exist. parts: where fields
    may belong to that stand elsewhere.
    """

    root: type[BaseModel]
    other_names: Mapping[str, str]
    not_offered: Mapping[str, str]
    parts: Mapping[str, type[BaseModel]]
    base: Loc = ()


TOPOLOGY = Dialect(TopologyFile, OTHER_NAMES, NOT_OFFERED, PARTS)


class Fault(NamedTuple):
    """One error of pydantic, and what the file has there. `model` is the part that the field belongs to.

    `inner` is pydantic's own path, from the root of the dialect.
    """

    loc: Loc
    kind: str
    context: dict[str, Any]
    place: Place
    model: type[BaseModel]
    inner: Loc
    dialect: Dialect
    at_key: bool = False

    @property
    def written(self) -> str:
        """Return what the user wrote: the key, the scalar's text or the value."""
        text = self.place.origin.text
        return str(self.loc[-1]) if self.at_key else text if text is not None else str(self.place.value)


def findings(errors: Sequence[ErrorDetails], document: Document, dialect: Dialect = TOPOLOGY) -> Iterator[Finding]:
    """Yield a finding for every error of pydantic, but for fields that are there by another name."""
    errors = errors[:FINDINGS_MAX]
    renamed = {meant for details in errors if (meant := find_meant(details, dialect)) is not None}
    for details in errors:
        inner, kind = details["loc"], details["type"]
        loc = (*dialect.base, *file_loc(inner))
        at_key = bool(loc) and loc[-1] == "[key]"
        loc = loc[:-1] if at_key else loc
        if kind == "missing" and loc[len(dialect.base) :] in renamed:
            continue
        model = _model_at(inner, dialect.root)
        context = details.get("ctx", {})
        yield WORDING.get(kind, _unexpected)(
            Fault(loc, kind, context, document.find(loc), model, inner, dialect, at_key=at_key)
        )


def find_meant(details: ErrorDetails, dialect: Dialect = TOPOLOGY) -> Loc | None:
    """Return the place, from the dialect's root, of the field that was probably meant by one that does not exist."""
    if details["type"] != "extra_forbidden":
        return None
    loc, allowed = details["loc"], field_names(_model_at(details["loc"], dialect.root))
    other = dialect.other_names.get(str(loc[-1]))
    meant = other if other in allowed else find_similar(str(loc[-1]), allowed)
    return None if meant is None else (*file_loc(loc)[:-1], meant)


def file_loc(loc: Loc) -> Loc:
    """Return pydantic's path without the step that the file does not have: the type of the backend."""
    return loc[:1] + loc[2:] if loc and loc[0] == "backend" else loc


def _refused(fault: Fault) -> Finding:
    """Pass on what a validator of ours said."""
    message, hint, field = (fault.context[part] for part in ("message", "hint", "field"))
    return Finding((*fault.loc, field) if field else fault.loc, message, hint)


def _missing(fault: Fault) -> Finding:
    """Word a required field that is not there."""
    needs = [field.alias or name for name, field in fault.model.model_fields.items() if field.is_required()]
    hint = f"it needs {listed(needs)}" if len(needs) > 1 else ""
    entry = fault.place.value
    if fault.loc == ("nodes",):
        hint = "how many machines there are, as in `nodes: 3`"
    elif (
        isinstance(entry, dict)
        and fault.loc[-1] == "name"
        and len(entry) == 1
        and not entry.keys() & field_names(fault.model)
    ):
        hint = f"write `- name: {next(iter(entry))}`, and the other fields below it"
    if entry is None:
        return Finding(fault.loc, "is empty", hint)
    return Finding(fault.loc[:-1], f"lacks the field {quote(fault.loc[-1])}", hint)


def _unknown_field(fault: Fault) -> Finding:
    """Word a field that does not exist, with the one that was probably meant."""
    name, allowed = str(fault.loc[-1]), field_names(fault.model)
    similar, other, hint = find_similar(name, allowed), fault.dialect.other_names.get(name), ""
    elsewhere = [part for part, model in fault.dialect.parts.items() if name in field_names(model)]
    if fault.loc[0] == "backend":
        return _unknown_option(fault, name, allowed)
    if name in fault.dialect.not_offered:
        message, hint = "unknown field", fault.dialect.not_offered[name]
    elif other in allowed:
        message = f"unknown field; here it is called {quote(other)}"
    elif similar is None and elsewhere:
        message = f"unknown field here; it belongs in {listed(elsewhere)}"
    else:
        message = f"unknown field{suggest(name, allowed)}"
    return Finding(fault.loc, message, hint, at_key=True)


def _unknown_option(fault: Fault, name: str, allowed: list[str]) -> Finding:
    """Word an option that a backend does not have."""
    backend = next(kind for kind, model in BACKENDS.items() if model is fault.model)
    options = [option for option in allowed if option != "type"]
    owners = [kind for kind, model in BACKENDS.items() if name in field_names(model)]
    hint = f"it is an option of {listed(owners)}" if owners else ""
    message = f"{backend} has no such option{suggest(name, options)}" if options else f"{backend} has no options"
    return Finding(fault.loc, message, hint, at_key=True)


def _not_allowed(fault: Fault) -> Finding:
    """Word a value that is not one of the few that the field takes."""
    fields = {field.alias or name: field for name, field in fault.model.model_fields.items()}
    name = next(step for step in reversed(fault.loc) if isinstance(step, str))
    choices = list(_choices(fields[name].annotation))
    hint = "write Never for a process that may end" if fault.written == "OnFailure" else ""
    return Finding(fault.loc, f"{quote(fault.written)} is not allowed{suggest(fault.written, choices)}", hint)


def _choices(annotation: Any) -> Iterator[str]:
    """Yield the values of the Literal that a field's type speaks of."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _choices(part)


def _wrong_type(fault: Fault) -> Finding:
    """Word a value of another type than the field's."""
    expected, value = fault.context.get("expected") or EXPECTED[fault.kind], fault.place.value
    text, hint = fault.written, ""
    if len(fault.loc) == 2 and fault.loc[0] in NAMED_LISTS and isinstance(fault.place.key, int):
        expected = "a name or a mapping of fields"
    if isinstance(value, bool | int | float | Unclear) and expected in TEXTS:
        hint = f'write "{text}", in quotes, if that is the text you mean'
    elif isinstance(value, Unclear):
        hint = "write a plain decimal number"
    elif isinstance(value, str) and expected == "a whole number" and value.isascii() and value.strip().isdigit():
        hint = f"write {value.strip()} without quotes"
    elif isinstance(value, str) and expected == "true or false" and value.lower() in BOOLEANS:
        hint = f"write {value.lower()} without quotes"
    elif fault.kind.startswith("model_"):
        hint = f"its fields: {listed(field_names(_model_at((*fault.inner, ''), fault.dialect.root)))}"
    return Finding(fault.loc, f"expected {expected}, found {_describe(fault.place)}", hint)


def _describe(place: Place) -> str:
    """Return what stands in the file, and as what YAML reads it when that is a surprise."""
    text, value = quote(place.origin.text), place.value
    match value:
        case None:
            found = "nothing"
        case list() | dict():
            found = "a list" if isinstance(value, list) else "a mapping"
        case Unclear():
            found = f"{text}, which YAML reads as {value.reading}"
        case bool():
            meaning = str(value).lower()
            found = meaning if meaning in text.lower() else f"{text}, which YAML reads as {meaning}"
        case int() | float():
            found = f"the number {value}"
        case _:
            found = f"the text {text}"
    return found


def _out_of_range(fault: Fault) -> Finding:
    """Word a number that is too small or too big."""
    limit, words = BOUNDS[fault.kind]
    return Finding(fault.loc, f"{fault.written} is out of range: it must be {words} {fault.context[limit]}")


def _not_of_pattern(fault: Fault) -> Finding:
    """Word a text with characters that it must not have."""
    is_not = PATTERNS[fault.context["pattern"]]
    similar = _as_label(fault.written) if fault.context["pattern"] == LABEL else ""
    meant = f"; did you mean {quote(similar)}?" if similar else ""
    return Finding(fault.loc, f"{quote(fault.written)} {is_not}{meant}", at_key=fault.at_key)


def _as_label(text: str) -> str:
    """Return the DNS label nearest to a text; empty when nothing of it is left."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in text.lower())
    return kept.strip("-")[:63].strip("-")


def _too_long(fault: Fault) -> Finding:
    """Word a text that is too long."""
    length = f"{len(fault.written)} characters long; at most {fault.context['max_length']} are allowed"
    return Finding(fault.loc, f"{quote(fault.written)} is {length}", at_key=fault.at_key)


def _empty(fault: Fault) -> Finding:
    """Word a text or list with nothing in it."""
    return Finding(fault.loc, "is empty", at_key=fault.at_key)


def _unexpected(fault: Fault) -> Finding:
    """Word an error that no other function knows."""
    return Finding(fault.loc, f"{quote(fault.written)} does not fit here ({fault.kind.replace('_', ' ')})")


WORDING: dict[str, Callable[[Fault], Finding]] = {
    "refused": _refused,
    "wrong_type": _wrong_type,
    "extra_forbidden": _unknown_field,
    "missing": _missing,
    "literal_error": _not_allowed,
    "string_pattern_mismatch": _not_of_pattern,
    "string_too_long": _too_long,
    "string_too_short": _empty,
    "too_short": _empty,
    **dict.fromkeys(EXPECTED, _wrong_type),
    **dict.fromkeys(BOUNDS, _out_of_range),
}


def _model_at(loc: Loc, root: type[BaseModel]) -> type[BaseModel]:
    """Return the model whose field the last step of pydantic's path is, or would be."""
    model = root
    if root is TopologyFile and len(loc) > 1 and loc[0] == "backend":
        return BACKENDS[str(loc[1])]
    for step in loc[:-1]:
        field = next((f for name, f in model.model_fields.items() if (f.alias or name) == step), None)
        model = find_model(field.annotation) or model if field is not None else model
    return model


def find_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field's type speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := find_model(part))), None)
