"""`netlab trace --flow`: real traffic, followed from its first packet on, through NAT and tunnels."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from netlab.bpf.pcap_filter import packet_filter
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.lab import Lab
from netlab.trace.correlate import Role
from netlab.trace.flow import Flow
from netlab.trace.model import Event, Source, Topic, Trace, Verdict
from netlab.trace.run import trace_flow
from tests.root.ready import wait_until_ready
from tests.waiting import until

pytestmark = pytest.mark.root

TOPOLOGY = """
proxy: iptables
clusterCIDR: [10.244.0.0/16, "fd00:10:244::/56"]
nodes: 2
external: [client]
pods:
- {name: a, node: n1}
- {name: idle, node: n1}
- name: web
  node: n2
  labels: {app: web}
  containers: [{name: echo, ports: [8080, {containerPort: 8080, protocol: UDP}]}]
services:
- {name: web, type: NodePort, clusterIP: 10.96.0.80, selector: {app: web},
   ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
"""
ECHO = 8080  # the echo server's port, of TCP and of UDP
BLOCK = "iptables -I FORWARD -p udp --dport 8080 -j DROP"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.loads(TOPOLOGY, name="flows") as found:
        wait_until_ready(found.netns(member) for member in found.topology.members())
        yield found


def flow(text: str, source: str = "", wait: float = 20.0) -> Flow:
    return Flow(text, packet_filter(text), source, wait)


@contextmanager
def repeated(send: Callable[[], object]) -> Iterator[None]:
    """Send again and again until somebody has seen enough."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.05):
            send()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def follow(lab: Lab, wanted: Flow, send: Callable[[], object]) -> Trace:
    with repeated(send):
        return trace_flow(lab, wanted)


def open_socket(lab: Lab, member: str, family: int = socket.AF_INET) -> socket.socket:
    return netns.call(lab.netns(member), socket.socket, family, socket.SOCK_DGRAM)


def get(lab: Lab, member: str, address: tuple[str, int]) -> None:
    """Open a connection, ask, and close it."""
    with closing(netns.call(lab.netns(member), socket.socket)) as opened:
        opened.connect(address)
        opened.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while opened.recv(1000):
            pass


def web(lab: Lab, version: int = 4) -> str:
    return next(str(address) for address in lab.addresses("web") if address.version == version)


def way(found: Trace, role: Role = Role.PROBE) -> list[str]:
    return [f"{hop.member} {hop.device} {hop.event}" for one in found.ways if one.role is role for hop in one.hops]


def devices(steps: list[str]) -> list[str]:
    """Leave out the names of cables' ends, which are made up."""
    return [" ".join("veth" if word.startswith("veth") else word for word in step.split()) for step in steps]


OVER_VXLAN = [
    *("a eth0 out", "n1 veth in", "n1 cni0 in", "n1 flannel.1 out", "n1 eth0 out", "underlay n1-eth0 in"),
    *("underlay n2-eth0 out", "n2 eth0 in", "n2 flannel.1 in", "n2 cni0 out", "n2 veth out", "web eth0 in"),
    "web eth0 delivered",
]


def arrives(found: Trace, vtep: str = "flannel.1") -> bool:
    """Say whether it came to its pod; whoever listens there may read it later than all was looked at."""
    way_there = [step.replace("flannel.1", vtep) for step in OVER_VXLAN[:-1]]
    return devices(way(found))[: len(way_there)] == way_there


def test_a_connection_to_a_service(lab: Lab) -> None:
    found = follow(lab, flow("tcp port 80 and tcp[tcpflags] & tcp-syn != 0"), lambda: get(lab, "a", ("10.96.0.80", 80)))
    assert (found.verdict, found.summary) == (Verdict.ANSWERED, "web answered")
    assert devices(way(found)) == OVER_VXLAN
    assert way(found, Role.ANSWER)[-1].startswith("a eth0")
    probe = next(one for one in found.ways if one.role is Role.PROBE)
    causes = [cause for hop in probe.hops for cause in hop.causes]
    rules = [cause.text for cause in causes if cause.topic is Topic.RULE]
    assert f"--to-destination {web(lab)}:8080" in " ".join(rules)
    assert len([rule for rule in rules if rule.startswith("nat PREROUTING")]) == 1
    assert [cause for cause in causes if cause.topic is Topic.CONNTRACK and cause.source is Source.SEEN]
    assert any("destination 10.96.0.80:80 -> " in change for hop in probe.hops for change in hop.changes)
    assert found.remarks == ("followed: the first packet that matched 'tcp port 80 and tcp[tcpflags] & tcp-syn != 0'",)


def test_a_packet_of_a_connection_that_is_open(lab: Lab) -> None:
    """Nothing is translated by a rule any more; where it goes is not foretold either."""
    with closing(netns.call(lab.netns("a"), socket.socket)) as opened:
        opened.connect(("10.96.0.80", 80))
        found = follow(lab, flow("tcp port 80", "a"), lambda: opened.sendall(b"X"))
    assert found.verdict is Verdict.ANSWERED
    assert arrives(found)
    assert "by the tables" not in " ".join(found.remarks)


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_among_many_that_look_alike(lab: Lab, version: int) -> None:
    """With DF and without a connection Linux gives all of them the identification 0."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with closing(open_socket(lab, "a", family)) as opened:
        if version == 4:
            opened.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        opened.settimeout(5)

        def send() -> None:
            for _ in range(20):
                opened.sendto(b"hello", (web(lab, version), ECHO))
            for _ in range(20):
                opened.recv(1000)  # else it has no room for answers some time

        found = follow(lab, flow(f"udp dst port {ECHO}"), send)  # an answer may be on its way when it begins
    assert found.verdict is Verdict.ANSWERED
    assert arrives(found, "flannel.1" if version == 4 else "flannel-v6.1")
    probe = next(one for one in found.ways if one.role is Role.PROBE)
    assert not probe.copies
    for hop in probe.hops:
        rules = [cause.text for cause in hop.causes if cause.topic is Topic.RULE]
        assert len(rules) == len(set(rules))


def test_echo_requests(lab: Lab) -> None:
    found = follow(lab, flow("icmp[icmptype] == icmp-echo"), lambda: lab.exec("a", ["ping", "-c1", "-W1", web(lab)]))
    assert found.verdict is Verdict.ANSWERED
    assert devices(way(found)) == OVER_VXLAN


def test_who_sends_it(lab: Lab) -> None:
    with closing(open_socket(lab, "idle")) as noise, closing(open_socket(lab, "a")) as opened:

        def send() -> None:
            for one in (noise, opened):
                one.sendto(b"hello", (web(lab), ECHO))

        found = follow(lab, flow("udp", "a"), send)
    assert way(found)[0] == "a eth0 out"


def test_what_is_in_a_tunnel_is_asked_for_not_the_tunnel(lab: Lab) -> None:
    with closing(open_socket(lab, "a")) as opened, pytest.raises(NetlabError, match="no packet of the lab matched"):
        follow(lab, flow("udp port 8472", wait=0.5), lambda: opened.sendto(b"hello", (web(lab), ECHO)))


def test_how_long_a_packet_is(lab: Lab) -> None:
    with closing(open_socket(lab, "a")) as opened:

        def send() -> None:
            for size in (10, 900):
                opened.sendto(bytes(size), (web(lab), ECHO))

        found = follow(lab, flow("greater 900 and less 940", "a"), send)
    header = next(header for header in found.ways[0].hops[0].headers if hasattr(header, "ttl"))
    assert header.length == 928


def test_one_that_is_dropped(lab: Lab) -> None:
    lab.exec("n1", ["sh", "-c", BLOCK])
    try:
        with closing(open_socket(lab, "a")) as opened:
            found = follow(lab, flow(f"udp port {ECHO}"), lambda: opened.sendto(b"hello", (web(lab), ECHO)))
    finally:
        lab.exec("n1", ["sh", "-c", BLOCK.replace("-I", "-D")])
    assert found.verdict is Verdict.DROPPED
    assert "n1, cni0" in found.summary
    assert "-j DROP" in found.summary


def test_a_port_that_nobody_listens_on(lab: Lab) -> None:
    def connect() -> None:
        with closing(netns.call(lab.netns("client"), socket.socket)) as opened:
            opened.connect_ex(("172.18.0.2", 9))

    found = follow(lab, flow("tcp port 9"), connect)
    assert (found.verdict, found.ways[0].hops[-1].event) == (Verdict.REFUSED, Event.DROPPED)


def test_a_filter_that_the_packet_filter_cannot_take(lab: Lab) -> None:
    """More than 64 instructions do not fit into xt_bpf; the programs at tracepoints take them."""
    text = " or ".join(f"udp dst port {port}" for port in (*range(9000, 9060), ECHO))
    assert len(packet_filter(text)) > 64
    with closing(open_socket(lab, "a")) as opened:
        found = follow(lab, flow(text), lambda: opened.sendto(b"hello", (web(lab), ECHO)))
    assert arrives(found)
    assert any("which rules it met is not known: the filter is too long" in remark for remark in found.remarks)


# --- as typed --------------------------------------------------------------------------------------------------------


def netlab(lab: Lab, *words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "netlab", "trace", "-l", lab.name, *words]
    environment = {"NETLAB_STATE": str(lab.folder.path.parent), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--flow", "udp portt 53"), 2, "filter 'udp portt 53': syntax error at 'portt', character 5"),
        (("--flow", "ip6 protochain 17"), 2, "`protochain` is a loop"),
        (("--flow", "ip[300] = 1"), 2, "behind a packet's first 256 bytes"),
        (("--flow", "ether host 02:00:00:00:00:01"), 2, "filter 'ether host 02:00:00:00:00:01'"),
        (("--flow", "udp", "b"), 2, "lab flows has no member 'b'"),
        (("--flow", "udp", "a", "web"), 2, "nothing is sent with --flow, so DST cannot be asked for"),
        (("--flow", "udp", "--tcp", "--size", "100"), 2, "so --tcp, --size cannot be asked for"),
        (("--flow", "udp port 9", "--wait", "0.2"), 1, "no packet of the lab matched 'udp port 9' within 0.2 s"),
        (("a",), 2, "to whom?"),
        ((), 2, "from whom, and to whom?"),
    ],
)
def test_what_is_wrong(lab: Lab, words: tuple[str, ...], status: int, said: str) -> None:
    with netlab(lab, *words) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert said in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_one_that_is_ended_while_it_waits_leaves_nothing(lab: Lab, ending: signal.Signals) -> None:
    def tables() -> str:
        return lab.exec("n1", ["nft", "list", "tables"]).stdout

    with netlab(lab, "--flow", "udp port 9") as process:
        until(lambda: "netlab_trace" in tables())
        process.send_signal(ending)
        _, errors = process.communicate(timeout=10)
    assert "Traceback" not in errors
    until(lambda: "netlab_trace" not in tables())
