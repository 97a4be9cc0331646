"""What stock kernels have and this project leans on: netem, dummy, WireGuard, TRACE of legacy iptables.

Where the running kernel lacks one, the VM tier runs its test.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP

from netlab.errors import NotSupported
from netlab.kernel import features
from netlab.kernel.capture import Capture
from netlab.lab import Lab
from netlab.packets import layers
from tests.labs import topology
from tests.root.modules import modprobe
from tests.waiting import until

pytestmark = pytest.mark.root

WIREGUARD_PORT = 51820
WIREGUARD_OVERHEAD = 32  # header 16, authentication tag 16; the inner packet is padded to 16
LOG_IN_NAMESPACES = Path("/proc/sys/net/netfilter/nf_log_all_netns")


def need(name: str) -> None:
    """Skip where a kernel lacks something; else have it loaded now, before anything is compared."""
    try:
        features.require(name, "this test")
    except NotSupported:
        pytest.skip(f"this kernel has no {name}; the VM tier runs it")


@pytest.fixture(scope="session")
def netem() -> None:
    need("netem")


@pytest.fixture(scope="session")
def wireguard() -> None:
    need("wireguard")


@pytest.fixture(scope="session")
def dummy() -> None:
    need("dummy")
    modprobe("dummy", "numdummies=0")  # else it makes dummy0 on the machine itself


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(topology("tstock", nodes=2, pods=2)) as found:
        yield found


def in_node(lab: Lab, node: str, script: str) -> str:
    done = lab.exec(node, ["sh", "-ec", script])
    assert done.returncode == 0, done.stderr
    return done.stdout


def round_trip(lab: Lab, source: str, target: str) -> float:
    """Return how long an echo took, in milliseconds."""
    shown = lab.exec(source, ["ping", "-c1", "-W5", target]).stdout
    return float(shown.partition("time=")[2].split()[0])


@pytest.mark.usefixtures("netem")
def test_netem_delays_and_loses_what_crosses_the_underlay(lab: Lab) -> None:
    there = lab.address("p-2")
    assert lab.exec("p-1", ["ping", "-c1", "-W5", there]).returncode == 0
    in_node(lab, "n1", "tc qdisc add dev eth0 root netem delay 200ms")
    assert 200 <= round_trip(lab, "p-1", there) < 1200
    in_node(lab, "n1", "tc qdisc change dev eth0 root netem loss 100%")
    assert lab.exec("p-1", ["ping", "-c1", "-W1", there]).returncode == 1
    in_node(lab, "n1", "tc qdisc delete dev eth0 root")
    assert lab.exec("p-1", ["ping", "-c1", "-W5", there]).returncode == 0


@pytest.mark.usefixtures("dummy")
def test_a_dummy_interface_holds_a_service_address_as_kube_proxy_keeps_it(lab: Lab) -> None:
    """In IPVS mode kube-ipvs0 is a dummy, down, with every ClusterIP; the node answers for them all the same."""
    in_node(lab, "n1", "ip link add kube-ipvs0 type dummy; ip address add 10.96.0.10/32 dev kube-ipvs0")
    assert "state DOWN" in in_node(lab, "n1", "ip link show kube-ipvs0")
    assert lab.exec("p-1", ["ping", "-c1", "-W5", "10.96.0.10"]).returncode == 0


@pytest.mark.usefixtures("wireguard")
def test_wireguard_between_nodes_shows_only_its_own_header(lab: Lab) -> None:
    key = "umask 77; wg genkey >/tmp/nl-tstock-$NODE; wg pubkey </tmp/nl-tstock-$NODE"
    public = {node: in_node(lab, node, key.replace("$NODE", node)).strip() for node in ("n1", "n2")}
    try:
        for number, (node, peer) in enumerate((("n1", "n2"), ("n2", "n1")), start=1):
            in_node(
                lab,
                node,
                f"""
                ip link add wg0 type wireguard
                wg set wg0 listen-port {WIREGUARD_PORT} private-key /tmp/nl-tstock-{node} \\
                   peer {public[peer]} allowed-ips 10.99.0.0/24 endpoint {lab.address(peer)}:{WIREGUARD_PORT}
                ip address add 10.99.0.{number}/24 dev wg0
                ip link set wg0 up
                """,
            )
    finally:
        for node in public:
            Path(f"/tmp/nl-tstock-{node}").unlink()
    with closing(Capture(lab.netns("n1"), "eth0")) as capture:
        assert lab.exec("n1", ["ping", "-c1", "-W10", "10.99.0.2"]).returncode == 0
        packets = [layers(frame.payload) for frame in capture.frames(idle=0.1)]
    lengths = [len(packet[UDP].payload) for packet in packets if UDP in packet and packet[UDP].dport == WIREGUARD_PORT]
    assert lengths.count(96 + WIREGUARD_OVERHEAD) == 2  # 84 bytes of echo, padded: one there, one back
    assert not [packet for packet in packets if ICMP in packet and IP in packet]


@pytest.fixture(scope="session")
def legacy_trace() -> None:
    """Skip where TRACE of legacy iptables cannot be had: it needs the kernel's log as a logger of packets."""
    if not modprobe("nf_log_syslog"):
        pytest.skip("this kernel has no nf_log_syslog; the VM tier runs it")
    subprocess.run(["iptables-legacy-save", "-t", "raw"], check=True, capture_output=True)


@pytest.mark.usefixtures("legacy_trace")
def test_legacy_trace_names_every_rule_that_a_packet_meets(lab: Lab) -> None:
    before = LOG_IN_NAMESPACES.read_text()
    LOG_IN_NAMESPACES.write_text("1")
    try:
        in_node(
            lab,
            "n1",
            """
            iptables-legacy -t raw -A PREROUTING -p icmp -j TRACE
            iptables-legacy -t filter -N NETLAB-TEST
            iptables-legacy -t filter -A FORWARD -p icmp -j NETLAB-TEST
            iptables-legacy -t filter -A NETLAB-TEST -j RETURN
            """,
        )
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(log, 0, os.SEEK_END)
        assert lab.exec("p-1", ["ping", "-c1", "-W5", lab.address("p-2")]).returncode == 0
        seen = traced(log)
        os.close(log)
    finally:
        LOG_IN_NAMESPACES.write_text(before)
    request = [
        "raw:PREROUTING:policy:2",
        "filter:FORWARD:rule:1",
        "filter:NETLAB-TEST:return:1",
        "filter:FORWARD:policy:2",
    ]
    assert [step for step in seen if step in request] == request * 2


def traced(log: int) -> list[str]:
    """Return the steps of packets in the kernel's log, TABLE:CHAIN:KIND:NUMBER, in their order."""
    found: list[str] = []

    def read_on() -> bool:
        try:
            while True:
                found.extend(re.findall(r"TRACE: (\S+)", os.read(log, 8192).decode(errors="replace")))
        except BlockingIOError:
            return found.count("filter:FORWARD:policy:2") >= 2

    until(read_on)
    return found
