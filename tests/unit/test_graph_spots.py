"""Where a packet is in a picture: a spot for every interface, and lines between them that cross nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, permutations

import pytest

from netlab import names
from netlab.graph.card import Rect
from netlab.graph.layout import Layout, Point, arrange
from netlab.graph.scene import Detail, Scene, compose
from netlab.graph.spots import POD_GAP, Spot, find_spots, leg
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import BridgeBackend, HostGwBackend, Topology, UdpBackend, VxlanBackend
from tests import labs
from tests.unit.test_graph import three_racks, with_everything

LABS = {
    "vxlan": labs.topology("vxlan", nodes=3, pods=12),
    "dual-stack": labs.topology("dual", nodes=2, pods=5, dual_stack=True),
    "udp": labs.topology("udp", nodes=2, pods=2, backend=UdpBackend()),
    "host-gw": labs.topology("host-gw", nodes=2, pods=3, backend=HostGwBackend()),
    "bridge": labs.topology("bridge", nodes=1, pods=20, backend=BridgeBackend()),
    "rows": labs.topology("rows", nodes=11, pods=22),
    "everything": with_everything(),
    "racks": three_racks(VxlanBackend()),
}
MARGIN = 2  # pixels that a line may be on a border


def laid_out(topology: Topology) -> tuple[Scene, Layout]:
    """Return a lab's picture with room for spots."""
    scene = replace(compose(topology, allocate(topology, Snapshot())), detail=Detail.FULL)
    return scene, arrange(scene, POD_GAP)


@pytest.mark.parametrize("name", LABS)
def test_every_interface_has_a_spot_in_the_picture(name: str) -> None:
    topology = LABS[name]
    scene, layout = laid_out(topology)
    spots = find_spots(layout, "underlay")
    assert [place for place in _interfaces(topology, scene) if place not in spots.known] == []
    for spot in (*spots.known.values(), *spots.fallback.values()):
        assert 0 < spot.at[0] < layout.width
        assert 0 < spot.at[1] < layout.height


def _interfaces(topology: Topology, scene: Scene) -> Iterator[tuple[str, str]]:
    for node in scene.nodes:
        yield node.name, "eth0"
        yield "underlay", names.fabric_port(node.name, "eth0")
        for device in (*([node.bridge] if node.bridge else []), *node.tunnels):
            yield node.name, device.name
        for pod in node.bridged_pods:
            yield pod.name, "eth0"
            yield node.name, names.pod_port(pod.name, node.name)
    for router in topology.routers:
        for number, segment in enumerate(router.segments):
            yield router.name, f"eth{number}"
            yield "underlay", names.fabric_port(router.name, f"eth{number}")
            yield "underlay", names.segment_bridge(segment)


@pytest.mark.parametrize("name", LABS)
def test_no_line_crosses_a_pod_an_interface_or_a_router(name: str) -> None:
    _, layout = laid_out(LABS[name])
    obstacles = [placed.rect for card in layout.cards for placed in card.pods]
    obstacles += [chip.rect for card in layout.cards for chip in (card.uplink, *card.tunnels) if chip]
    obstacles += [placed.rect for placed in layout.routers]
    for line in _lines(layout):
        for start, end in pairwise(line):
            assert start[0] == end[0] or start[1] == end[1], line
            assert not [rect for rect in obstacles if _crosses(start, end, rect)], line


def _lines(layout: Layout) -> Iterator[tuple[Point, ...]]:
    """Yield the lines between all spots of one thing, and along all cables."""
    known = find_spots(layout, "underlay").known
    owners: dict[str, list[Spot]] = {}
    for spot in known.values():
        owners.setdefault(spot.owner, []).append(spot)
    for spots in owners.values():
        yield from (leg(one, other) for one, other in permutations(spots, 2))
    for card in layout.cards:
        yield leg(known[card.node.name, "eth0"], known["underlay", names.fabric_port(card.node.name, "eth0")])
        for pod in card.node.bridged_pods:
            yield leg(known[card.node.name, names.pod_port(pod.name, card.node.name)], known[pod.name, "eth0"])
    for placed in layout.routers:
        for port in placed.router.ports:
            name, device = placed.router.name, port.interface.name
            yield leg(known[name, device], known["underlay", names.fabric_port(name, device)])


def _crosses(start: Point, end: Point, rect: Rect) -> bool:
    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    across = left < rect.right - MARGIN and right > rect.x + MARGIN
    return across and top < rect.bottom - MARGIN and bottom > rect.y + MARGIN


def test_a_line_goes_the_same_way_back() -> None:
    _, layout = laid_out(LABS["racks"])
    known = list(find_spots(layout, "underlay").known.values())
    assert all(leg(one, other) == leg(other, one)[::-1] for one, other in permutations(known, 2))


def test_what_is_not_drawn_is_at_its_nodes_name_or_nowhere() -> None:
    _, layout = laid_out(LABS["vxlan"])
    spots = find_spots(layout, "underlay")
    card = layout.cards[0]
    found = spots.find(card.node.name, "wg0")
    assert found
    assert abs(found.at[1] - card.name_y) < 20
    assert spots.find("stranger", "eth0") is None


def test_a_picture_without_spots_is_as_it_was() -> None:
    scene, layout = laid_out(LABS["vxlan"])
    assert arrange(scene).height < layout.height
