"""Pictures of labs: what they say (against the plan), that each format is well formed, and three golden labs.

The goldens are written anew with `NETLAB_UPDATE_GOLDEN=1 pytest tests/unit/test_graph.py`; look at them before keeping.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from xml.etree import ElementTree

import pytest

from netlab import names
from netlab.graph import GraphFormat, render
from netlab.graph.scene import Detail, Scene, compose
from netlab.graph.style import Type, shorten, text_width
from netlab.plan.objects import Addr, Bridge
from netlab.store.allocate import allocate
from netlab.store.store import Snapshot
from netlab.topology.model import (
    HostGwBackend,
    IpipBackend,
    Node,
    Pod,
    Role,
    Router,
    Segment,
    Topology,
    UdpBackend,
    VxlanBackend,
)
from tests import labs

GOLDEN = Path(__file__).parent.parent / "golden" / "graph"
SUFFIX = {GraphFormat.MERMAID: "mmd", GraphFormat.DOT: "dot", GraphFormat.SVG: "svg"}
HOSTILE = 'a"b<c>&d\\e#f`g]]>\x00\u001b-end'


def with_everything() -> Topology:
    """Return a lab with an external machine, a hostNetwork pod and labels."""
    base = labs.topology("vxlan-3", nodes=3, pods=6)
    pods = (*base.pods, Pod("kube-proxy", "n1", labels=(("app", "proxy"),), host_network=True))
    return replace(base, nodes=(*base.nodes, Node("client", "underlay", Role.EXTERNAL)), pods=pods)


def three_racks(backend: VxlanBackend | HostGwBackend) -> Topology:
    """Return three segments with two routers, one of which skips the segment in the middle."""
    base = labs.topology("racks", nodes=4, pods=8, backend=backend)
    racks = tuple(Segment(f"rack{i}", (ip_network(f"172.18.{i}.0/24"),), 1500 if i < 3 else 9000) for i in (1, 2, 3))
    return replace(
        base,
        segments=racks,
        routers=(Router("spine", ("rack1", "rack2", "rack3")), Router("bypass", ("rack1", "rack3"))),
        nodes=tuple(Node(f"n{i}", rack) for i, rack in enumerate(("rack1", "rack1", "rack2", "rack3"), start=1)),
    )


def hostile() -> Topology:
    """Return a lab whose every name tries to break out of its place. The loader would refuse it."""
    base = labs.topology(HOSTILE, nodes=0, pods=0)
    segment = replace(base.segments[0], name=HOSTILE)
    router = Router(f"r{HOSTILE}", (HOSTILE,))
    node, pod = Node(f"n{HOSTILE}", HOSTILE), Pod(f"p{HOSTILE}", f"n{HOSTILE}", labels=((HOSTILE, HOSTILE),))
    return replace(base, segments=(segment,), routers=(router,), nodes=(node,), pods=(pod,))


LABS: dict[str, Topology] = {
    "vxlan": with_everything(),
    "racks-host-gw": three_racks(HostGwBackend()),
    "racks-vxlan": three_racks(VxlanBackend(vni=7, port=4789, direct_routing=True)),
    "dual-stack": labs.topology("dual", nodes=2, pods=3, dual_stack=True),
    "ipip-7": labs.topology("seven", nodes=7, pods=20, backend=IpipBackend()),
    "udp": labs.topology("udp", nodes=2, pods=2, backend=UdpBackend(port=8286)),
    "no-pods": labs.topology("idle", nodes=2, pods=0),
    "empty": labs.topology("empty", nodes=0, pods=0),
    "hundred": labs.topology("hundred", nodes=100, pods=1000),
    "hundred-routed": labs.routed("hundred", VxlanBackend(), nodes=100),
}
GOLDEN_LABS = ("vxlan", "racks-host-gw", "dual-stack")


def picture(name: str, kind: GraphFormat) -> str:
    return render(LABS[name], allocate(LABS[name], Snapshot()), kind)


def scene_of(topology: Topology) -> Scene:
    return compose(topology, allocate(topology, Snapshot()))


@pytest.mark.parametrize("kind", GraphFormat)
@pytest.mark.parametrize("name", GOLDEN_LABS)
def test_golden(name: str, kind: GraphFormat) -> None:
    path = GOLDEN / f"{name}.{SUFFIX[kind]}"
    drawn = picture(name, kind)
    if os.environ.get("NETLAB_UPDATE_GOLDEN"):
        path.write_text(drawn)
    assert drawn == path.read_text()


@pytest.mark.parametrize("seed", range(40))
def test_scene_says_what_the_plan_says(seed: int) -> None:
    topology = labs.random_topology("random", seed)
    plan = labs.planned(topology)
    for node in scene_of(topology).nodes:
        objects = plan.objects[names.netns(topology.name, node.name)]
        planned = {(entry.dev, str(entry.ip.ip)) for entry in objects if isinstance(entry, Addr)}
        interfaces = [node.uplink, *([node.bridge] if node.bridge else []), *node.tunnels]
        drawn = {(interface.name, address.split("/")[0]) for interface in interfaces for address in interface.addresses}
        assert drawn == planned
        assert all(entry.mtu == node.pod_mtu for entry in objects if isinstance(entry, Bridge))
        for pod in node.bridged_pods:
            inside = plan.objects[names.netns(topology.name, pod.name)]
            assert set(pod.addresses) == {str(entry.ip.ip) for entry in inside if isinstance(entry, Addr)}


def test_routers_have_the_addresses_of_the_plan() -> None:
    topology = LABS["racks-vxlan"]
    plan = labs.planned(topology)
    for router in scene_of(topology).routers:
        objects = plan.objects[names.netns(topology.name, router.name)]
        planned = {(entry.dev, str(entry.ip.ip)) for entry in objects if isinstance(entry, Addr)}
        ports = [port.interface for port in router.ports]
        assert {(port.name, address) for port in ports for address in port.addresses} == planned


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("vxlan", ["VNI 1", "UDP port 8472", "overhead 50 bytes", "pod MTU 1450"]),
        ("ipip-7", ["IP protocol 4", "overhead 20 bytes", "pod MTU 1480"]),
        ("udp", ["UDP port 8286", "forwarder auto", "overhead 28 bytes", "pod MTU 1472"]),
        ("racks-host-gw", ["overhead 0 bytes", "pod MTU 1500 to 9000"]),
        ("dual-stack", ["overhead 50 bytes (70 over IPv6)", "pod MTU 1450"]),
        ("racks-vxlan", ["VNI 7", "UDP port 4789", "DirectRouting: no tunnel inside a segment"]),
    ],
)
def test_overlay_is_explained(name: str, facts: list[str]) -> None:
    assert set(facts) <= set(compose(LABS[name], Snapshot()).overlay.facts)
    for kind in GraphFormat:
        assert all(fact in picture(name, kind) for fact in facts)


@pytest.mark.parametrize("kind", GraphFormat)
@pytest.mark.parametrize("name", LABS)
def test_every_name_is_in_the_picture(name: str, kind: GraphFormat) -> None:
    drawn = picture(name, kind)
    words = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", drawn))
    topology = LABS[name]
    assert {node.name for node in topology.nodes} <= words
    assert {router.name for router in topology.routers} <= words
    assert {segment.name for segment in topology.segments} <= words
    is_compact = compose(topology, Snapshot()).detail is Detail.COMPACT
    if kind is GraphFormat.SVG or not is_compact:  # a compact SVG names a pod in its square's tooltip
        assert {pod.name for pod in topology.pods} <= words
    else:
        assert "10 pods" in drawn or "1 pod" in drawn


@pytest.mark.parametrize("kind", GraphFormat)
@pytest.mark.parametrize("name", LABS)
def test_what_is_not_allocated_is_left_out(name: str, kind: GraphFormat) -> None:
    drawn = render(LABS[name], Snapshot(), kind)
    assert "podCIDR" not in drawn
    assert "None" not in drawn


def test_addresses_chosen_in_the_file_are_drawn_before_any_allocation() -> None:
    base = labs.topology("chosen", nodes=1, pods=1)
    pod = replace(base.pods[0], addresses=(ip_address("10.244.1.77"),))
    node = replace(base.nodes[0], addresses=(ip_address("172.18.0.99"),))
    drawn = render(replace(base, nodes=(node,), pods=(pod,)), Snapshot(), GraphFormat.DOT)
    assert "10.244.1.77" in drawn
    assert "172.18.0.99" in drawn


@pytest.mark.parametrize("kind", GraphFormat)
def test_host_network_pods_have_no_address(kind: GraphFormat) -> None:
    (pod,) = (pod for node in scene_of(LABS["vxlan"]).nodes for pod in node.host_network_pods)
    assert pod.name == "kube-proxy"
    assert pod.addresses == ()
    assert "hostNetwork" in picture("vxlan", kind)


# --- SVG -------------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def test_svg_keeps_every_character_in_its_place() -> None:
    root = ElementTree.fromstring(render(hostile(), Snapshot(), GraphFormat.SVG))
    readable = HOSTILE.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\u001b", "\N{REPLACEMENT CHARACTER}")
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert f"pod p{readable}\n{readable}={readable}" in titles
    assert any(title.startswith(f"node n{readable}\n") for title in titles)


@pytest.mark.parametrize("name", LABS)
def test_svg_is_well_formed_and_needs_nothing_else(name: str) -> None:
    drawn = picture(name, GraphFormat.SVG)
    root = ElementTree.fromstring(drawn)
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "style", "g", "title", "rect", "path", "text", "circle"),
    }
    assert not re.search(r"url\(|@import|href|src=", drawn)
    assert "@media (prefers-color-scheme:dark)" in drawn


@pytest.mark.parametrize("name", LABS)
def test_svg_styles_every_class_in_both_schemes(name: str) -> None:
    root = ElementTree.fromstring(picture(name, GraphFormat.SVG))
    style = root.findtext(f"{SVG}style") or ""
    light, dark = style.split("@media", 1)
    used = {css_class for element in root.iter() for css_class in element.get("class", "").split()} - {"netlab"}
    assert all(f".netlab .{css_class}" in light for css_class in used)
    coloured = set(re.findall(r"(\.[-a-z]+)\{[^}]*#", light))
    assert coloured == set(re.findall(r"(\.[-a-z]+)\{[^}]*#", dark))


def test_long_names_are_shortened_in_the_middle_and_kept_in_the_tooltip() -> None:
    long = "frontend-" + "m" * 45 + "-x7k2p"
    base = labs.topology("long", nodes=1, pods=0)
    root = ElementTree.fromstring(render(replace(base, pods=(Pod(long, "n1"),)), Snapshot(), GraphFormat.SVG))
    assert any((title.text or "").startswith(f"pod {long}") for title in root.iter(f"{SVG}title"))
    (shown,) = (text.text for text in root.iter(f"{SVG}text") if (text.text or "").startswith("front"))
    assert shown is not None
    assert shown.endswith("x7k2p")
    assert "…" in shown


@pytest.mark.parametrize("width", [1, 20, 60, 200, 1000])
def test_shorten_fits(width: int) -> None:
    name = "coredns-5d78c9869d-abcde"
    short = shorten(name, Type.NAME, width)
    assert text_width(short, Type.NAME) <= width or short == "…"
    assert (short == name) == (text_width(name, Type.NAME) <= width)


# --- dot and Mermaid -------------------------------------------------------------------------------------------------


def test_dot_labels_are_well_formed() -> None:
    for name in LABS:
        for label in re.findall(r"label=<(.*)>\]$", picture(name, GraphFormat.DOT), re.MULTILINE):
            ElementTree.fromstring(label)


def test_dot_keeps_every_character_in_its_place() -> None:
    drawn = render(hostile(), Snapshot(), GraphFormat.DOT)
    readable = HOSTILE.replace("\x00", " ").replace("\u001b", " ")
    labels = [ElementTree.fromstring(label) for label in re.findall(r"label=<(.*)>\]$", drawn, re.MULTILINE)]
    bold = {element.text for label in labels for element in label.iter("b")}
    assert {readable, f"r{readable}", f"n{readable}", f"p{readable}"} <= bold
    quoted = readable.replace("\\", "\\\\").replace('"', '\\"')
    assert drawn.startswith(f'graph "{quoted}" {{\n')


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("topology", [*LABS.values(), hostile()], ids=[*LABS, "hostile"])
def test_graphviz_reads_dot(topology: Topology) -> None:
    drawn = render(topology, Snapshot(), GraphFormat.DOT)
    done = subprocess.run(["dot", "-Tdot"], input=drawn, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("name", LABS)
def test_mermaid_is_balanced_and_within_its_limits(name: str) -> None:
    drawn = picture(name, GraphFormat.MERMAID)
    lines = drawn.splitlines()
    assert lines[:4] == ["---", f'title: "{LABS[name].name}"', "---", "flowchart TB"]
    assert sum(line.startswith("  subgraph ") for line in lines) == lines.count("  end")
    linked = [re.split(r" (?:---|-\.-|~~~) ", line.strip()) for line in lines if re.search(r" (---|-\.-|~~~) ", line)]
    defined = set(re.findall(r"^ +(?:subgraph )?(\w+)[\[({]", drawn, re.MULTILINE))
    assert {end for ends in linked for end in ends} <= defined
    assert len(linked) <= 500
    assert len(drawn) <= 50_000


def test_mermaid_keeps_every_character_in_its_place() -> None:
    drawn = render(hostile(), Snapshot(), GraphFormat.MERMAID)
    readable = HOSTILE.replace("\x00", " ").replace("\u001b", " ")
    label = re.search(r"\(\"<b>(p.*?)</b>", drawn)
    assert label is not None
    assert not re.search(r"[\"<>&`\\]", label[1])
    entities = re.sub(r"#(\d+);", r"&#\1;", re.sub(r"#([a-z]+);", r"&\1;", label[1]))
    assert html.unescape(entities) == f"p{readable}"
