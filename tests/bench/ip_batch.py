"""The same labs as people make them with iproute2: batches where `ip` has them, a process where it has not. Pure.

Links go in one batch per namespace, each pod's addresses and routes in a batch of its own. A sysctl needs a program
inside the namespace; that program then becomes the pod's batch, so there is one process per pod all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from netlab import names

GROUP = f"group {names.LINK_GROUP}"
NO_IPV6 = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"

Files = Mapping[str, str]  # name: content


def lab_files(recipe: Mapping[str, Any]) -> Files:
    """Return the batches and the scripts `up` and `down` for the lab that netlab makes (`labs.recipe`)."""
    fabric, node = recipe["fabric"], recipe["node"]
    pods = recipe["pods"]
    batches = {f"pod{number}": _pod(pod) for number, pod in enumerate(pods, 1)}
    inside = [f"ip netns exec {pod['netns']} sh -c '{NO_IPV6}; exec ip -batch pod{n}'" for n, pod in enumerate(pods, 1)]
    up = [
        "set -e",
        "ip -batch names",
        f"ip netns exec {fabric} sh -c '{NO_IPV6}; exec ip -batch fabric'",
        f"ip netns exec {node} sh -c '{NO_IPV6}; echo 1 >/proc/sys/net/ipv4/ip_forward; exec ip -batch node'",
        *inside,
        f"ip netns exec {node} iptables-restore --noflush <rules",
    ]
    down = [
        "set -e",
        "ip -batch unname",
        f"while ip -n {fabric} -o link show type veth | grep -q .; do sleep 0.002; done",
        f"ip netns delete {fabric}",
    ]
    members = [node, *(pod["netns"] for pod in pods)]
    return {
        "names": _lines(f"netns add {name}" for name in [fabric, *members]),
        "unname": _lines(f"netns delete {name}" for name in members),
        "fabric": _lines(_fabric(recipe)),
        "node": _lines(_node(recipe)),
        "rules": recipe["rules"],
        "up": _lines(up),
        "down": _lines(down),
        **batches,
    }


def _fabric(recipe: Mapping[str, Any]) -> Iterator[str]:
    uplink, segment, mtu = recipe["uplink"], recipe["segment"], recipe["mtu"]
    yield "link set lo up"
    yield f"link add {segment['name']} address {segment['mac']} {GROUP} up type bridge"
    yield _cable(uplink["port"], uplink["port_mac"], segment["name"], mtu, recipe["node"], uplink["mac"])
    yield f"link set {segment['name']} mtu {mtu}"


def _node(recipe: Mapping[str, Any]) -> Iterator[str]:
    bridge, mtu = recipe["bridge"], recipe["mtu"]
    yield "link set lo up"
    yield "link set eth0 up"
    yield f"address add {recipe['uplink']['address']} brd + dev eth0"
    yield f"link add {bridge['name']} address {bridge['mac']} {GROUP} up type bridge"
    yield f"link set {bridge['name']} mtu {mtu}"
    yield f"address add {bridge['address']} brd + dev {bridge['name']}"
    for pod in recipe["pods"]:
        yield _cable(pod["port"], pod["port_mac"], bridge["name"], mtu, pod["netns"], pod["mac"])
        yield f"link set {pod['port']} type bridge_slave hairpin on"


def _cable(port: str, port_mac: str, master: str, mtu: int, peer_netns: str, peer_mac: str) -> str:
    here = f"{port} address {port_mac} mtu {mtu} {GROUP} up master {master}"
    return f"link add {here} type veth peer name eth0 address {peer_mac} mtu {mtu} {GROUP} netns {peer_netns}"


def _pod(pod: Mapping[str, Any]) -> str:
    routes = (f"route add {dst} via {via} dev eth0 proto {names.ROUTE_PROTOCOL}" for dst, via in pod["routes"].items())
    return _lines(["link set lo up", "link set eth0 up", f"address add {pod['address']} brd + dev eth0", *routes])


def classic_files(pods: int) -> Files:
    """Return the same for N hosts on a bridge with addresses and no more."""
    hosts = range(1, pods + 1)
    links = ["link add br0 type bridge", "link set br0 up", *(f"netns add h{n}" for n in hosts)]
    links += (f"link add v{n} up master br0 type veth peer name eth0 netns h{n}" for n in hosts)
    down = ["set -e", "ip -batch unname", "while ip -o link show type veth | grep -q .; do sleep 0.002; done"]
    return {
        "links": _lines(links),
        "unname": _lines([*(f"netns delete h{n}" for n in hosts), "link delete br0"]),
        "up": _lines(["set -e", "ip -batch links", *(f"ip -n h{n} -batch host{n}" for n in hosts)]),
        "down": _lines(down),
        **{f"host{n}": _host(n) for n in hosts},
    }


def _host(number: int) -> str:
    address = f"10.0.{number // 250}.{number % 250 + 1}/16"
    return _lines(["link set lo up", f"address add {address} dev eth0", "link set eth0 up"])


def write(files: Files, folder: Path) -> None:
    """Put files into a folder."""
    for name, content in files.items():
        (folder / name).write_text(content)


def _lines(lines: Iterator[str] | list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
