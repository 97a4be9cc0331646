"""Addresses and ports that nobody chose: cluster IPs, node ports, load balancers' addresses. Pure.

What users chose goes out first, then what Services hold already, then new ones: nobody is given what another may keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from netlab.controllers.ranges import PORT_BANDS, AddressRange, Range, static_band
from netlab.controllers.state import Key
from netlab.errors import PlanError
from netlab.topology.addresses import Address, Network
from netlab.topology.service import NODE_PORTS, Port, Service, ServiceType

KEPT = {1: ("default", "kubernetes"), 10: ("kube-system", "kube-dns")}  # by the address's place in a service CIDR
_INDEX = {key: index for index, key in KEPT.items()}


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a Service has. `node_ports` is as long as the Service's ports, 0 for one without."""

    cluster_ips: tuple[Address, ...] = ()
    node_ports: tuple[int, ...] = ()
    health_check_node_port: int = 0
    load_balancer_ips: tuple[Address, ...] = ()
    ip_families: tuple[int, ...] = ()


NOTHING = Allocation()


def allocate(
    services: Sequence[Service],
    held: Mapping[Key, Allocation],
    service_cidrs: Sequence[Network],
    load_balancer_cidrs: Sequence[Network],
) -> Mapping[Key, Allocation]:
    """Return what each Service gets. Raises PlanError for one that asks for what it cannot have."""
    allocator = Allocator(service_cidrs, load_balancer_cidrs)
    allocator.add(services, held)
    return allocator.allocations


def ip_families(service: Service, cluster: Sequence[int]) -> tuple[int, ...]:
    """Return the IP versions of a Service, its first one first, in a cluster that has these."""
    if service.type is ServiceType.EXTERNAL_NAME:
        return ()
    asked = dict.fromkeys((*service.ip_families, *(address.version for address in service.cluster_ips)))
    if service.dual_stack or (service.headless and not service.selector and not asked):
        asked |= dict.fromkeys(cluster)  # a headless one without selector is for whatever its endpoints are
    return tuple(asked) or tuple(cluster[:1])


@dataclass(slots=True)
class _Draft:
    """An Allocation in the making; it holds nothing that was not given out to it."""

    service: Service
    families: tuple[int, ...]
    nodes: list[int]
    cluster: dict[int, Address] = field(default_factory=dict)
    balancers: dict[int, Address] = field(default_factory=dict)
    health: int = 0

    def done(self) -> Allocation:
        return Allocation(
            tuple(self.cluster[family] for family in self.families if family in self.cluster),
            tuple(self.nodes),
            self.health,
            tuple(self.balancers[family] for family in self.families if family in self.balancers),
            self.families,
        )

    def shared(self, port: Port) -> int:
        """Return the node port of another protocol's port with the same number, which this one may have too."""
        taken = {(number, p.protocol) for number, p in zip(self.nodes, self.service.ports, strict=True)}
        numbers = (n for n, p in zip(self.nodes, self.service.ports, strict=True) if n and p.port == port.port)
        return next((number for number in numbers if (number, port.protocol) not in taken), 0)


class Allocator:
    """All that is given out in a cluster. One more Service costs no more in a large cluster than in a small one."""

    def __init__(self, service_cidrs: Sequence[Network], load_balancer_cidrs: Sequence[Network] = ()) -> None:
        self.allocations: dict[Key, Allocation] = {}
        self._ports: dict[Key, tuple[Port, ...]] = {}
        self._cluster: dict[int, AddressRange] = {}
        for cidr in service_cidrs:
            self._cluster[cidr.version] = AddressRange(cidr, banded=True, kept=tuple(KEPT))
        self._balancers = [AddressRange(cidr) for cidr in load_balancer_cidrs]
        band = static_band(len(NODE_PORTS), PORT_BANDS)
        self._nodes = Range(NODE_PORTS[0], NODE_PORTS[-1], band=band)

    def add(self, services: Iterable[Service], held: Mapping[Key, Allocation]) -> None:
        """Give each of these new Services what it needs, if possible what it held. Raises PlanError; then none has."""
        drafts: list[_Draft] = []
        families = tuple(self._cluster)
        try:
            for service in services:
                drafts.append(_Draft(service, ip_families(service, families), [0] * len(service.ports)))
                self._grant_chosen(drafts[-1])
            for draft in drafts:
                self._grant_held(draft, held.get(draft.service.key, NOTHING))
            for draft in drafts:
                self._grant_new(draft)
        except PlanError:
            for draft in drafts:
                self._free(draft.done())
            raise
        self.allocations.update((draft.service.key, draft.done()) for draft in drafts)
        self._ports.update((draft.service.key, draft.service.ports) for draft in drafts)

    def update(self, service: Service) -> Allocation:
        """Return what a new or changed Service has now. Raises PlanError; then it has what it had."""
        before = self.allocations.get(service.key, NOTHING)
        self._free(before)
        try:
            self.add([service], {service.key: _by_port_name(before, self._ports.get(service.key, ()), service)})
        except PlanError:
            self._take_again(before, service.key)
            raise
        return self.allocations[service.key]

    def reinstate(self, service: Service, allocation: Allocation) -> None:
        """Give a Service exactly what it had before a change that is taken back; what others got since goes first."""
        self._free(self.allocations.get(service.key, NOTHING))
        self._take_again(allocation, service.key)
        self.allocations[service.key] = allocation
        self._ports[service.key] = service.ports

    def remove(self, key: Key) -> None:
        """Take back what a Service has."""
        self._ports.pop(key, None)
        self._free(self.allocations.pop(key, NOTHING))

    def _grant_chosen(self, draft: _Draft) -> None:
        service = draft.service
        for family in draft.families:
            if family not in self._cluster:
                raise _refusal(service, f"it wants IPv{family}", "the lab has no such service CIDR", "add one")
        if service.has_cluster_ip:
            for address in service.cluster_ips or self._kept_for(service, draft.families):
                self._grant_cluster_ip(draft, address)
        for index, port in enumerate(service.ports):
            if port.node_port and service.type in (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER):
                if port.node_port != draft.shared(port):
                    self._grant_node_port(service, f"nodePort {port.node_port}", port.node_port)
                draft.nodes[index] = port.node_port
        if service.needs_health_check and (number := service.health_check_node_port):
            self._grant_node_port(service, f"healthCheckNodePort {number}", number)
            draft.health = number
        if service.type is ServiceType.LOAD_BALANCER and service.load_balancer_ip:
            self._grant_balancer(draft, service.load_balancer_ip)

    def _grant_cluster_ip(self, draft: _Draft, address: Address) -> None:
        service, addresses = draft.service, self._cluster[address.version]
        what = f"clusterIP {address}"
        if address not in addresses:
            raise _refusal(service, what, f"it is not in {addresses.network}", "choose another, or leave it out")
        keeper = next((key for index, key in KEPT.items() if addresses.number(index) == address), service.key)
        if keeper != service.key:
            raise _refusal(service, what, f"it is kept for Service {keeper[0]}/{keeper[1]}", "choose another")
        if not addresses.take(address, service.key):
            raise _refusal(service, what, _taken(addresses.owner(address)), "choose another, or leave it out")
        draft.cluster[address.version] = address

    def _grant_node_port(self, service: Service, what: str, number: int) -> None:
        if number not in self._nodes:
            limits = f"{NODE_PORTS[0]} to {NODE_PORTS[-1]}"
            raise _refusal(service, what, f"node ports are {limits}", "choose one of these, or leave it out")
        if not self._nodes.take(number, service.key):
            raise _refusal(service, what, _taken(self._nodes.owner(number)), "choose another, or leave it out")

    def _grant_balancer(self, draft: _Draft, address: Address) -> None:
        what, pool = f"loadBalancerIP {address}", self._pool(address)
        if pool is None:
            raise _refusal(draft.service, what, "no load balancer pool of the lab has it", "choose one of a pool")
        if not pool.take(address, draft.service.key):
            raise _refusal(draft.service, what, _taken(pool.owner(address)), "choose another, or leave it out")
        draft.balancers[address.version] = address

    def _grant_held(self, draft: _Draft, held: Allocation) -> None:
        """Give what is held, where it is still wanted and free."""
        service = draft.service
        for address in held.cluster_ips if service.has_cluster_ip else ():
            family = address.version
            free = family in draft.families and family not in draft.cluster and address not in self._kept_all(family)
            if free and self._cluster[family].take(address, service.key):
                draft.cluster[family] = address
        for index, (port, number) in enumerate(zip_longest(service.ports, held.node_ports[: len(service.ports)])):
            if not number or not service.has_node_ports or draft.nodes[index]:
                continue
            if number == draft.shared(port) or self._nodes.take(number, service.key):
                draft.nodes[index] = number
        number = held.health_check_node_port
        if service.needs_health_check and not draft.health and self._nodes.take(number, service.key):
            draft.health = number
        for address in held.load_balancer_ips if _wants_balancer(service) else ():
            pool = self._pool(address)
            if pool and address.version in draft.families and pool.take(address, service.key):
                draft.balancers[address.version] = address

    def _grant_new(self, draft: _Draft) -> None:
        service, key = draft.service, draft.service.key
        for family in draft.families if service.has_cluster_ip else ():
            if family not in draft.cluster:
                found = self._cluster[family].take_next(key)
                if found is None:
                    raise _full(service, "clusterIP", [self._cluster[family]], "take a larger service CIDR")
                draft.cluster[family] = found
        for index, port in enumerate(service.ports):
            if service.has_node_ports and not draft.nodes[index]:
                draft.nodes[index] = draft.shared(port) or self._next_node_port(service, "nodePort")
        if service.needs_health_check and not draft.health:
            draft.health = self._next_node_port(service, "healthCheckNodePort")
        for family in draft.families if _wants_balancer(service) else ():
            pools = [pool for pool in self._balancers if pool.network.version == family]
            if pools and family not in draft.balancers:  # without a pool it waits for one, as in any cluster
                found = next((address for pool in pools if (address := pool.take_next(key))), None)
                if found is None:
                    raise _full(service, "load balancer address", pools, "take a larger pool")
                draft.balancers[family] = found

    def _next_node_port(self, service: Service, what: str) -> int:
        number = self._nodes.take_next(service.key)
        if number is None:
            why = f"all {len(self._nodes)} from {NODE_PORTS[0]} to {NODE_PORTS[-1]} are taken"
            raise _refusal(
                service, f"no free {what}", why, "delete Services, or set allocateLoadBalancerNodePorts: false"
            )
        return number

    def _pool(self, address: Address) -> AddressRange | None:
        return next((pool for pool in self._balancers if address in pool), None)

    def _kept_for(self, service: Service, families: tuple[int, ...]) -> list[Address]:
        """Return what is kept for a Service that did not choose; nothing where the network is too small."""
        index = _INDEX.get(service.key)
        found = [] if index is None else [self._cluster[family].number(index) for family in families]
        return [address for address in found if address]

    def _kept_all(self, family: int) -> set[Address | None]:
        return {self._cluster[family].number(index) for index in KEPT}

    def _free(self, allocation: Allocation) -> None:
        for address in allocation.cluster_ips:
            self._cluster[address.version].release(address)
        for address in allocation.load_balancer_ips:
            if pool := self._pool(address):
                pool.release(address)
        for number in (*allocation.node_ports, allocation.health_check_node_port):
            if number:
                self._nodes.release(number)

    def _take_again(self, allocation: Allocation, key: Key) -> None:
        for address in allocation.cluster_ips:
            self._cluster[address.version].take(address, key)
        for address in allocation.load_balancer_ips:
            if pool := self._pool(address):
                pool.take(address, key)
        for number in (*allocation.node_ports, allocation.health_check_node_port):
            self._nodes.take(number, key)


def _wants_balancer(service: Service) -> bool:
    return service.type is ServiceType.LOAD_BALANCER and not service.load_balancer_ip


def _by_port_name(held: Allocation, before: tuple[Port, ...], service: Service) -> Allocation:
    """Return what is held with its node ports in the order of the Service's ports, which are known by name."""
    numbers = {port.name: number for port, number in zip(before, held.node_ports, strict=True)}
    nodes = tuple(numbers.get(port.name, 0) for port in service.ports)
    return Allocation(held.cluster_ips, nodes, held.health_check_node_port, held.load_balancer_ips)


def _taken(owner: Key | None) -> str:
    return f"Service {owner[0]}/{owner[1]} has it" if owner else "it is taken"


def _refusal(service: Service, what: str, why: str, hint: str) -> PlanError:
    return PlanError(f"Service {service.namespace}/{service.name}: {what}: {why}", hint)


def _full(service: Service, what: str, ranges: Sequence[AddressRange], hint: str) -> PlanError:
    networks = ", ".join(str(found.network) for found in ranges)
    count = sum(map(len, ranges))
    return _refusal(service, f"no free {what}", f"all {count} addresses of {networks} are taken", hint)
