"""What becomes of Services when endpoints, rules, the control plane or the mode change under them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netlab.control.protocol import ask
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.lab import Lab
from netlab.topology.pod import Container, ContainerPort, Pod, PodTemplate, Probe, Workload, WorkloadKind
from netlab.topology.service import Policy, Port, Service, ServiceType
from tests.root.service_lab import DROPPED, REFUSED, SILENCE, TCP, UDP, Reply, ServiceLab, running
from tests.waiting import until

pytestmark = pytest.mark.root

TOPOLOGY = """
proxy: {mode}
nodes: 2
external: 1
pods: {{client: {{node: n1}}}}
"""
MODES = ("iptables", "nftables", "ipvs")
LABELS = (("app", "web"),)
SERVER = Container("echo", ports=(ContainerPort(80, protocol=TCP), ContainerPort(80, protocol=UDP)))
WEB = Workload(WorkloadKind.DEPLOYMENT, "web", LABELS, PodTemplate(LABELS, (SERVER,)), replicas=2)
TCP_PORT, UDP_PORT = Port(80, "http", TCP, node_port=30080), Port(80, "udp", UDP, node_port=30080)
SERVICE = Service("web", type=ServiceType.NODE_PORT, selector=LABELS, ports=(TCP_PORT, UDP_PORT))
FOREIGN = "POSTROUTING -s 192.0.2.1 -j RETURN"
SOME = 30  # Services
LAST = 2.0  # seconds that a server works after SIGTERM


@pytest.fixture(scope="module", params=MODES)
def shared(request: pytest.FixtureRequest) -> Iterator[ServiceLab]:
    mode: str = request.param
    if mode == "ipvs":
        request.getfixturevalue("ipvs")
    with running(TOPOLOGY.format(mode=mode), f"chg-{mode}", mode) as found:
        yield found


@pytest.fixture
def lab(shared: ServiceLab) -> Iterator[ServiceLab]:
    """Give a test the lab of its mode, and take away what it applied."""
    yield shared
    for kind in ("deployments", "services"):
        for item in ask(shared.name, {"verb": "get", "kind": kind, "namespace": "default"})["items"]:
            if item["name"] != "kubernetes":
                shared.delete(kind, item["name"])
    for item in ask(shared.name, {"verb": "get", "kind": "pods", "namespace": "default"})["items"]:
        if item["owner"] == "manifest":
            shared.delete("pods", item["name"])
    until(lambda: members(shared) == ["client"])


def members(lab: ServiceLab) -> list[str]:
    """Return the pods of namespace default."""
    return [item["name"] for item in ask(lab.name, {"verb": "get", "kind": "pods", "namespace": "default"})["items"]]


def scale(lab: ServiceLab, replicas: int) -> None:
    key = {"kind": "deployments", "namespace": "default", "name": "web"}
    ask(lab.name, {"verb": "scale", "replicas": replicas, **key})


def run(lab: ServiceLab, member: str, command: str) -> str:
    """Run a command line in a member, which must succeed, and return what it says."""
    done = lab.lab.exec(member, ["sh", "-c", command])
    assert done.returncode == 0, done.stderr
    return done.stdout


class Talker:
    """A client that keeps one UDP socket, and so one conntrack entry."""

    def __init__(self, lab: ServiceLab, member: str, address: str, port: int) -> None:
        self._socket = netns.call(lab.lab.netns(member), socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(SILENCE)
        self._socket.connect((address, port))

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def ask(self) -> str:
        """Return the name of the pod that answers, REFUSED or DROPPED."""
        try:
            self._socket.send(b"hostname")
            return self._socket.recv(256).decode()
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return DROPPED


# --- UDP flows that go on --------------------------------------------------------------------------------------------


def test_a_udp_client_moves_to_another_pod_when_its_own_goes(lab: ServiceLab) -> None:
    lab.apply(SERVICE, WEB)
    lab.wait_for_endpoints("web", 2)
    with Talker(lab, "client", lab.cluster_ip("web"), 80) as client:
        first = client.ask()
        assert {client.ask() for _ in range(20)} == {first}  # it is one flow
        lab.delete("pods", first)
        until(lambda: client.ask() not in (first, REFUSED, DROPPED))


def test_a_udp_client_survives_a_time_without_endpoints(lab: ServiceLab) -> None:
    lab.apply(SERVICE, replace(WEB, replicas=1))
    lab.wait_for_endpoints("web", 1)
    with Talker(lab, "client", lab.cluster_ip("web"), 80) as client:
        assert client.ask() in members(lab)
        scale(lab, 0)
        until(lambda: client.ask() == REFUSED and members(lab) == ["client"])
        scale(lab, 1)
        until(lambda: client.ask() not in (REFUSED, DROPPED))


def test_a_udp_client_that_came_before_the_service_is_answered(lab: ServiceLab) -> None:
    """Its entry says that the node itself is meant, and would be kept alive by every further packet."""
    lab.apply(replace(WEB, replicas=1))
    with Talker(lab, "ext1", lab.lab.address("n1"), 30080) as client:
        assert client.ask() in (REFUSED, DROPPED)
        lab.apply(SERVICE)
        until(lambda: client.ask() not in (REFUSED, DROPPED))


# --- endpoints that end ----------------------------------------------------------------------------------------------


def stubborn(lab: ServiceLab) -> Workload:
    """Return a Deployment of one pod that serves on for a while after SIGTERM."""
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, lambda *_: None);"
        " child = subprocess.Popen([sys.executable, '-m', 'netlab.echo', '--port', '80/TCP'], start_new_session=True);"
        f" signal.pause(); time.sleep({LAST}); child.kill()"
    )
    server = replace(SERVER, command=(sys.executable, "-c", code), readiness=Probe(tcp_port="80", period=0.1))
    return replace(WEB, replicas=1, template=PodTemplate(LABELS, (server,)))


def test_a_pod_that_ends_serves_on_while_it_is_the_only_one(lab: ServiceLab) -> None:
    lab.apply(SERVICE, stubborn(lab))
    lab.wait_for_endpoints("web", 1)
    (ending,) = set(members(lab)) - {"client"}
    scale(lab, 0)
    until(lambda: subsets(lab) and subsets(lab)[0]["terminating"])
    seen = subsets(lab)[0]
    assert (seen["ready"], seen["serving"]) == (False, True)
    answers = [lab.ask("client", lab.cluster_ip("web")) for _ in range(10)]
    assert {answer.pod if isinstance(answer, Reply) else answer for answer in answers} == {ending}
    began = time.monotonic()
    until(lambda: is_refused(lab))
    assert time.monotonic() - began > LAST / 2


def test_a_pod_that_ends_gets_nothing_while_there_is_another(lab: ServiceLab) -> None:
    lab.apply(SERVICE, stubborn(lab))
    lab.wait_for_endpoints("web", 1)
    (ending,) = set(members(lab)) - {"client"}
    lab.apply(Pod("other", "n2", LABELS, (SERVER,), owner="manifest"))
    lab.wait_for_endpoints("web", 2)
    scale(lab, 0)
    until(lambda: any(one["terminating"] for one in subsets(lab)))
    lab.apply()
    assert {pod_of(answer) for answer in lab.ask_often("client", lab.cluster_ip("web"))} == {"other"}
    assert ending in members(lab)


def subsets(lab: ServiceLab) -> list[dict[str, object]]:
    found: list[dict[str, object]] = lab.get("endpoints", "web")["subsets"]
    return found


def is_refused(lab: ServiceLab) -> bool:
    try:
        return lab.ask("client", lab.cluster_ip("web"), patience=SILENCE) == REFUSED
    except OSError:  # the server is being killed
        return False


def pod_of(answer: Reply | str) -> str:
    return answer.pod if isinstance(answer, Reply) else answer


# --- healthCheckNodePort ---------------------------------------------------------------------------------------------


def test_a_health_check_tells_of_local_endpoints(lab: ServiceLab, tmp_path_factory: pytest.TempPathFactory) -> None:
    switch = tmp_path_factory.mktemp("probe") / "ready"
    switch.touch()
    probe = Probe(command=("test", "-e", str(switch)), period=0.1, failure_threshold=1)
    local = Pod("web", "n1", LABELS, (replace(SERVER, readiness=probe),), owner="manifest")
    balanced = replace(SERVICE, type=ServiceType.LOAD_BALANCER, external_policy=Policy.LOCAL)
    lab.apply(balanced, local)
    lab.wait_for_endpoints("web", 1)
    port = lab.get("services", "web")["health-check-node-port"]
    until(lambda: check(lab, "n1", port)[0] == 200)
    assert check(lab, "n1", port) == (
        200,
        {"service": {"namespace": "default", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": True},
    )
    status, said = check(lab, "n2", port)
    assert (status, said["localEndpoints"]) == (503, 0)
    switch.unlink()
    until(lambda: check(lab, "n1", port)[0] == 503)
    switch.touch()
    until(lambda: check(lab, "n1", port)[0] == 200)
    lab.delete("services", "web")
    until(lambda: check(lab, "n1", port)[0] == 0)


def check(lab: ServiceLab, node: str, port: int) -> tuple[int, dict[str, object]]:
    """Ask a node from outside; status 0 where nobody listens."""

    def get() -> bytes:
        with socket.create_connection((lab.lab.address(node), port), timeout=5.0) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
            return connection.makefile("rb").read()

    try:
        head, _, body = netns.call(lab.lab.netns("ext1"), get).partition(b"\r\n\r\n")
    except ConnectionRefusedError:
        return 0, {}
    return int(head.split()[1]), json.loads(body)


# --- somebody else's hand --------------------------------------------------------------------------------------------

BY_IPTABLES = "iptables -F; iptables -t nat -F; iptables -X; iptables -t nat -X; true"
BY_NFT = "nft flush ruleset"
HARM = {
    "iptables": {
        "by iptables": BY_IPTABLES,
        "by nft": BY_NFT,
        "a chain": "iptables -t nat -F KUBE-SERVICES",
        "one thing": "iptables -t nat -D PREROUTING 1",
    },
    "nftables": {
        "by iptables": BY_IPTABLES,
        "by nft": BY_NFT,
        "a chain": "nft flush chain ip kube-proxy services",
        "one thing": "nft delete element ip kube-proxy cluster-ips '{ 10.96.0.1 }'",
    },
    "ipvs": {
        "by iptables": f"ipvsadm -C; {BY_IPTABLES}",
        "by nft": BY_NFT,
        "a chain": "iptables -t nat -F KUBE-SERVICES",
        "one thing": "ip address delete 10.96.0.1/32 dev kube-ipvs0",
    },
}


@pytest.mark.parametrize("harm", HARM["iptables"])
def test_flushed_rules_come_back_by_themselves(lab: ServiceLab, harm: str) -> None:
    lab.apply(SERVICE, WEB)
    lab.wait_for_endpoints("web", 2)
    address = lab.cluster_ip("web")
    before = rules(lab, "n1")
    assert any("kube-proxy" in line or "KUBE-" in line for line in before)
    run(lab, "n1", HARM[lab.mode][harm])
    run(lab, "n1", f"iptables -t nat -A {FOREIGN}")
    until(lambda: rules(lab, "n1") >= before, seconds=20.0)
    assert isinstance(lab.ask("client", address), Reply)
    assert "192.0.2.1" in run(lab, "n1", "iptables-save -t nat")
    run(lab, "n1", f"iptables -t nat -D {FOREIGN}")
    lab.lab.up()  # the pod network's own rules, which the same hand has taken away


def test_a_node_that_is_made_again_has_its_rules_again(lab: ServiceLab) -> None:
    """`up` makes the namespace again, and nobody tells the control plane: it was none of its own changes."""
    lab.apply(SERVICE, WEB)
    lab.wait_for_endpoints("web", 2)
    before = rules(lab, "n1")
    netns.remove([lab.lab.netns("n1")])
    lab.lab.up()
    until(lambda: rules(lab, "n1") >= before)
    lab.wait_for_endpoints("web", 2)
    until(lambda: isinstance(lab.ask("n1", lab.cluster_ip("web"), patience=SILENCE), Reply))


def rules(lab: ServiceLab, node: str) -> set[str]:
    """Return kube-proxy's rules on a node, as its tools list them without counters."""
    listed = run(lab, node, "iptables-save 2>/dev/null | grep KUBE-; nft -s list tables").splitlines()
    if lab.mode == "ipvs":
        listed += run(lab, node, "ipvsadm -Sn; ip -o address show dev kube-ipvs0 | sed 's/^[0-9]*: //'").splitlines()
    for version in ("ip", "ip6"):
        if f"table {version} kube-proxy" in listed:
            listed += run(lab, node, f"nft -s list table {version} kube-proxy").splitlines()
    return {line.partition(" [")[0] for line in listed if not line.startswith("table") or "kube-proxy" in line}


# --- the control plane dies ------------------------------------------------------------------------------------------


def test_a_kill_in_the_middle_of_changes_converges(lab: ServiceLab) -> None:
    lab.apply(SERVICE, WEB)
    lab.wait_for_endpoints("web", 2)
    many = [replace(SERVICE, name=f"s-{i}", type=ServiceType.CLUSTER_IP, ports=(Port(80),)) for i in range(SOME)]
    changing = threading.Thread(target=apply_each, args=(lab, many))
    changing.start()
    until(lambda: any(service_is_known(lab, f"s-{i}") for i in range(3, SOME)))
    kill_control_plane(lab)
    changing.join()
    until(lambda: service_is_known(lab, "web"))
    lab.apply(*many)
    lab.delete("services", "s-0")
    until(lambda: not any("default/s-0" in line for line in rules(lab, "n2")))  # nftables mode deletes chains later
    grown = rules(lab, "n2")
    assert isinstance(lab.ask("client", lab.cluster_ip(f"s-{SOME - 1}")), Reply)
    run(lab, "n2", "nft flush ruleset")
    until(lambda: rules(lab, "n2") >= grown)
    assert rules(lab, "n2") == grown  # nothing is missing, and nothing was left over
    lab.lab.up()


def kill_control_plane(lab: ServiceLab) -> None:
    control = next(state for state in lab.lab.keeper.states() if state.name == "control-plane")
    assert control.pid
    os.kill(control.pid, signal.SIGKILL)


def apply_each(lab: ServiceLab, services: list[Service]) -> None:
    for service in services:
        try:
            lab.apply(service)
        except NetlabError:
            return


def service_is_known(lab: ServiceLab, name: str) -> bool:
    try:
        return bool(lab.get("services", name))
    except (NetlabError, StopIteration):
        return False


# --- another mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("iptables", "nftables"), ("nftables", "iptables")])
@pytest.mark.parametrize("where", ["lab", "node"])
def test_up_with_another_mode_replaces_the_rules(old: str, new: str, where: str) -> None:
    text = TOPOLOGY.format(mode=old)
    changed = TOPOLOGY.format(mode=new)
    if where == "node":
        changed = text.replace("nodes: 2", f"nodes: {{n1: {{proxy: {new}}}, n2: {{}}}}")
        text = text.replace("nodes: 2", "nodes: {n1: {}, n2: {}}")
    with running(text, "mode", old) as lab:
        lab.apply(SERVICE, WEB)
        lab.wait_for_endpoints("web", 2)
        assert [modes_of(lab, node) for node in ("n1", "n2")] == [{old}, {old}]
        Lab.loads(changed, name=lab.name).up()
        assert [modes_of(lab, node) for node in ("n1", "n2")] == [{new}, {new if where == "lab" else old}]
        for member, address, port in (
            ("client", lab.cluster_ip("web"), 80),
            ("n2", lab.cluster_ip("web"), 80),
            ("ext1", lab.lab.address("n1"), 30080),
            ("ext1", lab.lab.address("n2"), 30080),
        ):
            assert len(lab.ask_often(member, address, port)) == 2


@pytest.mark.parametrize(("old", "new"), [("iptables", "nftables"), ("nftables", "iptables")])
def test_a_new_control_plane_replaces_the_rules_that_a_killed_one_left(old: str, new: str) -> None:
    with running(TOPOLOGY.format(mode=old), "mode", old) as lab:
        lab.apply(SERVICE, WEB)
        lab.wait_for_endpoints("web", 2)
        address = lab.cluster_ip("web")
        kill_control_plane(lab)
        lab.lab.keeper.stop()  # or else the supervisor starts another one of the old mode meanwhile
        assert [modes_of(lab, node) for node in ("n1", "n2")] == [{old}, {old}]
        Lab.loads(TOPOLOGY.format(mode=new), name=lab.name).up()
        assert [modes_of(lab, node) for node in ("n1", "n2")] == [{new}, {new}]
        lab.wait_for_endpoints("web", 2)
        assert len(lab.ask_often("client", address)) == 2


def modes_of(lab: ServiceLab, node: str) -> set[str]:
    """Return the modes whose rules are on a node."""
    found = rules(lab, node)
    modes = {"iptables"} if any("KUBE-" in line for line in found) else set()
    return modes | ({"nftables"} if "table ip kube-proxy" in found else set())


@pytest.mark.parametrize("old", ["iptables", "nftables"])
def test_a_mode_that_is_switched_to_none_leaves_nothing(old: str) -> None:
    text = TOPOLOGY.format(mode=old).replace("nodes: 2", "nodes: {n1: {}, n2: {}}")
    with running(text, "none") as lab:
        Lab.loads(text.replace("n2: {}", "n2: {proxy: none}"), name=lab.name).up()
        assert [modes_of(lab, node) for node in ("n1", "n2")] == [{old}, set()]
        Lab.loads(text.replace(f"proxy: {old}", "proxy: none"), name=lab.name).up()
        assert [modes_of(lab, node) for node in ("n1", "n2")] == [set(), set()]


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_come_and_go_with_readiness(lab: ServiceLab, tmp_path_factory: pytest.TempPathFactory) -> None:
    switch: Path = tmp_path_factory.mktemp("probe") / "ready"
    probe = Probe(command=("test", "-e", str(switch)), period=0.1, failure_threshold=1)
    probed = replace(WEB, replicas=1, template=PodTemplate(LABELS, (replace(SERVER, readiness=probe),)))
    headless = Service("web", headless=True, selector=LABELS, ports=(Port(80),))
    lab.apply(headless, replace(headless, name="early", publish_not_ready=True), probed)
    until(lambda: len(set(members(lab)) - {"client"}) == 1)
    (pod,) = set(members(lab)) - {"client"}
    until(lambda: names(lab, "early") == {lab.lab.address(pod)})
    assert names(lab, "web") == set()
    switch.touch()
    until(lambda: names(lab, "web") == {lab.lab.address(pod)})
    switch.unlink()
    until(lambda: names(lab, "web") == set())
    assert names(lab, "early") == {lab.lab.address(pod)}
    scale(lab, 0)
    until(lambda: names(lab, "early") == set())


def names(lab: ServiceLab, name: str) -> set[str]:
    """Return the addresses that a pod finds under a Service's short name."""
    code = (
        "import socket, sys\n"
        "try: print(*{found[4][0] for found in socket.getaddrinfo(sys.argv[1], 80)})\n"
        "except socket.gaierror as exc: assert exc.errno in (socket.EAI_NONAME, socket.EAI_NODATA), exc"
    )
    return set(run(lab, "client", f"python3 -c '{code}' {name}.default.svc.cluster.local.").split())
