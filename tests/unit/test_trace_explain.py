"""Why a packet went on: each rule by two sightings and the tables that decided between them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netlab.trace.explain import explain, route_origin, route_text
from netlab.trace.headers import IPIP, Ethernet, Headers, Udp, Vxlan
from netlab.trace.layout import Kind
from netlab.trace.model import Cause, Event
from netlab.trace.sighting import Sighting
from netlab.trace.tables import FdbEntry, RouteEntry
from tests.unit.traced_hops import (
    FRAME,
    MAC1,
    MAC2,
    MAC3,
    MAC4,
    NODE1,
    NODE2,
    PACKET,
    PLACES,
    A,
    B,
    FakeTables,
    device,
    ip,
    route,
    seen,
)

GATEWAY = ip_address("10.244.2.0")
AROUND: Headers = (Ethernet(MAC3, MAC4, 0x0800), ip(NODE1, NODE2), Udp(50000, 8472), Vxlan(1))
N1 = FakeTables(
    links=[
        device("cni0", "bridge", MAC2),
        device("veth1", bridge="cni0"),
        device("veth2", bridge="cni0"),
        device("flannel.1", "vxlan", MAC3, vni=1),
        device("tunl0", "ipip"),
        device("flannel0", "tun"),
        device("eth0"),
        device("eth1"),
    ],
    routes=[
        route("10.244.1.0/24", "cni0", protocol=2),
        route("10.244.2.0/24", "flannel.1", GATEWAY),
        route("172.18.0.0/24", "eth0", protocol=2),
        route("10.9.0.0/24", "eth1", NODE2, protocol=186),
        route("10.8.0.0/24", "flannel0", protocol=3),
        route("10.7.0.0/24", "eth0", protocol=99),
    ],
    neighbors={(GATEWAY, "flannel.1"): MAC4, (NODE2, "eth0"): MAC4, (A, "cni0"): MAC1, (B, "cni0"): ""},
    forwards={
        (MAC4, "flannel.1"): FdbEntry(MAC4, "flannel.1", NODE2),
        (MAC2, "cni0"): FdbEntry(MAC2, "cni0", is_local=True, is_static=True),
        (MAC1, "cni0"): FdbEntry(MAC1, "veth1"),
        (MAC3, "cni0"): FdbEntry(MAC3, "veth2", is_static=True),
    },
)
TABLES = {"lab.n1": N1}
ROUTED = "route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 (lease of n2)"
RESOLVED = [f"neighbor 10.244.2.0 lladdr {MAC4} REACHABLE", f"fdb {MAC4} dst 172.18.0.3 dev flannel.1"]


def causes(*way: Sighting) -> list[str]:
    """Return the causes of the last of a way, as lines."""
    return [line(cause) for cause in explain(way, TABLES, PLACES, start=0)[-1].causes]


def line(cause: Cause) -> str:
    return f"{cause.topic} {cause.text}" + (f" ({cause.origin})" if cause.origin else "")


def to(dst: str, *, src: str = "10.244.1.2", mac: str = MAC2) -> Headers:
    return (Ethernet(MAC1, mac, 0x0800), ip(ip_address(src), ip_address(dst)), Udp(40000, 53))


# --- the rules -------------------------------------------------------------------------------------------------------


def test_a_bridge_passes_up_what_is_for_its_own_mac() -> None:
    found = causes(seen("n1/veth1"), seen("n1/cni0"))
    assert found == [f"bridge {MAC2} is cni0's own address: passed up to IP"]


def test_a_bridge_passes_up_what_is_for_all() -> None:
    found = causes(seen("n1/veth1"), seen("n1/cni0", headers=to("10.244.1.255", mac="ff:ff:ff:ff:ff:ff")))
    assert found == ["bridge ff:ff:ff:ff:ff:ff is for all: passed up to IP"]
    assert causes(seen("n1/veth1"), seen("n1/cni0", headers=PACKET)) == []


@pytest.mark.parametrize(
    ("mac", "text"),
    [
        (MAC1, f"fdb {MAC1} dev veth1 master cni0 (learned)"),
        (MAC3, f"fdb {MAC3} dev veth2 master cni0 (static)"),
        (MAC4, f"fdb {MAC4} is not in the FDB of cni0: flooded to all ports"),
    ],
)
def test_a_bridge_chooses_a_port(mac: str, text: str) -> None:
    headers = to("10.244.1.2", mac=mac)
    from_port = (seen("n1/veth2", headers=headers), seen("n1/veth1", Kind.OUT, headers))
    from_itself = (seen("n1/cni0", Kind.OUT, headers), seen("n1/veth1", Kind.OUT, headers))
    assert causes(*from_port) == causes(*from_itself) == [text]


def test_a_frame_without_a_header_has_no_port() -> None:
    assert causes(seen("n1/veth2"), seen("n1/veth1", Kind.OUT, PACKET)) == []


def test_a_tunnels_packet_comes_in_unwrapped() -> None:
    wrapped = (*AROUND, *FRAME)
    vxlan = causes(seen("n1/eth0", headers=wrapped), seen("n1/flannel.1"))
    assert vxlan == ["tunnel UDP to VXLAN port, VNI 1 is flannel.1's: unwrapped"]
    assert causes(seen("n1/eth0", headers=wrapped), seen("n1/tunl0")) == ["tunnel unwrapped by tunl0"]
    assert causes(seen("n1/eth0", headers=wrapped), seen("n1/flannel0")) == ["tunnel unwrapped by flannel0"]
    assert causes(seen("n1/eth0"), seen("n1/eth1")) == []


def test_ip_sends_into_a_vxlan_device() -> None:
    found = causes(seen("n1/cni0", headers=to("10.244.2.2")), seen("n1/flannel.1", Kind.OUT, to("10.244.2.2")))
    assert found == [ROUTED, *RESOLVED]


def test_a_vxlan_device_wraps_and_ip_sends_that() -> None:
    found = causes(seen("n1/flannel.1", Kind.OUT), seen("n1/eth0", Kind.OUT, (*AROUND, *FRAME)))
    assert found == [
        "tunnel wrapped by flannel.1, VNI 1",
        "route 172.18.0.0/24 dev eth0 (kernel)",
        f"neighbor 172.18.0.3 lladdr {MAC4} REACHABLE",
    ]


def test_other_tunnels_wrap_without_a_vni() -> None:
    headers = (Ethernet(MAC3, MAC4, 0x0800), ip(NODE1, NODE2, IPIP), *PACKET)
    for name in ("tunl0", "flannel0"):
        found = causes(seen(f"n1/{name}", Kind.OUT, PACKET), seen("n1/eth0", Kind.OUT, headers))
        assert found[:2] == [f"tunnel wrapped by {name}", "route 172.18.0.0/24 dev eth0 (kernel)"]
    gone = causes(seen("n1/tunl0", Kind.OUT, PACKET), seen("n1/eth0", Kind.OUT, ()))
    assert gone == ["tunnel wrapped by tunl0"]
    elsewhere = (ip(NODE1, ip_address("198.51.100.1"), IPIP), *PACKET)
    assert causes(seen("n1/tunl0", Kind.OUT, PACKET), seen("n1/eth0", Kind.OUT, elsewhere)) == gone


def test_a_bpf_program_sends_what_was_routed_to_a_tunnel() -> None:
    found = causes(seen("n1/cni0", headers=to("10.8.0.1")), seen("n1/eth0", Kind.OUT, to("10.8.0.1")))
    assert found == [
        "route 10.8.0.0/24 dev flannel0 (boot)",
        "tunnel wrapped and sent on by a BPF program at flannel0, which no packet went through",
    ]


def test_a_device_without_neighbours_has_a_route_alone() -> None:
    found = causes(seen("n1/cni0", headers=to("10.8.0.1")), seen("n1/flannel0", Kind.OUT, to("10.8.0.1")[1:]))
    assert found == ["route 10.8.0.0/24 dev flannel0 (boot)"]


def test_a_route_to_another_device_is_told_alone() -> None:
    found = causes(seen("n1/cni0", headers=to("10.9.0.1")), seen("n1/eth0", Kind.OUT, to("10.9.0.1")))
    assert found == ["route 10.9.0.0/24 via 172.18.0.3 dev eth1 (bgp)"]


def test_a_namespaces_own_packet_is_routed_too() -> None:
    found = causes(seen("n1/flannel.1", Kind.OUT, to("10.244.2.2")))
    assert found == [ROUTED, *RESOLVED]
    assert explain([seen("n1/flannel.1", Kind.OUT)], TABLES, PLACES, start=0)[0].changes == ()


def test_a_router_of_the_underlay_routes_what_is_outside() -> None:
    wrapped = (*AROUND, *PACKET)
    assert causes(seen("n1/eth1", headers=wrapped), seen("n1/eth0", Kind.OUT, wrapped)) == [
        "route 172.18.0.0/24 dev eth0 (kernel)",
        f"neighbor {NODE2} lladdr {MAC4} REACHABLE",
    ]


def test_a_route_that_is_gone() -> None:
    found = causes(seen("n1/cni0", headers=to("192.0.2.1")), seen("n1/eth0", Kind.OUT, to("192.0.2.1")))
    assert found == ["route no route to 192.0.2.1: Network is unreachable"]


@pytest.mark.parametrize(
    ("dst", "text"),
    [("10.244.1.7", "10.244.1.7 dev cni0: no entry"), ("10.244.1.2", f"10.244.1.2 lladdr {MAC1} REACHABLE")],
)
def test_neighbours(dst: str, text: str) -> None:
    found = causes(seen("n1/eth0", headers=to(dst)), seen("n1/cni0", Kind.OUT, to(dst)))
    assert found == ["route 10.244.1.0/24 dev cni0 (kernel)", f"neighbor {text}"]


def test_a_neighbour_that_does_not_answer() -> None:
    failed = replace(N1, neighbors={(A, "cni0"): ""})
    way = [seen("n1/eth0", headers=to(str(A))), seen("n1/cni0", Kind.OUT, to(str(A)))]
    last = explain(way, {"lab.n1": failed}, PLACES, start=0)[-1]
    assert last.causes[-1].text == "10.244.1.2 dev cni0: FAILED"


def test_a_vxlan_neighbour_without_a_node() -> None:
    unknown = replace(N1, forwards={})
    way = [seen("n1/cni0", headers=to("10.244.2.2")), seen("n1/flannel.1", Kind.OUT, to("10.244.2.2"))]
    last = explain(way, {"lab.n1": unknown}, PLACES, start=0)[-1]
    assert last.causes[-1].text == f"{MAC4}: no entry dev flannel.1"


@pytest.mark.parametrize(
    "way",
    [
        (seen("n2/eth0", Kind.OUT), seen("n1/eth0")),  # over a cable
        (seen("n1/eth0"), seen("n1/eth0", Kind.CONSUMED)),
        (seen("n1/eth0"), seen("n1/cni0", Kind.DROPPED)),
        (seen("n1/gone"), seen("n1/cni0")),
        (seen("n1/cni0"), seen("n1/gone", Kind.OUT)),
        (seen("n1/cni0"), seen("n2/eth0", Kind.OUT)),  # its tables are not known
        (seen("n1/cni0"), seen("n1/eth0", Kind.OUT, ())),
        (seen("n1/cni0"), seen("n1/eth0", Kind.OUT, FRAME[:1])),
    ],
)
def test_what_needs_no_reason_or_has_none(way: tuple[Sighting, ...]) -> None:
    assert causes(*way) == []


@pytest.mark.parametrize(
    ("before", "asked"),
    [
        (seen("n1/cni0", headers=to("10.244.2.2", src="10.0.0.9")), (B, ip_address("10.0.0.9"), "cni0", 7)),
        (seen("n1/veth1", headers=to("10.244.2.2")), (B, A, "cni0", 7)),  # IP has it from the bridge
        (seen("n1/eth1", Kind.OUT, to("10.244.2.2")), (B, A, "", 7)),
        (None, (B, A, "", 7)),
    ],
)
def test_a_route_is_asked_for_as_the_packet_was_then(before: Sighting | None, asked: tuple[object, ...]) -> None:
    """With its source before it was masqueraded, by where it came in, with its mark."""
    tables = replace(N1, asked=[])
    last = seen("n1/eth0", Kind.OUT, to("10.244.2.2"), mark=7)
    explain([before, last] if before else [last], {"lab.n1": tables}, PLACES, start=0)
    assert tables.asked[-1] == asked


# --- hops ------------------------------------------------------------------------------------------------------------


def test_hops_are_the_sightings_with_names_and_times() -> None:
    way = [seen("p/eth0", Kind.OUT, time=1000), seen("x/eth0", time=1500), seen("x/eth0", Kind.CONSUMED, time=1600)]
    way.append(seen("x/eth0", Kind.DROPPED, time=1700))
    found = explain(way, {}, PLACES, start=1000)
    assert [(one.time, one.member, one.event) for one in found] == [
        (0, "p", Event.OUT),
        (500, "lab.x", Event.IN),
        (600, "lab.x", Event.DELIVERED),
        (700, "lab.x", Event.DROPPED),
    ]
    assert {one.ifindex for one in found} == {3}
    assert explain([], {}, PLACES, start=0) == ()


def test_what_changed_is_told_against_the_hop_before() -> None:
    lower = (FRAME[0], replace(FRAME[1], ttl=63), *FRAME[2:])  # type: ignore[type-var,arg-type]
    way = [seen("n1/cni0"), seen("n1/eth0", Kind.OUT, lower)]
    assert [one.changes for one in explain(way, {}, PLACES, start=0)] == [(), ("ttl 64 -> 63",)]


def test_a_copy_goes_on_from_what_it_follows() -> None:
    (found,) = explain([seen("n1/veth1", Kind.OUT)], TABLES, PLACES, start=0, follows=seen("n1/cni0", Kind.OUT))
    assert [line(cause) for cause in found.causes] == [f"fdb {MAC2} dev cni0 master cni0 (static)"]
    assert found.changes == ()


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (route("10.0.0.0/8", "eth0"), "10.0.0.0/8 dev eth0"),
        (route("0.0.0.0/0", "eth0", NODE2), "default via 172.18.0.3 dev eth0"),
        (route("::/0", "eth0"), "default dev eth0"),
        (route("10.0.0.0/8", "", kind="blackhole"), "blackhole 10.0.0.0/8"),
        (route("10.0.0.1/32", "lo", kind="local"), "local 10.0.0.1/32 dev lo"),
        (
            RouteEntry("unicast", ip_network("10.0.0.0/8"), NODE2, "flannel.1", 254, 80, onlink=True),
            "10.0.0.0/8 via 172.18.0.3 dev flannel.1 onlink",
        ),
    ],
)
def test_routes_as_the_tool_writes_them(entry: RouteEntry, text: str) -> None:
    assert route_text(entry) == text


@pytest.mark.parametrize(
    ("dst", "protocol", "origin"),
    [
        ("10.244.2.0/24", 80, "lease of n2"),
        ("10.99.0.0/24", 80, "netlab"),
        ("10.244.2.0/24", 2, "kernel"),
        ("10.244.2.0/24", 12, "bird"),
        ("10.244.2.0/24", 99, "protocol 99"),
    ],
)
def test_where_routes_come_from(dst: str, protocol: int, origin: str) -> None:
    assert route_origin(route(dst, "eth0", protocol=protocol), PLACES) == origin
