"""Packets between pods of one node: one frame over cni0, switched and not routed; and what a pod and its node have."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from netlab.lab import Lab
from netlab.topology.model import BridgeBackend, Pod, Topology
from tests.labs import topology
from tests.root.journeys import IN, OUT, Header, Hop, Side, address, inside, macs, over_bridge, run, taps_of
from tests.root.sniff import COOKIE_BYTES, Taps, send_frame, version_of
from tests.waiting import until

pytestmark = pytest.mark.root

NUD_PERMANENT = 0x80  # linux/neighbour.h
BROADCAST = "ff:ff:ff:ff:ff:ff"
EXPERIMENTAL = 0x88B5  # an EtherType for local use (IEEE 802)
SERVICE = "10.96.0.50"
CALL_IPTABLES = "/proc/sys/net/bridge/bridge-nf-call-iptables"


def one_node(name: str, *, pods: int = 3, dual_stack: bool = False) -> Topology:
    return topology(name, nodes=1, pods=pods, backend=BridgeBackend(), dual_stack=dual_stack)


def test_a_first_packet_is_preceded_by_one_arp_exchange() -> None:
    with Lab(one_node("tparp")) as lab:
        one, two, three = (Side.of(lab, pod) for pod in ("p-1", "p-2", "p-3"))
        taps = ("p-1 eth0", "n1 cni0", f"n1 {two.port}", "p-2 eth0", f"n1 {three.port}")
        until(lambda: run(lab, "n1", "bridge link").count("state forwarding") == 3)  # a busy kernel is late with it
        with Taps(lab, *taps) as opened:
            opened.ping("p-1", two.pod_ip)
            seen = {tap: [_words(entry.way, entry.packet) for entry in opened.everything(tap)] for tap in taps}
    asked = (one.pod_mac, BROADCAST, f"who has {two.pod_ip}? tell {one.pod_ip}")
    told = (two.pod_mac, one.pod_mac, f"{two.pod_ip} is at {two.pod_mac}")
    request, reply = (one.pod_mac, two.pod_mac, "request"), (two.pod_mac, one.pod_mac, "reply")
    echo = (IN, *asked)  # a hairpin port gets its own broadcasts back, too
    assert seen == {
        "p-1 eth0": [(OUT, *asked), echo, (IN, *told), (OUT, *request), (IN, *reply)],
        "n1 cni0": [(IN, *asked)],  # the bridge itself hears broadcasts only
        f"n1 {two.port}": [(OUT, *asked), (IN, *told), (OUT, *request), (IN, *reply)],
        "p-2 eth0": [(IN, *asked), (OUT, *told), (IN, *request), (OUT, *reply)],
        f"n1 {three.port}": [(OUT, *asked)],
    }


def _words(way: str, packet: Any) -> tuple[str, str, str, str]:
    if arp := packet.getlayer(ARP):
        said = f"who has {arp.pdst}? tell {arp.psrc}" if arp.op == 1 else f"{arp.psrc} is at {arp.hwsrc}"
    else:
        said = {8: "request", 0: "reply"}[packet[ICMP].type]
    return way, packet.src, packet.dst, said


@pytest.mark.parametrize("version", [4, 6])
def test_pods_of_one_node_exchange_frames_that_nobody_touches(version: int) -> None:
    with Lab(one_node(f"tpsw{version}", dual_stack=version == 6)) as lab:
        one, two, three = (Side.of(lab, pod, version) for pod in ("p-1", "p-2", "p-3"))
        there, back = over_bridge(one, two), over_bridge(two, one)
        with Taps(lab, *taps_of(there), "n1 cni0", "n1 eth0", f"n1 {three.port}") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert crossing.taps() == taps_of(there)


def test_the_bridge_learns_behind_which_port_each_pod_is() -> None:
    with Lab(one_node("tpfdb")) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        assert _learned(lab, "n1") == {}
        with Taps(lab, "p-1 eth0") as taps:
            taps.ping("p-1", two.pod_ip)
        assert _learned(lab, "n1") == {one.pod_mac: one.port, two.pod_mac: two.port}


def _learned(lab: Lab, node: str) -> dict[str, str]:
    """Return the MACs that cni0 has learned by itself, each with its port."""

    def ask(ipr: IPRoute) -> dict[str, str]:
        ports = {link["index"]: link.get("ifname") for link in ipr.get_links()}
        bridge = ipr.link_lookup(ifname="cni0")[0]
        return {
            entry.get("lladdr"): ports[entry["ifindex"]]
            for entry in ipr.fdb("dump")
            if entry.get("master") == bridge and not entry["state"] & NUD_PERMANENT
        }

    return inside(lab, node, ask)


def test_a_pod_has_a_default_route_and_one_to_the_cluster_both_by_cni0() -> None:
    with Lab(one_node("tprt", dual_stack=True)) as lab:
        found = inside(lab, "p-1", lambda ipr: {_route(message) for message in ipr.get_routes(table=254)})
        assert {route for route in found if version_of(route[0]) == 4} == {
            ("0.0.0.0/0", "10.244.1.1"),
            ("10.244.0.0/16", "10.244.1.1"),
            ("10.244.1.0/24", None),
        }
        assert {route for route in found if version_of(route[0]) == 6} == {
            ("::/0", "fd00:10:244:1::1"),
            ("fd00:10:244::/56", "fd00:10:244:1::1"),
            ("fd00:10:244:1::/64", None),
            ("fe80::/64", None),
        }


def _route(message: Any) -> tuple[str, str | None]:
    anywhere = "0.0.0.0" if message["family"] == 2 else "::"
    return f"{message.get('dst') or anywhere}/{message['dst_len']}", message.get("gateway")


def test_without_an_overlay_a_node_answers_that_there_is_no_way_to_another_nodes_pods() -> None:
    with Lab(topology("tpalone", nodes=2, pods=2, backend=BridgeBackend())) as lab:
        one, target = Side.of(lab, "p-1"), address(lab, "p-2")
        with Taps(lab, "p-1 eth0", "n1 cni0", "n1 eth0") as taps:
            crossing = taps.ping("p-1", target)
    error = crossing.error_at("p-1 eth0")
    assert (error[IP].src, error[IP].dst) == ("10.244.1.1", one.pod_ip)
    assert (error[ICMP].type, error[ICMP].code) == (3, 0)  # net unreachable
    assert crossing.taps() == ["p-1 eth0", "n1 cni0"]


# --- hairpin ---------------------------------------------------------------------------------------------------------


def test_a_frame_for_a_port_leaves_by_the_port_that_it_came_in_by() -> None:
    with Lab(one_node("tphair")) as lab:
        one = Side.of(lab, "p-1")
        port = f"n1 {one.port}"
        with Taps(lab, "p-1 eth0", port) as taps:
            cookie = _send_to_itself(lab, one)
            taps.wait_for("p-1 eth0", IN, cookie)
            assert _ways(taps, cookie) == [("p-1 eth0", OUT), ("p-1 eth0", IN), (port, IN), (port, OUT)]
            run(lab, "n1", f"bridge link set dev {one.port} hairpin off")
            cookie = _send_to_itself(lab, one)
            taps.ping("p-1", address(lab, "p-2"))  # goes the same way after it
            assert _ways(taps, cookie) == [("p-1 eth0", OUT), (port, IN)]
            lab.up()
            cookie = _send_to_itself(lab, one)
            taps.wait_for("p-1 eth0", IN, cookie)


def _ways(taps: Taps, cookie: bytes) -> list[tuple[str, str]]:
    return [(entry.tap, entry.way) for entry in taps.crossing(cookie).sightings]


def _send_to_itself(lab: Lab, side: Side) -> bytes:
    """Send a frame to a pod's own MAC as if from another machine behind the same port; return the cookie in it."""
    cookie = os.urandom(COOKIE_BYTES)
    frame = Ether(src="02:00:00:00:00:99", dst=side.pod_mac, type=EXPERIMENTAL) / Raw(cookie)
    send_frame(lab, side.pod, bytes(Ether(src=side.pod_mac, dst=BROADCAST, type=EXPERIMENTAL)))  # teaches the bridge
    send_frame(lab, side.pod, bytes(frame))
    return cookie


@pytest.mark.parametrize("netfilter", ["switched", "routed"])
def test_a_pod_reaches_itself_by_a_service_address(netfilter: str) -> None:
    """As kube-proxy has it (facts.md 11.6): DNAT to the pod, and cni0's address for its source.

    With br_netfilter (facts.md 9.6) the frame is rewritten on its way through the bridge, which only a hairpin port
    gives back; without, the node routes it.
    """
    with Lab(one_node("tpself", pods=1)) as lab:
        one = Side.of(lab, "p-1")
        if netfilter == "switched" and not _has_br_netfilter(lab):
            pytest.skip("br_netfilter is not loaded")
        if _has_br_netfilter(lab):
            run(lab, "n1", f"echo {int(netfilter == 'switched')} > {CALL_IPTABLES}")
        run(lab, "n1", f"iptables -t nat -A PREROUTING -d {SERVICE} -j DNAT --to {one.pod_ip}")
        run(lab, "n1", f"iptables -t nat -A POSTROUTING -s {one.pod_ip} -d {one.pod_ip} -j MASQUERADE")
        with Taps(lab, "p-1 eth0", f"n1 {one.port}") as taps:
            crossing = taps.ping("p-1", SERVICE)
    port, macs_back, ttl = f"n1 {one.port}", (one.bridge_mac, one.pod_mac), 63
    if netfilter == "switched":
        macs_back, ttl = (one.pod_mac, one.pod_mac), 64
    asked = (Header((one.pod_mac, one.bridge_mac), (one.pod_ip, SERVICE), 64),)
    given = (Header(macs_back, ("10.244.1.1", one.pod_ip), ttl),)
    answer = (Header((one.pod_mac, one.bridge_mac), (one.pod_ip, "10.244.1.1"), 64),)
    given_back = (Header(macs_back, (SERVICE, one.pod_ip), ttl),)
    assert crossing.requests == _both_ways(port, asked, given)
    assert crossing.replies == _both_ways(port, answer, given_back)


def _both_ways(port: str, there: tuple[Header], back: tuple[Header]) -> list[Hop]:
    """Return the hops of a packet that leaves a pod and comes back into it."""
    return [Hop("p-1 eth0", OUT, there), Hop("p-1 eth0", IN, back), Hop(port, IN, there), Hop(port, OUT, back)]


def _has_br_netfilter(lab: Lab) -> bool:
    return lab.exec("n1", ["test", "-e", CALL_IPTABLES]).returncode == 0


# --- host mode -------------------------------------------------------------------------------------------------------


def test_a_host_network_pod_is_its_node_to_everybody() -> None:
    base = topology("tphost", nodes=2, pods=2)
    with Lab(replace(base, pods=(*base.pods, Pod("agent", "n1", host_network=True)))) as lab:
        uplinks = (macs(lab, "n1")["eth0"], macs(lab, "n2")["eth0"])
        node_ips = (address(lab, "n1"), address(lab, "n2"))
        assert lab.netns("agent") == lab.netns("n1")
        assert address(lab, "agent") == node_ips[0]
        with Taps(lab, "n1 eth0", "fabric n2-eth0", "n1 cni0") as taps:
            crossing = taps.ping("agent", node_ips[1])
    there, back = (Header(uplinks, node_ips, 64),), (Header(uplinks[::-1], node_ips[::-1], 64),)
    assert crossing.requests == [Hop("n1 eth0", OUT, there), Hop("fabric n2-eth0", OUT, there)]
    assert crossing.replies == [Hop("n1 eth0", IN, back), Hop("fabric n2-eth0", IN, back)]
