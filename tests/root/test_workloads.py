"""Deployments, StatefulSets and DaemonSets in a lab: pods that come, go and are replaced, and what clients notice."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from netlab import names
from netlab.control.protocol import ask
from netlab.errors import NetlabError, UsageError
from netlab.kernel import netns
from netlab.manifest.read import read as read_manifests
from netlab.manifest.values import MANIFEST
from netlab.topology.pod import (
    SYSTEM,
    Container,
    ContainerPort,
    EnvVar,
    Pod,
    PodTemplate,
    Probe,
    Workload,
    WorkloadKind,
)
from netlab.topology.service import Port, Service, ServiceType
from tests.root.service_lab import Reply, ServiceLab, running
from tests.waiting import until

pytestmark = pytest.mark.root

TOPOLOGY = """
nodes: 2
pods: {client: {node: n1}}
"""
LABELS = (("app", "web"),)
SERVER = Container("echo", ports=(ContainerPort(80, "http"),))
wait_until = partial(until, seconds=20.0)
DEPLOYMENT = Workload(WorkloadKind.DEPLOYMENT, "web", LABELS, PodTemplate(LABELS, (SERVER,)), replicas=3)
SERVICE = Service("web", selector=LABELS, ports=(Port(80),))
SECOND = replace(SERVER, env=(EnvVar("VERSION", "2"),))


@pytest.fixture
def lab() -> Iterator[ServiceLab]:
    with running(TOPOLOGY, "work") as found:
        yield found


def rolled_out(lab: ServiceLab, workload: Workload, timeout: float = 60.0) -> None:
    """Wait until a workload is rolled out."""
    kinds = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
    key = {"kind": kinds[workload.kind], "namespace": workload.namespace, "name": workload.name}
    answer = ask(lab.name, {"verb": "wait", "timeout": timeout, **key})
    assert answer["done"], answer["status"]


def pods_of(lab: ServiceLab, workload: Workload) -> list[str]:
    return sorted(pod.name for pod in lab.lab.topology.pods if pod.owner == workload.owner)


class SteadyClient:
    """Connects to a Service again and again, and counts who answered and how often nobody did."""

    def __init__(self, lab: ServiceLab, member: str, address: tuple[str, int]) -> None:
        self.answers: Counter[Reply | str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(lab.lab.netns(member), address))

    def _run(self, namespace: str, address: tuple[str, int]) -> None:
        netns.enter(namespace)
        while not self._stop.is_set():
            try:
                with socket.create_connection(address, timeout=3.0) as connection:
                    connection.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
                    said = b""
                    while more := connection.recv(4096):
                        said += more
                self.answers[said.rpartition(b"\n")[2].decode() or "empty"] += 1
            except OSError as exc:
                self.answers[f"failed: {exc}"] += 1
            self._stop.wait(0.002)

    def __enter__(self) -> SteadyClient:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
def test_a_rolling_update_loses_no_connection(mode: str, request: pytest.FixtureRequest) -> None:
    """Neither one of a pod to the cluster IP, nor one from outside to a node port."""
    if mode == "ipvs":
        request.getfixturevalue("ipvs")
    with running(f"proxy: {mode}\nexternal: [outside]\n{TOPOLOGY}", f"roll-{mode}", mode) as lab:
        node_port = replace(SERVICE, type=ServiceType.NODE_PORT, ports=(Port(80, node_port=30080),))
        lab.apply(node_port, DEPLOYMENT)
        rolled_out(lab, DEPLOYMENT)
        lab.wait_for_endpoints("web", 3)
        before = pods_of(lab, DEPLOYMENT)
        updated = replace(DEPLOYMENT, template=replace(DEPLOYMENT.template, containers=(SECOND,)))
        inside = SteadyClient(lab, "client", (lab.cluster_ip("web"), 80))
        outside = SteadyClient(lab, "outside", (lab.lab.address("n2"), 30080))
        with inside, outside:
            assert lab.apply(updated) == ["deployment/web configured"]
            rolled_out(lab, updated)
        after = pods_of(lab, updated)
    assert len(after) == 3
    assert not set(before) & set(after)
    for client in (inside, outside):
        assert {name for name in client.answers if name not in {*before, *after}} == set()
        assert client.answers.total() > 100
        assert set(client.answers) & set(before)
        assert set(client.answers) & set(after)


def test_a_pod_finds_its_name_address_and_node_in_its_environment(lab: ServiceLab) -> None:
    """As a manifest asks for them by fieldRef: what the process itself was given."""
    fields = {"NAME": "metadata.name", "IP": "status.podIP", "NODE": "spec.nodeName", "NAMESPACE": "metadata.namespace"}
    wanted = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    container = {"name": "show", "command": ["sh", "-c", "env; exec sleep 1000"], "env": wanted}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "shows"},
        "spec": {"nodeName": "n2", "containers": [container]},
    }
    found = read_manifests(json.dumps(manifest))
    lab.apply(*(declared.value for declared in found.pods))
    wait_until(lambda: any(line.startswith("NAME=") for line in lab.lab.log_lines("shows", "show")))
    said = dict(line.partition("=")[::2] for line in lab.lab.log_lines("shows", "show"))
    expected = {"NAME": "shows", "IP": lab.lab.address("shows"), "NODE": "n2", "NAMESPACE": "default"}
    assert {name: said[name] for name in fields} == expected


def test_scaling_makes_and_ends_pods(lab: ServiceLab) -> None:
    lab.apply(SERVICE, DEPLOYMENT)
    rolled_out(lab, DEPLOYMENT)
    for replicas in (5, 1, 0, 2):
        key = {"kind": "deployments", "namespace": "default", "name": "web"}
        ask(lab.name, {"verb": "scale", "replicas": replicas, **key})
        rolled_out(lab, DEPLOYMENT)
        assert len(pods_of(lab, DEPLOYMENT)) == replicas
        lab.wait_for_endpoints("web", replicas)


def test_a_stateful_set_keeps_its_names(lab: ServiceLab) -> None:
    stateful = replace(DEPLOYMENT, kind=WorkloadKind.STATEFUL_SET, name="db", service="db", max_unavailable="1")
    headless = Service("db", headless=True, selector=LABELS, ports=(Port(80),))
    lab.apply(headless, stateful)
    rolled_out(lab, stateful)
    assert pods_of(lab, stateful) == ["db-0", "db-1", "db-2"]
    code = "import socket; print(socket.gethostbyname('db-1.db.default.svc.cluster.local'))"
    assert lab.lab.exec("client", ["python3", "-c", code]).stdout.strip() == lab.lab.address("db-1")
    lab.apply(replace(stateful, template=replace(stateful.template, containers=(SECOND,))))
    rolled_out(lab, stateful)
    assert pods_of(lab, stateful) == ["db-0", "db-1", "db-2"]
    assert len({pod.revision for pod in lab.lab.topology.pods if pod.owner == stateful.owner}) == 1


def test_a_daemon_set_follows_the_nodes(lab: ServiceLab) -> None:
    from netlab.lab import Lab

    daemon = replace(DEPLOYMENT, kind=WorkloadKind.DAEMON_SET, max_surge="0", max_unavailable="1")
    lab.apply(daemon)
    rolled_out(lab, daemon)
    assert sorted(pod.node for pod in lab.lab.topology.pods if pod.owner == daemon.owner) == ["n1", "n2"]
    Lab.loads(TOPOLOGY.replace("nodes: 2", "nodes: 3"), name=lab.name).up()
    rolled_out(lab, daemon)
    assert sorted(pod.node for pod in lab.lab.topology.pods if pod.owner == daemon.owner) == ["n1", "n2", "n3"]
    Lab.loads(TOPOLOGY, name=lab.name).up()
    rolled_out(lab, daemon)
    assert sorted(pod.node for pod in lab.lab.topology.pods if pod.owner == daemon.owner) == ["n1", "n2"]


def test_an_unready_pod_leaves_the_endpoints_and_comes_back(
    lab: ServiceLab, tmp_path_factory: pytest.TempPathFactory
) -> None:
    switch = tmp_path_factory.mktemp("probe") / "ready"
    probe = Probe(command=("test", "-e", str(switch)), period=0.1, timeout=10.0, failure_threshold=1)
    probed = replace(SERVER, readiness=probe)
    lab.apply(SERVICE, replace(DEPLOYMENT, replicas=1, template=PodTemplate(LABELS, (probed,))))
    lab.wait_for_endpoints("web", 0)
    switch.touch()
    lab.wait_for_endpoints("web", 1)
    assert isinstance(lab.ask("client", lab.cluster_ip("web")), Reply)
    switch.unlink()
    lab.wait_for_endpoints("web", 0)
    assert lab.ask("client", lab.cluster_ip("web")) == "refused"


def test_objects_survive_the_control_plane(lab: ServiceLab) -> None:
    lab.apply(SERVICE, DEPLOYMENT)
    rolled_out(lab, DEPLOYMENT)
    address, pods = lab.cluster_ip("web"), pods_of(lab, DEPLOYMENT)
    kill_control_plane(lab)
    assert (lab.cluster_ip("web"), pods_of(lab, DEPLOYMENT)) == (address, pods)
    lab.wait_for_endpoints("web", 3)
    assert isinstance(lab.ask("client", address), Reply)


def test_pods_that_were_asked_for_survive_the_control_plane(lab: ServiceLab) -> None:
    first, second, third = (
        Pod(name, "n1", containers=(SERVER,), owner=MANIFEST) for name in ("first", "second", "third")
    )
    lab.apply(first)
    wait_until(lambda: pod_names(lab) == {"client", "first"})
    with lab.lab.folder.lock(5.0):  # whoever makes and ends pods waits for it
        lab.apply(second, third)
        lab.delete("pods", "first")
        lab.delete("pods", "third")
        with pytest.raises(UsageError, match="pods cannot be changed"):
            lab.apply(replace(second, labels=LABELS))
        kill_control_plane(lab)
    wait_until(lambda: pod_names(lab) == {"client", "second"})
    wait_until(lambda: _takes(lab, first) and _takes(lab, third))  # what was asked for is done with
    wait_until(lambda: pod_names(lab) == {"client", "first", "second", "third"})


def test_a_pod_of_a_workload_that_is_deleted_comes_back(lab: ServiceLab) -> None:
    ordered = replace(DEPLOYMENT, kind=WorkloadKind.STATEFUL_SET, replicas=1)
    lab.apply(ordered)
    rolled_out(lab, ordered)
    namespace = names.netns(lab.name, "web-0")
    before = netns.inode(namespace)
    with lab.lab.folder.lock(5.0):
        lab.delete("pods", "web-0")
        kill_control_plane(lab)
    wait_until(lambda: _inode(namespace) not in (None, before))
    rolled_out(lab, ordered)
    asked = [line for line in (lab.lab.folder.path / "objects.jsonl").read_text().splitlines() if '"Asked"' in line]
    assert asked[-1].endswith('"value":null}')  # it is not ended once more


def _takes(lab: ServiceLab, pod: Pod) -> bool:
    try:
        lab.apply(pod)
    except UsageError:  # it is still ending
        return False
    return True


def _inode(namespace: str) -> int | None:
    try:
        return netns.inode(namespace)
    except FileNotFoundError:
        return None


def pod_names(lab: ServiceLab) -> set[str]:
    return {pod.name for pod in lab.lab.topology.pods if pod.owner != SYSTEM}


def kill_control_plane(lab: ServiceLab) -> None:
    """End it without a chance to write anything, and wait for the next one."""
    control = next(state for state in lab.lab.keeper.states() if state.name == "control-plane")
    assert control.pid
    os.kill(control.pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{control.pid}").exists() and _answers(lab))


def _answers(lab: ServiceLab) -> bool:
    try:
        lab.get("services", "kubernetes")
    except NetlabError:
        return False
    return True


def test_what_cannot_be_is_refused(lab: ServiceLab) -> None:
    lab.apply(SERVICE)
    taken = replace(SERVICE, name="other", cluster_ips=(__import__("ipaddress").ip_address(lab.cluster_ip("web")),))
    with pytest.raises(UsageError, match="Service default/web has it"):
        lab.apply(replace(SERVICE, name="first"), taken)
    with pytest.raises(StopIteration):
        lab.get("services", "first")
    with pytest.raises(UsageError, match="is declared by the topology"):
        lab.apply(replace(SERVICE, name="kubernetes"))
    with pytest.raises(UsageError, match="there is no service/nix"):
        lab.delete("services", "nix")
