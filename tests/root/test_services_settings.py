"""kube-proxy's configuration in a topology file, from the file to rules, settings and packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netlab.lab import Lab
from tests.root.service_lab import REFUSED, Reply, ServiceLab, running
from tests.waiting import until

pytestmark = pytest.mark.root

TOPOLOGY = """
nodes: [n1, {name: n2, proxy: nftables}]
pods:
  client: {node: n1}
  other: {node: n2}
  agent: {node: n2, hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet}
  web: {node: n1, labels: {app: web, near: "yes"}, containers: [{name: echo, ports: [80]}]}
  near: {node: n2, labels: {near: "yes"}, containers: [{name: echo, ports: [80]}]}
services:
  web: {type: NodePort, clusterIP: 10.96.0.80, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
  near: {clusterIP: 10.96.0.81, selector: {near: "yes"}, ports: [80], trafficDistribution: PreferSameNode}
"""
CHOSEN = """
nodePortAddresses: [10.244.0.0/16]
iptables: {masqueradeAll: true, localhostNodePorts: false}
nftables: {masqueradeAll: true}
conntrack: {tcpBeLiberal: true}
"""
FLAGS = ["net.netfilter.nf_conntrack_tcp_be_liberal", "net.ipv4.conf.all.route_localnet"]
TIMEOUTS = [f"net.netfilter.nf_conntrack_tcp_timeout_{name}" for name in ("established", "close_wait")]
INVALID = "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"


@pytest.fixture(scope="module")
def usual() -> Iterator[ServiceLab]:
    with running(TOPOLOGY, "kp-usual") as found:
        found.wait_for_endpoints("web", 1)
        yield found


@pytest.fixture(scope="module")
def chosen() -> Iterator[ServiceLab]:
    """Give tests a lab with other settings than kube-proxy's own."""
    with running(TOPOLOGY + CHOSEN, "kp-chosen") as found:
        found.wait_for_endpoints("web", 1)
        yield found


def rules(lab: Lab) -> list[str]:
    return lab.exec("n1", ["iptables-save"]).stdout.splitlines()


def settings(lab: Lab, names: list[str]) -> list[str]:
    return lab.exec("n1", ["sysctl", "-n", *names]).stdout.split()


def address(lab: ServiceLab, member: str) -> str:
    return str(lab.lab.addresses(member)[0])


def test_kube_proxys_own_settings(usual: ServiceLab) -> None:
    assert settings(usual.lab, [*FLAGS, *TIMEOUTS]) == ["0", "1", "86400", "3600"]
    assert INVALID in rules(usual.lab)
    assert usual.ask("client", "10.96.0.80") == Reply("web", address(usual, "client"))
    assert usual.ask("other", "10.96.0.80") == Reply("web", address(usual, "other"))
    assert usual.ask("n1", "127.0.0.1", 30080) == Reply("web", "10.244.1.1")
    assert usual.ask("client", address(usual, "n1"), 30080) == Reply("web", "10.244.1.1")
    assert usual.ask("other", address(usual, "n2"), 30080) == Reply("web", "10.244.2.0")


def test_a_client_may_prefer_endpoints_of_its_own_node(usual: ServiceLab) -> None:
    usual.wait_for_endpoints("near", 2)
    assert usual.ask_often("client", "10.96.0.81") == {Reply("web", address(usual, "client"))}
    assert usual.ask_often("other", "10.96.0.81") == {Reply("near", address(usual, "other"))}


def test_a_pod_of_the_nodes_network_asks_the_clusters_dns_if_it_wants_to(usual: ServiceLab) -> None:
    assert usual.lab.exec("agent", ["getent", "ahostsv4", "web"]).stdout.split()[0] == "10.96.0.80"


def test_rules_and_settings_are_the_files(chosen: ServiceLab) -> None:
    assert settings(chosen.lab, FLAGS) == ["1", "0"]
    found = rules(chosen.lab)
    assert INVALID not in found
    assert not [rule for rule in found if "KUBE-FIREWALL" in rule]
    ends = [rule.split(" -m comment")[0] for rule in found if rule.endswith("-j KUBE-NODEPORTS") and " -d " in rule]
    assert ends == ["-A KUBE-SERVICES -d 10.244.1.1/32", "-A KUBE-SERVICES -d 10.244.1.0/32"]
    table = chosen.lab.exec("n2", ["nft", "list", "set", "ip", "kube-proxy", "nodeport-ips"]).stdout
    assert "elements = { 10.244.2.0, 10.244.2.1 }" in table


def test_rules_and_settings_follow_the_file() -> None:
    with Lab.loads("nodes: 1", name="kp-edited") as lab:
        until(lambda: INVALID in rules(lab))
        Lab.loads(
            "nodes: 1\niptables: {localhostNodePorts: false}\nconntrack: {tcpBeLiberal: true}", name=lab.name
        ).up()
        until(lambda: "KUBE-FORWARD" in str(rules(lab)) and INVALID not in rules(lab))
        assert settings(lab, FLAGS) == ["1", "0"]


def test_every_packet_to_a_cluster_ip_is_masqueraded(chosen: ServiceLab) -> None:
    assert chosen.ask("client", "10.96.0.80") == Reply("web", "10.244.1.1")
    assert chosen.ask("other", "10.96.0.80") == Reply("web", "10.244.2.0")


@pytest.mark.parametrize(("client", "node", "gateway"), [("client", "n1", "10.244.1.1"), ("other", "n2", "10.244.2.1")])
def test_node_ports_are_at_the_chosen_addresses_only(chosen: ServiceLab, client: str, node: str, gateway: str) -> None:
    assert isinstance(chosen.ask(client, gateway, 30080), Reply)
    assert chosen.ask(client, address(chosen, node), 30080) == REFUSED
    assert chosen.ask(node, "127.0.0.1", 30080) == REFUSED
