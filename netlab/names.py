"""Every name that netlab generates, its limits, and its inverse.

A lab `demo` with a node `n1` and a pod `web-1` is three namespaces under /run/netns:

    nl-demo         the fabric: underlay bridges
    nl-demo.n1      the node
    nl-demo.web-1   the pod

Names in a topology are DNS labels (RFC 1123), which hold no dot: so the inverse is exact. Nodes, routers and pods
share one set of names, because `netlab exec NAME` takes any of them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NETNS_DIR = "/run/netns"
PREFIX = "nl-"
IFNAME_MAX = 15  # IFNAMSIZ - 1 (linux/if.h)
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
LABEL_MAX = 63  # RFC 1123
LAB_MAX = 63

LINK_GROUP = 0x6E6C  # "nl": marks the interfaces that netlab made (`ip link show group 28268`)
BALANCER_PROTOCOL = 111  # marks routes that the control plane made, which come and go by themselves
ROUTE_PROTOCOL = 110  # marks the routes that netlab made (`ip route show proto 110`); facts.md 11.4 lists those taken


class Owner(NamedTuple):
    """Whose namespace it is: `name` is empty for the fabric."""

    lab: str
    name: str


def fabric(lab: str) -> str:
    """Name the namespace that holds a lab's underlay bridges."""
    return f"{PREFIX}{lab}"


def netns(lab: str, name: str) -> str:
    """Name the namespace of a node, router or pod."""
    return f"{PREFIX}{lab}.{name}"


def find_owner(netns_name: str) -> Owner | None:
    """Say which lab and member a namespace belongs to; None when it is not netlab's."""
    if not netns_name.startswith(PREFIX):
        return None
    lab, _, name = netns_name.removeprefix(PREFIX).partition(".")
    return Owner(lab, name) if LABEL.match(lab) else None


def short_hash(*parts: str, digits: int = 8) -> str:
    """Return stable hexadecimal digits for the given parts."""
    import hashlib  # brings OpenSSL, which takes 4 ms to load

    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:digits]


def pod_port(pod: str, node: str) -> str:
    """Name the node's end of a pod's cable: `veth` and 8 hex digits, as the CNI bridge plugin does (facts.md 2.6).

    The node is part of the hash, so that a pod that moves gets a new cable.
    """
    return f"veth{short_hash(pod, node)}"


def fabric_port(member: str, interface: str) -> str:
    """Name the fabric's end of a node's or router's cable: `n1-eth0`, shortened with a hash where it is too long."""
    name = f"{member}-{interface}"
    return name if len(name) <= IFNAME_MAX else f"{member[:5]}~{short_hash(member, interface)}"


def segment_bridge(segment: str) -> str:
    """Name the fabric's bridge for an underlay segment."""
    return segment if len(segment) <= IFNAME_MAX else f"{segment[:5]}~{short_hash(segment)}"


def mac(*parts: str) -> str:
    """Return a stable, locally administered unicast MAC address for an interface."""
    digits = short_hash(*parts, digits=10)
    return "02:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


def mac_of_ipv4(address: bytes) -> str:
    """Return Kubernetes' customary MAC for a pod's IPv4 address: 0a:58 and the four bytes of the address."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in address)
