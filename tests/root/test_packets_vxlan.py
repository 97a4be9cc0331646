"""Packets through VXLAN as flannel sets it up (facts.md 1.10), at every interface from pod to pod and back."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP
from scapy.layers.vxlan import VXLAN

from netlab.lab import Lab
from netlab.topology.model import VxlanBackend
from tests.labs import routed, topology
from tests.root.journeys import (
    IN,
    OUT,
    Header,
    Hop,
    Side,
    across_router,
    address,
    by_route,
    by_vxlan,
    inner_header,
    on_wire,
    outer_header,
    run,
    taps_of,
)
from tests.root.sniff import Taps, send_udp

pytestmark = pytest.mark.root

I_FLAG = 0x08  # "the VNI is valid", RFC 7348 section 5
FLOWS, DATAGRAMS = 8, 3


@pytest.mark.parametrize("backend", [VxlanBackend(), VxlanBackend(vni=7, port=4789)], ids=["flannel", "vni7-port4789"])
def test_a_packet_between_nodes_at_every_interface(backend: VxlanBackend) -> None:
    with Lab(topology("tpvx", backend=backend)) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        there, back = by_vxlan(one, two), by_vxlan(two, one)
        with Taps(lab, *taps_of(there), "n3 eth0", "p-3 eth0", "p-4 eth0") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert crossing.taps() == taps_of(there)
    for hop in on_wire(one, two):
        for packet in crossing.at(hop.tap):
            assert _tunnel(packet) == (backend.port, backend.vni, I_FLAG)
            assert packet[IP].len == packet[VXLAN][IP].len + 50
            assert (packet[IP].tos, packet[IP].flags.value, packet[IP].frag) == (0, 0, 0)  # may be fragmented
            assert packet[UDP].chksum != 0


def _tunnel(packet: Any) -> tuple[int, int, int]:
    return packet[UDP].dport, packet[VXLAN].vni, int(packet[VXLAN].flags)


def test_the_outer_source_port_is_a_flows_own_and_from_the_local_range() -> None:
    with Lab(topology("tpport", nodes=2, pods=2)) as lab:
        low, high = map(int, run(lab, "n1", "cat /proc/sys/net/ipv4/ip_local_port_range").split())
        target = address(lab, "p-2")
        ports: dict[int, set[int]] = {}
        with Taps(lab, "n2 eth0") as taps:
            for source_port in range(40000, 40000 + FLOWS):
                cookies = [send_udp(lab, "p-1", target, source_port=source_port) for _ in range(DATAGRAMS)]
                seen = [taps.wait_for("n2 eth0", IN, cookie).packet for cookie in cookies]
                assert {packet[VXLAN][UDP].sport for packet in seen} == {source_port}
                ports[source_port] = {packet[UDP].sport for packet in seen}
    assert all(len(found) == 1 for found in ports.values()), ports
    assert all(low <= port <= high for found in ports.values() for port in found), (ports, low, high)
    assert len(set.union(*ports.values())) > 1, ports  # so that an underlay with several paths uses them


def test_nothing_is_asked_on_the_overlay() -> None:
    """The neighbour entries are permanent and the FDB is complete: no ARP, no flooding, no learning."""
    with Lab(topology("tpquiet")) as lab:
        one = Side.of(lab, "p-1")
        with Taps(lab, "p-1 eth0", "n1 flannel.1", "n2 flannel.1", "n3 flannel.1") as taps:
            taps.ping("p-1", address(lab, "p-2"))
            taps.ping("p-1", address(lab, "p-3"))
            seen = {tap: taps.everything(tap) for tap in ("n1 flannel.1", "n2 flannel.1", "n3 flannel.1")}
        assert {tap: len(entries) for tap, entries in seen.items()} == {
            "n1 flannel.1": 4,
            "n2 flannel.1": 2,
            "n3 flannel.1": 2,
        }
        assert not any(ARP in entry.packet for entries in seen.values() for entry in entries)
        assert all(
            one.vtep_mac in (entry.packet.src, entry.packet.dst) for entries in seen.values() for entry in entries
        )


def test_a_node_speaks_to_a_remote_pod_with_the_address_of_its_vtep() -> None:
    with Lab(topology("tpnode", nodes=2, pods=2)) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        with Taps(lab, "n1 flannel.1", "n1 cni0", "p-2 eth0") as taps:
            crossing = taps.ping("n1", two.pod_ip)
    vteps, ips = (one.vtep_mac, two.vtep_mac), ("10.244.1.0", two.pod_ip)
    ends = (two.bridge_mac, two.pod_mac)
    assert crossing.requests == [
        Hop("n1 flannel.1", OUT, (Header(vteps, ips, 64),)),
        Hop("p-2 eth0", IN, (Header(ends, ips, 63),)),
    ]
    assert crossing.replies == [
        Hop("n1 flannel.1", IN, (Header(vteps[::-1], ips[::-1], 63),)),
        Hop("p-2 eth0", OUT, (Header(ends[::-1], ips[::-1], 64),)),
    ]


def test_the_node_of_a_vtep_answers_on_its_address() -> None:
    with Lab(topology("tpvtep", nodes=2, pods=2)) as lab:
        with Taps(lab, "n1 flannel.1") as taps:
            crossing = taps.ping("n1", "10.244.2.0")
        assert [hop.headers[0].ips for hop in crossing.replies] == [("10.244.2.0", "10.244.1.0")]


# --- across routers, and DirectRouting -------------------------------------------------------------------------------


def test_a_router_forwards_the_outer_packet_and_leaves_the_inner_one_alone() -> None:
    with Lab(routed("tpvxr", VxlanBackend())) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        there, back = _through_router(lab, one, two), _through_router(lab, two, one)
        with Taps(lab, *taps_of(there), "n3 eth0", "n4 eth0") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert crossing.taps() == taps_of(there)
    assert {_tunnel(packet) for tap in ("r1 eth0", "r1 eth1") for packet in crossing.at(tap)} == {(8472, 1, I_FLAG)}


def _through_router(lab: Lab, src: Side, dst: Side) -> list[Hop]:
    """Return the hops of a packet through VXLAN from one rack to the other."""
    return by_vxlan(src, dst, across_router(lab, src, dst, outer_header(src, dst), inner_header(src, dst)))


def test_direct_routing_sends_packets_bare_within_a_segment_and_by_vxlan_across_a_router() -> None:
    with Lab(routed("tpdr", VxlanBackend(direct_routing=True))) as lab:
        one, two, three = (Side.of(lab, pod) for pod in ("p-1", "p-2", "p-3"))
        there, back = by_route(one, three), by_route(three, one)
        with Taps(lab, *taps_of(there), "n1 flannel.1", "n3 flannel.1", "r1 eth0") as taps:
            near = taps.ping("p-1", three.pod_ip)
        assert near.requests == there
        assert near.replies == back[::-1]
        assert near.taps() == taps_of(there)
        assert not any(VXLAN in entry.packet or UDP in entry.packet for entry in near.sightings)
        assert all(entry.packet[ICMP] for entry in near.sightings)

        there, back = _through_router(lab, one, two), _through_router(lab, two, one)
        with Taps(lab, *taps_of(there)) as taps:
            across = taps.ping("p-1", two.pod_ip)
        assert across.requests == there
        assert across.replies == back[::-1]
