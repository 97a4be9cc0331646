"""SCTP with packets: the echo server's own, through Services in every mode, and what is said where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from netlab.kernel import netns
from netlab.topology.pod import Container, ContainerPort, Pod
from netlab.topology.service import Policy, Port, Service, ServiceType
from tests.root.refusals import NO_SCTP, refusing
from tests.root.service_lab import DROPPED, REFUSED, SCTP, SILENCE, TCP, Reply, ServiceLab, running
from tests.root.serving import PATIENCE, V4, V6, connect, program, read_all, room
from tests.waiting import until

pytestmark = pytest.mark.root

ROOM = f"nl-ts{os.getpid()}.echo"
TOPOLOGY = """
proxy: {mode}
nodes: 2
external: 1
pods:
  near: {{node: n1}}
  far: {{node: n2}}
"""
WEB = (("app", "web"),)
SERVER = Container("echo", ports=(ContainerPort(80, protocol=TCP), ContainerPort(80, protocol=SCTP)))
WEB_1, WEB_2 = (Pod(f"web-{n}", f"n{n}", WEB, (SERVER,), owner="manifest") for n in (1, 2))
PORTS = (Port(80, "http", TCP, node_port=30080), Port(80, "sctp", SCTP, node_port=30080))
CLUSTER = Service("web", type=ServiceType.NODE_PORT, selector=WEB, ports=PORTS)
LOCAL = Service(
    "local",
    type=ServiceType.NODE_PORT,
    selector=WEB,
    ports=(Port(80, protocol=SCTP, node_port=30081),),
    external_policy=Policy.LOCAL,
)
NOBODY = Service("nobody", selector=(("app", "nobody"),), ports=(Port(80, protocol=SCTP),))
DECLARED = """
  talker: {node: n1, labels: {app: talk}, containers: [{name: echo, ports: [{containerPort: 80, protocol: SCTP}]}]}
services:
  talk: {selector: {app: talk}, ports: [{port: 80, protocol: SCTP}]}
"""
MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, protocol: SCTP}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: echo, image: nginx, ports: [{containerPort: 80, protocol: SCTP}]}]}
"""
REFUSED_HERE = refusing(NO_SCTP)
BRIDGE, TUNNEL = "10.244.1.1", "10.244.1.0"  # n1's cni0 and flannel.1


@pytest.fixture(scope="module", params=["iptables", "nftables", "ipvs"])
def services(request: pytest.FixtureRequest, sctp: None) -> Iterator[ServiceLab]:
    mode: str = request.param
    if mode == "ipvs":
        request.getfixturevalue("ipvs")
    with running(TOPOLOGY.format(mode=mode), f"sctp-{mode}", mode) as found:
        found.apply(WEB_1, WEB_2, CLUSTER, LOCAL, NOBODY)
        found.wait_for_endpoints("web", 2)
        yield found


# --- where the kernel has it -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sctp")
@pytest.mark.parametrize("address", [V4, V6])
def test_the_echo_server_answers_by_sctp(address: str) -> None:
    with room(ROOM), program(ROOM, "netlab.echo", "--port", "80/SCTP", "--port", "80/TCP", lean=True):
        connect(ROOM, 80).close()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with netns.call(ROOM, socket.socket, family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as client:
            client.settimeout(PATIENCE)
            client.connect((address, 80))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b'"protocol": "SCTP"' in read_all(client)


@pytest.mark.parametrize("client", ["near", "far"])
def test_a_pod_reaches_a_cluster_ip_as_itself(services: ServiceLab, client: str) -> None:
    expected = {Reply(pod, services.lab.address(client)) for pod in ("web-1", "web-2")}
    assert services.ask_often(client, services.cluster_ip("web"), 80, SCTP) == expected


def test_a_node_is_masqueraded_to_a_cluster_ip(services: ServiceLab) -> None:
    assert services.ask_often("n1", services.cluster_ip("web"), 80, SCTP) == _masqueraded()


def test_a_node_port_is_masqueraded(services: ServiceLab) -> None:
    assert services.ask_often("ext1", services.lab.address("n1"), 30080, SCTP) == _masqueraded()


def test_a_node_port_of_policy_local_keeps_the_source(services: ServiceLab) -> None:
    expected = {Reply("web-1", services.lab.address("ext1"))}
    assert services.ask_often("ext1", services.lab.address("n1"), 30081, SCTP) == expected


def test_the_same_port_by_tcp_is_another_one(services: ServiceLab) -> None:
    assert len(services.ask_often("near", services.cluster_ip("web"))) == 2
    assert services.ask("ext1", services.lab.address("n1"), 30081) == REFUSED


def test_a_pod_reaches_itself(services: ServiceLab) -> None:
    expected = {Reply("web-1", BRIDGE), Reply("web-2", services.lab.address("web-1"))}
    assert services.ask_often("web-1", services.cluster_ip("web"), 80, SCTP) == expected


def test_nobody_behind_a_cluster_ip_gives_no_answer(services: ServiceLab) -> None:
    """The kernel's SCTP goes on asking after an ICMP error, so that a refusal looks like silence."""
    found = services.ask("near", services.cluster_ip("nobody"), 80, SCTP, patience=SILENCE)
    assert found in (REFUSED, DROPPED)


def _masqueraded() -> set[Reply | str]:
    """Return what both pods see of a packet that n1 masquerades."""
    return {Reply("web-1", BRIDGE), Reply("web-2", TUNNEL)}


# --- where it has none -----------------------------------------------------------------------------------------------


def test_without_sctp_the_echo_server_serves_its_other_ports() -> None:
    with (
        room(ROOM),
        program(
            ROOM, "netlab.echo", "--port", "80/SCTP", "--port", "80/TCP", lean=True, before=REFUSED_HERE
        ) as process,
    ):
        connect(ROOM, 80).close()
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"echo: cannot listen on port 80/SCTP: Protocol not supported")


def test_without_sctp_up_and_apply_say_so_once(tmp_path: Path) -> None:
    with suppress(OSError):  # a module that is installed but not loaded counts as there
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    declared = TOPOLOGY.format(mode="iptables") + DECLARED
    (tmp_path / "topology.yaml").write_text(f"name: nosctp\n{declared}")
    (tmp_path / "web.yaml").write_text(MANIFEST)
    try:
        up, apply = [netlab(tmp_path, *words) for words in (("up",), ("apply", "-f", "web.yaml"))]
        until(lambda: "cannot listen on port 80/SCTP" in netlab(tmp_path, "logs", "talker").stdout)
    finally:
        netlab(tmp_path, "down")
    assert (up.returncode, apply.returncode) == (0, 0), up.stderr + apply.stderr
    said = "note: this kernel has no SCTP: nothing can listen on the SCTP ports of {}, only their rules are made\n"
    assert said.format("service talk, pod talker") in up.stderr
    assert said.format("service web, deployment web") in apply.stderr
    assert "hint: sudo modprobe sctp" in up.stderr


def netlab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, on a kernel without SCTP."""
    argv = [sys.executable, "-m", "netlab", *words]
    return subprocess.run(
        argv,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=REFUSED_HERE,
    )
