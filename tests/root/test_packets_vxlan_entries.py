"""The entries behind a VXLAN overlay: what the kernel holds, as pyroute2 reads it, and what breaks without each."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from netlab.lab import Lab
from netlab.plan.objects import FdbEntry, Neighbor, Object, Route, Vxlan
from netlab.topology.model import Node, Role, VxlanBackend
from tests.labs import topology
from tests.root.journeys import IN, OUT, Side, address, by_vxlan, inside, macs, run, taps_of
from tests.root.sniff import Taps, ping, send_udp

pytestmark = pytest.mark.root

# linux/neighbour.h, linux/rtnetlink.h
NUD_PERMANENT, NTF_SELF, RTNH_F_ONLINK = 0x80, 0x02, 0x04
NETLAB_ROUTES = 110  # the route protocol that marks netlab's
PEERS = ("n2", "n3")
STRANGE_MAC = "02:00:00:00:00:99"


# --- what the kernel holds, by an independent observer ---------------------------------------------------------------


def test_the_kernel_holds_flannels_device() -> None:
    with Lab(topology("tpdev", dual_stack=True)) as lab:
        for name, version, mtu in (("flannel.1", 4, 1450), ("flannel-v6.1", 6, 1430)):
            link, uplink, addresses = inside(lab, "n1", partial(_device, name=name))
            options = link.get(("linkinfo", "data"))
            assert link.get(("linkinfo", "kind")) == "vxlan"
            assert link.get("mtu") == mtu
            assert int(link.get("address")[:2], 16) & 0b11 == 0b10  # locally administered, unicast
            assert options.get("vxlan_id") == 1
            assert options.get("vxlan_port") == 8472
            assert options.get("vxlan_link") == uplink
            assert options.get("vxlan_local" if version == 4 else "vxlan_local6") == address(lab, "n1", version)
            assert options.get("vxlan_group") is None
            assert options.get("vxlan_learning") == 0
            assert options.get("vxlan_l2miss") == options.get("vxlan_l3miss") == 0
            assert options.get("vxlan_gbp") is None
            want = {4: ("10.244.1.0", 32), 6: ("fd00:10:244:1::", 128)}[version]
            assert [entry for entry in addresses if not entry[0].startswith("fe80:")] == [want]
        assert run(lab, "n1", "cat /proc/sys/net/ipv6/conf/flannel-v6.1/accept_ra") == "0\n"


def _device(ipr: IPRoute, name: str) -> tuple[Any, int, list[tuple[str, int]]]:
    """Return a device's message, the index of eth0 and the device's addresses."""
    index = ipr.link_lookup(ifname=name)[0]
    addresses = [(entry.get("address"), entry["prefixlen"]) for entry in ipr.get_addr(index=index)]
    return ipr.get_links(index)[0], ipr.link_lookup(ifname="eth0")[0], addresses


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_holds_three_entries_for_each_peer(version: int) -> None:
    with Lab(topology(f"tpthree{version}", dual_stack=version == 6)) as lab:
        device = "flannel.1" if version == 4 else "flannel-v6.1"
        vteps = {peer: macs(lab, peer)[device] for peer in PEERS}
        bases = {peer: _base(peer, version) for peer in PEERS}
        neighbors, fdb, routes = inside(lab, "n1", lambda ipr: _entries(ipr, device, version))
        assert neighbors == {(bases[peer], vteps[peer], NUD_PERMANENT) for peer in PEERS}
        assert fdb == {(vteps[peer], address(lab, peer, version), NUD_PERMANENT, NTF_SELF) for peer in PEERS}
        length = {4: 24, 6: 64}[version]
        assert routes == {(bases[peer], length, bases[peer], RTNH_F_ONLINK, NETLAB_ROUTES) for peer in PEERS}


def _base(node: str, version: int) -> str:
    """Return the first address of a node's podCIDR, which is its VTEP's."""
    return f"10.244.{node[1:]}.0" if version == 4 else f"fd00:10:244:{node[1:]}::"


def _entries(ipr: IPRoute, device: str, version: int) -> tuple[set[Any], set[Any], set[Any]]:
    """Return a device's neighbours, FDB entries and routes, without what IPv6 adds by itself."""
    index, family = ipr.link_lookup(ifname=device)[0], {4: 2, 6: 10}[version]
    neighbors = {
        (entry.get("dst"), entry.get("lladdr"), entry["state"])
        for entry in ipr.get_neighbours(family=family, ifindex=index)
        if not entry.get("dst").startswith("ff02:")
    }
    fdb = {
        (entry.get("lladdr"), entry.get("dst"), entry["state"], entry["flags"])
        for entry in ipr.fdb("dump", ifindex=index)
    }
    routes = {
        (entry.get("dst"), entry["dst_len"], entry.get("gateway"), entry["flags"], entry["proto"])
        for entry in ipr.get_routes(family=family, oif=index, table=254)
        if entry.get("dst") != "fe80::" and entry.get("gateway")
    }
    return neighbors, fdb, routes


@pytest.mark.parametrize("learning", [False, True], ids=["flannel", "learning"])
def test_a_vtep_learns_from_received_frames_only_where_it_is_told_to(learning: bool) -> None:
    base = topology("tplearn", nodes=1, pods=1, backend=VxlanBackend(learning=learning))
    with Lab(replace(base, nodes=(*base.nodes, Node("stranger", "underlay", Role.EXTERNAL)))) as lab:
        cookie = os.urandom(8)
        inner = Ether(src=STRANGE_MAC, dst=macs(lab, "n1")["flannel.1"], type=0x88B5) / Raw(cookie)
        with Taps(lab, "n1 flannel.1") as taps:
            send_udp(lab, "stranger", address(lab, "n1"), port=8472, payload=bytes(VXLAN(flags=0x08, vni=1) / inner))
            taps.wait_for("n1 flannel.1", IN, cookie)
        fdb = inside(lab, "n1", lambda ipr: _entries(ipr, "flannel.1", 4)[1])
        assert {(mac, dst) for mac, dst, *_ in fdb} == (
            {(STRANGE_MAC, address(lab, "stranger"))} if learning else set()
        )


# --- one fault at a time ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something changed by hand on `member`. The request then gets as far as `last` (on taps in the order of TAPS).

    `drift`: kinds of objects that `status` reports. {vtep}: the MAC of n2's VTEP, {n2} and {n3}: underlay addresses.
    """

    name: str
    member: str
    command: str
    last: str
    drift: tuple[type[Object], ...]


TAPS = ("p-1 eth0", "n1 cni0", "n1 flannel.1", "n1 eth0", "n2 eth0", "n2 flannel.1", "n2 cni0", "p-2 eth0")
FAULTS = (
    Fault("no FDB entry", "n1", "bridge fdb del {vtep} dev flannel.1 dst {n2}", "n1 flannel.1", (FdbEntry,)),
    Fault(
        "an FDB entry for another node",
        "n1",
        "bridge fdb replace {vtep} dev flannel.1 dst {n3} self permanent",
        "n1 eth0",
        (FdbEntry,),
    ),
    Fault(
        "a neighbour entry with a wrong MAC",
        "n1",
        "ip neigh replace 10.244.2.0 lladdr {strange} dev flannel.1 nud permanent",
        "n1 flannel.1",
        (Neighbor,),
    ),
    Fault(
        "another MAC of the peer's VTEP",  # as udev did: flannel issue 1155
        "n2",
        "ip link set flannel.1 address {strange}",
        "n2 flannel.1",
        (Vxlan, Neighbor),  # the kernel forgets the neighbours on a device whose MAC changes
    ),
    Fault("a VTEP that is down", "n2", "ip link set flannel.1 down", "n2 eth0", (Vxlan, Neighbor, Route)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_stops_packets_where_it_is_and_up_repairs_it(fault: Fault) -> None:
    with Lab(topology("tpbreak")) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        values = {"vtep": two.vtep_mac, "n2": two.node_ip, "n3": address(lab, "n3"), "strange": STRANGE_MAC}
        run(lab, fault.member, fault.command.format(**values))
        with Taps(lab, *TAPS) as taps:
            cookie = ping(lab, "p-1", two.pod_ip)
            taps.wait_for(fault.last, IN if fault.last.startswith("n2") else OUT, cookie)
            _wait_for_another_to_pass(lab)
            crossing = taps.crossing(cookie)
            assert crossing.taps() == list(TAPS[: TAPS.index(fault.last) + 1])
            assert crossing.replies == crossing.errors == []
        _check_repair(lab, fault.drift, one, two)


def _wait_for_another_to_pass(lab: Lab) -> None:
    """Send a second packet out of n1's VTEP that reaches its target: the first is not on its way any longer."""
    with Taps(lab, "p-1 eth0") as taps:
        assert taps.ping("p-1", address(lab, "p-3")).replies


def _check_repair(lab: Lab, kinds: tuple[type[Object], ...], one: Side, two: Side) -> None:
    """Check that `status` reports just these kinds of objects and `up` changes just those; then packets pass again."""
    drift = lab.status().drift
    assert {type(op.new or op.old) for op in drift} == set(kinds)
    assert lab.up().ops == drift
    assert lab.up().ops == ()
    there, back = by_vxlan(one, two), by_vxlan(two, one)
    with Taps(lab, *taps_of(there)) as taps:
        crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]


def test_without_its_route_a_node_answers_net_unreachable() -> None:
    with Lab(topology("tpnort")) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        run(lab, "n1", "ip route del 10.244.2.0/24")
        with Taps(lab, *TAPS) as taps:
            crossing = taps.ping("p-1", two.pod_ip)
            error = crossing.error_at("p-1 eth0")
            assert (error[IP].src, error[ICMP].type, error[ICMP].code) == ("10.244.1.1", 3, 0)
            assert crossing.taps() == ["p-1 eth0", "n1 cni0"]
        _check_repair(lab, (Route,), one, two)


def test_without_its_neighbour_entry_a_node_asks_in_vain_and_answers_host_unreachable() -> None:
    with Lab(topology("tpnonei")) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        run(lab, "n1", "ip neigh del 10.244.2.0 dev flannel.1")
        run(lab, "n1", "ip ntable change name arp_cache dev flannel.1 retrans 20")  # ms, three times; not seconds
        with Taps(lab, *TAPS) as taps:
            crossing = taps.ping("p-1", two.pod_ip)
            error = crossing.error_at("p-1 eth0")
            asked = {(entry.way, entry.packet[ARP].pdst) for entry in taps.everything("n1 flannel.1")}
            assert (error[IP].src, error[ICMP].type, error[ICMP].code) == ("10.244.1.1", 3, 1)
            assert asked == {(OUT, "10.244.2.0")}
            assert crossing.taps() == ["p-1 eth0", "n1 cni0"]
            assert taps.everything("n1 eth0") == []  # no FDB entry for a broadcast, either
        _check_repair(lab, (Neighbor,), one, two)
