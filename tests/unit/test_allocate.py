"""Leases and pods' addresses: flannel's and host-local's rules, and what is kept between runs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.errors import PlanError
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.ipam import fits, pod_cidrs
from netlab.topology.model import Node, Pod, Role
from tests.labs import VxlanBackend, random_topology, routed, topology


def test_the_first_subnet_is_never_handed_out() -> None:
    cidrs = list(pod_cidrs(ip_network("10.5.0.0/16"), 24))
    assert (cidrs[0], cidrs[-1], len(cidrs)) == (ip_network("10.5.1.0/24"), ip_network("10.5.255.0/24"), 255)


def test_nodes_and_pods_get_addresses_in_order() -> None:
    found = allocate(topology("t", nodes=2, pods=4), Snapshot())
    assert [str(lease.pod_cidrs[0]) for lease in found.leases.values()] == ["10.244.1.0/24", "10.244.2.0/24"]
    assert [str(lease.public_ips[0]) for lease in found.leases.values()] == ["172.18.0.2", "172.18.0.3"]
    assert {name: str(ips[0]) for name, ips in found.pods.items()} == {
        "p-1": "10.244.1.2",
        "p-2": "10.244.2.2",
        "p-3": "10.244.1.3",
        "p-4": "10.244.2.3",
    }


def test_routers_take_the_first_addresses() -> None:
    found = allocate(routed("t", VxlanBackend()), Snapshot())
    assert found.leases["n1"].public_ips == (ip_address("172.18.1.2"),)
    assert found.leases["n2"].public_ips == (ip_address("172.18.2.2"),)


def test_a_member_in_front_renumbers_nobody() -> None:
    before = topology("t", nodes=2, pods=2)
    held = allocate(before, Snapshot())
    after = allocate(
        replace(before, nodes=(Node("n0", "underlay"), *before.nodes), pods=(Pod("p-0", "n1"), *before.pods)), held
    )
    for name in ("n1", "n2"):
        assert after.leases[name] == held.leases[name]
    assert {name: after.pods[name] for name in held.pods} == held.pods
    assert after.leases["n0"].pod_cidrs == (ip_network("10.244.3.0/24"),)
    assert after.pods["p-0"] == (ip_address("10.244.1.3"),)


def test_a_chosen_address_wins_over_a_held_one() -> None:
    before = topology("t", nodes=2, pods=2)
    held = allocate(before, Snapshot())
    n1, n2 = before.nodes
    wanted = replace(before, nodes=(n1, replace(n2, addresses=held.leases["n1"].public_ips)))
    after = allocate(wanted, held)
    assert after.leases["n2"].public_ips == held.leases["n1"].public_ips
    assert after.leases["n1"].public_ips not in (after.leases["n2"].public_ips, ())


def test_a_lease_that_fits_no_more_is_replaced() -> None:
    held = allocate(topology("t"), Snapshot())
    moved = replace(topology("t"), cluster_cidrs=(ip_network("10.200.0.0/16"),))
    assert str(allocate(moved, held).leases["n1"].pod_cidrs[0]) == "10.200.1.0/24"
    assert not fits(ip_network("10.244.0.0/24"), ip_network("10.244.0.0/16"), 24)


def test_a_pod_that_moves_gets_an_address_of_its_new_node() -> None:
    before = topology("t", nodes=2, pods=2)
    held = allocate(before, Snapshot())
    after = allocate(replace(before, pods=(Pod("p-1", "n2"), before.pods[1])), held)
    assert after.pods["p-2"] == held.pods["p-2"]
    assert after.pods["p-1"] == (ip_address("10.244.2.3"),)


def test_a_full_network_is_an_error_that_names_it() -> None:
    full = replace(topology("t", nodes=5), cluster_cidrs=(ip_network("10.244.0.0/22"),))
    with pytest.raises(PlanError, match=r"out of subnets: clusterCIDR 10.244.0.0/22"):
        allocate(full, Snapshot())
    tiny = replace(topology("t", nodes=1, pods=6), node_mask_ipv4=29)
    with pytest.raises(PlanError, match=r"no IP addresses available in 10.244.0.8/29 for pod p-6 on node n1"):
        allocate(tiny, Snapshot())


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_nobody_ever_shares_an_address(seeds: list[int]) -> None:
    held = Snapshot()
    for seed in seeds:
        wanted = random_topology("t", seed)
        held = allocate(wanted, held)
        assert held.covers(wanted)
        machines = [ip for lease in held.leases.values() for ip in lease.public_ips]
        machines += [ip for ips in held.machines.values() for ip in ips]
        pods = [ip for ips in held.pods.values() for ip in ips]
        cidrs = [cidr for lease in held.leases.values() for cidr in lease.pod_cidrs]
        for found in (machines, pods, cidrs):
            assert len(found) == len(set(found))
        for pod in wanted.pods:
            lease = held.leases[pod.node]
            assert all(ip in (lease.pod_cidr(ip.version) or ()) for ip in held.pods[pod.name])
        external = [node.name for node in wanted.nodes if node.role is Role.EXTERNAL]
        assert set(held.machines) == set(external)
        assert allocate(wanted, held) == held


def test_a_chosen_pod_address_decides_its_nodes_pod_cidr() -> None:
    chosen = Pod("db", "n2", addresses=(ip_address("10.244.1.5"),))
    found = allocate(replace(topology("t", nodes=3, pods=0), pods=(chosen, Pod("x", "n2"))), Snapshot())
    assert [str(lease.pod_cidrs[0]) for lease in found.leases.values()] == [
        "10.244.2.0/24",
        "10.244.1.0/24",
        "10.244.3.0/24",
    ]
    assert found.pods == {"db": (ip_address("10.244.1.5"),), "x": (ip_address("10.244.1.2"),)}
