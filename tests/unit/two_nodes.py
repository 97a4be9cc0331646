"""Two pods on two nodes that an underlay's bridge joins, as tables made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

from netlab.trace.predict import World
from netlab.trace.tables import FdbEntry
from tests.unit.traced_hops import NODE1, NODE2, A, B, FakeTables, device, route

GATEWAYS = {1: ip_address("10.244.1.1"), 2: ip_address("10.244.2.1")}
VTEPS = {1: ip_address("10.244.1.0"), 2: ip_address("10.244.2.0")}
NODES, PODS = {1: NODE1, 2: NODE2}, {1: A, 2: B}


def mac(kind: int, node: int) -> str:
    return f"02:00:00:00:0{kind}:0{node}"


POD, PORT, BRIDGE, VTEP, UPLINK = range(1, 6)  # in MACs


def pod(number: int) -> FakeTables:
    address = PODS[number]
    return FakeTables(
        [device("eth0", mac=mac(POD, number)), device("lo", "")],
        [route("0.0.0.0/0", "eth0", GATEWAYS[number]), route(f"{address}/32", "lo", kind="local")],
        addresses={("eth0", 4): address},
        neighbors={(GATEWAYS[number], "eth0"): mac(BRIDGE, number)},
    )


def node(number: int, backend: str) -> FakeTables:
    other = 3 - number
    beyond = {
        "vxlan": route(f"10.244.{other}.0/24", "flannel.1", VTEPS[other]),
        "host-gw": route(f"10.244.{other}.0/24", "eth0", NODES[other]),
        "udp": route(f"10.244.{other}.0/24", "flannel0"),
        "ipip": route(f"10.244.{other}.0/24", "flannel.ipip", NODES[other]),
        "bridge": None,
    }[backend]
    tunnels = {
        "vxlan": [device("flannel.1", "vxlan", mac(VTEP, number), vni=1, mtu=1450)],
        "udp": [device("flannel0", "tun", mtu=1472)],
        "ipip": [device("flannel.ipip", "ipip", mtu=1480)],
    }
    return FakeTables(
        [
            device("cni0", "bridge", mac(BRIDGE, number)),
            device("veth1", mac=mac(PORT, number), bridge="cni0"),
            device("eth0", mac=mac(UPLINK, number)),
            *tunnels.get(backend, []),
        ],
        [
            route(f"10.244.{number}.0/24", "cni0", protocol=2),
            route("172.18.0.0/24", "eth0", protocol=2),
            route(f"{NODES[number]}/32", "lo", kind="local"),
            route(f"{GATEWAYS[number]}/32", "lo", kind="local"),
            *([beyond] if beyond else []),
        ],
        addresses={("eth0", 4): NODES[number], ("cni0", 4): GATEWAYS[number]},
        neighbors={
            (VTEPS[other], "flannel.1"): mac(VTEP, other),
            (NODES[other], "eth0"): mac(UPLINK, other),
            (PODS[number], "cni0"): mac(POD, number),
        },
        forwards={
            (mac(VTEP, other), "flannel.1"): FdbEntry(mac(VTEP, other), "flannel.1", NODES[other]),
            (mac(POD, number), "cni0"): FdbEntry(mac(POD, number), "veth1"),
        },
    )


def underlay() -> FakeTables:
    ports = [device(f"n{number}-eth0", mac=mac(9, number), bridge="br0") for number in NODES]
    forwards = {(mac(UPLINK, n), "br0"): FdbEntry(mac(UPLINK, n), f"n{n}-eth0") for n in NODES}
    return FakeTables([device("br0", "bridge", mac(9, 0)), *ports], forwards=forwards)


def world(
    backend: str = "vxlan", change: Callable[[dict[str, FakeTables]], None] = lambda all_: None, **fields: object
) -> World:
    """Return a world; `change` may spoil its tables first."""
    known = {"u": underlay(), **{f"n{n}": node(n, backend) for n in NODES}, **{f"p{n}": pod(n) for n in NODES}}
    change(known)
    cables = {(f"p{n}", "eth0"): (f"n{n}", "veth1") for n in NODES}
    cables |= {(f"n{n}", "eth0"): ("u", f"n{n}-eth0") for n in NODES}
    cables |= {there: here for here, there in cables.items()}
    made = World(
        known.get,
        lambda namespace, name: cables.get((namespace, name)),
        lambda address: {held: mac(UPLINK, number) for number, held in NODES.items()}.get(address, ""),
        {ip_network(f"10.244.{n}.0/24"): NODES[n] for n in NODES},
        8285,
        8472,
        lambda namespace, headers: (),
    )
    return replace(made, **fields)  # type: ignore[arg-type]
