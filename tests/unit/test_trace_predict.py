"""A packet's way by tables that are made by hand: two pods on two nodes that an underlay's bridge joins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from netlab.topology.addresses import Address
from netlab.trace.headers import ICMP, IPIP, TCP, UDP, Headers, Icmp, Ip, Tcp, Udp, Vxlan
from netlab.trace.predict import MOST_STEPS, Choice, Prediction, predict
from netlab.trace.tables import Device, FdbEntry, RouteEntry
from tests.unit.traced_hops import NODE1, NODE2, A, B, FakeTables, route
from tests.unit.two_nodes import BRIDGE, GATEWAYS, UPLINK, VTEP, VTEPS, mac, world

SERVICE = ip_address("10.96.0.80")


def probe(dst: Address = B, *, ttl: int = 64, length: int = 44, dont_fragment: bool = False) -> Headers:
    return Ip(4, ip_address("0.0.0.0"), dst, UDP, ttl, length, dont_fragment=dont_fragment), Udp(0, 53)


def steps(found: Prediction) -> list[str]:
    return [f"{one.namespace} {one.device} {one.kind.name.lower()}" for one in found.steps]


BEGINNING = ["p1 eth0 out", "n1 veth1 in", "n1 cni0 in"]
UNDERLAY = ["n1 eth0 out", "u n1-eth0 in", "u n2-eth0 out", "n2 eth0 in"]
ENDING = ["n2 cni0 out", "n2 veth1 out", "p2 eth0 in", "p2 eth0 consumed"]
TUNNEL = {"vxlan": "flannel.1", "udp": "flannel0", "ipip": "flannel.ipip"}


# --- ways ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", TUNNEL)
def test_ways_through_tunnels(backend: str) -> None:
    found = predict(world(backend), "p1", probe())
    name = TUNNEL[backend]
    assert steps(found) == [*BEGINNING, f"n1 {name} out", *UNDERLAY, f"n2 {name} in", *ENDING]
    assert (found.arrives, found.end, found.choices) == (True, "", ())


def test_a_way_by_routes_alone() -> None:
    found = predict(world("host-gw"), "p1", probe())
    assert steps(found) == [*BEGINNING, *UNDERLAY, *ENDING]
    assert found.arrives


@pytest.mark.parametrize(
    ("backend", "ttls"),
    [("vxlan", [64, 63, 62]), ("host-gw", [64, 63, 62]), ("ipip", [64, 63, 62]), ("udp", [64, 63, 62, 61, 60])],
)
def test_who_pays_a_ttl(backend: str, ttls: list[int]) -> None:
    """A router does, and flannel's UDP forwarder does at each end."""
    found = predict(world(backend), "p1", probe())
    seen = [[header for header in one.headers if isinstance(header, Ip)][-1].ttl for one in found.steps]
    assert list(dict.fromkeys(seen)) == ttls


def test_what_is_around_a_packet_in_a_tunnel() -> None:
    def around(backend: str) -> Headers:
        found = predict(world(backend), "p1", probe())
        return next(one for one in found.steps if one.namespace == "u").headers

    frame, outer, udp, vxlan, inner_frame, inner, *_ = around("vxlan")
    assert (outer.src, outer.dst, udp, vxlan) == (NODE1, NODE2, Udp(0, 8472), Vxlan(1))  # type: ignore[union-attr]
    assert (frame.src, frame.dst) == (mac(UPLINK, 1), mac(UPLINK, 2))  # type: ignore[union-attr]
    assert (inner_frame.src, inner_frame.dst) == (mac(VTEP, 1), mac(VTEP, 2))  # type: ignore[union-attr]
    assert (inner.src, inner.dst) == (A, B)  # type: ignore[union-attr]
    assert [type(header) for header in around("udp")[1:4]] == [Ip, Udp, Ip]
    assert around("udp")[2] == Udp(8285, 8285)
    assert around("ipip")[1].protocol == IPIP  # type: ignore[union-attr]
    assert len(around("ipip")) == 4


def test_a_pod_and_its_node() -> None:
    found = predict(world(), "p1", probe(GATEWAYS[1]))
    assert steps(found) == [*BEGINNING, "n1 cni0 consumed"]
    assert steps(predict(world(), "p1", probe(A))) == ["p1 lo consumed"]
    back = predict(world(), "n1", probe(A))
    assert steps(back) == ["n1 cni0 out", "n1 veth1 out", "p1 eth0 in", "p1 eth0 consumed"]
    assert back.steps[0].headers[1].src == GATEWAYS[1]  # type: ignore[union-attr]


def test_the_source_that_a_route_prefers() -> None:
    def prefer(known: dict[str, FakeTables]) -> None:
        known["p1"].routes = [replace(route("0.0.0.0/0", "eth0", GATEWAYS[1]), source=ip_address("10.244.1.9"))]

    found = predict(world(change=prefer), "p1", probe())
    assert found.steps[0].headers[1].src == ip_address("10.244.1.9")  # type: ignore[union-attr]


def test_neighbours_that_are_not_known_yet_are_asked_for() -> None:
    def forget(known: dict[str, FakeTables]) -> None:
        known["n1"].neighbors = {key: value for key, value in known["n1"].neighbors.items() if key[1] != "eth0"}

    assert predict(world("host-gw", forget), "p1", probe()).arrives


def test_a_frame_for_all_is_passed_up() -> None:
    def to_all(known: dict[str, FakeTables]) -> None:
        known["p1"].neighbors = {(GATEWAYS[1], "eth0"): "ff:ff:ff:ff:ff:ff"}

    assert predict(world(change=to_all), "p1", probe()).arrives


def test_a_frame_that_a_bridge_floods_finds_its_receiver() -> None:
    def forget(known: dict[str, FakeTables]) -> None:
        known["n2"].forwards = known["u"].forwards = {}

    assert steps(predict(world("host-gw", forget), "p1", probe()))[-4:] == ENDING


# --- ends ------------------------------------------------------------------------------------------------------------


def without_route(name: str, dst: str) -> Callable[[dict[str, FakeTables]], None]:
    def change(known: dict[str, FakeTables]) -> None:
        known[name].routes = [one for one in known[name].routes if str(one.dst) != dst]

    return change


def with_route(name: str, entry: RouteEntry) -> Callable[[dict[str, FakeTables]], None]:
    def change(known: dict[str, FakeTables]) -> None:
        known[name].routes = [entry, *(one for one in known[name].routes if one.dst != entry.dst)]

    return change


def with_device(namespace: str, wanted: str, **fields: object) -> Callable[[dict[str, FakeTables]], None]:
    def changed(one: Device) -> Device:
        return replace(one, **fields) if one.name == wanted else one  # type: ignore[arg-type]

    def change(known: dict[str, FakeTables]) -> None:
        known[namespace].links = [changed(one) for one in known[namespace].links]

    return change


def without(name: str, table: str) -> Callable[[dict[str, FakeTables]], None]:
    def change(known: dict[str, FakeTables]) -> None:
        setattr(known[name], table, {})

    return change


BLACKHOLE = route("10.244.2.0/24", "", kind="blackhole")


@pytest.mark.parametrize(
    ("backend", "change", "last", "end"),
    [
        ("bridge", lambda known: None, BEGINNING[-1], "n1 has no route to 10.244.2.2: Network is unreachable"),
        ("vxlan", without_route("p1", "0.0.0.0/0"), "", "p1 has no route to 10.244.2.2: Network is unreachable"),
        ("vxlan", without_route("n2", "10.244.2.0/24"), "n2 flannel.1 in", "n2 has no route to 10.244.2.2"),
        ("vxlan", with_route("n1", BLACKHOLE), BEGINNING[-1], "n1's route to 10.244.2.2 is blackhole"),
        (
            "vxlan",
            with_route("p1", route("0.0.0.0/0", "", kind="unreachable")),
            "",
            "p1's route to 10.244.2.2 is unreachable",
        ),
        (
            "vxlan",
            without("n1", "neighbors"),
            "n1 flannel.1 out",
            "10.244.2.0 is not among the neighbours of flannel.1 in n1",
        ),
        (
            "vxlan",
            without("n1", "forwards"),
            "n1 flannel.1 out",
            f"flannel.1 of n1 has no FDB entry for {mac(VTEP, 2)}",
        ),
        (
            "vxlan",
            with_device("n2", "flannel.1", vni=2),
            "n2 eth0 in",
            "n2 has no tunnel device that would unwrap it",
        ),
        ("udp", with_device("n2", "flannel0", up=False), "n2 eth0 in", "n2 has no tunnel device"),
        (
            "vxlan",
            with_device("n2", "flannel.1", mac=mac(VTEP, 7)),
            "n2 eth0 in",
            f"it is for MAC {mac(VTEP, 2)}, which is not that of flannel.1 in n2",
        ),
        (
            "vxlan",
            with_device("n2", "eth0", mac=mac(UPLINK, 7)),
            "n2 eth0 in",
            f"it is for MAC {mac(UPLINK, 2)}, which is not that of eth0 in n2",
        ),
        (
            "vxlan",
            without("n2", "neighbors"),
            "n2 flannel.1 in",
            "nobody has the address 10.244.2.2 that n2 asks for on cni0",
        ),
        ("vxlan", with_device("n1", "flannel.1", up=False), BEGINNING[-1], "flannel.1 of n1 is down"),
        ("vxlan", with_device("n1", "veth1", up=False), "p1 eth0 out", "veth1 of n1 is down"),
        ("vxlan", with_device("p2", "eth0", up=False), "n2 veth1 out", "eth0 of p2 is down"),
        ("vxlan", with_device("p2", "eth0", name="eth1"), "n2 veth1 out", "eth0 of p2 is gone"),
        ("vxlan", with_route("n1", route("10.244.2.0/24", "eth7")), BEGINNING[-1], "eth7 of n1 is gone"),
        ("vxlan", lambda known: known.pop("p2"), "n2 veth1 out", "there is no namespace p2"),
    ],
)
def test_where_and_why_a_way_ends(
    backend: str, change: Callable[[dict[str, FakeTables]], None], last: str, end: str
) -> None:
    found = predict(world(backend, change), "p1", probe())
    assert found.end.startswith(end)
    assert (steps(found) or [""])[-1] == last
    assert not found.arrives


def test_a_namespace_that_is_not_there() -> None:
    assert predict(world(), "p9", probe()) == Prediction(end="there is no namespace p9")


def test_a_device_that_leads_nowhere() -> None:
    found = predict(world(peer=lambda namespace, name: None), "p1", probe())
    assert (steps(found), found.end) == (["p1 eth0 out"], "eth0 of p1 leads nowhere")


@pytest.mark.parametrize(("ttl", "end"), [(1, "its TTL is used up in n1"), (2, "its TTL is used up in n2"), (3, "")])
def test_a_ttl_is_used_up(ttl: int, end: str) -> None:
    found = predict(world(), "p1", probe(ttl=ttl))
    assert (found.end, found.arrives) == (end, not end)


@pytest.mark.parametrize(
    ("length", "dont_fragment", "end"),
    [
        (1450, True, ""),
        (1451, True, "its 1451 bytes are more than the MTU 1450 of flannel.1 in n1"),
        (1451, False, ""),
        (1501, True, "its 1501 bytes are more than the MTU 1500 of eth0 in p1"),
    ],
)
def test_an_mtu_counts_where_nothing_may_be_fragmented(length: int, dont_fragment: bool, end: str) -> None:
    found = predict(world(), "p1", probe(length=length, dont_fragment=dont_fragment))
    assert (found.end, found.arrives) == (end, not end)


def test_two_nodes_that_send_it_to_each_other() -> None:
    back = with_route("n2", route("10.244.2.0/24", "eth0", NODE1))
    found = predict(world("host-gw", back), "p1", probe(ttl=255))
    assert found.end == "it goes round in a circle"
    assert len(found.steps) == MOST_STEPS
    assert predict(world("host-gw", back), "p1", probe(ttl=5)).end.startswith("its TTL is used up in n")


def test_a_tunnel_that_carries_itself_has_an_end() -> None:
    inside = with_route("n1", route("172.18.0.0/24", "flannel.1", VTEPS[2]))
    found = predict(world("vxlan", inside), "p1", probe())
    assert not found.arrives
    assert found.end
    assert len(found.steps) <= MOST_STEPS


def test_a_bridge_does_not_send_back() -> None:
    def astray(known: dict[str, FakeTables]) -> None:
        known["u"].forwards = {(mac(UPLINK, 2), "br0"): FdbEntry(mac(UPLINK, 2), "n1-eth0")}

    found = predict(world("host-gw", astray), "p1", probe())
    assert found.end == "br0 does not send it back to n1-eth0, unless that is in hairpin mode"


def test_a_mac_that_nobody_has() -> None:
    def astray(known: dict[str, FakeTables]) -> None:
        known["u"].forwards = {}
        known["n1"].neighbors = {**known["n1"].neighbors, (NODE2, "eth0"): mac(UPLINK, 8)}

    found = predict(world("host-gw", astray), "p1", probe())
    assert found.end == f"no port of br0 in u leads to {mac(UPLINK, 8)}"


def test_a_forwarder_without_a_peer() -> None:
    found = predict(world("udp", tunnels={}), "p1", probe())
    assert (steps(found)[-1], found.end) == ("n1 flannel0 out", "the forwarder of n1 has no route to 10.244.2.2")


# --- rules -----------------------------------------------------------------------------------------------------------


def translating(where: str, *choices: Choice) -> Callable[[str, Headers], tuple[Choice, ...]]:
    def translate(namespace: str, headers: Headers) -> tuple[Choice, ...]:
        ip = next(header for header in headers if isinstance(header, Ip))
        return choices if namespace == where and ip.dst == SERVICE else ()

    return translate


def test_the_first_choice_is_followed() -> None:
    choices = (Choice(B, 8080, "50 %"), Choice(A, 8080, "50 %"))
    found = predict(world(translate=translating("n1", *choices)), "p1", probe(SERVICE))
    assert found.choices == choices
    assert found.arrives
    assert steps(found)[-1] == "p2 eth0 consumed"
    assert found.steps[-1].headers[-1] == Udp(0, 8080)
    assert found.steps[0].headers[-1] == Udp(0, 53)
    assert found.steps[-1].headers[1].src == A  # type: ignore[union-attr]


def test_what_is_translated_to_an_address_of_the_same_bridge_stays_on_it() -> None:
    found = predict(world(translate=translating("n1", Choice(A, 8080, "always"))), "p1", probe(SERVICE))
    assert steps(found) == ["p1 eth0 out", "n1 veth1 in", "n1 veth1 out", "p1 eth0 in", "p1 eth0 consumed"]
    assert found.steps[2].headers[0].src == mac(BRIDGE, 1)  # type: ignore[union-attr]


def test_a_masqueraded_packet_has_the_address_of_the_device_that_it_leaves_by() -> None:
    choice = Choice(B, 8080, "always", masqueraded=True)
    found = predict(world("host-gw", translate=translating("n1", choice)), "p1", probe(SERVICE))
    assert found.arrives
    sources = [one.headers[1].src for one in found.steps]  # type: ignore[union-attr]
    assert list(dict.fromkeys(sources)) == [A, NODE1]


def test_a_nodes_own_packet_is_translated_too() -> None:
    choice = Choice(B, 8080, "always")
    found = predict(world(translate=translating("n1", choice)), "n1", probe(SERVICE))
    assert found.arrives


def test_other_protocols_keep_their_headers() -> None:
    echo: Headers = (replace(probe(SERVICE)[0], protocol=ICMP), Icmp(8, 0))  # type: ignore[type-var,arg-type]
    syn: Headers = (replace(probe(SERVICE)[0], protocol=TCP), Tcp(0, 80, 0, 0, "S"))  # type: ignore[type-var,arg-type]
    made = world(translate=translating("n1", Choice(B, 8080, "always")))
    assert predict(made, "p1", echo).steps[-1].headers[-1] == Icmp(8, 0)
    assert predict(made, "p1", syn).steps[-1].headers[-1] == Tcp(0, 8080, 0, 0, "S")
