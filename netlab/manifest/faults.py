"""What each object of a manifest must obey by itself: the API server's rules (pkg/apis/*/validation)."""

from __future__ import annotations

from collections.abc import Iterator

from netlab.manifest.schema import HOSTNAME_LABEL, PodBody, PodObject, ServiceObject, SliceObject
from netlab.manifest.values import SERVICE_LABEL
from netlab.manifest.workload_schema import AnyObject, DaemonSet, Deployment, StatefulSet
from netlab.names import LABEL_MAX
from netlab.topology.findings import Finding, Loc, quote
from netlab.topology.pod_rules import env_faults, port_name_faults
from netlab.topology.service_faults import service_faults

ZERO = ("0", "0%")


def faults(spec: AnyObject) -> Iterator[Finding]:
    """Find what is wrong with an object by itself. Paths are relative to it."""
    match spec:
        case ServiceObject():
            yield from _under(("spec",), service_faults(spec.spec))
        case PodObject():
            yield from _under(("spec",), _pod_faults(spec.spec))
        case SliceObject():
            yield from _slice_faults(spec)
        case Deployment() | StatefulSet() | DaemonSet():
            yield from _workload_faults(spec)
            yield from _update_faults(spec)
            yield from _under(("spec", "template", "spec"), _pod_faults(spec.spec.template.spec))


def _under(loc: Loc, findings: Iterator[Finding]) -> Iterator[Finding]:
    return (finding.under(loc) for finding in findings)


def _pod_faults(body: PodBody) -> Iterator[Finding]:
    """Find containers and ports that cannot be told apart, and two nodes at once."""
    names: dict[str, Loc] = {}
    for i, container in enumerate(body.containers):
        loc: Loc = ("containers", i)
        if (first := names.setdefault(container.name, (*loc, "name"))) != (*loc, "name"):
            yield Finding((*loc, "name"), f"{quote(container.name)} is given twice in this pod", first=first)
        yield from _under(loc, port_name_faults(container.ports))
        yield from _under(loc, env_faults(container.env))
        if container.startup_probe is not None and container.startup_probe.success_threshold > 1:
            yield Finding((*loc, "startupProbe", "successThreshold"), "must be 1: it succeeds once")
    selected = body.node_selector.get(HOSTNAME_LABEL)
    if body.node_name and selected and body.node_name != selected:
        yield Finding(("nodeSelector", HOSTNAME_LABEL), f"{quote(selected)} is not the node that `nodeName` says")


def _workload_faults(spec: Deployment | StatefulSet | DaemonSet) -> Iterator[Finding]:
    """Find templates whose pods the workload would not know, or that end."""
    template, selector = spec.spec.template, spec.spec.selector.match_labels
    for key, value in selector.items():
        if template.metadata.labels.get(key) != value:
            message = f"the template's pods have no label {key}: {value}, so the selector would not find them"
            hint = "`selector.matchLabels` must match `template.metadata.labels`"
            yield Finding(("spec", "selector", "matchLabels", key), message, hint)
    if template.spec.restart_policy != "Always":
        loc = ("spec", "template", "spec", "restartPolicy")
        yield Finding(loc, f"{template.spec.restart_policy} is for single pods: a workload's are restarted always")
    if isinstance(spec, StatefulSet):
        longest = f"{spec.metadata.name}-{max(0, spec.spec.replicas - 1)}"
        if len(longest) > LABEL_MAX:
            message = f"its pod {quote(longest)} would have {len(longest)} characters; at most {LABEL_MAX} are allowed"
            yield Finding(("metadata", "name"), message)


def _update_faults(spec: Deployment | StatefulSet | DaemonSet) -> Iterator[Finding]:
    """Find updates that cannot go on, or steps of one that has none."""
    field = "strategy" if isinstance(spec, Deployment) else "updateStrategy"
    strategy = spec.spec.strategy
    loc: Loc = ("spec", field, "rollingUpdate")
    if strategy.rolling is None:
        return
    if strategy.type != "RollingUpdate":
        yield Finding(loc, f"belongs to RollingUpdate, and `type` is {strategy.type}", "leave it out", at_key=True)
        return
    unavailable = strategy.rolling.max_unavailable
    if unavailable.endswith("%") and int(unavailable[:-1]) > 100:
        yield Finding((*loc, "maxUnavailable"), f"{unavailable} is more than 100%")
    if isinstance(spec, StatefulSet):
        if unavailable in ZERO:
            yield Finding((*loc, "maxUnavailable"), "must be at least 1")
        return
    surge = getattr(strategy.rolling, "max_surge")  # noqa: B009
    if unavailable in ZERO and surge in ZERO:
        yield Finding(loc, "cannot go on when maxSurge and maxUnavailable are both 0")
    elif isinstance(spec, DaemonSet) and unavailable not in ZERO and surge not in ZERO:
        message = "a DaemonSet has either maxSurge or maxUnavailable, and the other is 0"
        yield Finding((*loc, "maxSurge"), message, "maxUnavailable is 1 when it is left out")


def _slice_faults(spec: SliceObject) -> Iterator[Finding]:
    """Find slices that belong to no Service, and addresses of another type."""
    if not spec.metadata.labels.get(SERVICE_LABEL):
        yield Finding(("metadata",), f"lacks the label {SERVICE_LABEL}: the Service that it belongs to")
    for i, endpoint in enumerate(spec.endpoints):
        for j, address in enumerate(endpoint.addresses):
            if spec.address_type != f"IPv{address.version}":
                loc: Loc = ("endpoints", i, "addresses", j)
                yield Finding(loc, f"{address} is IPv{address.version}, and `addressType` is {spec.address_type}")
    names: dict[str, Loc] = {}
    for i, port in enumerate(spec.ports):
        loc = ("ports", i)
        if (first := names.setdefault(port.name, loc)) != loc:
            what = f"{quote(port.name)} is" if port.name else "a port without a name is"
            yield Finding(loc, f"{what} there already", first=first)
