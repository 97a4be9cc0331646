"""A topology with every default filled in and every short form written out, before anybody knows whether it is right.

`expand` makes a `Draft` of what the file says: model values, each with the field that it came from. The rules read it;
when none objects, `Draft.topology` is the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import cycle, islice

from netlab.topology import model
from netlab.topology.fields import PODS_MAX
from netlab.topology.findings import Loc, Placed
from netlab.topology.model import Network, Role
from netlab.topology.partial import Partial
from netlab.topology.pod_schema import ContainerSpec, PodSpec
from netlab.topology.proxy_schema import PRIMARY
from netlab.topology.schema import (
    BACKENDS,
    BridgeSpec,
    CheckSpec,
    HostGwSpec,
    IpipSpec,
    NodeSpec,
    TopologyFile,
    UdpSpec,
    VxlanSpec,
)
from netlab.topology.service import Service
from netlab.topology.service_schema import ServiceSpec
from netlab.topology.spec import Spec
from netlab.topology.values import container_ports, env, host_aliases, labels, probe, service_value

DEFAULT_SEGMENT = "underlay"
UNDERLAY_DEFAULTS: dict[int, Network] = {4: ip_network("172.18.0.0/16"), 6: ip_network("fd00:172:18::/64")}
SERVICE_DEFAULTS: dict[int, Network] = {4: ip_network("10.96.0.0/16"), 6: ip_network("fd00:10:96::/112")}
LOAD_BALANCER_DEFAULTS: dict[int, Network] = {  # for documentation: RFC 5737 and RFC 3849
    4: ip_network("203.0.113.0/24"),
    6: ip_network("2001:db8:113::/112"),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """Every part of a topology with its place in the file. A field that was not given has the place ()."""

    partial: Partial
    name: str
    cluster_cidrs: tuple[Placed[Network], ...]
    service_cidrs: tuple[Placed[Network], ...]
    load_balancer_cidrs: tuple[Placed[Network], ...]
    backend: model.Backend
    segments: tuple[Placed[model.Segment], ...]
    routers: tuple[Placed[model.Router], ...]
    nodes: tuple[Placed[model.Node], ...]
    pods: tuple[Placed[model.Pod], ...]
    checks: tuple[Placed[model.Check], ...]
    services: tuple[Placed[Service], ...]

    @property
    def spec(self) -> TopologyFile:
        """Return the file's own fields."""
        return self.partial.spec

    @property
    def families(self) -> tuple[int, ...]:
        """Return the IP versions of the pod network."""
        return tuple(cidr.value.version for cidr in self.cluster_cidrs)

    @property
    def cluster_nodes(self) -> list[model.Node]:
        """Return the nodes that carry pods."""
        return [node for _, node in self.nodes if node.role is Role.CLUSTER]

    def node_mask(self, version: int) -> int:
        """Return the prefix length of a podCIDR: the one given, or flannel's default (facts.md 1.2)."""
        given = self.spec.node_mask_ipv4 if version == 4 else self.spec.node_mask_ipv6
        if given is not None:
            return given
        usual, longest = (24, 22) if version == 4 else (64, 62)
        cluster = next((cidr.value for cidr in self.cluster_cidrs if cidr.value.version == version), None)
        return usual if cluster is None or cluster.prefixlen <= longest else cluster.prefixlen + 2

    def address_loc(self, loc: Loc, address: model.Address) -> Loc:
        """Return the place of an address that an entry of `nodes`, `external` or `pods` gives."""
        spec: NodeSpec | PodSpec = getattr(self.spec, str(loc[0]))[loc[1]]
        return (*loc, "ip", spec.ip.index(address))

    def topology(self) -> model.Topology:
        """Return the topology as it is."""
        return model.Topology(
            name=self.name,
            cluster_cidrs=tuple(cidr for _, cidr in self.cluster_cidrs),
            service_cidrs=tuple(cidr for _, cidr in self.service_cidrs),
            node_mask_ipv4=self.node_mask(4),
            node_mask_ipv6=self.node_mask(6),
            backend=self.backend,
            ip_masq=self.spec.ip_masq,
            netfilter=model.Netfilter(self.spec.netfilter),
            segments=tuple(segment for _, segment in self.segments),
            routers=tuple(router for _, router in self.routers),
            nodes=tuple(node for _, node in self.nodes),
            pods=tuple(pod for _, pod in self.pods),
            checks=tuple(check for _, check in self.checks),
            services=tuple(service for _, service in self.services),
            proxy=model.Proxy(self.spec.proxy),
            ipvs=model.Ipvs(self.spec.ipvs.scheduler, self.spec.ipvs.strict_arp),
            kube_proxy=_kube_proxy(self.spec),
            load_balancer_cidrs=tuple(cidr for _, cidr in self.load_balancer_cidrs),
        )


def expand(partial: Partial, name: str, backend: str | None = None) -> Draft:
    """Write a file out in full. `backend` overrides the file's type; options that it shares are kept."""
    spec = partial.spec
    cluster = _cidrs("clusterCIDR" if "cluster_cidr" in spec.model_fields_set else "", spec.cluster_cidr)
    families = [cidr.value.version for cidr in cluster]
    segments = tuple(_segments(spec, families))
    only_segment = segments[0].value.name if len(segments) == 1 else ""
    nodes = (
        *_nodes(partial, "nodes", Role.CLUSTER, only_segment),
        *_nodes(partial, "external", Role.EXTERNAL, only_segment),
    )
    return Draft(
        partial=partial,
        name=name,
        cluster_cidrs=cluster,
        service_cidrs=_cidrs_or("serviceCIDR", spec.service_cidr, SERVICE_DEFAULTS, families),
        load_balancer_cidrs=_cidrs_or("loadBalancerCIDR", spec.load_balancer_cidr, LOAD_BALANCER_DEFAULTS, families),
        backend=_backend(spec.backend, backend),
        segments=segments,
        routers=tuple(
            Placed(("underlay", "routers", router), model.Router(router, tuple(joined)))
            for router, joined in spec.underlay.routers.items()
        ),
        nodes=nodes,
        pods=tuple(islice(_pods(partial, [node.name for _, node in nodes if node.role is Role.CLUSTER]), PODS_MAX)),
        checks=tuple(Placed(loc, _check(check)) for loc, check in partial.entries("checks")),
        services=tuple(Placed(loc, _service(service)) for loc, service in partial.entries("services")),
    )


def _cidrs(field: str, cidrs: Sequence[Network]) -> tuple[Placed[Network], ...]:
    """Place the CIDRs of a field, IPv4 first. Those of no field are defaults."""
    placed = [Placed((field, i) if field else (), cidr) for i, cidr in enumerate(cidrs)]
    return tuple(sorted(placed, key=lambda cidr: cidr.value.version))


def _cidrs_or(
    field: str, given: Sequence[Network] | None, defaults: Mapping[int, Network], families: Sequence[int]
) -> tuple[Placed[Network], ...]:
    """Place the CIDRs of a field, or the defaults of some IP versions."""
    return _cidrs(field, given) if given else _cidrs("", [defaults[version] for version in families])


def _backend(spec: Spec, override: str | None) -> model.Backend:
    """Return the backend that a file asks for, or another one with those of its options that the other has."""
    if override is not None:
        options = {name: value for name, value in spec if name != "type" and name in BACKENDS[override].model_fields}
        spec = BACKENDS[override].model_construct(type=override, **options)
    match spec:
        case VxlanSpec():
            return model.VxlanBackend(
                vni=spec.vni,
                port=spec.port or 8472,
                direct_routing=spec.direct_routing,
                mtu=spec.mtu,
                learning=spec.learning,
                gbp=spec.gbp,
            )
        case IpipSpec():
            return model.IpipBackend(direct_routing=spec.direct_routing)
        case UdpSpec():
            return model.UdpBackend(port=spec.udp_port, forwarder=model.ForwarderKind(spec.forwarder))
        case HostGwSpec():
            return model.HostGwBackend()
        case _:
            assert isinstance(spec, BridgeSpec)
            return model.BridgeBackend()


def _kube_proxy(spec: TopologyFile) -> model.KubeProxy:
    places = spec.node_port_addresses
    networks = tuple(place for place in places if not isinstance(place, str))
    return model.KubeProxy(
        node_port_addresses=model.NodePortAddresses(PRIMARY in places, networks),
        masquerade_all=spec.iptables.masquerade_all,
        nftables_masquerade_all=spec.nftables.masquerade_all,
        localhost_node_ports=spec.iptables.localhost_node_ports,
        tcp_be_liberal=spec.conntrack.tcp_be_liberal,
    )


def _segments(spec: TopologyFile, families: Sequence[int]) -> Iterator[Placed[model.Segment]]:
    """Yield the segments, or the one that there is when none is named."""
    underlay = spec.underlay
    for name, segment in underlay.segments.items():
        cidrs = sorted(segment.cidr, key=lambda cidr: cidr.version)
        yield Placed(("underlay", "segments", name), model.Segment(name, tuple(cidrs), segment.mtu or underlay.mtu))
    if not underlay.segments:
        cidrs = underlay.cidr or [UNDERLAY_DEFAULTS[version] for version in families]
        ordered = tuple(sorted(cidrs, key=lambda cidr: cidr.version))
        yield Placed(("underlay",), model.Segment(DEFAULT_SEGMENT, ordered, underlay.mtu))


def _nodes(partial: Partial, section: str, role: Role, only_segment: str) -> Iterator[Placed[model.Node]]:
    """Yield the machines of a section. The segment is empty when it should have been given and was not."""
    spec: NodeSpec
    for loc, spec in partial.entries(section):
        proxy = None if spec.proxy is None else model.Proxy(spec.proxy)
        yield Placed(loc, model.Node(spec.name, spec.segment or only_segment, role, _addresses(spec), proxy))


def _addresses(spec: NodeSpec | PodSpec) -> tuple[model.Address, ...]:
    return tuple(sorted(spec.ip, key=lambda address: address.version))


def pods_of(spec: PodSpec, nodes: int) -> int:
    """Return how many pods an entry stands for in a cluster of so many nodes."""
    if spec.per_node is not None:
        return spec.per_node * nodes
    return 1 if spec.replicas is None else spec.replicas


def _pods(partial: Partial, nodes: list[str]) -> Iterator[Placed[model.Pod]]:
    """Yield every pod. Those without a node of their own are dealt out to the nodes in turn, over all entries.

    The node is empty when there is none.
    """
    turns = cycle(nodes or [""])
    spec: PodSpec
    for loc, spec in partial.entries("pods"):
        numbered = spec.per_node is not None or spec.replicas is not None
        addresses = _addresses(spec)
        own_labels, aliases = labels(spec.labels), host_aliases(spec.host_aliases)
        containers = tuple(_container(container) for container in spec.containers)
        for i in range(pods_of(spec, len(nodes))):
            node = nodes[i // spec.per_node] if spec.per_node else spec.node or next(turns)
            name = f"{spec.name}-{i + 1}" if numbered else spec.name
            pod = model.Pod(
                name=name,
                node=node,
                labels=own_labels,
                containers=containers,
                host_network=spec.host_network,
                host_aliases=aliases,
                addresses=addresses,
                namespace=spec.namespace,
                hostname=spec.hostname or "",
                subdomain=spec.subdomain or "",
                grace=spec.grace,
                dns_policy=model.DnsPolicy(spec.dns_policy),
            )
            yield Placed(loc, pod)


def _container(spec: ContainerSpec) -> model.Container:
    return model.Container(
        name=spec.name,
        command=(*spec.command, *spec.args) if spec.command else (),
        env=env(spec.env),
        working_dir=spec.working_dir,
        restart=spec.restart_policy == "Always",
        ports=container_ports(spec.ports),
        readiness=probe(spec.readiness_probe),
        startup=probe(spec.startup_probe),
    )


def _service(spec: ServiceSpec) -> Service:
    return service_value(spec, spec.name, namespace=spec.namespace, own_labels=spec.labels)


def _check(spec: CheckSpec) -> model.Check:
    return model.Check(
        source=spec.source,
        target=spec.target,
        protocol=model.CheckProtocol.ICMP if spec.tcp is None else model.CheckProtocol.TCP,
        port=spec.tcp,
        size=spec.size,
        expect=model.Expect(spec.expect),
    )
