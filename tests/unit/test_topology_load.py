"""What a topology file means: defaults, short forms, overrides."""

from __future__ import annotations

import io
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from netlab.errors import TopologyError, UsageError
from netlab.topology.load import load, load_text
from netlab.topology.model import (
    BridgeBackend,
    Check,
    CheckProtocol,
    Container,
    DnsPolicy,
    EnvVar,
    Expect,
    HostAlias,
    HostGwBackend,
    IpipBackend,
    Ipvs,
    KubeProxy,
    Netfilter,
    Node,
    NodePortAddresses,
    Pod,
    Proxy,
    Role,
    Router,
    Segment,
    Topology,
    VxlanBackend,
)


def pods(text: str) -> list[tuple[str, str]]:
    """Return the names and nodes of a topology's pods."""
    return [(pod.name, pod.node) for pod in load_text(text).pods]


def problems(text: str) -> list[str]:
    """Return the problems of a text, without the place."""
    with pytest.raises(TopologyError) as raised:
        load_text(text)
    return [f"{problem.path}: {problem.message}" for problem in raised.value.problems]


# --- defaults --------------------------------------------------------------------------------------------------------


def test_shortest_file_has_flannels_defaults() -> None:
    assert load_text("nodes: 1") == Topology(
        name="lab",
        cluster_cidrs=(ip_network("10.244.0.0/16"),),
        service_cidrs=(ip_network("10.96.0.0/16"),),
        node_mask_ipv4=24,
        node_mask_ipv6=64,
        backend=VxlanBackend(vni=1, port=8472, direct_routing=False, mtu=None, learning=False, gbp=False),
        ip_masq=True,
        netfilter=Netfilter.IPTABLES,
        segments=(Segment("underlay", (ip_network("172.18.0.0/16"),), 1500),),
        routers=(),
        nodes=(Node("n1", "underlay"),),
        pods=(),
        checks=(),
        services=(),
        proxy=Proxy.IPTABLES,
        load_balancer_cidrs=(ip_network("203.0.113.0/24"),),
    )


def test_dual_stack_file_has_defaults_of_both_versions_ipv4_first() -> None:
    topology = load_text("nodes: 1\nclusterCIDR: 'fd00:10:244::/56,10.244.0.0/16'")
    assert topology.cluster_cidrs == (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))
    assert topology.service_cidrs == (ip_network("10.96.0.0/16"), ip_network("fd00:10:96::/112"))
    assert topology.segments[0].cidrs == (ip_network("172.18.0.0/16"), ip_network("fd00:172:18::/64"))


def test_ipv6_only_file_has_no_ipv4() -> None:
    topology = load_text("nodes: 1\nclusterCIDR: fd00:10:244::/56")
    assert topology.families == (6,)
    assert topology.service_cidrs == (ip_network("fd00:10:96::/112"),)
    assert topology.segments[0].cidrs == (ip_network("fd00:172:18::/64"),)


@pytest.mark.parametrize(
    ("cidr", "mask"),
    [("10.0.0.0/12", 24), ("10.244.0.0/22", 24), ("10.244.0.0/23", 25), ("10.244.0.0/28", 30)],
)
def test_pod_cidr_length_follows_flannel(cidr: str, mask: int) -> None:
    assert load_text(f"nodes: 1\nclusterCIDR: {cidr}\nserviceCIDR: 192.168.0.0/16").node_mask_ipv4 == mask


@pytest.mark.parametrize(
    ("cidr", "mask"), [("fd00::/48", 64), ("fd00::/62", 64), ("fd00::/63", 65), ("fd00::/124", 126)]
)
def test_ipv6_pod_cidr_length_follows_flannel(cidr: str, mask: int) -> None:
    text = f"nodes: 1\nclusterCIDR: {cidr}\nserviceCIDR: fd01::/112\nunderlay: {{cidr: 'fd02::/64'}}"
    assert load_text(text).node_mask_ipv6 == mask


def test_empty_values_mean_defaults() -> None:
    text = "name:\nnodes: {n1: , n2: }\npods:\nchecks:\nbackend: {type: , VNI: }\nunderlay: {mtu: }\n"
    assert load_text(text) == load_text("nodes: 2")


# --- the name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "name"),
    [("vxlan-3", "vxlan-3"), ("My Lab_2", "my-lab-2"), ("--", "lab"), ("é", "lab"), ("a" * 70, "a" * 63)],
)
def test_name_comes_from_the_file(tmp_path: Path, stem: str, name: str) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text("nodes: 1\n")
    assert load(path).name == name
    assert load(str(path)).name == name


def test_name_of_the_file_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: b\nnodes: 1\n")
    assert load(path).name == "b"
    assert load(path, name="c").name == "c"
    with pytest.raises(UsageError, match="'C!' cannot be the name of a lab"):
        load(path, name="C!")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"nodes: 2\n")))
    assert load("-").name == "lab"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"nodse: 2\n")))
    with pytest.raises(TopologyError, match="<stdin>:1:1: nodse"):
        load("-")


def test_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfnodes: 2\r\npods: 1\r\n")
    assert len(load(path).nodes) == 2


# --- the backend -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ("vxlan", VxlanBackend()),
        ("{}", VxlanBackend()),
        ("{VNI: 7, Port: 0}", VxlanBackend(vni=7)),
        ("{type: vxlan, vni: 7, PORT: 4789, directRouting: true}", VxlanBackend(vni=7, port=4789, direct_routing=True)),
        ("{type: vxlan, mtu: 1400, learning: on, GBP: yes}", VxlanBackend(mtu=1400, learning=True, gbp=True)),
        ("host-gw", HostGwBackend()),
        ("{Type: bridge}", BridgeBackend()),
        ("{type: ipip, DirectRouting: true}", IpipBackend(direct_routing=True)),
    ],
)
def test_backend(text: str, backend: object) -> None:
    assert load_text(f"nodes: 1\nbackend: {text}").backend == backend


def test_override_keeps_the_options_that_both_have() -> None:
    text = "nodes: 1\nbackend: {type: vxlan, VNI: 7, DirectRouting: true}"
    assert load_text(text, backend="vxlan").backend == VxlanBackend(vni=7, direct_routing=True)
    assert load_text(text, backend="ipip").backend == IpipBackend(direct_routing=True)
    assert load_text(text, backend="host-gw").backend == HostGwBackend()
    assert load_text("nodes: 1\nbackend: bridge", backend="vxlan").backend == VxlanBackend()


def test_override_is_checked_like_the_files_own() -> None:
    with pytest.raises(UsageError, match="'vxlna' is not a backend; did you mean 'vxlan'"):
        load_text("nodes: 1", backend="vxlna")
    with pytest.raises(TopologyError, match="the backend ipip carries IPv4 only"):
        load_text("nodes: 1\nclusterCIDR: [10.244.0.0/16, 'fd00::/56']", backend="ipip")


# --- machines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes", ["2", "[n1, n2]", "[n1, {name: n2}]", "{n1: , n2: {}}", "[{name: n1, segment: underlay}, n2]"]
)
def test_forms_of_nodes(nodes: str) -> None:
    assert load_text(f"nodes: {nodes}").nodes == (Node("n1", "underlay"), Node("n2", "underlay"))


def test_external_machines_come_after_the_nodes() -> None:
    topology = load_text("external: 2\nnodes: 1")
    assert topology.nodes == (
        Node("n1", "underlay"),
        Node("ext1", "underlay", Role.EXTERNAL),
        Node("ext2", "underlay", Role.EXTERNAL),
    )
    assert [node.name for node in topology.cluster_nodes] == ["n1"]


def test_segments_and_routers() -> None:
    topology = load_text("""
underlay:
  mtu: 9000
  segments:
    rack1: 172.18.1.0/24
    rack2: {cidr: ["fd00:2::/64", 172.18.2.0/24], mtu: 1500}
    rack3: [172.18.3.0/24]
  routers: {r1: [rack1, rack2], r2: [rack3, rack2]}
nodes:
  n1: {segment: rack1}
  n2: {segment: rack2, ip: ["fd00:2::9", 172.18.2.9]}
""")
    assert topology.segments == (
        Segment("rack1", (ip_network("172.18.1.0/24"),), 9000),
        Segment("rack2", (ip_network("172.18.2.0/24"), ip_network("fd00:2::/64")), 1500),
        Segment("rack3", (ip_network("172.18.3.0/24"),), 9000),
    )
    assert topology.routers == (Router("r1", ("rack1", "rack2")), Router("r2", ("rack3", "rack2")))
    assert topology.find_node("n2") == Node(
        "n2", "rack2", Role.CLUSTER, (ip_address("172.18.2.9"), ip_address("fd00:2::9"))
    )


# --- pods ------------------------------------------------------------------------------------------------------------


def test_number_of_pods_is_dealt_out() -> None:
    assert pods("nodes: 2\npods: 3") == [("p-1", "n1"), ("p-2", "n2"), ("p-3", "n1")]


def test_turns_go_on_over_entries_and_pass_by_pods_with_a_node() -> None:
    text = "nodes: 2\npods: [a, {name: b, node: n1}, {name: c, replicas: 2}, d]"
    assert pods(text) == [("a", "n1"), ("b", "n1"), ("c-1", "n2"), ("c-2", "n1"), ("d", "n2")]


def test_replicas_on_one_node() -> None:
    assert pods("nodes: 2\npods: {web: {node: n2, replicas: 2}}") == [("web-1", "n2"), ("web-2", "n2")]


def test_per_node_is_numbered_node_by_node_and_leaves_external_machines_out() -> None:
    text = "nodes: 2\nexternal: [x]\npods: [{name: web, perNode: 2}]"
    assert pods(text) == [("web-1", "n1"), ("web-2", "n1"), ("web-3", "n2"), ("web-4", "n2")]


@pytest.mark.parametrize("pod", ["{name: a, replicas: 0}", "{name: a, perNode: 0}"])
def test_none_of_a_pod(pod: str) -> None:
    assert pods(f"nodes: 2\npods: [{pod}]") == []


def test_fields_of_a_pod() -> None:
    topology = load_text("""
nodes: 2
pods:
- name: web
  node: n2
  ip: 10.244.7.5
  labels: {app: web, example.org/tier: front}
  hostAliases: [{ip: 127.0.0.1, hostnames: [db.local, db]}]
  containers:
  - {name: http, command: [python3, -m], args: [http.server, "80"], env: {A: b}, workingDir: /tmp}
  - {name: once, command: echo $A, env: [{name: A, value: "x y"}, {name: B}], restartPolicy: Never}
- {name: agent, hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet}
""")
    assert topology.pods[1] == Pod("agent", "n1", host_network=True, dns_policy=DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET)
    assert topology.pods[0] == Pod(
        name="web",
        node="n2",
        labels=(("app", "web"), ("example.org/tier", "front")),
        containers=(
            Container("http", ("python3", "-m", "http.server", "80"), (EnvVar("A", "b"),), "/tmp"),
            Container("once", ("sh", "-c", "echo $A"), (EnvVar("A", "x y"), EnvVar("B", "")), restart=False),
        ),
        host_aliases=(HostAlias(ip_address("127.0.0.1"), ("db.local", "db")),),
        addresses=(ip_address("10.244.7.5"),),
    )
    assert topology.pods[1].host_network


def test_anchors_and_includes() -> None:
    topology = load_text("""
x-pod: &web {labels: {app: web}, node: n1}
nodes: 2
pods:
- {name: a, <<: *web}
- {<<: *web, name: b, node: n2}
""")
    assert [(pod.name, pod.node, pod.labels) for pod in topology.pods] == [
        ("a", "n1", (("app", "web"),)),
        ("b", "n2", (("app", "web"),)),
    ]


# --- checks ----------------------------------------------------------------------------------------------------------


def test_checks() -> None:
    topology = load_text("""
nodes: 2
checks:
- {from: n1, to: n2}
- {from: n1, to: 172.18.0.9, size: 1500, expect: too-big}
- {from: n1, to: "fd00::1", tcp: 80, expect: unreachable}
""")
    assert topology.checks == (
        Check("n1", "n2"),
        Check("n1", "172.18.0.9", size=1500, expect=Expect.TOO_BIG),
        Check("n1", "fd00::1", CheckProtocol.TCP, 80, expect=Expect.UNREACHABLE),
    )


# --- the borders of what is allowed: the last that is right, the first that is wrong ----------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [
        ("nodes: 3\nclusterCIDR: 10.244.0.0/22", "nodes: 4\nclusterCIDR: 10.244.0.0/22", "3 podCIDRs"),
        ("nodes: 255", "nodes: 256", "255 podCIDRs"),
        ("nodes: 1\npods: 253", "nodes: 1\npods: 254", "253 addresses"),
        (
            "nodes: 1\nnodeCIDRMaskSizeIPv4: 20\npods: 1023",
            "nodes: 1\nnodeCIDRMaskSizeIPv4: 20\npods: 1024",
            "1023 ports",
        ),
        ("nodes: 1\nnodeCIDRMaskSizeIPv4: 18", "nodes: 1\nnodeCIDRMaskSizeIPv4: 17", "18 to 30"),
        ("nodes: 1\nnodeCIDRMaskSizeIPv4: 30\npods: 1", "nodes: 1\nnodeCIDRMaskSizeIPv4: 30\npods: 2", "1 address"),
        ("nodes: 1\nclusterCIDR: 10.1.0.0/28", "nodes: 1\nclusterCIDR: 10.1.0.0/29", "too small to be divided"),
        ("nodes: 1\nunderlay: {mtu: 626}", "nodes: 1\nunderlay: {mtu: 625}", "vxlan takes 50"),
        ("nodes: 1\nbackend: ipip\nunderlay: {mtu: 596}", "nodes: 1\nbackend: ipip\nunderlay: {mtu: 595}", "takes 20"),
        ("nodes: 1\nbackend: host-gw\nunderlay: {mtu: 576}", "nodes: 1\nunderlay: {mtu: 575}", "at least 576"),
        ("nodes: 1\nbackend: {MTU: 1500}", "nodes: 1\nbackend: {MTU: 1501}", "more than the MTU"),
        (
            "nodes: 1\nclusterCIDR: fd00::/56\nunderlay: {mtu: 1350, cidr: 'fd01::/64'}",
            "nodes: 1\nclusterCIDR: fd00::/56\nunderlay: {mtu: 1349, cidr: 'fd01::/64'}",
            "IPv6 pods need 1280",
        ),
        ("nodes: 5\nunderlay: {cidr: 172.20.0.0/29}", "nodes: 6\nunderlay: {cidr: 172.20.0.0/29}", "5 free addresses"),
        ("nodes: [" + "a" * 63 + "]", "nodes: [" + "a" * 64 + "]", "64 characters"),
    ],
)
def test_borders(right: str, wrong: str, why: str) -> None:
    load_text(right)
    assert why in "\n".join(problems(wrong))


def test_chosen_addresses_need_no_free_ones() -> None:
    load_text("nodes: {a: {ip: 172.20.0.1}, b: {ip: 172.20.0.2}}\nunderlay: {cidr: 172.20.0.0/30}")


def test_bridge_backend_needs_no_ipv6_between_nodes() -> None:
    text = "nodes: 1\nclusterCIDR: [10.244.0.0/16, 'fd00::/56']\nunderlay: {cidr: 172.20.0.0/16}"
    load_text(f"{text}\nbackend: bridge")
    assert problems(text) == ["underlay.cidr: has no IPv6 CIDR, and vxlan carries IPv6 between nodes over it"]


# --- one mistake does not hide or feign another -----------------------------------------------------------------------


def test_wrong_entry_hides_no_other() -> None:
    text = "nodes: 2\npods: [{name: a, replicas: x}, {name: b, node: n9}]\nchecks: [{from: b, to: zzz}]"
    assert [problem.split(":")[0] for problem in problems(text)] == ["pods[0].replicas", "pods[1].node", "checks[0].to"]


def test_wrong_field_hides_no_other_of_its_entry() -> None:
    text = "nodes: 2\npods: [{name: a, labels: x, node: n9}, {name: b, lables: {a: b}, node: n9}]"
    places = [problem.split(":")[0] for problem in problems(text)]
    assert places == ["pods[0].labels", "pods[0].node", "pods[1].lables", "pods[1].node"]


@pytest.mark.parametrize(
    "text",
    [
        "nodes: [n1, {name: n2, ip: x}]\npods: [{name: a, node: n2}]",
        "nodes: [n1, {name: n2, segment: 3}]\npods: [{name: a, node: n2}]",
        "nodes: [n1, {name: [n2]}]\npods: [{name: a, node: n2}]",
        "nodes: two\npods: [{name: a, node: n2}]",
        "nodes: 2\npods: [{name: a, replicas: x}]\nchecks: [{from: a-1, to: n1}]",
        "nodes: 2\nexternal: {c: {ip: x}}\nchecks: [{from: c, to: n1}]",
        "nodes: 2\nclusterCIDR: 10.0.0.0/33\npods: [{name: a, ip: 10.1.1.1}]",
        "nodes: 2\nunderlay: {segments: {a: 10.0.0.0/33, b: 10.1.0.0/16}}",
        "nodes: 2\nunderlay: {routers: {r1: a}}\nchecks: [{from: r1, to: n1}]",
        "nodes: 2\nnodes: 3\npods: [{name: a, node: n3}]",
        "nodes: 2\npods: [{name: a}, {name: b, node: n1, node: n2}]\nchecks: [{from: b, to: a}]",
        "nodse: 2\npods: [{name: a, node: n2}]",
        "nodes: 2\npods: [{nmae: a}]\nchecks: [{from: a, to: n1}]",
        "nodes: 2\nbackend: brigde\nclusterCIDR: [10.244.0.0/16, 'fd00::/56']\nunderlay: {cidr: 172.20.0.0/16}",
        "nodes: 2\nbackend: ipp\nclusterCIDR: [10.244.0.0/16, 'fd00::/56']\nunderlay: {mtu: 576}",
    ],
)
def test_one_mistake_is_one_problem(text: str) -> None:
    assert len(problems(text)) == 1


def test_problems_beyond_fifty_are_counted() -> None:
    pods = "\n".join(f"- {{name: p{i}, node: x}}" for i in range(70))
    with pytest.raises(TopologyError) as raised:
        load_text(f"nodes: 1\npods:\n{pods}\n")
    assert len(raised.value.problems) == 70
    assert str(raised.value).count("no node is called") == 50
    assert str(raised.value).endswith("... and 20 more problems")


def test_how_ipvs_balances_is_that_of_kube_proxy_or_chosen() -> None:
    assert load_text("nodes: 1\nproxy: ipvs").ipvs == Ipvs("rr", strict_arp=False)
    chosen = load_text("nodes: 1\nproxy: ipvs\nipvs: {scheduler: sh, strictARP: true}")
    assert chosen.ipvs == Ipvs("sh", strict_arp=True)


PRIVATE = ip_network("172.18.0.0/16")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", KubeProxy()),
        ("nodePortAddresses: primary", KubeProxy(NodePortAddresses(primary=True))),
        ("nodePortAddresses: [primary]", KubeProxy(NodePortAddresses(primary=True))),
        ("nodePortAddresses: 172.18.0.0/16", KubeProxy(NodePortAddresses(networks=(PRIVATE,)))),
        (
            "nodePortAddresses: [172.18.0.0/16, 127.0.0.0/8, '::/0']",
            KubeProxy(NodePortAddresses(networks=(PRIVATE, ip_network("127.0.0.0/8"), ip_network("::/0")))),
        ),
        ("iptables: {masqueradeAll: true}", KubeProxy(masquerade_all=True)),
        ("iptables: {localhostNodePorts: false}", KubeProxy(localhost_node_ports=False)),
        ("nftables: {masqueradeAll: true}", KubeProxy(nftables_masquerade_all=True)),
        ("conntrack: {tcpBeLiberal: true}", KubeProxy(tcp_be_liberal=True)),
    ],
)
def test_what_else_is_kube_proxys_has_its_names(text: str, wanted: KubeProxy) -> None:
    assert load_text(f"nodes: 1\n{text}\n").kube_proxy == wanted


@pytest.mark.parametrize("depth", [33, 200, 5000])
def test_a_file_nested_too_deep_is_told_so_whoever_notices(depth: int) -> None:
    (problem,) = problems(f"pods: {'[' * depth}{']' * depth}")
    assert problem.endswith("is nested more than 32 levels deep")
