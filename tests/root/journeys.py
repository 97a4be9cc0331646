"""What packets between pods must look like, hop by hop, made from what the kernel says of each member.

Read in order: `inside` and `run` (asking a member), `Side` (one end of a journey), `over_bridge`, `by_route`,
`by_vxlan`, `by_ipip` and `by_udp` (the hops from one side to the other; the way back is the same with the sides
exchanged).

A tap is "MEMBER INTERFACE", as in "n1 cni0"; the member "fabric" is the namespace of the underlay's bridges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pyroute2 import IPRoute

from netlab import names
from netlab.kernel import netns
from netlab.lab import Lab

T = TypeVar("T")
OUT, IN = "out", "in"  # as the tapped interface sees it
NO_MACS = ("", "")


# --- asking a member -------------------------------------------------------------------------------------------------


def netns_of(lab: Lab, member: str) -> str:
    """Return the namespace of a pod, node or router, or of the fabric."""
    return names.fabric(lab.name) if member == "fabric" else lab.netns(member)


def inside(lab: Lab, member: str, ask: Callable[[IPRoute], T]) -> T:
    """Ask the kernel of a member's namespace by pyroute2, which is an observer independent of netlab's own codec."""

    def asked() -> T:
        with IPRoute() as ipr:
            return ask(ipr)

    return netns.call(netns_of(lab, member), asked)


def run(lab: Lab, member: str, command: str) -> str:
    """Run a command line in a member's namespace and return its output; it must succeed."""
    done = lab.exec(member, ["sh", "-c", command])
    assert done.returncode == 0, f"{member}: {command}: {done.stderr}"
    return done.stdout


def macs(lab: Lab, member: str) -> dict[str, str]:
    """Return the MAC address of each interface, as the kernel has it."""
    return inside(lab, member, lambda ipr: {link.get("ifname"): link.get("address") for link in ipr.get_links()})


# --- what a packet should look like ----------------------------------------------------------------------------------


class Header(NamedTuple):
    """An Ethernet header (NO_MACS where there is none) and the IP header in it: sources first."""

    macs: tuple[str, str]
    ips: tuple[str, str]
    ttl: int


class Hop(NamedTuple):
    """A packet at a tap: which way it went, and its headers, outermost first (two in a tunnel)."""

    tap: str
    way: str
    headers: tuple[Header, ...]


@dataclass(frozen=True)
class Side:
    """One end of a journey: a pod and its node. IP addresses as the store has them, MACs as the kernel has them."""

    pod: str
    node: str
    port: str
    pod_ip: str
    node_ip: str
    vtep: str
    pod_mac: str
    bridge_mac: str
    vtep_mac: str
    uplink_mac: str

    @classmethod
    def of(cls, lab: Lab, pod: str, version: int = 4) -> Side:
        """Describe a pod of a running lab."""
        found = lab.topology.find_pod(pod)
        assert found is not None
        node, vni = found.node, getattr(lab.topology.backend, "vni", 1)
        vtep = f"flannel.{vni}" if version == 4 else f"flannel-v6.{vni}"
        mine = macs(lab, node)
        return cls(
            pod=pod,
            node=node,
            port=names.pod_port(pod, node),
            pod_ip=address(lab, pod, version),
            node_ip=address(lab, node, version),
            vtep=vtep,
            pod_mac=macs(lab, pod)["eth0"],
            bridge_mac=mine["cni0"],
            vtep_mac=mine.get(vtep, ""),
            uplink_mac=mine["eth0"],
        )


def address(lab: Lab, member: str, version: int = 4) -> str:
    """Return a member's address of an IP version."""
    return next(str(found) for found in lab.addresses(member) if found.version == version)


def over_bridge(src: Side, dst: Side) -> list[Hop]:
    """Return the hops between two pods of one node: one frame all the way, its MACs and its TTL untouched."""
    frame = (Header((src.pod_mac, dst.pod_mac), (src.pod_ip, dst.pod_ip), 64),)
    return [
        Hop(f"{src.pod} eth0", OUT, frame),
        Hop(f"{src.node} {src.port}", IN, frame),
        Hop(f"{dst.node} {dst.port}", OUT, frame),
        Hop(f"{dst.pod} eth0", IN, frame),
    ]


def _from_pod(src: Side, dst: Side) -> list[Hop]:
    """Return the hops from a pod to its node, which routes."""
    frame = (Header((src.pod_mac, src.bridge_mac), (src.pod_ip, dst.pod_ip), 64),)
    return [
        Hop(f"{src.pod} eth0", OUT, frame),
        Hop(f"{src.node} {src.port}", IN, frame),
        Hop(f"{src.node} cni0", IN, frame),
    ]


def _to_pod(src: Side, dst: Side, ttl: int = 62) -> list[Hop]:
    """Return the hops from a node to its pod, after both nodes have routed."""
    frame = (Header((dst.bridge_mac, dst.pod_mac), (src.pod_ip, dst.pod_ip), ttl),)
    return [
        Hop(f"{dst.node} cni0", OUT, frame),
        Hop(f"{dst.node} {dst.port}", OUT, frame),
        Hop(f"{dst.pod} eth0", IN, frame),
    ]


def on_wire(src: Side, dst: Side, *headers: Header) -> list[Hop]:
    """Return the hops between two nodes of one segment."""
    return [
        Hop(f"{src.node} eth0", OUT, headers),
        Hop(f"fabric {src.node}-eth0", IN, headers),
        Hop(f"fabric {dst.node}-eth0", OUT, headers),
        Hop(f"{dst.node} eth0", IN, headers),
    ]


def across_router(lab: Lab, src: Side, dst: Side, outer: Header, inner: Header) -> list[Hop]:
    """Return the hops between nodes of two racks, by the router r1 that is on n1's and n3's with its eth0.

    It takes one hop off the outer header.
    """
    near, far = ("eth0", "eth1") if src.node in ("n1", "n3") else ("eth1", "eth0")
    mac = macs(lab, "r1")
    before = (outer._replace(macs=(src.uplink_mac, mac[near])), inner)
    after = (outer._replace(macs=(mac[far], dst.uplink_mac), ttl=outer.ttl - 1), inner)
    return [
        Hop(f"{src.node} eth0", OUT, before),
        Hop(f"fabric {src.node}-eth0", IN, before),
        Hop(f"fabric r1-{near}", OUT, before),
        Hop(f"r1 {near}", IN, before),
        Hop(f"r1 {far}", OUT, after),
        Hop(f"fabric r1-{far}", IN, after),
        Hop(f"fabric {dst.node}-eth0", OUT, after),
        Hop(f"{dst.node} eth0", IN, after),
    ]


def by_route(src: Side, dst: Side) -> list[Hop]:
    """Return the hops between pods of two nodes on one segment without a tunnel: the peer node is the next hop."""
    bare = Header((src.uplink_mac, dst.uplink_mac), (src.pod_ip, dst.pod_ip), 63)
    return [*_from_pod(src, dst), *on_wire(src, dst, bare), *_to_pod(src, dst)]


def by_vxlan(src: Side, dst: Side, wire: list[Hop] | None = None) -> list[Hop]:
    """Return the hops between pods of two nodes through VXLAN; `wire` stands in for one segment's."""
    outer, inner = outer_header(src, dst), inner_header(src, dst)
    return [
        *_from_pod(src, dst),
        Hop(f"{src.node} {src.vtep}", OUT, (inner,)),
        *(wire or on_wire(src, dst, outer, inner)),
        Hop(f"{dst.node} {dst.vtep}", IN, (inner,)),
        *_to_pod(src, dst),
    ]


def by_ipip(src: Side, dst: Side, wire: list[Hop] | None = None) -> list[Hop]:
    """Return the hops between pods of two nodes through IP in IP; `wire` stands in for one segment's.

    The tunnel carries IP packets without Ethernet, and its outer header starts with the inner one's TTL.
    """
    inner = Header(NO_MACS, (src.pod_ip, dst.pod_ip), 63)
    return [
        *_from_pod(src, dst),
        Hop(f"{src.node} flannel.ipip", OUT, (inner,)),
        *(wire or on_wire(src, dst, outer_header(src, dst)._replace(ttl=63), inner)),
        Hop(f"{dst.node} flannel.ipip", IN, (inner,)),
        *_to_pod(src, dst),
    ]


def by_udp(src: Side, dst: Side, wire: list[Hop] | None = None) -> list[Hop]:
    """Return the hops between pods of two nodes through UDP; `wire` stands in for one segment's.

    The tunnel carries IP packets without Ethernet. Each forwarder takes a hop, as the nodes' kernels do.
    """
    inner = Header(NO_MACS, (src.pod_ip, dst.pod_ip), 63)
    return [
        *_from_pod(src, dst),
        Hop(f"{src.node} flannel0", OUT, (inner,)),
        *(wire or on_wire(src, dst, outer_header(src, dst), inner._replace(ttl=62))),
        Hop(f"{dst.node} flannel0", IN, (inner._replace(ttl=61),)),
        *_to_pod(src, dst, ttl=60),
    ]


def outer_header(src: Side, dst: Side) -> Header:
    """Return the outer headers between two nodes of one segment."""
    return Header((src.uplink_mac, dst.uplink_mac), (src.node_ip, dst.node_ip), 64)


def inner_header(src: Side, dst: Side) -> Header:
    """Return the inner headers: from VTEP to VTEP, after one node has routed."""
    return Header((src.vtep_mac, dst.vtep_mac), (src.pod_ip, dst.pod_ip), 63)


def taps_of(hops: Iterable[Hop]) -> list[str]:
    """Return where the hops are seen."""
    return [hop.tap for hop in hops]
