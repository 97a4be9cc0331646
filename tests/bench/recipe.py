"""The lab of `labs.one_node` as plain names, addresses and rules, so that others can build the very same by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from netlab.plan.build import build
from netlab.plan.objects import Addr, Bridge, Object, Objects, Route, Ruleset, Veth
from netlab.plan.rules import restore_input
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.load import load_text
from tests.bench.labs import one_node

FABRIC, NODE = "nl-bench", "nl-bench.n1"

T = TypeVar("T")


def objects_of(text: str) -> Objects:
    """Return what a topology file's lab consists of."""
    topology = load_text(text)
    return build(topology, allocate(topology, Snapshot())).objects


def recipe(pods: int) -> dict[str, Any]:
    """Return what it takes to build `one_node(pods)`."""
    objects = objects_of(one_node(pods))
    node, fabric = objects[NODE], objects[FABRIC]
    ports = {port.peer.netns: port for port in _all(node, Veth)}
    bridge, segment, port = _one(node, Bridge), _one(fabric, Bridge), _one(fabric, Veth)
    rules: list[tuple[Ruleset | None, Ruleset | None]] = [(None, rule) for rule in _all(node, Ruleset)]
    return {
        "fabric": FABRIC,
        "node": NODE,
        "mtu": bridge.mtu,
        "segment": {"name": segment.name, "mac": segment.mac},
        "uplink": {
            "port": port.name,
            "port_mac": port.mac,
            "mac": ports[FABRIC].mac,
            "address": _address(node, "eth0"),
        },
        "bridge": {"name": bridge.name, "mac": bridge.mac, "address": _address(node, bridge.name)},
        "pods": [_pod(netns, objects[netns], ports[netns]) for netns in objects if netns not in (FABRIC, NODE)],
        "rules": restore_input(rules),
    }


def _pod(netns: str, objects: frozenset[Object], port: Veth) -> dict[str, Any]:
    routes = {str(route.dst): str(route.via) for route in _all(objects, Route)}
    return {
        "netns": netns,
        "port": port.name,
        "port_mac": port.mac,
        "mac": _one(objects, Veth).mac,
        "address": _address(objects, "eth0"),
        "routes": routes,
    }


def _all(objects: Iterable[Object], kind: type[T]) -> list[T]:
    return [entry for entry in objects if isinstance(entry, kind)]


def _one(objects: Iterable[Object], kind: type[T]) -> T:
    (found,) = _all(objects, kind)
    return found


def _address(objects: Iterable[Object], dev: str) -> str:
    (found,) = (addr for addr in _all(objects, Addr) if addr.dev == dev)
    return str(found.ip)
