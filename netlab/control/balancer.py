"""The load balancer outside: it brings clients' packets for a load balancer's address to nodes that take them.

As one that announces routes does it (MetalLB with BGP, a cloud's router): every external machine and router has a route
to each address, with one next hop for each node of its own segments that may be used. Under policy Cluster that is any
node, under Local one with a ready endpoint, as its health check says. Where no node may be used there is no route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from netlab import names
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.store.store import Snapshot
from netlab.topology.addresses import Address
from netlab.topology.model import Role, Topology

NextHops = Mapping[Address, tuple[Address, ...]]  # by destination
Wanted = tuple[int, NextHops]  # for the namespace of this inode number
Uses = Mapping[Address, frozenset[str]]  # an address to the nodes that take its packets

RETRY = 5.0  # seconds after a write that failed

Say = Callable[[str], None]


def wanted_routes(topology: Topology, snapshot: Snapshot, uses: Uses) -> dict[str, NextHops]:
    """Return the routes of each external machine and router, by its name."""
    segment_of = {node.name: node.segment for node in topology.cluster_nodes}
    joined = {router.name: set(router.segments) for router in topology.routers}
    joined |= {node.name: {node.segment} for node in topology.nodes if node.role is Role.EXTERNAL}
    return {
        member: dict(_routes(snapshot, uses, [name for name, segment in segment_of.items() if segment in segments]))
        for member, segments in joined.items()
    }


def _routes(snapshot: Snapshot, uses: Uses, near: Sequence[str]) -> Iterable[tuple[Address, tuple[Address, ...]]]:
    for address, nodes in uses.items():
        found = (snapshot.leases[name].public_ip(address.version) for name in near if name in nodes)
        if hops := tuple(hop for hop in found if hop):
            yield address, hops


class Balancer:
    """Keeps the routes to a lab's load balancer addresses."""

    def __init__(self, lab: str, say: Say) -> None:
        self._lab = lab
        self._say = say
        self._wanted: Mapping[str, Wanted] = {}
        self._written: dict[str, Wanted] = {}
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._keep())

    def want(self, wanted: Mapping[str, Wanted]) -> None:
        """Take the routes that there should be, by machine; they are written soon."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._wake.set()

    def close(self) -> None:
        """End the task; the routes stay."""
        self._task.cancel()

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for member, wanted in self._wanted.items():
                if self._written.get(member) == wanted:
                    continue
                try:
                    await asyncio.to_thread(netns.call, names.netns(self._lab, member), _write, wanted[1])
                    self._written[member] = wanted
                except (NetlabError, OSError) as exc:
                    self._say(f"routes of {member} to load balancer addresses: {exc}")
                    asyncio.get_running_loop().call_later(RETRY, self._wake.set)


def _write(routes: NextHops) -> None:
    """Make the routes to load balancer addresses of this thread's namespace these."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ipr:
        present = {route.get_attr("RTA_DST") for route in ipr.get_routes(proto=names.BALANCER_PROTOCOL)}
        try:
            for address, hops in routes.items():
                ways = [{"gateway": str(hop)} for hop in hops]
                target = {"gateway": str(hops[0])} if len(hops) == 1 else {"multipath": ways}
                dst = f"{address}/{address.max_prefixlen}"
                ipr.route("replace", dst=dst, proto=names.BALANCER_PROTOCOL, **target)
            for dst in present - {str(address) for address in routes}:
                ipr.route("del", dst=dst, proto=names.BALANCER_PROTOCOL)
        except NetlinkError as exc:
            raise NetlabError(f"the kernel refuses one: {exc}") from exc
