"""Whose the namespaces and podCIDRs of a lab are."""

from __future__ import annotations

import errno

from netlab import names
from netlab.errors import KernelError
from netlab.found import FoundLab
from netlab.kernel import netns
from netlab.trace.model import UNDERLAY, Places


def find_namespaces(lab: FoundLab) -> dict[int, str]:
    """Return the lab's namespaces by inode. Raises KernelError when there are none."""
    fabric = names.fabric(lab.name)
    found = {}
    for name in (fabric, *netns.names(f"{fabric}.")):
        try:
            found[netns.inode(name)] = name
        except FileNotFoundError:
            continue
    if len(found) < 2:
        raise KernelError(errno.ENOENT, f"look into lab {lab.name}", "it is not up", "`netlab up FILE` brings it up")
    return found


def find_places(lab: FoundLab) -> Places:
    """Return who is meant by each namespace and podCIDR."""
    members = {}
    for name in find_namespaces(lab).values():
        owner = names.find_owner(name)
        members[name] = (owner.name if owner else name) or UNDERLAY
    leases = {cidr: lease.node for lease in lab.snapshot.leases.values() for cidr in lease.pod_cidrs}
    return Places(members, leases, names.ROUTE_PROTOCOL)
