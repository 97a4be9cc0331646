"""Packets with host-gw (facts.md 1.11): bare on the underlay, to the peer node's MAC; and where that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP

from netlab.kernel.observe import KERNEL_MADE
from netlab.lab import Lab
from netlab.plan.objects import Route
from netlab.topology.model import HostGwBackend, VxlanBackend
from tests.labs import routed, topology
from tests.root.journeys import IN, OUT, Header, Hop, Side, address, by_route, inside, run, taps_of
from tests.root.sniff import Taps, ping

pytestmark = pytest.mark.root

ROUTER = "172.18.1.1"  # r1 on the first rack


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_between_nodes_is_bare_and_goes_to_the_peer_nodes_mac(version: int) -> None:
    with Lab(topology(f"tpgw{version}", backend=HostGwBackend(), dual_stack=version == 6)) as lab:
        one, two = Side.of(lab, "p-1", version), Side.of(lab, "p-2", version)
        there, back = by_route(one, two), by_route(two, one)
        with Taps(lab, *taps_of(there), "n3 eth0", "p-3 eth0") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
        devices = inside(lab, "n1", lambda ipr: {link.get("ifname"): _kind(link) for link in ipr.get_links()})
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert crossing.taps() == taps_of(there)
    assert not any(UDP in entry.packet for entry in crossing.sightings)
    assert {kind for name, kind in devices.items() if name not in KERNEL_MADE} == {None, "veth", "bridge"}  # None: lo


def _kind(link: Any) -> Any:
    return link.get(("linkinfo", "kind"))


def test_a_route_that_is_taken_away_is_missed_and_put_back() -> None:
    with Lab(topology("tpgwrt", nodes=2, pods=2, backend=HostGwBackend())) as lab:
        target = address(lab, "p-2")
        run(lab, "n1", "ip route del 10.244.2.0/24")
        with Taps(lab, "p-1 eth0") as taps:
            error = taps.ping("p-1", target).error_at("p-1 eth0")
            assert (error[IP].src, error[ICMP].type, error[ICMP].code) == ("10.244.1.1", 3, 0)
            ops = lab.up().ops
            assert [type(op.new) for op in ops] == [Route]
            assert taps.ping("p-1", target).replies


# --- across a router -------------------------------------------------------------------------------------------------


def test_a_next_hop_behind_a_router_is_refused_as_the_kernel_refuses_it() -> None:
    with Lab(routed("tpref", HostGwBackend())) as lab:
        outcome = lab.up()
        refused = {(refusal.netns, refusal.what) for refusal in outcome.plan.refusals}
        assert refused == {
            (lab.netns(node), f"route 10.244.{peer}.0/24 via {address(lab, f'n{peer}')} dev eth0")
            for node, peers in {"n1": (2, 4), "n3": (2, 4), "n2": (1, 3), "n4": (1, 3)}.items()
            for peer in peers
        }
        for refusal in outcome.plan.refusals:
            node = refusal.netns.rpartition(".")[2]
            done = lab.exec(node, ["ip", "route", "add", *refusal.what.split()[1:]])
            assert (done.returncode, done.stderr) == (2, "Error: Nexthop has invalid gateway.\n")
            assert "Nexthop has invalid gateway" in refusal.why


def test_across_a_router_packets_are_lost_where_the_router_has_no_route() -> None:
    """A pod's packet takes n1's default route. Its ICMP error has no way back either: the router knows no pods."""
    with Lab(routed("tplost", HostGwBackend())) as lab:
        one, two, three = (Side.of(lab, pod) for pod in ("p-1", "p-2", "p-3"))
        there, back = by_route(one, three), by_route(three, one)
        with Taps(lab, *taps_of(there)) as taps:
            near = taps.ping("p-1", three.pod_ip)
        assert near.requests == there
        assert near.replies == back[::-1]
        with Taps(lab, "n1 eth0", "r1 eth0", "r1 eth1", "n2 eth0") as taps:
            cookie = ping(lab, "p-1", two.pod_ip)
            taps.wait_for("r1 eth0", IN, cookie)
            from_node = taps.ping("n1", two.pod_ip)  # the same way, after it
            lost = taps.crossing(cookie)
    assert [(hop.tap, hop.way, hop.headers[0].ips) for hop in lost.requests] == [
        ("n1 eth0", OUT, (one.pod_ip, two.pod_ip)),
        ("r1 eth0", IN, (one.pod_ip, two.pod_ip)),
    ]
    assert lost.replies == lost.errors == []
    assert from_node.replies == [] != from_node.errors


def test_the_router_tells_a_node_that_there_is_no_way_to_pods_of_the_other_rack() -> None:
    with Lab(routed("tptell", HostGwBackend())) as lab:
        one, target = Side.of(lab, "p-1"), address(lab, "p-2")
        with Taps(lab, "n1 eth0", "r1 eth0", "r1 eth1") as taps:
            crossing = taps.ping("n1", target)
            error = crossing.error_at("n1 eth0")
        mac = crossing.requests[0].headers[0].macs[1]
    assert (error[IP].src, error[IP].dst) == (ROUTER, one.node_ip)
    assert (error[ICMP].type, error[ICMP].code) == (3, 0)  # net unreachable
    asked = (Header((one.uplink_mac, mac), (one.node_ip, target), 64),)
    assert crossing.requests == [Hop("n1 eth0", OUT, asked), Hop("r1 eth0", IN, asked)]


def test_vxlan_crosses_the_router_where_host_gw_does_not() -> None:
    with Lab(routed("tpcross", HostGwBackend())) as lab:
        assert len(lab.up().plan.refusals) == 8
        switched = Lab(routed("tpcross", VxlanBackend()))
        assert switched.up().plan.refusals == ()
        for source, target in (("p-1", "p-2"), ("p-1", "p-4"), ("p-2", "p-3")):
            with Taps(switched, f"{source} eth0") as taps:
                assert taps.ping(source, address(switched, target)).replies
