"""Packets of a dual-stack lab: IPv6 between pods by flannel-v6.1 over an IPv6 underlay, IPv4 beside it as ever."""

from __future__ import annotations

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.vxlan import VXLAN

from netlab.lab import Lab
from netlab.topology.model import VxlanBackend
from tests.labs import topology
from tests.root.journeys import IN, OUT, Header, Hop, Side, address, by_route, by_vxlan, on_wire, run, taps_of
from tests.root.sniff import Taps

pytestmark = pytest.mark.root


def test_each_ip_version_has_a_tunnel_of_its_own() -> None:
    with Lab(topology("tpdual", dual_stack=True)) as lab:
        for version, other in ((4, "flannel-v6.1"), (6, "flannel.1")):
            one, two = Side.of(lab, "p-1", version), Side.of(lab, "p-2", version)
            there, back = by_vxlan(one, two), by_vxlan(two, one)
            with Taps(lab, *taps_of(there), f"n1 {other}", f"n2 {other}", "n3 eth0") as taps:
                crossing = taps.ping("p-1", two.pod_ip)
            assert crossing.requests == there
            assert crossing.replies == back[::-1]
            assert crossing.taps() == taps_of(there)
            for hop in on_wire(one, two):
                for packet in crossing.at(hop.tap):
                    assert (packet[UDP].dport, packet[VXLAN].vni, int(packet[VXLAN].flags)) == (8472, 1, 0x08)
                    assert packet[UDP].chksum != 0  # IPv6 wants one (RFC 8200 section 8.1)
                    assert len(packet) == len(packet[VXLAN].payload) + {4: 50, 6: 70}[version]


def test_a_node_speaks_to_a_remote_pod_with_the_ipv6_address_of_its_vtep() -> None:
    with Lab(topology("tpdn", nodes=2, pods=2, dual_stack=True)) as lab:
        one, two = Side.of(lab, "p-1", 6), Side.of(lab, "p-2", 6)
        with Taps(lab, "n1 flannel-v6.1") as taps:
            crossing = taps.ping("n1", two.pod_ip)
    vteps, ips = (one.vtep_mac, two.vtep_mac), ("fd00:10:244:1::", two.pod_ip)
    assert crossing.requests == [Hop("n1 flannel-v6.1", OUT, (Header(vteps, ips, 64),))]
    assert crossing.replies == [Hop("n1 flannel-v6.1", IN, (Header(vteps[::-1], ips[::-1], 63),))]


def test_direct_routing_leaves_out_the_tunnel_for_both_ip_versions() -> None:
    with Lab(topology("tpddr", nodes=2, pods=2, dual_stack=True, backend=VxlanBackend(direct_routing=True))) as lab:
        for version in (4, 6):
            one, two = Side.of(lab, "p-1", version), Side.of(lab, "p-2", version)
            there, back = by_route(one, two), by_route(two, one)
            with Taps(lab, *taps_of(there), f"n1 {one.vtep}") as taps:
                crossing = taps.ping("p-1", two.pod_ip)
            assert crossing.requests == there
            assert crossing.replies == back[::-1]
            assert crossing.taps() == taps_of(there)


def test_without_its_ipv6_route_only_ipv6_fails_and_up_repairs_it() -> None:
    with Lab(topology("tpd6rt", nodes=2, pods=2, dual_stack=True)) as lab:
        target4, target6 = (address(lab, "p-2", version) for version in (4, 6))
        run(lab, "n1", "ip -6 route del fd00:10:244:2::/64")
        with Taps(lab, "p-1 eth0") as taps:
            error = taps.ping("p-1", target6).error_at("p-1 eth0")
            assert (error[IPv6].src, error[ICMPv6DestUnreach].code) == ("fd00:10:244:1::1", 0)  # no route
            assert taps.ping("p-1", target4).replies
            assert len(lab.up().ops) == 1
            assert taps.ping("p-1", target6).replies
