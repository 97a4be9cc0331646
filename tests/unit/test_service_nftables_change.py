"""A change of one Service in the nftables mode: only what it needs is written, and it ends where a full sync ends."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.service.model import Endpoint, Policy, Protocol, ProxyNode, ServicePort
from netlab.service.nftables import PortObjects, endpoint_name, join, render
from netlab.service.nftables_table import base, change, full, removal
from tests.unit.nft_table import Refused, Table
from tests.unit.test_service_nftables import CIDRS, EXTERNAL, LB, N1, ONE, PUBLIC, RANGES, THERE, WEB, V, X, made


def test_an_endpoint_more_touches_its_chain_and_the_one_that_leads_to_it() -> None:
    third = Endpoint(ip_address("10.244.3.7"), 8080, "n3")
    name = f"endpoint-{endpoint_name(PUBLIC, third)}"
    text, stale = change(render(PUBLIC, N1), render(replace(PUBLIC, endpoints=(*PUBLIC.endpoints, third)), N1))
    assert {line.split()[4] for line in text.splitlines()} == {name, f"service-{X}"}
    assert not stale
    back, stale = change(render(replace(PUBLIC, endpoints=(*PUBLIC.endpoints, third)), N1), render(PUBLIC, N1))
    assert {line.split()[4] for line in back.splitlines()} == {name, f"service-{X}"}
    assert stale == (name,)
    assert removal("ip kube-proxy", stale) == f"delete chain ip kube-proxy {name}\n"


def test_a_verdict_changes_by_its_element_alone() -> None:
    none, local = replace(WEB, endpoints=()), replace(WEB, endpoints=(THERE,), internal_policy=Policy.LOCAL)
    text, stale = change(render(none, N1), render(local, N1))
    assert text.splitlines() == [
        f"delete element ip kube-proxy no-endpoint-services {{ {V} . tcp . 80 }}",
        f'add element ip kube-proxy no-endpoint-services {{ {V} . tcp . 80 comment "default/web:http" : drop }}',
    ]
    assert not stale


@pytest.mark.parametrize(("before", "after"), [(10800, 60), (0, 60), (60, 0)])
def test_affinity_may_change_though_its_sets_cannot(before: int, after: int) -> None:
    table = made(replace(WEB, affinity=before))
    text, stale = change(render(replace(WEB, affinity=before), N1), render(replace(WEB, affinity=after), N1))
    table.run(text)
    assert table == made(replace(WEB, affinity=after))
    assert not stale


def test_nothing_changed_is_nothing_written() -> None:
    assert change(render(PUBLIC, N1), render(PUBLIC, N1)) == ("", ())
    assert change(None, None) == ("", ())


def test_ports_of_a_service_share_their_cluster_ip() -> None:
    metrics = replace(WEB, port_name="metrics", port=9090)
    both = join([render(WEB, N1), render(metrics, N1)])
    table = Table()
    table.run(full(base(N1), [render(WEB, N1), render(metrics, N1)]))
    assert table.elements["service-ips"].keys() == {f"{V} . tcp . 80", f"{V} . tcp . 9090"}
    table.run(change(both, join([render(metrics, N1)]))[0])
    assert table.elements["cluster-ips"] == {V: None}
    assert join([]) is None


def test_a_kernel_would_refuse_an_order_that_refers_to_what_is_missing() -> None:
    lines = change(None, render(WEB, N1))[0].splitlines()
    with pytest.raises(Refused):
        made(None).run("\n".join(reversed(lines)))
    table = made(WEB)
    with pytest.raises(Refused):
        table.run(removal("ip kube-proxy", [ONE]))


addresses = st.lists(st.sampled_from([ip_address(LB), ip_address(EXTERNAL)]), unique=True, max_size=2).map(tuple)
endpoints = st.builds(
    Endpoint,
    st.integers(1, 4).map(lambda number: ip_address(f"10.244.1.{number}")),
    st.sampled_from([80, 8080]),
    st.sampled_from(["n1", "n2"]),
    ready=st.booleans(),
    terminating=st.booleans(),
)
ports = st.builds(
    ServicePort,
    st.just("default"),
    st.just("web"),
    st.sampled_from(["", "http", "dns"]),
    st.sampled_from(Protocol),
    st.just(ip_address(V)),
    st.integers(80, 81),
    st.sampled_from([0, 30080, 30081]),
    addresses,
    addresses,
    st.sampled_from([(), RANGES]),
    st.sampled_from([0, 60, 10800]),
    st.sampled_from(Policy),
    st.sampled_from(Policy),
    st.just(0),
    st.lists(endpoints, max_size=4, unique_by=lambda endpoint: (endpoint.address, endpoint.port)).map(tuple),
)
services = st.lists(ports, max_size=3, unique_by=lambda port: (port.key, port.port, port.protocol))
nodes = st.builds(replace, st.just(N1), masquerade_all=st.booleans(), local=st.sampled_from([None, N1.local]))


@given(st.lists(services, min_size=2, max_size=4), nodes)
def test_changes_lead_where_a_full_sync_leads(states: list[list[ServicePort]], node: ProxyNode) -> None:
    fixed = base(node, CIDRS)
    first, *others = [[render(port, node) for port in state] for state in states]
    table, wanted, stale = Table(), Table(), set[str]()
    table.run(full(fixed, first))
    old: PortObjects | None = join(first)
    for objects in others:
        new = join(objects)
        text, emptied = change(old, new)
        table.run(text)
        stale = (stale | set(emptied)) - (new.chains if new else {}).keys()
        old = new
        wanted.run(full(fixed, objects))
    table.run(removal(fixed.table, sorted(stale)))
    assert table == wanted
