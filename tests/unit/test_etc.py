"""/etc/hosts and /etc/resolv.conf inside a lab."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netlab.plan.etc import hosts, pod_files, resolv_conf
from netlab.store.store import Lease, Snapshot
from netlab.topology.model import (
    BridgeBackend,
    Container,
    DnsPolicy,
    HostAlias,
    Netfilter,
    Node,
    Pod,
    Proxy,
    Role,
    Router,
    Segment,
    Topology,
)

LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
MACHINES = """\
192.168.1.1\tr1
fd01::1\tr1
192.168.2.1\tr1
192.168.1.11\tn1
fd01::b\tn1
192.168.2.12\tn2
192.168.2.50\tclient
"""
ALIASES = (
    HostAlias(ip_address("10.1.2.3"), ("foo.remote", "bar.remote")),
    HostAlias(ip_address("fd00::9"), ("six.local",)),
)
ALIAS_LINES = """
# Entries added by HostAliases.
10.1.2.3\tfoo.remote\tbar.remote
fd00::9\tsix.local
"""


@pytest.fixture
def topology() -> Topology:
    return Topology(
        name="demo",
        cluster_cidrs=(ip_network("10.244.0.0/16"), ip_network("fd44::/48")),
        service_cidrs=(ip_network("10.96.0.0/16"),),
        node_mask_ipv4=24,
        node_mask_ipv6=64,
        backend=BridgeBackend(),
        ip_masq=True,
        netfilter=Netfilter.IPTABLES,
        segments=(
            Segment("lan", (ip_network("192.168.1.0/24"), ip_network("fd01::/64")), 1500),
            Segment("far", (ip_network("192.168.2.0/24"),), 1500),
        ),
        routers=(Router("r1", ("lan", "far")),),
        nodes=(Node("n1", "lan"), Node("n2", "far"), Node("client", "far", Role.EXTERNAL)),
        pods=(
            Pod("web", "n1", containers=(Container("c", ("true",)),)),
            Pod("aliased", "n1", host_aliases=ALIASES),
            Pod("plain-host", "n2", host_network=True, containers=(Container("c", ("true",)),)),
            Pod("host", "n2", host_network=True, host_aliases=ALIASES),
        ),
    )


@pytest.fixture
def snapshot() -> Snapshot:
    return Snapshot(
        leases={
            "n1": Lease("n1", (ip_address("192.168.1.11"), ip_address("fd01::b")), (ip_network("10.244.0.0/24"),)),
            "n2": Lease("n2", (ip_address("192.168.2.12"),), (ip_network("10.244.1.0/24"),)),
        },
        machines={"client": (ip_address("192.168.2.50"),)},
        pods={
            "web": (ip_address("10.244.0.2"), ip_address("fd44::2")),
            "aliased": (ip_address("10.244.0.3"),),
        },
    )


def test_a_pod_knows_itself_only(topology: Topology, snapshot: Snapshot) -> None:
    expected = "# Written by netlab, as kubelet does.\n" + LOCALHOST + "10.244.0.2\tweb\nfd44::2\tweb\n"
    assert hosts(topology, snapshot, "web") == expected


def test_host_aliases_stand_in_a_section_of_their_own(topology: Topology, snapshot: Snapshot) -> None:
    text = hosts(topology, snapshot, "aliased")
    assert text == "# Written by netlab, as kubelet does.\n" + LOCALHOST + "10.244.0.3\taliased\n" + ALIAS_LINES


@pytest.mark.parametrize("member", ["n1", "n2", "client", "r1"])
def test_a_machine_knows_every_machine(topology: Topology, snapshot: Snapshot, member: str) -> None:
    assert hosts(topology, snapshot, member) == "# Written by netlab.\n" + LOCALHOST + MACHINES


def test_a_host_network_pod_has_its_nodes_file_and_its_aliases(topology: Topology, snapshot: Snapshot) -> None:
    header = "# Written by netlab, as kubelet does (host network).\n"
    assert hosts(topology, snapshot, "plain-host") == header + LOCALHOST + MACHINES
    assert hosts(topology, snapshot, "host") == header + LOCALHOST + MACHINES + ALIAS_LINES


def test_only_pods_with_containers_need_files(topology: Topology, snapshot: Snapshot) -> None:
    files = pod_files(topology, snapshot)
    assert set(files) == {"web", "plain-host"}
    assert files["web"].hosts == hosts(topology, snapshot, "web")
    assert files["web"].resolv_conf == resolv_conf(topology, "web")


def test_a_pod_searches_the_clusters_domains(topology: Topology) -> None:
    search = "search default.svc.cluster.local svc.cluster.local cluster.local"
    assert resolv_conf(topology, "web").splitlines() == [search, "nameserver 10.96.0.10", "options ndots:5"]


@pytest.mark.parametrize(
    ("member", "policy", "asks"),
    [
        ("web", DnsPolicy.CLUSTER_FIRST, True),
        ("web", DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET, True),
        ("web", DnsPolicy.DEFAULT, False),
        ("host", DnsPolicy.CLUSTER_FIRST, False),
        ("host", DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET, True),
        ("host", DnsPolicy.DEFAULT, False),
    ],
)
def test_who_asks_the_clusters_dns(topology: Topology, member: str, policy: DnsPolicy, *, asks: bool) -> None:
    pods = tuple(replace(pod, dns_policy=policy) if pod.name == member else pod for pod in topology.pods)
    assert ("nameserver 10.96.0.10" in resolv_conf(replace(topology, pods=pods), member)) is asks


def test_without_services_there_is_no_nameserver(topology: Topology) -> None:
    lines = resolv_conf(replace(topology, proxy=Proxy.NONE), "web").splitlines()
    assert lines[1] == "options ndots:5"
    assert all(line.startswith("#") for line in lines[2:])


@pytest.mark.parametrize("member", ["host", "n1", "r1", "client"])
def test_machines_search_nothing(topology: Topology, member: str) -> None:
    assert all(line.startswith("#") for line in resolv_conf(topology, member).splitlines())


def test_a_machine_without_addresses_is_left_out(topology: Topology, snapshot: Snapshot) -> None:
    text = hosts(topology, replace(snapshot, machines={}), "n1")
    assert "client" not in text
