"""Every rule that a whole topology must obey, with the parts of the file that it relies on.

A rule is a pure function of the draft. It is not asked when a part that it needs is wrong already, since it would
report what follows from that; rules about names know which names may have been left out (`Partial.may_name`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from netlab.topology import member_rules, network_rules, pod_rules, service_rules
from netlab.topology.draft import Draft
from netlab.topology.findings import Finding

Rule = Callable[[Draft], Iterable[Finding]]

FINDINGS_MAX = 1000  # of one rule

CLUSTER = frozenset({"clusterCIDR", "nodeCIDRMaskSizeIPv4", "nodeCIDRMaskSizeIPv6"})
UNDERLAY = frozenset({"underlay"})
MACHINES = frozenset({"nodes", "external", "underlay"})

RULES: tuple[tuple[Rule, frozenset[str]], ...] = (
    (network_rules.underlay_forms, UNDERLAY),
    (network_rules.overlaps, UNDERLAY | {"clusterCIDR", "serviceCIDR", "loadBalancerCIDR"}),
    (network_rules.service_families, frozenset({"clusterCIDR", "serviceCIDR"})),
    (network_rules.cluster_size, CLUSTER),
    (network_rules.enough_pod_cidrs, CLUSTER),
    (network_rules.enough_pod_addresses, CLUSTER | {"nodes", "pods"}),
    (network_rules.backend_families, UNDERLAY | {"clusterCIDR", "backend"}),
    (network_rules.mtus, UNDERLAY | {"clusterCIDR", "backend"}),
    (member_rules.unique_names, frozenset()),
    (member_rules.segment_names, UNDERLAY),
    (member_rules.node_segments, UNDERLAY),
    (member_rules.routers, UNDERLAY),
    (member_rules.connected, UNDERLAY),
    (member_rules.segment_room, UNDERLAY),
    (member_rules.node_addresses, UNDERLAY),
    (member_rules.pod_forms, frozenset()),
    (member_rules.pod_nodes, frozenset()),
    (member_rules.pod_addresses, CLUSTER | {"nodes"}),
    (pod_rules.container_forms, frozenset()),
    (service_rules.service_forms, frozenset()),
    (service_rules.service_names, frozenset()),
    (service_rules.service_ranges, frozenset({"clusterCIDR", "serviceCIDR", "loadBalancerCIDR"})),
    (service_rules.service_claims, frozenset()),
    (service_rules.load_balancer_families, frozenset({"clusterCIDR", "loadBalancerCIDR"})),
    (service_rules.room_for_dns, frozenset({"clusterCIDR", "serviceCIDR", "proxy"})),
    (service_rules.node_proxies, frozenset()),
    (service_rules.service_pods, frozenset({"pods"})),
    (member_rules.check_names, frozenset()),
    (member_rules.check_forms, frozenset()),
)


def broken_rules(draft: Draft) -> Iterator[Finding]:
    """Yield what every rule that can be asked has found."""
    for rule, needs in RULES:
        if needs.isdisjoint(draft.partial.broken):
            yield from islice(rule(draft), FINDINGS_MAX)
