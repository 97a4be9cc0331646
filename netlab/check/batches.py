"""Splitting many probes into batches that the kernel's neighbour tables can hold. Pure.

All namespaces of a machine share one ARP table and one NDP table of net.ipv4.neigh.default.gc_thresh3 entries (1024
unless somebody raised it), and entries younger than five seconds are never thrown out for new ones. 33 pods on one
bridge that all ping each other fill it: from then on "neighbour table overflow", and packets are dropped in silence
(facts.md 9.5). So probes that share links stand together, and between batches `netlab.kernel.neighbors` empties
the tables of the namespaces concerned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from netlab.check.model import Member, Probe

ENTRIES = {4: 2, 6: 4}  # per link used: one at each end; IPv6 adds the solicited-node multicast addresses

Link = tuple[str, str]


def path(source: Member, target: Member) -> list[str]:
    """Return the namespaces that a probe crosses. Routers are left out: their tables grow with the nodes only."""
    if source.node == target.node and source.on_pod_network and target.on_pod_network:
        return [source.netns, target.netns]
    crossed = source.netns, source.node_netns, target.node_netns, target.netns
    return [name for name in dict.fromkeys(crossed) if name]


def links(probe: Probe) -> Iterator[Link]:
    """Yield the links that a probe crosses, each the same in both directions."""
    for here, there in pairwise(path(probe.source, probe.target)):
        yield (here, there) if here < there else (there, here)


def batches(probes: Mapping[int, Probe], indexes: Iterable[int], room: Mapping[int, int]) -> Iterator[list[int]]:
    """Split the probes at `indexes` so that a batch needs at most `room[version]` neighbour entries.

    Both directions of a pair stand together, then all pairs between the same two nodes: they share entries.
    """
    batch: list[int] = []
    used: dict[int, set[Link]] = {4: set(), 6: set()}
    for index in sorted(indexes, key=lambda index: _place(probes[index])):
        probe = probes[index]
        known = used[probe.family]
        known.update(new := set(links(probe)) - known)
        if batch and new and len(known) * ENTRIES[probe.family] > room[probe.family]:
            yield batch
            batch = []
            used = {4: set(), 6: set()}
            used[probe.family].update(links(probe))
        batch.append(index)
    if batch:
        yield batch


def _place(probe: Probe) -> tuple[str, str, str, str]:
    source, target = probe.source, probe.target
    near, far = (source, target) if (source.node, source.name) < (target.node, target.name) else (target, source)
    return near.node, far.node, near.name, far.name
