"""flannel's packet-filter rules (facts.md 1.14): as the tools list them, and what they do to packets' sources."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace

import pytest

from netlab.lab import Lab
from netlab.plan.objects import Ruleset
from netlab.topology.model import Netfilter, Node, Role, Topology
from tests.labs import topology
from tests.root.journeys import IN, OUT, Side, address, run
from tests.root.sniff import Taps, ping, send_udp

pytestmark = pytest.mark.root

BOTH = pytest.mark.parametrize("netfilter", list(Netfilter))
CLUSTER = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}
POD_CIDR = {4: "10.244.1.0/24", 6: "fd00:10:244:1::/64"}  # n1's
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
VTEP = {4: "10.244.1.0", 6: "fd00:10:244:1::"}  # n1's


def with_client(name: str, netfilter: Netfilter, *, ip_masq: bool = True, dual_stack: bool = False) -> Topology:
    """Return two nodes with a pod each, and a machine beside the cluster."""
    base = topology(name, nodes=2, pods=2, dual_stack=dual_stack)
    nodes = (*base.nodes, Node("client", "underlay", Role.EXTERNAL))
    return replace(base, netfilter=netfilter, ip_masq=ip_masq, nodes=nodes)


def teach_client(lab: Lab, version: int) -> None:
    """Give the client a route to all pods by way of n1."""
    run(lab, "client", f"ip -{version} route add {CLUSTER[version]} via {address(lab, 'n1', version)}")


# --- as listed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_iptables_lists_flannels_rules_in_flannels_order(version: int) -> None:
    tool = {4: "iptables", 6: "ip6tables"}[version]
    pods, cluster, masq = POD_CIDR[version], CLUSTER[version], '-m comment --comment "flanneld masq"'
    with Lab(with_client(f"tpls{version}", Netfilter.IPTABLES, dual_stack=version == 6)) as lab:
        assert _listed(lab, f"{tool} -t nat -S FLANNEL-POSTRTG") == [
            "-N FLANNEL-POSTRTG",
            f"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN",
            f"-A FLANNEL-POSTRTG -s {pods} -d {cluster} {masq} -j RETURN",
            f"-A FLANNEL-POSTRTG -s {cluster} -d {pods} {masq} -j RETURN",
            f"-A FLANNEL-POSTRTG ! -s {cluster} -d {pods} {masq} -j RETURN",
            f"-A FLANNEL-POSTRTG -s {cluster} ! -d {MULTICAST[version]} {masq} -j MASQUERADE --random-fully",
            f"-A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} {masq} -j MASQUERADE --random-fully",
        ]
        assert _listed(lab, f"{tool} -t nat -S POSTROUTING") == [
            "-P POSTROUTING ACCEPT",
            f"-A POSTROUTING {masq} -j FLANNEL-POSTRTG",
        ]
        forward = masq.replace("masq", "forward")
        assert _listed(lab, f"{tool} -S FLANNEL-FWD") == [
            "-N FLANNEL-FWD",
            f"-A FLANNEL-FWD -s {cluster} {forward} -j ACCEPT",
            f"-A FLANNEL-FWD -d {cluster} {forward} -j ACCEPT",
        ]
        assert _listed(lab, f"{tool} -S FORWARD") == ["-P FORWARD ACCEPT", f"-A FORWARD {forward} -j FLANNEL-FWD"]


@pytest.mark.parametrize("version", [4, 6])
def test_nft_lists_flannels_table(version: int) -> None:
    ip = {4: "ip", 6: "ip6"}[version]
    pods, cluster = POD_CIDR[version], CLUSTER[version]
    with Lab(with_client(f"tpnft{version}", Netfilter.NFTABLES, dual_stack=version == 6)) as lab:
        found = _listed(lab, f"nft list table {ip} flannel-ipv{version}")
        others = _listed(lab, "nft list tables")
    assert found == [
        f"table {ip} flannel-ipv{version} {{",
        "chain forward {",
        "type filter hook forward priority filter; policy accept;",
        f"{ip} saddr {cluster} accept",
        f"{ip} daddr {cluster} accept",
        "}",
        "chain postrtg {",
        "type nat hook postrouting priority srcnat; policy accept;",
        "meta mark 0x00004000 return",
        f"{ip} saddr {pods} {ip} daddr {cluster} return",
        f"{ip} saddr {cluster} {ip} daddr {pods} return",
        f"{ip} saddr != {pods} {ip} daddr {cluster} return",
        f"{ip} saddr {cluster} {ip} daddr != {MULTICAST[version]} masquerade fully-random",
        f"{ip} saddr != {cluster} {ip} daddr {cluster} masquerade fully-random",
        "}",
        "}",
    ]
    assert others == ["table ip flannel-ipv4", "table ip6 flannel-ipv6"][: 2 if version == 6 else 1]


def _listed(lab: Lab, command: str) -> list[str]:
    """Return the lines that a tool prints on n1, without indentation, blank lines and remarks."""
    lines = (line.strip() for line in run(lab, "n1", command).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


READ_BY_IPTC = """
import iptc.easy, json
print(json.dumps([iptc.easy.dump_chain(*chain) for chain in (("nat", "FLANNEL-POSTRTG"), ("filter", "FLANNEL-FWD"))]))
"""


def test_python_iptables_reads_the_same_rules_of_the_legacy_tables() -> None:
    """A second reader of the rules' meaning, in a process of its own: its handles would keep the namespace.

    It speaks to the legacy tables only, and sees nothing of what iptables-nft wrote, so they are given the same text.
    """
    with Lab(with_client("tpiptc", Netfilter.IPTABLES)) as lab:
        if lab.exec("n1", ["iptables-legacy", "-S"]).returncode:
            pytest.skip("this machine has no legacy iptables")
        run(lab, "n1", "iptables-save | grep -v '^#' | iptables-legacy-restore")
        done = lab.exec("n1", [sys.executable, "-c", READ_BY_IPTC])
        masquerade, forward = json.loads(done.stdout)
    pods, cluster, fully = POD_CIDR[4], CLUSTER[4], {"MASQUERADE": {"random-fully": ""}}
    assert [_meaning(rule) for rule in masquerade] == [
        (None, None, {"mark": "0x4000/0x4000"}, "RETURN"),
        (pods, cluster, None, "RETURN"),
        (cluster, pods, None, "RETURN"),
        (f"!{cluster}", pods, None, "RETURN"),
        (cluster, f"!{MULTICAST[4]}", None, fully),
        (f"!{cluster}", cluster, None, fully),
    ]
    assert [_meaning(rule) for rule in forward] == [(cluster, None, None, "ACCEPT"), (None, cluster, None, "ACCEPT")]


def _meaning(rule: dict[str, object]) -> tuple[object, ...]:
    return rule.get("src"), rule.get("dst"), rule.get("mark"), rule["target"]


# --- what they do to packets -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A packet and the source that its target sees. `reply` is the tap where the sender's node or pod gets its answer.

    A source is a member's name, or "vtep" for the address of n1's VTEP. `bind` makes the sender use its first address.
    """

    source: str
    target: str
    reply: str
    seen: str
    bind: bool = False
    mark: str = ""


INSIDE = (
    Row("p-1", "p-2", "p-1 eth0", "p-1"),
    Row("p-1", "client", "p-1 eth0", "n1"),
    Row("client", "p-1", "client eth0", "client"),
    Row("n1", "p-2", "n1 flannel", "vtep"),
    Row("p-1", "client", "p-1 eth0", "p-1", mark="0x4000"),
)
ROWS = {
    Netfilter.IPTABLES: (
        *INSIDE,
        Row("client", "p-2", "client eth0", "vtep"),  # rule 6
        Row("n1", "p-2", "n1 flannel", "vtep", bind=True),
        Row("p-1", "client", "p-1 eth0", "p-1", mark="0x4001"),  # the mark is masked
    ),
    Netfilter.NFTABLES: (
        *INSIDE,
        Row("client", "p-2", "client eth0", "client"),  # its fourth rule returns what rule 6 would masquerade
        Row("n1", "p-2", "n1 eth0", "n1", bind=True),
        Row("p-1", "client", "p-1 eth0", "n1", mark="0x4001"),  # the mark is compared as a whole
    ),
}


@pytest.mark.parametrize("version", [4, 6])
@BOTH
def test_who_a_packet_seems_to_come_from(netfilter: Netfilter, version: int) -> None:
    with Lab(with_client(f"tpsrc{version}", netfilter, dual_stack=version == 6)) as lab:
        teach_client(lab, version)
        assert [_seen(lab, row, version) for row in ROWS[netfilter]] == [
            _want(lab, r, version) for r in ROWS[netfilter]
        ]


Seen = tuple[Row, list[tuple[str, str]], list[tuple[str, str]]]


def _seen(lab: Lab, row: Row, version: int) -> Seen:
    """Send a row's packet; return the addresses of the request at its target, and of the reply where that comes in."""
    source, target = (address(lab, member, version) for member in (row.source, row.target))
    device = row.reply.replace("flannel", Side.of(lab, "p-1", version).vtep)
    tool = {4: "iptables", 6: "ip6tables"}[version]
    marking = f"{tool} -t mangle -%s FORWARD -d {target} -j MARK --set-mark {row.mark}"
    if row.mark:
        run(lab, "n1", marking % "A")
    with Taps(lab, device, f"{row.target} eth0") as taps:
        crossing = taps.ping(row.source, target, bind=source if row.bind else "")
    if row.mark:
        run(lab, "n1", marking % "D")
    requests = [hop.headers[0].ips for hop in crossing.requests if (hop.tap, hop.way) == (f"{row.target} eth0", IN)]
    replies = [hop.headers[0].ips for hop in crossing.replies if (hop.tap, hop.way) == (device, IN)]
    return row, requests, replies


def _want(lab: Lab, row: Row, version: int) -> Seen:
    seen = VTEP[version] if row.seen == "vtep" else address(lab, row.seen, version)
    target = address(lab, row.target, version)
    answered = seen if row.source == "n1" else address(lab, row.source, version)  # n1 sees it before its own NAT
    return row, [(seen, target)], [(target, answered)]


@BOTH
def test_multicast_keeps_its_source(netfilter: Netfilter) -> None:
    with Lab(with_client("tpmcast", netfilter)) as lab, Taps(lab, "n1 eth0") as taps:
        cookie = send_udp(lab, "n1", "224.1.1.1", bind="10.244.1.1")
        (header,) = taps.wait_for("n1 eth0", OUT, cookie).hop.headers
        assert header.ips == ("10.244.1.1", "224.1.1.1")


@BOTH
def test_without_ip_masq_a_pod_is_seen_as_itself_everywhere(netfilter: Netfilter) -> None:
    with Lab(with_client("tpnomasq", netfilter, ip_masq=False)) as lab:
        pod, client = address(lab, "p-1"), address(lab, "client")
        teach_client(lab, 4)
        with Taps(lab, "p-1 eth0", "client eth0") as taps:
            crossing = taps.ping("p-1", client)
        assert {hop.headers[0].ips for hop in crossing.requests} == {(pod, client)}
        assert {hop.headers[0].ips for hop in crossing.replies} == {(client, pod)}
        assert "FLANNEL-POSTRTG" not in run(lab, "n1", "iptables-save")
        assert "masquerade" not in run(lab, "n1", "nft list ruleset").lower()


DENY = {
    Netfilter.IPTABLES: ("iptables -P FORWARD DROP", "iptables -D FORWARD 1"),
    Netfilter.NFTABLES: (
        "nft add chain ip flannel-ipv4 forward '{ policy drop; }'",
        "nft flush chain ip flannel-ipv4 forward",
    ),
}


@BOTH
def test_pods_pass_a_forward_policy_of_drop_by_flannels_rules_alone(netfilter: Netfilter) -> None:
    """What Docker did to flannel (facts.md 10.1): the policy is DROP, and pods pass by the accepting rules."""
    policy, fault = DENY[netfilter]
    with Lab(with_client("tpdrop", netfilter)) as lab:
        target = address(lab, "p-2")
        for node in ("n1", "n2"):
            run(lab, node, policy)
        with Taps(lab, "p-1 eth0", "n1 cni0", "n1 flannel.1") as taps:
            assert taps.ping("p-1", target).replies
            run(lab, "n1", fault)
            cookie = ping(lab, "p-1", target)
            taps.wait_for("n1 cni0", IN, cookie)
            with Taps(lab, "n1 flannel.1") as others:
                others.ping("n1", target)  # goes out of the same VTEP after it, and is not forwarded
            assert taps.crossing(cookie).taps() == ["p-1 eth0", "n1 cni0"]
            assert {type(op.new) for op in lab.up().ops} == {Ruleset}
            assert taps.ping("p-1", target).replies
