"""Every endpoint of a Service gets its share of new connections, in every mode.

Where the mode chooses at random (iptables, nftables) the counts of 5 equal endpoints are multinomial, and Pearson's
statistic has the chi-squared distribution with 4 degrees of freedom. Its tail is exp(-x/2) * (1 + x/2) (for 2k degrees
of freedom it is a Poisson sum of k terms), so CRITICAL makes each test fail once in a million runs of right code. An
endpoint that gets 15 % instead of 20 % of 10,000 has an expected statistic of 156. IPVS's `rr` leaves none to chance.
"""

from __future__ import annotations

import json
import math
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from netlab.kernel import netns
from netlab.topology.pod import Container, ContainerPort, PodTemplate, Workload, WorkloadKind
from netlab.topology.service import Port, Service
from tests.root.service_lab import TCP, UDP, ServiceLab, running

pytestmark = pytest.mark.root

ENDPOINTS, FALSE_ALARM, CRITICAL = 5, 1e-6, 33.3768
DATAGRAMS, STREAMS = 10_000, 2_000
FIRST_PORT = 20_000  # each datagram has a source port of its own, which makes it a connection of its own
IN_FLIGHT = 40  # a socket's buffer holds so many
PATIENCE = 30.0  # seconds: servers on a busy machine answer late

TOPOLOGY = """
proxy: {mode}
nodes: 2
pods: {{client: {{node: n1}}}}
"""
LABELS = (("app", "web"),)
SERVER = Container("echo", ports=(ContainerPort(80, protocol=TCP), ContainerPort(80, protocol=UDP)))
WEB = Workload(WorkloadKind.DEPLOYMENT, "web", LABELS, PodTemplate(LABELS, (SERVER,)), replicas=ENDPOINTS)
SERVICE = Service("web", selector=LABELS, ports=(Port(80, "http", TCP), Port(80, "udp", UDP)))


@pytest.fixture(scope="module", params=["iptables", "nftables", "ipvs"])
def lab(request: pytest.FixtureRequest) -> Iterator[ServiceLab]:
    mode: str = request.param
    if mode == "ipvs":
        request.getfixturevalue("ipvs")
    with running(TOPOLOGY.format(mode=mode), f"dist-{mode}", mode) as found:
        found.apply(SERVICE, WEB)
        found.wait_for_endpoints("web", ENDPOINTS)
        yield found


def statistic(counts: Counter[str], total: int) -> float:
    """Return Pearson's statistic against equal shares."""
    expected = total / ENDPOINTS
    missing = (ENDPOINTS - len(counts)) * expected
    return sum((count - expected) ** 2 for count in counts.values()) / expected + missing


def by_datagrams(address: str) -> Counter[str]:
    """Send each datagram from a port of its own, some at a time, and count who answers."""
    counts: Counter[str] = Counter()
    for first in range(FIRST_PORT, FIRST_PORT + DATAGRAMS, IN_FLIGHT):
        sent = []
        for port in range(first, first + IN_FLIGHT):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.settimeout(PATIENCE)
            client.bind(("", port))
            client.connect((address, 80))
            client.send(b"hostname")
            sent.append(client)
        for client in sent:
            counts[client.recv(256).decode()] += 1
            client.close()
    return counts


def by_streams(address: str) -> Counter[str]:
    """Open TCP connections one after the other, and count who answers."""
    counts: Counter[str] = Counter()
    for _ in range(STREAMS):
        with socket.create_connection((address, 80), timeout=PATIENCE) as client:
            client.sendall(b"who\n")
            counts[json.loads(client.makefile("rb").readline())["pod"]] += 1
    return counts


def require_equal_shares(lab: ServiceLab, counts: Counter[str], total: int) -> None:
    assert counts.total() == total
    if lab.mode == "ipvs":
        assert sorted(counts.values()) == [total // ENDPOINTS] * ENDPOINTS
    else:
        assert statistic(counts, total) < CRITICAL, counts


def test_the_critical_value_is_that_of_the_stated_false_alarm_rate() -> None:
    half = CRITICAL / 2
    assert math.isclose(math.exp(-half) * (1 + half), FALSE_ALARM, rel_tol=1e-3)
    uneven = Counter({"a": 1500, "b": 2125, "c": 2125, "d": 2125, "e": 2125})
    assert statistic(uneven, DATAGRAMS) > 4 * CRITICAL
    assert statistic(Counter({"a": 2500, "b": 2500, "c": 2500, "d": 2500}), DATAGRAMS) > 4 * CRITICAL


def test_datagrams_are_shared_equally(lab: ServiceLab) -> None:
    counts = netns.call(lab.lab.netns("client"), by_datagrams, lab.cluster_ip("web"))
    require_equal_shares(lab, counts, DATAGRAMS)


def test_connections_are_shared_equally(lab: ServiceLab) -> None:
    counts = netns.call(lab.lab.netns("client"), by_streams, lab.cluster_ip("web"))
    require_equal_shares(lab, counts, STREAMS)
