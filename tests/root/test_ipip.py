"""IP in IP as flannel sets it up (facts.md 1.12): packets at every interface, MTU, DirectRouting, faults.

Where the kernel has no ipip all of it is skipped; the VM tier runs it.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP, UDP, IPerror
from scapy.utils import RawPcapReader, rdpcap

from netlab import names
from netlab.kernel.linux import LinuxKernel
from netlab.lab import Lab
from netlab.plan.objects import Addr, Ipip, Object, Route
from netlab.topology.model import IpipBackend, VxlanBackend
from tests.contract import follow
from tests.labs import planned, routed, topology
from tests.root.journeys import (
    IN,
    NO_MACS,
    OUT,
    Header,
    Hop,
    Side,
    across_router,
    address,
    by_ipip,
    by_route,
    inside,
    on_wire,
    outer_header,
    run,
    taps_of,
)
from tests.root.sniff import Taps, kind_of, path_mtu, ping
from tests.root.test_mtu import narrow

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("ipip")]

IPPROTO_IPIP = 4  # RFC 2003
DONT_FRAGMENT = "DF"
RTNH_F_ONLINK = 0x04  # linux/rtnetlink.h
NETLAB_ROUTES = 110  # the route protocol that marks netlab's
LINKTYPE_RAW = 101


# --- packets ---------------------------------------------------------------------------------------------------------


def test_a_packet_between_nodes_at_every_interface() -> None:
    with Lab(topology("tii", backend=IpipBackend())) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        there, back = by_ipip(one, two), by_ipip(two, one)
        with Taps(lab, *taps_of(there), "n1 tunl0", "n2 tunl0", "n3 eth0", "p-3 eth0") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert crossing.taps() == taps_of(there)
    for hop in on_wire(one, two):
        for packet in crossing.at(hop.tap):
            outer, inner = packet[IP], packet[IP].payload
            assert (outer.proto, inner.proto) == (IPPROTO_IPIP, 1)
            assert outer.len == inner.len + 20
            assert (outer.tos, str(outer.flags), outer.frag) == (0, DONT_FRAGMENT, 0)


def test_the_outer_packet_may_not_be_fragmented_even_where_the_inner_one_may() -> None:
    with Lab(topology("tiidf", nodes=2, pods=2, backend=IpipBackend())) as lab, Taps(lab, "n1 eth0") as taps:
        run(lab, "p-1", f"ping -c1 -W2 -M dont -Q 0x20 {address(lab, 'p-2')}")
        request = next(entry.packet for entry in taps.everything("n1 eth0") if kind_of(entry.packet) == "request")
    outer, inner = request[IP], request[IP].payload
    assert (str(outer.flags), str(inner.flags)) == (DONT_FRAGMENT, "")
    assert (outer.tos, inner.tos) == (0, 0x20)  # the tunnel's own, not the packet's


def test_a_node_speaks_to_a_remote_pod_with_the_address_of_its_tunnel() -> None:
    with Lab(topology("tiin", nodes=2, pods=2, backend=IpipBackend())) as lab:
        two = Side.of(lab, "p-2")
        with Taps(lab, "n1 flannel.ipip", "p-2 eth0") as taps:
            crossing = taps.ping("n1", two.pod_ip)
            answered = taps.ping("n1", "10.244.2.0")
    asked = ("10.244.1.0", two.pod_ip)
    assert [(hop.tap, hop.way, hop.headers[0].ips) for hop in crossing.requests] == [
        ("n1 flannel.ipip", OUT, asked),
        ("p-2 eth0", IN, asked),
    ]
    assert [hop.headers[0].ips for hop in answered.replies] == [("10.244.2.0", "10.244.1.0")]


def test_a_router_forwards_the_outer_packet_and_leaves_the_inner_one_alone() -> None:
    with Lab(routed("tiir", IpipBackend())) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        there, back = _through_router(lab, one, two), _through_router(lab, two, one)
        with Taps(lab, *taps_of(there), "n3 eth0", "n4 eth0") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert crossing.taps() == taps_of(there)


def _through_router(lab: Lab, src: Side, dst: Side) -> list[Hop]:
    """Return the hops of a packet through IP in IP from one rack to the other."""
    outer, inner = outer_header(src, dst)._replace(ttl=63), Header(NO_MACS, (src.pod_ip, dst.pod_ip), 63)
    return by_ipip(src, dst, across_router(lab, src, dst, outer, inner))


# --- DirectRouting ---------------------------------------------------------------------------------------------------


def test_direct_routing_on_one_segment_needs_no_tunnel() -> None:
    with Lab(topology("tiid", backend=IpipBackend(direct_routing=True))) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        there, back = by_route(one, two), by_route(two, one)
        with Taps(lab, *taps_of(there), "n1 flannel.ipip", "n2 flannel.ipip") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert crossing.taps() == taps_of(there)


def test_direct_routing_across_a_router_goes_through_the_tunnel() -> None:
    with Lab(routed("tiidr", IpipBackend(direct_routing=True))) as lab:
        one, two, three = (Side.of(lab, pod) for pod in ("p-1", "p-2", "p-3"))
        for target, there, back in (
            (three, by_route(one, three), by_route(three, one)),
            (two, _through_router(lab, one, two), _through_router(lab, two, one)),
        ):
            with Taps(lab, *dict.fromkeys([*taps_of(there), "n1 flannel.ipip"])) as taps:
                crossing = taps.ping("p-1", target.pod_ip)
            assert crossing.requests == there
            assert crossing.replies == back[::-1]
            assert crossing.taps() == taps_of(there)


# --- what the kernel holds, by an independent observer ---------------------------------------------------------------


def test_the_kernel_holds_flannels_device() -> None:
    with Lab(topology("tik", nodes=2, pods=2, backend=IpipBackend())) as lab:
        link, addresses = inside(lab, "n1", _device)
        assert lab.status().state.foreign == {}  # tunl0 is nobody's: the kernel makes it
    options = link.get(("linkinfo", "data"))
    assert link.get(("linkinfo", "kind")) == "ipip"
    assert link.get("mtu") == 1480
    assert options.get("ipip_local") == address(lab, "n1")
    assert options.get("ipip_remote") == "0.0.0.0"
    assert (options.get("ipip_ttl"), options.get("ipip_pmtudisc")) == (0, 1)
    assert addresses == [("10.244.1.0", 32)]


def _device(ipr: IPRoute) -> tuple[Any, list[tuple[str, int]]]:
    """Return the tunnel's message and addresses."""
    index = ipr.link_lookup(ifname="flannel.ipip")[0]
    return ipr.get_links(index)[0], [(entry.get("address"), entry["prefixlen"]) for entry in ipr.get_addr(index=index)]


@pytest.mark.parametrize("direct_routing", [False, True], ids=["ipip", "direct-routing"])
def test_the_kernel_holds_one_route_for_each_peer_and_nothing_else(direct_routing: bool) -> None:
    with Lab(routed("tikr", IpipBackend(direct_routing=direct_routing))) as lab:
        routes, neighbors = inside(lab, "n1", _routes_to_pods)
        nodes = {name: address(lab, name) for name in ("n2", "n3", "n4")}
    device = {"n2": "flannel.ipip", "n3": "eth0" if direct_routing else "flannel.ipip", "n4": "flannel.ipip"}
    assert routes == {
        (f"10.244.{name[1:]}.0", 24, nodes[name], dev, RTNH_F_ONLINK if dev == "flannel.ipip" else 0, NETLAB_ROUTES)
        for name, dev in device.items()
    }
    assert neighbors == []


def _routes_to_pods(ipr: IPRoute) -> tuple[set[Any], list[Any]]:
    """Return the routes to other nodes' pods, and the neighbours on the tunnel."""
    names = {link["index"]: link.get("ifname") for link in ipr.get_links()}
    routes = {
        (entry.get("dst"), entry["dst_len"], entry.get("gateway"), names[entry.get("oif")], flags, entry["proto"])
        for entry in ipr.get_routes(family=2, table=254)
        if (entry.get("dst") or "").startswith("10.244.") and entry.get("gateway")
        for flags in [entry["flags"] & RTNH_F_ONLINK]
    }
    return routes, list(ipr.get_neighbours(family=2, ifindex=ipr.link_lookup(ifname="flannel.ipip")[0]))


# --- MTU -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "direct_routing", "wire"), [(1500, False, 1500), (9000, False, 9000), (1500, True, 1480)]
)
def test_the_largest_packet_passes_and_one_byte_more_does_not_leave_the_pod(
    link: int, direct_routing: bool, wire: int
) -> None:
    pod = link - 20
    with Lab(topology("tim", nodes=2, pods=2, backend=IpipBackend(direct_routing), mtu=link)) as lab:
        target = address(lab, "p-2")
        with Taps(lab, "p-1 eth0", "p-2 eth0", "n1 eth0", "fabric n2-eth0") as taps:
            crossing = taps.ping("p-1", target, size=pod)
            with pytest.raises(OSError, match="too long") as caught:
                ping(lab, "p-1", target, size=pod + 1)
            sent = [entry.packet for entry in taps.everything("p-1 eth0") if kind_of(entry.packet) == "request"]
        assert caught.value.errno == errno.EMSGSIZE
        assert [packet[IP].len for packet in sent] == [pod]
        assert path_mtu(lab, "p-1", target) == pod
    assert [packet[IP].len for packet in crossing.at("p-2 eth0")] == [pod, pod]
    for tap in ("n1 eth0", "fabric n2-eth0"):
        assert [packet[IP].len for packet in crossing.at(tap)] == [wire, wire]


def test_a_node_sends_no_more_than_its_tunnel_holds() -> None:
    with Lab(topology("timn", nodes=2, pods=2, backend=IpipBackend())) as lab:
        target = address(lab, "p-2")
        with Taps(lab, "n1 eth0") as taps:
            assert [packet[IP].len for packet in taps.ping("n1", target, size=1480).at("n1 eth0")] == [1500, 1500]
        with pytest.raises(OSError, match="too long"):
            ping(lab, "n1", target, size=1481)


def test_a_narrow_link_behind_a_router_costs_one_packet_and_is_known_from_then_on() -> None:
    """The router refuses the outer packet and tells the node, which can tell the pod only about the next one."""
    with Lab(narrow("tinar", IpipBackend())) as lab:
        pod, node, target = address(lab, "p-1"), address(lab, "n1"), address(lab, "p-2")
        with Taps(lab, "p-1 eth0", "n1 eth0", "r1 eth0", "r1 eth1") as taps:
            lost = ping(lab, "p-1", target, size=8980)
            told = taps.wait_for("n1 eth0", IN, lost, kinds=("error",)).packet
            refused = taps.ping("p-1", target, size=8980)
            largest = taps.ping("p-1", target, size=1480)
            first = taps.crossing(lost)
        assert (told[IP].src, told[IP].dst, told[ICMP].nexthopmtu) == ("172.18.1.1", node, 1500)
        assert (told[IPerror].src, told[IPerror].dst, told[IPerror].proto) == (node, address(lab, "n2"), IPPROTO_IPIP)
        assert [hop.tap for hop in first.requests] == ["p-1 eth0", "n1 eth0", "r1 eth0"]
        assert [hop.tap for hop in first.errors] == ["n1 eth0", "r1 eth0"]
        error = refused.error_at("p-1 eth0")
        assert (error[IP].src, error[IP].dst) == ("10.244.1.1", pod)
        assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1480)
        assert refused.at("n1 eth0") == []
        assert [packet[IP].len for packet in largest.at("r1 eth1")] == [1500, 1500]
        assert path_mtu(lab, "p-1", target) == 1480


# --- one fault at a time ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something changed by hand on `member`. The request then gets as far as `last` (on taps in the order of TAPS).

    `drift`: kinds of objects that `status` reports.
    """

    name: str
    member: str
    command: str
    last: str
    drift: tuple[type[Object], ...]


TAPS = ("p-1 eth0", "n1 cni0", "n1 flannel.ipip", "n1 eth0", "n2 eth0", "n2 flannel.ipip", "n2 cni0", "p-2 eth0")
FAULTS = (
    Fault("a device that is down", "n2", "ip link set flannel.ipip down", "n2 eth0", (Ipip, Route)),
    Fault("a device that is gone", "n2", "ip link del flannel.ipip", "n2 eth0", (Ipip, Addr, Route)),
    Fault(
        "a device with another local address",
        "n2",
        "ip link set flannel.ipip type ipip local 172.18.0.99 remote any",
        "n2 eth0",
        (Ipip, Addr, Route),
    ),
    Fault("a peer's route by another device", "n1", "ip route replace 10.244.2.0/24 dev cni0", "n1 cni0", (Route,)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_stops_packets_where_it_is_and_up_repairs_it(fault: Fault) -> None:
    with Lab(topology("tif", backend=IpipBackend())) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        run(lab, fault.member, fault.command)
        reached = [tap for tap in TAPS if not (tap == "n2 flannel.ipip" and "gone" in fault.name)]
        with Taps(lab, *reached) as taps:
            cookie = ping(lab, "p-1", two.pod_ip)
            taps.wait_for(fault.last, IN if fault.last in ("n2 eth0", "n1 cni0") else OUT, cookie, kinds=("request",))
            _wait_for_another_to_pass(lab)
            crossing = taps.crossing(cookie)
        assert list(dict.fromkeys(hop.tap for hop in crossing.requests)) == list(TAPS[: TAPS.index(fault.last) + 1])
        assert crossing.replies == []
        _is_drift_repaired_by_up(lab, fault.drift, one, two)


def _wait_for_another_to_pass(lab: Lab) -> None:
    """Send a second packet between nodes that reaches its target: the first is not on its way any longer."""
    with Taps(lab, "n1 eth0") as taps:
        assert taps.ping("n1", address(lab, "n2")).replies


def _is_drift_repaired_by_up(lab: Lab, kinds: tuple[type[Object], ...], one: Side, two: Side) -> None:
    """Check that `status` reports just these kinds, that `up` changes just that, and that packets pass as before."""
    drift = lab.status().drift
    assert {type(op.new or op.old) for op in drift} == set(kinds)
    assert lab.up().ops == drift
    assert lab.up().ops == ()
    there, back = by_ipip(one, two), by_ipip(two, one)
    with Taps(lab, *taps_of(there)) as taps:
        crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]


def test_without_its_route_a_node_answers_net_unreachable() -> None:
    with Lab(topology("tinort", backend=IpipBackend())) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        run(lab, "n1", "ip route del 10.244.2.0/24")
        with Taps(lab, *TAPS) as taps:
            crossing = taps.ping("p-1", two.pod_ip)
        error = crossing.error_at("p-1 eth0")
        assert (error[IP].src, error[ICMP].type, error[ICMP].code) == ("10.244.1.1", 3, 0)
        assert crossing.taps() == ["p-1 eth0", "n1 cni0"]
        _is_drift_repaired_by_up(lab, (Route,), one, two)


FOR_ONE_PEER = (
    "ip link del flannel.ipip; "
    "ip link add flannel.ipip mtu 1480 group {group} type ipip local 172.18.0.2 remote 172.18.0.3; "
    "ip link set flannel.ipip up; ip address add 10.244.1.0/32 dev flannel.ipip; "
    "for peer in 2 3; do ip route add 10.244.$peer.0/24 dev flannel.ipip proto {protocol}; done"
)


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("ip link set flannel.ipip mtu 1400", (Ipip,)),
        ("ip address del 10.244.1.0/32 dev flannel.ipip", (Addr, Route)),  # with the last one go the routes
        ("ip route replace 10.244.2.0/24 via 172.18.0.3 dev eth0", (Route,)),
        (FOR_ONE_PEER.format(group=names.LINK_GROUP, protocol=names.ROUTE_PROTOCOL), (Ipip, Addr, Route)),
    ],
    ids=["mtu", "address", "bare-route", "device-for-one-peer"],
)
def test_drift_that_some_packets_survive_is_repaired_too(command: str, kinds: tuple[type[Object], ...]) -> None:
    with Lab(topology("tidrift", backend=IpipBackend())) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        run(lab, "n1", command)
        with Taps(lab, "p-1 eth0") as taps:
            assert taps.ping("p-1", two.pod_ip).replies or Addr in kinds
        _is_drift_repaired_by_up(lab, kinds, one, two)


# --- to and from other backends, and what people see -----------------------------------------------------------------


def test_a_kernel_goes_to_ipip_and_away_again(tmp_path: Path) -> None:
    backends = [VxlanBackend(), IpipBackend(), IpipBackend(direct_routing=True), VxlanBackend(), IpipBackend()]
    flat = [topology("tipath", backend=backend) for backend in backends]
    path = [*flat, routed("tipath", IpipBackend(direct_routing=True)), topology("tipath", backend=IpipBackend())]
    with LinuxKernel() as kernel:
        try:
            follow(kernel, "tipath", [*(planned(wanted).objects for wanted in path), {}])
        finally:
            kernel.remove("tipath")


def test_capture_shows_both_headers_outside_and_one_in_the_tunnel(tmp_path: Path) -> None:
    with Lab(topology("ticap", nodes=2, pods=2, backend=IpipBackend())) as lab:
        target = address(lab, "p-2")
        capture = partial(_capture, f"ip netns exec {lab.netns('p-1')} ping -c1 {target}", tmp_path / "seen.pcap")
        outside, inner = capture("eth0")
        inside_lines = capture("flannel.ipip")
        kept = rdpcap(str(tmp_path / "seen.pcap"))
        with RawPcapReader(str(tmp_path / "seen.pcap")) as reader:
            assert reader.linktype == LINKTYPE_RAW
    assert "172.18.0.2 > 172.18.0.3 ttl 63 len 104" in outside
    assert inner.split() == f"{address(lab, 'p-1')} > {target} ttl 63 len 84 ICMP echo request".split()
    assert [line.split(maxsplit=2)[2] for line in inside_lines[:1]] == [" ".join(inner.split())]
    assert UDP not in kept[0]
    assert (kept[0][IP].dst, kept[0][ICMP].type) == (target, 8)


def _capture(command: str, pcap: Path, interface: str) -> list[str]:
    """Return the first two lines of what `netlab capture` shows on n1 while a command runs."""
    argv = [sys.executable, "-m", "netlab", "capture", "n1", "-i", interface, "-w", str(pcap), "--", *command.split()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "ARP" not in line]
    return lines[:2]
