"""`netlab svc` on a node in IPVS mode: what the kernel has, asked by netlink, ipset and iptables-save."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netlab.kernel import netns
from netlab.lab import Lab
from netlab.topology.model import Proxy
from netlab.topology.service import Port, Service, ServiceType
from tests.labs import topology
from tests.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def lab(ipvs: None) -> Iterator[Lab]:
    base = topology("tsvcipvs", nodes=2, pods=2, proxy=Proxy.IPVS)
    app = (("app", "web"),)
    web = Service("web", type=ServiceType.NODE_PORT, selector=app, ports=(Port(80, node_port=30080),))
    nobody = Service("nobody", selector=(("app", "none"),), ports=(Port(80),))
    headless = Service("headless", selector=app, ports=(Port(80),), headless=True)
    pods = tuple(replace(pod, labels=app) for pod in base.pods)
    with Lab(replace(base, services=(web, nobody, headless), pods=pods)) as lab:
        until(lambda: svc("explain", "web").count("with probability 1/2 (50 %)") == 4, 30)
        yield lab


def svc(*argv: str, status: int = 0) -> str:
    """Return what `netlab svc` says, in one line."""
    command = [sys.executable, "-m", "netlab", "svc", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return " ".join((done.stdout or done.stderr).split())


def test_a_pods_way(lab: Lab) -> None:
    own, other = (lab.addresses(pod)[0] for pod in ("p-1", "p-2"))
    said = svc("explain", "web", "--from", "p-1")
    assert "virtual servers by netlink" in said
    assert "warning" not in said
    assert f"{own} is in 10.244.0.0/16: not masqueraded IPVS chooses by rr, in turn:" in said
    assert f"with probability 1/2 (50 %): {own}:80, pod p-1 on n1; itself (hairpin): masqueraded" in said
    assert f"with probability 1/2 (50 %): {other}:80, pod p-2 on n2" in said
    assert "To port 30080/tcp of the node (NodePort): to KUBE-NODE-PORT: masqueraded" in said


def test_counters(lab: Lab) -> None:
    (address,) = re.findall(r"To (\S+):80/tcp", svc("explain", "web"))
    for _ in range(4):
        with pytest.raises(ConnectionRefusedError):  # by the pod, where nobody listens
            netns.call(lab.netns("p-1"), socket.create_connection, (address, 80), 10)
    rules = svc("rules", "web")
    counted = re.search(rf"(\d+) (\d+) to {address}:80/tcp -> real servers of {address}:80/tcp by rr", rules)
    assert counted
    assert int(counted[1]) >= 4
    servers = [f"{lab.addresses(pod)[0]}:80" for pod in ("p-1", "p-2")]
    for server in servers:  # each had two of the four connections
        seen = re.search(rf"(\d+) \d+ any packet -> new destination {server}", rules)
        assert seen
        assert int(seen[1]) >= 2


def test_nobody_behind_it_and_no_rules_at_all(lab: Lab) -> None:
    assert "rejected (no real server): the client is told at once" in svc("explain", "nobody")
    assert "Service default/headless is headless" in svc("explain", "headless", status=1)
    assert "did you mean default/web?" in svc("rules", "wbe", status=2)
