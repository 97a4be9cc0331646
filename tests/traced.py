"""Traces made in code, for what draws and writes them: no kernel, the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from netlab import names
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.addresses import Address
from netlab.topology.model import Topology
from netlab.trace.changes import changes
from netlab.trace.correlate import Role
from netlab.trace.headers import Ethernet, Headers, Ip, Tcp, Udp, Vxlan
from netlab.trace.model import UNDERLAY, Cause, Drop, Event, Hop, Source, Topic, Trace, Verdict, Way
from tests import labs

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{script}} & \" '"
SERVICE = ip_address("10.96.0.80")
RULE = Cause(Topic.RULE, "nat KUBE-SVC: -m statistic --probability 0.5 -j KUBE-SEP", HOSTILE, Source.SEEN)
ROUTE = Cause(Topic.ROUTE, "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink", "lease of n2")


def lab(*, nodes: int = 3, pods: int = 6) -> tuple[Topology, Snapshot]:
    """Return a lab with VXLAN and what it allocates."""
    topology = labs.topology("traced", nodes=nodes, pods=pods)
    return topology, allocate(topology, Snapshot())


def packet(src: Address, dst: Address, *, ttl: int, port: int, macs: str = "01", wrapped: bool = False) -> Headers:
    """Return a SYN's headers, in VXLAN between n1 and n2 if it is wrapped."""
    inner = (
        Ethernet(f"0a:58:0a:f4:{macs}:02", f"0a:58:0a:f4:{macs}:01", 0x0800),
        Ip(4, src, dst, 6, ttl, 60, 4711, dont_fragment=True),
        Tcp(40000, port, 1, 0, "S"),
    )
    if not wrapped:
        return inner
    ends = ip_address("172.18.0.2"), ip_address("172.18.0.3")
    around = Ethernet("02:00:00:00:00:01", "02:00:00:00:00:02", 0x0800), Ip(4, *ends, 17, 64, 110), Udp(50000, 8472)
    return (*around, Vxlan(1), *inner)


def service(topology: Topology, snapshot: Snapshot) -> Trace:
    """Return a trace from p-1 on n1 to a Service, which p-2 on n2 answers."""
    (client,), (server,) = snapshot.pods["p-1"], snapshot.pods["p-2"]
    first = packet(client, SERVICE, ttl=64, port=80)
    changed = packet(client, server, ttl=64, port=8080)
    routed = packet(client, server, ttl=63, port=8080, macs="ee")
    around = packet(client, server, ttl=63, port=8080, macs="ee", wrapped=True)
    there = [
        ("p-1", "eth0", Event.OUT, first),
        ("n1", names.pod_port("p-1", "n1"), Event.IN, first),
        ("n1", "cni0", Event.IN, changed),
        ("n1", "flannel.1", Event.OUT, routed),
        ("n1", "eth0", Event.OUT, around),
        (UNDERLAY, "n1-eth0", Event.IN, around),
        (UNDERLAY, "n2-eth0", Event.OUT, around),
        ("n2", "eth0", Event.IN, around),
        ("n2", "flannel.1", Event.IN, routed),
        ("n2", "cni0", Event.OUT, packet(client, server, ttl=62, port=8080, macs="02")),
        ("n2", names.pod_port("p-2", "n2"), Event.OUT, packet(client, server, ttl=62, port=8080, macs="02")),
        ("p-2", "eth0", Event.IN, packet(client, server, ttl=62, port=8080, macs="02")),
        ("p-2", "eth0", Event.DELIVERED, packet(client, server, ttl=62, port=8080, macs="02")),
    ]
    answer = packet(server, client, ttl=64, port=40000, macs="02")
    back = [("p-2", "eth0", Event.OUT, answer), ("n2", names.pod_port("p-2", "n2"), Event.IN, answer)]
    other = next(pod.name for pod in topology.pods if pod.node == "n1" and pod.name != "p-1")
    copy = [("n1", names.pod_port(other, "n1"), Event.OUT, first), (other, "eth0", Event.IN, first)]
    probe = Way(Role.PROBE, tuple(hops(there)), copies=(tuple(hops(copy, start=1500)),))
    ways = (probe, Way(Role.ANSWER, tuple(hops(back, start=90_000))))
    return Trace("traced", "p-1 -> svc/web (tcp to 10.96.0.80:80)", Verdict.ANSWERED, "p-2 answered", ways, "a test")


def dropped(topology: Topology, snapshot: Snapshot) -> Trace:
    """Return the same trace up to n2's VXLAN device, where a rule drops the packet."""
    whole = service(topology, snapshot)
    kept = whole.ways[0].hops[:9]
    end = replace(kept[-1], event=Event.DROPPED, time=kept[-1].time + 500, changes=(), causes=(RULE,))
    drop = Drop("NETFILTER_DROP", "nft_do_chain", "a packet filter rule on n2 dropped it", f"look at {HOSTILE}")
    way = Way(Role.PROBE, (*kept, end), drop=drop)
    summary = f"dropped on n2, flannel.1: {drop.sentence}"
    return replace(whole, verdict=Verdict.DROPPED, summary=summary, ways=(way,), remarks=(HOSTILE,))


def hops(steps: list[tuple[str, str, Event, Headers]], *, start: int = 0) -> Iterator[Hop]:
    """Yield hops 1 us apart, each with what changed; a rule where the destination did, a route where the TTL did."""
    before: Headers | None = None
    for number, (member, device, event, headers) in enumerate(steps):
        changed = changes(before, headers) if before else ()
        causes = [RULE] if any("destination" in change for change in changed) else []
        causes += [ROUTE] if any("ttl" in change for change in changed) else []
        namespace = names.fabric("traced") if member == UNDERLAY else names.netns("traced", member)
        time = start + number * 1000
        yield Hop(time, member, namespace, device, number + 2, event, headers, changed, tuple(causes))
        before = headers
