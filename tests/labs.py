"""Topologies made in code, for tests that want many of them."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_network

from netlab.plan.build import build
from netlab.plan.objects import Plan
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import (
    Backend,
    BridgeBackend,
    HostGwBackend,
    Netfilter,
    Node,
    Pod,
    Proxy,
    Role,
    Router,
    Segment,
    Topology,
    UdpBackend,
    VxlanBackend,
)

V4, V6 = ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")
UNDERLAY4, UNDERLAY6 = ip_network("172.18.0.0/16"), ip_network("fd00:172:18::/64")


def topology(
    name: str,
    *,
    nodes: int = 3,
    pods: int = 6,
    backend: Backend | None = None,
    dual_stack: bool = False,
    mtu: int = 1500,
    proxy: Proxy = Proxy.NONE,
) -> Topology:
    """Return a flat lab: `nodes` nodes n1, n2... on one segment, `pods` pods p-1, p-2... spread over them.

    Without Services unless a mode is given: they have tests of their own, and take their time to start.
    """
    return Topology(
        name=name,
        cluster_cidrs=(V4, V6) if dual_stack else (V4,),
        service_cidrs=(ip_network("10.96.0.0/16"),),
        node_mask_ipv4=24,
        node_mask_ipv6=64,
        backend=backend or VxlanBackend(),
        ip_masq=True,
        netfilter=Netfilter.IPTABLES,
        segments=(Segment("underlay", (UNDERLAY4, UNDERLAY6) if dual_stack else (UNDERLAY4,), mtu),),
        routers=(),
        nodes=tuple(Node(f"n{i + 1}", "underlay") for i in range(nodes)),
        pods=tuple(Pod(f"p-{i + 1}", f"n{i % nodes + 1}") for i in range(pods)),
        proxy=proxy,
    )


def routed(name: str, backend: Backend, *, nodes: int = 4) -> Topology:
    """Return a lab of two segments joined by one router; odd nodes on the first, even ones on the second."""
    segments = tuple(Segment(f"rack{i}", (ip_network(f"172.18.{i}.0/24"),), 1500) for i in (1, 2))
    return replace(
        topology(name, nodes=nodes, pods=nodes, backend=backend),
        segments=segments,
        routers=(Router("r1", ("rack1", "rack2")),),
        nodes=tuple(Node(f"n{i + 1}", f"rack{i % 2 + 1}") for i in range(nodes)),
    )


def planned(wanted: Topology, held: Snapshot | None = None) -> Plan:
    """Return a topology's plan, with its first allocations."""
    return build(wanted, allocate(wanted, held or Snapshot()))


def random_topology(name: str, seed: int) -> Topology:
    """Return one of many topologies of one lab: the same for the same seed."""
    draw = random.Random(seed)
    backends = [
        BridgeBackend(),
        HostGwBackend(),
        VxlanBackend(),
        VxlanBackend(vni=7, port=4789),
        VxlanBackend(mtu=1400),
        UdpBackend(),
        UdpBackend(port=8286),
    ]
    backend = draw.choice([*backends, VxlanBackend(direct_routing=True)])
    if draw.random() < 0.3:
        base = routed(name, backend, nodes=draw.randint(2, 4))
    else:
        nodes, pods = draw.randint(1, 4), draw.randint(0, 6)
        dual_stack, mtu = draw.random() < 0.3 and not isinstance(backend, UdpBackend), draw.choice([1500, 9000])
        base = topology(name, nodes=nodes, pods=pods, backend=backend, dual_stack=dual_stack, mtu=mtu)
    if draw.random() < 0.3:
        base = replace(base, nodes=(*base.nodes, Node("client", base.segments[0].name, Role.EXTERNAL)))
    return replace(base, netfilter=draw.choice(list(Netfilter)), ip_masq=draw.random() < 0.7)
