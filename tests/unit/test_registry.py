"""What a lab's cluster is to be: Services are taken all or none, and what nodes' proxiers are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from netlab.control.registry import Registry
from netlab.errors import PlanError
from netlab.folder import LabFolder, Record
from netlab.topology.model import HostGwBackend, Proxy, Topology
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
