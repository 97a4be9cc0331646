"""What the address ranges, the backend and the MTU of a topology must obey. Each rule yields what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from netlab.topology.draft import UNDERLAY_DEFAULTS, Draft
from netlab.topology.fields import MTU_MIN, MTU_MIN_IPV6
from netlab.topology.findings import Finding, Loc, counted
from netlab.topology.model import BridgeBackend, IpipBackend, Network, Segment, UdpBackend, VxlanBackend

BRIDGE_PORTS_MAX = 1023  # net/bridge/br_private.h: BR_MAX_PORTS is 1024, and there is no port 0
CLUSTER_PREFIX_MAX = {4: 28, 6: 124}  # facts.md 1.2, by IP version
POD_PREFIX_MAX = {4: 30, 6: 126}
POD_MASK_FIELD = {4: "nodeCIDRMaskSizeIPv4", 6: "nodeCIDRMaskSizeIPv6"}
CLUSTER_EXAMPLE = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}


class Range(NamedTuple):
    """A range of addresses as the file calls it. A default has the place ()."""

    order: int
    name: str
    loc: Loc
    cidr: Network


def underlay_forms(draft: Draft) -> Iterator[Finding]:
    """Find segments given in two ways at once."""
    if draft.spec.underlay.cidr is not None and draft.spec.underlay.segments:
        yield Finding(("underlay", "cidr"), "cannot stand beside `segments`", "give it to one of the segments")


def overlaps(draft: Draft) -> Iterator[Finding]:
    """Find ranges that share addresses."""
    outer: Range | None = None
    # CIDRs nest or do not touch: in order of address, one that overlaps lies within the last that did not.
    for inner in sorted(_ranges(draft), key=lambda one: (one.cidr.version, one.cidr)):
        if outer is None or outer.cidr.version != inner.cidr.version or not outer.cidr.overlaps(inner.cidr):
            outer = inner
            continue
        first, second = sorted((outer, inner), key=lambda one: (bool(one.loc), one.order))
        name = first.name if first.loc else f"the default of {first.name},"
        hint = "" if first.loc else f"choose another range, or set {first.name} too"
        yield Finding(second.loc, f"{second.cidr} overlaps {name} {first.cidr}", hint, first=first.loc or None)


def _ranges(draft: Draft) -> Iterator[Range]:
    """Yield every range of a topology in the order of the fields."""
    named = [("clusterCIDR", loc, cidr) for loc, cidr in draft.cluster_cidrs]
    named += [("serviceCIDR", loc, cidr) for loc, cidr in draft.service_cidrs]
    named += [("loadBalancerCIDR", loc, cidr) for loc, cidr in draft.load_balancer_cidrs]
    for _, segment in draft.segments:
        for cidr in segment.cidrs:
            loc = cidr_loc(draft, segment, cidr)
            named.append((".".join(str(step) for step in loc[:-1] if step != "cidr") or "underlay", loc, cidr))
    return (Range(order, *entry) for order, entry in enumerate(named))


def cidr_loc(draft: Draft, segment: Segment, cidr: Network) -> Loc:
    """Return the place of one of a segment's CIDRs; () for a default."""
    underlay = draft.spec.underlay
    if underlay.segments:
        given = underlay.segments[segment.name].cidr
        return ("underlay", "segments", segment.name, "cidr", given.index(cidr))
    return ("underlay", "cidr", underlay.cidr.index(cidr)) if underlay.cidr else ()


def service_families(draft: Draft) -> Iterator[Finding]:
    """Find Service ranges of an IP version that pods do not have."""
    for loc, cidr in draft.service_cidrs:
        if cidr.version not in draft.families:
            hint = f"leave it out, or add such a network to clusterCIDR, as {CLUSTER_EXAMPLE[cidr.version]}"
            yield Finding(loc, f"{cidr} is IPv{cidr.version}, and clusterCIDR has no IPv{cidr.version} network", hint)


def cluster_size(draft: Draft) -> Iterator[Finding]:
    """Find cluster networks too small to be divided, and podCIDR lengths that do not fit (facts.md 1.2)."""
    for loc, cidr in draft.cluster_cidrs:
        longest = CLUSTER_PREFIX_MAX[cidr.version]
        if cidr.prefixlen > longest:
            yield Finding(loc, f"{cidr} is too small to be divided among nodes", f"it is a /{longest} at the smallest")
    for version, given in ((4, draft.spec.node_mask_ipv4), (6, draft.spec.node_mask_ipv6)):
        cluster = next((cidr for _, cidr in draft.cluster_cidrs if cidr.version == version), None)
        if given is None:
            continue
        loc = (POD_MASK_FIELD[version],)
        if cluster is None:
            yield Finding(loc, f"clusterCIDR has no IPv{version} network", "leave it out")
        elif cluster.prefixlen <= CLUSTER_PREFIX_MAX[version] and not mask_fits(draft, version):
            allowed = f"{cluster.prefixlen + 2} to {POD_PREFIX_MAX[version]}"
            yield Finding(loc, f"{given} does not fit the clusterCIDR {cluster}: {allowed} are allowed")


def mask_fits(draft: Draft, version: int) -> bool:
    """Say whether the cluster network of an IP version can be divided into podCIDRs."""
    cluster = next(cidr for _, cidr in draft.cluster_cidrs if cidr.version == version)
    return cluster.prefixlen + 2 <= draft.node_mask(version) <= POD_PREFIX_MAX[version]


def enough_pod_cidrs(draft: Draft) -> Iterator[Finding]:
    """Find cluster networks with fewer podCIDRs than nodes. flannel never hands out the first (facts.md 1.2)."""
    nodes = len(draft.cluster_nodes)
    for loc, cidr in draft.cluster_cidrs:
        if not mask_fits(draft, cidr.version):
            continue
        mask = draft.node_mask(cidr.version)
        there_are = 2 ** (mask - cidr.prefixlen) - 1
        if there_are < nodes:
            needed = mask - nodes.bit_length()
            message = f"{cidr} has {counted(there_are, 'podCIDR')} of /{mask}, and there are {counted(nodes, 'node')}"
            hint = f"use a /{needed}, or longer podCIDRs ({POD_MASK_FIELD[cidr.version]}); flannel keeps the first back"
            yield Finding(loc or ("nodes",), message, hint)


def enough_pod_addresses(draft: Draft) -> Iterator[Finding]:
    """Find nodes with more pods than their podCIDR has addresses, or their bridge ports."""
    room, why = BRIDGE_PORTS_MAX, f"a bridge has {BRIDGE_PORTS_MAX} ports"
    for version in draft.families:
        if mask_fits(draft, version):
            mask = draft.node_mask(version)
            # All but the network, the bridge's own (.1) and, in IPv4, the broadcast.
            addresses = 2 ** ((32 if version == 4 else 128) - mask) - (3 if version == 4 else 2)
            if addresses < room:
                room, why = addresses, f"a podCIDR of /{mask} has {counted(addresses, 'address', 'addresses')} for pods"
    count = Counter(pod.node for _, pod in draft.pods if not pod.host_network)
    full = [node for node, pods in count.items() if pods > room]
    if not full:
        return
    last = [loc for loc, pod in draft.pods if pod.node == full[0] and not pod.host_network][-1]
    more = f"; so it is on {counted(len(full) - 1, 'more node')}" if len(full) > 1 else ""
    message = f"node {full[0]} gets {counted(count[full[0]], 'pod')}, and {why}{more}"
    yield Finding(last, message, "spread them over more nodes")


def backend_families(draft: Draft) -> Iterator[Finding]:
    """Find pod networks that the backend or the underlay cannot carry."""
    for loc, cidr in draft.cluster_cidrs:
        if isinstance(draft.backend, IpipBackend | UdpBackend) and cidr.version == 6:
            message = f"{cidr} is IPv6, and the backend {draft.backend.type} carries IPv4 only"
            yield Finding(loc, message, "use vxlan or host-gw")
            return
    if isinstance(draft.backend, BridgeBackend):
        return
    for _, segment in draft.segments:
        for version in draft.families:
            if version not in {cidr.version for cidr in segment.cidrs}:
                others = ", ".join(str(cidr) for cidr in segment.cidrs)
                message = (
                    f"has no IPv{version} CIDR, and {draft.backend.type} carries IPv{version} between nodes over it"
                )
                hint = f"as in [{others}, {UNDERLAY_DEFAULTS[version]}]"
                yield Finding(cidr_loc(draft, segment, segment.cidrs[0])[:-1], message, hint)


def overhead(draft: Draft) -> int:
    """Return the bytes that the backend adds to a pod's packet: headers of Ethernet, VXLAN, UDP and IP."""
    match draft.backend:
        case VxlanBackend():
            return 70 if 6 in draft.families else 50
        case IpipBackend():
            return 20
        case UdpBackend():
            return 28
        case _:
            return 0


def mtus(draft: Draft) -> Iterator[Finding]:
    """Find MTUs that leave pods less than IP needs, or that the kernel refuses."""
    smallest = MTU_MIN_IPV6 if 6 in draft.families else MTU_MIN
    version = 6 if 6 in draft.families else 4
    given = draft.backend.mtu if isinstance(draft.backend, VxlanBackend) else None
    found: dict[Loc, Finding] = {}
    for _, segment in draft.segments:
        at = mtu_loc(draft, segment)
        if segment.mtu < MTU_MIN_IPV6 and any(cidr.version == 6 for cidr in segment.cidrs):
            found[at] = Finding(at, f"{segment.mtu} is too small for IPv6: segment {segment.name} needs {MTU_MIN_IPV6}")
        if given is not None and given > segment.mtu:
            message = f"{given} is more than the MTU of segment {segment.name}, {segment.mtu}"
            hint = "the kernel lets no VXLAN device send more than the interface below it"
            found.setdefault(("backend", "MTU"), Finding(("backend", "MTU"), message, hint))
        here = at if given is None else ("backend", "MTU")
        left = (given or segment.mtu) - overhead(draft)
        if left < smallest:
            takes = f"{draft.backend.type} takes {overhead(draft)} bytes of it"
            message = f"{given or segment.mtu} is too small: {takes}, and IPv{version} pods need {smallest}"
            found.setdefault(here, Finding(here, message, f"use {smallest + overhead(draft)} or more"))
    yield from found.values()


def mtu_loc(draft: Draft, segment: Segment) -> Loc:
    """Return the place of the MTU that a segment has."""
    own = draft.spec.underlay.segments.get(segment.name)
    return ("underlay", "segments", segment.name, "mtu") if own and own.mtu else ("underlay", "mtu")
