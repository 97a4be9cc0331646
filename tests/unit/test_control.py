"""The control plane's values: what is kept across restarts, what words mean, where load balancers' packets go."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from netlab.control.balancer import wanted_routes
from netlab.control.objects import Asked, Journal
from netlab.control.prober import port_number, until_it_listens
from netlab.control.resources import Reference, Resource, parse
from netlab.controllers.allocate import Allocation
from netlab.errors import UsageError
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import Node, Proxy, Role, VxlanBackend
from netlab.topology.pod import Container, ContainerPort, Pod, PodTemplate, Probe, Workload, WorkloadKind
from netlab.topology.service import EndpointSlice, Port, Protocol, Service, SliceEndpoint
from netlab.topology.system import keep_owned_pods, with_system
from tests.labs import routed, topology

WEB = Service("web", selector=(("app", "web"),), ports=(Port(80, target="http"),))
DEPLOYMENT = Workload(WorkloadKind.DEPLOYMENT, "web", WEB.selector or (), PodTemplate((("app", "web"),)))
SLICE = EndpointSlice("web-1", "web", endpoints=(SliceEndpoint((ip_address("10.0.0.1"),)),))
GIVEN = Allocation((ip_address("10.96.0.7"),), (30001,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lab" / "objects.jsonl"


def test_objects_are_there_again(path: Path) -> None:
    journal = Journal(path)
    for key, value in ((WEB.key, WEB), (DEPLOYMENT.key, DEPLOYMENT), (SLICE.key, SLICE), (WEB.key, GIVEN)):
        journal.put(key, value)
    journal.close()
    again = Journal(path)
    assert again.services == {WEB.key: WEB}
    assert again.workloads == {DEPLOYMENT.key: DEPLOYMENT}
    assert again.slices == {SLICE.key: SLICE}
    assert again.allocations == {WEB.key: GIVEN}


def test_what_was_asked_for_is_known_again(path: Path) -> None:
    journal = Journal(path)
    journal.put(("one",), Asked(Pod("one", "n1")))
    journal.put(("two",), Asked(None))
    journal.close()
    assert Journal(path).asked == {("one",): Asked(Pod("one", "n1")), ("two",): Asked(None)}


def test_what_was_deleted_stays_so_and_leaves_no_line(path: Path) -> None:
    journal = Journal(path)
    journal.put(WEB.key, WEB)
    journal.put(WEB.key, replace(WEB, affinity=5))
    journal.delete(Service, WEB.key)
    journal.close()
    again = Journal(path)
    assert again.services == {}
    assert path.read_text() == ""


def test_a_line_that_was_cut_off_counts_for_nothing(path: Path) -> None:
    journal = Journal(path)
    journal.put(WEB.key, WEB)
    journal.put(SLICE.key, SLICE)
    journal.close()
    path.write_text(path.read_text()[:-20])
    again = Journal(path)
    assert (again.services, again.slices) == ({WEB.key: WEB}, {})


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("deployment/web",), [Reference(Resource.DEPLOYMENTS, "web")]),
        (("deploy", "web", "api"), [Reference(Resource.DEPLOYMENTS, "web"), Reference(Resource.DEPLOYMENTS, "api")]),
        (("svc",), [Reference(Resource.SERVICES)]),
        (("po/a", "sts/b"), [Reference(Resource.PODS, "a"), Reference(Resource.STATEFUL_SETS, "b")]),
    ],
)
def test_objects_are_named_as_in_kubectl(words: tuple[str, ...], found: list[Reference]) -> None:
    assert parse(words) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [(("deploymnet/web",), "no kind of object"), (("svc/",), "without an object"), ((), "no object")],
)
def test_other_words_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(words)


def test_next_hops_are_the_nodes_of_a_machines_own_segments() -> None:
    wanted = routed("lb", VxlanBackend())
    wanted = replace(wanted, nodes=(*wanted.nodes, Node("client", "rack1", Role.EXTERNAL)))
    snapshot = allocate(wanted, Snapshot())
    address = ip_address("203.0.113.7")
    nodes = {name: snapshot.leases[name].public_ips[0] for name in ("n1", "n2", "n3", "n4")}
    found = wanted_routes(wanted, snapshot, {address: frozenset({"n1", "n2", "n3"})})
    assert found == {
        "client": {address: (nodes["n1"], nodes["n3"])},
        "r1": {address: (nodes["n1"], nodes["n2"], nodes["n3"])},
    }
    assert wanted_routes(wanted, snapshot, {address: frozenset({"n2"})})["client"] == {}


def test_only_servers_of_netlabs_own_are_probed_unasked() -> None:
    ports = (ContainerPort(53, "dns", Protocol.UDP), ContainerPort(80, "http"))

    assert until_it_listens(Container("echo", ports=ports)) == Probe(tcp_port="80")
    assert until_it_listens(Container("echo", ports=ports[:1])) is None
    assert until_it_listens(Container("other", ("sleep", "1"), ports=ports)) is None
    assert port_number(Container("echo", ports=ports), "http") == 80
    assert port_number(Container("echo", ports=ports), "8080") == 8080


def test_every_cluster_has_dns() -> None:
    found = with_system(topology("sys", proxy=Proxy.IPTABLES))
    assert [pod.name for pod in found.pods if pod.owner == "system"] == ["coredns"]
    assert [service.key for service in found.services] == [("default", "kubernetes"), ("kube-system", "kube-dns")]
    assert [str(service.cluster_ips[0]) for service in found.services] == ["10.96.0.1", "10.96.0.10"]
    assert with_system(found) == found
    assert with_system(topology("sys", proxy=Proxy.NONE)) == topology("sys", proxy=Proxy.NONE)


def test_dns_gives_way_to_a_pod_of_its_name() -> None:
    wanted = topology("sys", proxy=Proxy.IPTABLES)
    found = with_system(replace(wanted, pods=(*wanted.pods, Pod("coredns", "n1"))))
    assert [pod.name for pod in found.pods if pod.owner == "system"] == ["coredns-1"]


def test_pods_of_workloads_stay_where_their_node_does() -> None:
    wanted = topology("sys", nodes=2)
    made = (Pod("web-a", "n1", owner="Deployment default/web"), Pod("web-b", "n3", owner="Deployment default/web"))
    kept = keep_owned_pods(wanted, replace(wanted, pods=(*wanted.pods, *made)))
    assert [pod.name for pod in kept.pods] == [*(pod.name for pod in wanted.pods), "web-a"]
