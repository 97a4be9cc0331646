"""What a lab's cluster is to be: Services are taken all or none, and what nodes' proxiers are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from netlab.control.registry import Registry
from netlab.errors import PlanError
from netlab.folder import LabFolder, Record
from netlab.topology.model import HostGwBackend, KubeProxy, NodePortAddresses, Proxy, Topology
from netlab.topology.service import Port, Service, ServiceType
from tests.labs import topology

PORT = Service("port", type=ServiceType.NODE_PORT, ports=(Port(80, "a"), Port(81, "b", node_port=30087)))
PLAIN = Service("plain", ports=(Port(80),))
GAP = Service("gap", type=ServiceType.NODE_PORT, ports=(Port(80),))
THIEF = Service("thief", type=ServiceType.NODE_PORT, ports=(Port(80, node_port=30087),))
IMPOSSIBLE = Service("impossible", type=ServiceType.NODE_PORT, ports=(Port(80, node_port=1),))


@contextmanager
def recorded(wanted: Topology, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Yield the registry of a lab that was recorded only."""
    monkeypatch.setenv("NETLAB_STATE", str(folder))
    lab = LabFolder(wanted.name)
    lab.path.mkdir()
    lab.write_record(Record(wanted, "registry.yaml"))
    lab.store.acquire(wanted)
    found = Registry(lab)
    found.reload()
    yield found
    found.journal.close()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with recorded(topology("registry", pods=0, proxy=Proxy.IPTABLES), tmp_path, monkeypatch) as found:
        found.set_services([GAP, PORT, PLAIN])
        found.forget_service(GAP.key)  # what is free now comes before what the others have
        yield found


@pytest.mark.parametrize(
    "changes",
    [
        [replace(PORT, type=ServiceType.CLUSTER_IP, ports=PORT.ports[:1])],
        [replace(PLAIN, headless=True), replace(PORT, headless=True, type=ServiceType.CLUSTER_IP)],
        [replace(PLAIN, headless=True), replace(PLAIN, name="new"), replace(PORT, ports=PORT.ports[:1])],
        [
            replace(PORT, type=ServiceType.CLUSTER_IP),
            replace(PORT, name="new"),  # which gets what the first one had
            Service("other", type=ServiceType.NODE_PORT, ports=(Port(80),)),
        ],
    ],
)
def test_services_are_taken_all_or_none(registry: Registry, changes: list[Service]) -> None:
    services = dict(registry.services)
    allocations = dict(registry.allocator.allocations)
    with pytest.raises(PlanError, match="nodePort 1: node ports are"):
        registry.set_services([*changes, IMPOSSIBLE])
    assert registry.services == services
    assert registry.allocator.allocations == allocations
    assert registry.journal.allocations == allocations
    with pytest.raises(PlanError, match="30087: Service default/port has it"):
        registry.set_service(THIEF)
    for service in services.values():
        registry.set_service(replace(service, labels=(("touched", "yes"),)))
    assert registry.allocator.allocations == allocations
    registry.set_services(changes)
    assert all(registry.services[service.key] == service for service in changes)


# --- what proxiers work for ------------------------------------------------------------------------------------------


def node_addresses(registry: Registry, node: str) -> list[list[str]]:
    target, _ = registry.targets()[node]
    return [[str(address) for address in found.addresses] for found in target.nodes]


def test_ipvs_has_node_ports_at_every_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One virtual server for each of them (facts.md 4.1): the underlay's, cni0's and flannel.1's."""
    wanted = topology("registry", pods=0, proxy=Proxy.IPVS, dual_stack=True)
    with recorded(wanted, tmp_path, monkeypatch) as registry:
        assert node_addresses(registry, "n2") == [
            ["172.18.0.3", "10.244.2.1", "10.244.2.0"],
            ["fd00:172:18::3", "fd00:10:244:2::1", "fd00:10:244:2::"],
        ]


def test_without_an_overlay_device_it_has_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = topology("registry", pods=0, proxy=Proxy.IPVS, backend=HostGwBackend())
    with recorded(wanted, tmp_path, monkeypatch) as registry:
        assert node_addresses(registry, "n1") == [["172.18.0.2", "10.244.1.1"]]


NOT_BY_DEFAULT = KubeProxy(
    node_port_addresses=NodePortAddresses(networks=(ip_network("10.244.0.0/16"),)),
    masquerade_all=True,
    localhost_node_ports=False,
    tcp_be_liberal=True,
)


def test_kube_proxy_is_as_the_topology_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = topology("registry", pods=0, proxy=Proxy.IPTABLES, dual_stack=True)
    nodes = (*wanted.nodes[:2], replace(wanted.nodes[2], proxy=Proxy.NFTABLES))
    with recorded(replace(wanted, nodes=nodes, kube_proxy=NOT_BY_DEFAULT), tmp_path, monkeypatch) as registry:
        target, _ = registry.targets()["n1"]
        other, _ = registry.targets()["n3"]
    assert [node.node_port_addresses for node in target.nodes] == [
        (ip_network("10.244.0.0/16"),),
        (ip_network("::/0"),),  # where no network is of an IP version, all of it is
    ]
    assert ip_address("10.244.1.1") in target.nodes[0].addresses
    assert [node.masquerade_all for node in (*target.nodes, *other.nodes)] == [True, True, False, False]
    assert (target.options.localhost_node_ports, target.options.tcp_be_liberal) == (False, True)


def test_primary_is_a_nodes_own_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = topology("registry", pods=0, proxy=Proxy.IPVS, dual_stack=True)
    primary = KubeProxy(node_port_addresses=NodePortAddresses(primary=True))
    with recorded(replace(wanted, kube_proxy=primary), tmp_path, monkeypatch) as registry:
        target, _ = registry.targets()["n1"]
    assert [node.node_port_addresses for node in target.nodes] == [
        (ip_network("172.18.0.2/32"),),
        (ip_network("fd00:172:18::2/128"),),
    ]
