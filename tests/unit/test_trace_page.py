"""The page and the drawing of a trace: everything is in them, nothing is fetched, and text stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from ipaddress import ip_address
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from netlab.graph import style
from netlab.topology.model import Topology
from netlab.trace.correlate import Role
from netlab.trace.headers import Icmp, Ip, Udp
from netlab.trace.model import Event, Trace
from netlab.trace.render import picture as drawn
from netlab.trace.render.layers import layers
from netlab.trace.render.page import as_page
from netlab.trace.render.picture import numbers
from netlab.trace.render.svg import as_svg
from netlab.trace.render.views import View, views
from tests import traced

NAMESPACE = "http://www.w3.org/2000/svg"
LARGEST = 200_000


class Read(HTMLParser):
    """A page's elements, and its text: what is in a script is not."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        """Note that it ends."""
        self.inside = ""

    def handle_data(self, data: str) -> None:
        """Note what is in it."""
        (self.scripts if self.inside == "script" else self.words).append(data)

    @property
    def text(self) -> str:
        """Return all that a reader sees."""
        return "".join(self.words)

    def of(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    """Return the page of an answered trace."""
    topology, snapshot = traced.lab()
    return as_page(traced.service(topology, snapshot), topology, snapshot)


def test_it_fetches_nothing(page: str) -> None:
    assert set(re.findall(r"\w+://[^\s\"'<)]+", page)) == {NAMESPACE}
    assert not re.search(r"@import|url\(", page)
    read = Read(page)
    assert not [name for name, _ in read.elements if name in ("link", "img", "iframe", "object", "base", "use")]
    pointing = {
        name: value for _, attributes in read.elements for name, value in attributes.items() if name in ("src", "href")
    }
    assert pointing
    assert all(value.startswith("#") for value in pointing.values())


def test_its_policy_lets_its_own_script_run_and_no_other(page: str) -> None:
    read = Read(page)
    (policy,) = [meta["content"] for meta in read.of("meta") if "http-equiv" in meta]
    digest = base64.b64encode(hashlib.sha256("".join(read.scripts).encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_every_hop_is_in_it_with_all_that_is_known(page: str) -> None:
    trace = traced.service(*traced.lab())
    read = Read(page)
    shown = views(trace)
    wanted = [f"hop-{way}-{step + 1}" for way, view in enumerate(shown, start=1) for step in range(len(view.hops))]
    assert [article["id"] for article in read.of("article")] == wanted
    assert [link["href"] for link in read.of("a")] == [f"#{name}" for name in wanted]
    for hop in (hop for view in shown for hop in view.hops):
        said = (hop.device, hop.member, hop.namespace, *hop.changes, *(cause.text for cause in hop.causes))
        assert [text for text in said if text not in read.text] == []


def test_there_back_and_copies_are_ways_to_choose(page: str) -> None:
    assert [view.title for view in views(traced.service(*traced.lab()))] == ["there", "there: copy to p-4", "back"]
    assert [button["data-way"] for button in Read(page).of("button") if "tab" in button.get("class", "")] == [
        "1",
        "2",
        "3",
    ]


def test_a_drop_says_its_reason_its_sentence_and_its_hint() -> None:
    topology, snapshot = traced.lab()
    trace = traced.dropped(topology, snapshot)
    text = Read(as_page(trace, topology, snapshot)).text
    drop = trace.ways[0].drop
    assert drop
    assert [
        words for words in (drop.reason, drop.place, drop.sentence, drop.hint, trace.remarks[0]) if words not in text
    ] == []


@pytest.mark.parametrize("make", [traced.service, traced.dropped])
def test_what_comes_from_rules_and_names_stays_text(make: object) -> None:
    topology, snapshot = traced.lab()
    trace: Trace = make(topology, snapshot)  # type: ignore[operator]
    first = trace.ways[0]
    hops = tuple(replace(hop, device=traced.HOSTILE, namespace=traced.HOSTILE) for hop in first.hops)
    hostile = replace(trace, question=traced.HOSTILE, summary=traced.HOSTILE, ways=(replace(first, hops=hops),))
    read = Read(as_page(hostile, topology, snapshot))
    assert len(read.scripts) == len(read.of("script")) == 1
    assert not read.of("img")
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert read.text.count(traced.HOSTILE) > len(hops)
    drawing = as_svg(hostile, topology, snapshot, both_ways=True)
    assert not [element for element in ElementTree.fromstring(drawing).iter() if "script" in element.tag]


@pytest.mark.parametrize(("nodes", "pods"), [(2, 2), (40, 400)])
def test_it_is_small_and_draws_what_the_packet_met(nodes: int, pods: int) -> None:
    topology, snapshot = traced.lab(nodes=nodes, pods=max(pods, 4))
    page = as_page(traced.service(topology, snapshot), topology, snapshot)
    assert len(page) < LARGEST
    assert ("2 of 40 nodes drawn" in page) == (nodes == 40)
    picture = drawn.make_picture(traced.service(topology, snapshot), topology, snapshot)
    assert [node.name for node in picture.scene.nodes] == ["n1", "n2"]


def test_the_part_that_is_drawn_has_the_destination_though_nothing_came_there() -> None:
    topology, snapshot = traced.lab(nodes=5, pods=10)
    trace = traced.service(topology, snapshot)
    way = replace(trace.ways[0], hops=trace.ways[0].hops[:3], copies=())
    picture = drawn.make_picture(replace(trace, ways=(way,)), topology, snapshot)
    assert [node.name for node in picture.scene.nodes] == ["n1", "n2"]


def test_fields_are_marked_against_the_hop_before() -> None:
    trace = traced.service(*traced.lab())
    before, after = trace.ways[0].hops[1:3]
    found, gone = layers(after.headers, before.headers)
    marked = {
        (layer.name, field.name): (field.was, field.value) for layer in found for field in layer.fields if field.was
    }
    assert marked == {
        ("IPv4", "destination"): ("10.96.0.80", str(after.headers[1].dst)),  # type: ignore[union-attr]
        ("TCP", "destination port"): ("80", "8080"),
    }
    assert gone == ()


def test_a_tunnels_headers_are_new_and_then_gone() -> None:
    hops = traced.service(*traced.lab()).ways[0].hops
    wrapped, _ = layers(hops[4].headers, hops[3].headers)
    assert [layer.name for layer in wrapped if layer.is_new] == ["Ethernet", "IPv4", "UDP", "VXLAN"]
    assert [layer.name for layer in wrapped if not layer.is_new] == ["Ethernet", "IPv4", "TCP"]
    unwrapped, gone = layers(hops[8].headers, hops[7].headers)
    assert not any(layer.is_new for layer in unwrapped)
    assert gone == ("Ethernet", "IPv4", "UDP", "VXLAN")


def test_icmp_is_read_by_the_version_that_carries_it() -> None:
    four, six = (
        Ip(version, ip_address(end), ip_address(end), 1, 64, 84) for version, end in ((4, "10.0.0.1"), (6, "::1"))
    )
    said = [layers((ip, Icmp(3, 0)), None)[0][1] for ip in (four, six)]
    assert [layer.name for layer in said] == ["ICMP", "ICMPv6"]
    assert [layer.fields[0].value for layer in said] == ["3 unreachable", "3 time exceeded"]


def test_nothing_is_marked_without_a_hop_before() -> None:
    found, gone = layers((Udp(1, 2),), None)
    assert not any(layer.is_new for layer in found)
    assert gone == ()


def test_the_page_has_a_spot_for_every_hop_and_a_line_to_each_that_is_elsewhere() -> None:
    topology, snapshot = traced.lab()
    trace = traced.service(topology, snapshot)
    picture = drawn.make_picture(trace, topology, snapshot)
    for view in views(trace):
        spots = [picture.spot(hop) for hop in view.hops]
        assert all(spots)
        lines = dict(drawn.legs(view, picture))
        for step, (former, spot) in enumerate(pairwise(spots), start=1):
            assert spot
            assert former
            assert (step in lines) == (spot.at != former.at)
            if step in lines:
                assert (lines[step][0], lines[step][-1]) == (former.at, spot.at)


@pytest.mark.parametrize("both_ways", [True, False])
def test_the_drawing_numbers_every_hop(both_ways: bool) -> None:
    topology, snapshot = traced.lab()
    root = ElementTree.fromstring(as_svg(traced.service(topology, snapshot), topology, snapshot, both_ways=both_ways))
    texts = [text.text for pill in _pills(root) for text in pill.iter(f"{{{NAMESPACE}}}text")]
    there = [*(str(number) for number in range(1, 12)), "12\N{EN DASH}13"]
    assert sorted(filter(None, texts)) == sorted([*there, *(["14", "15"] if both_ways else [])])


def test_the_drawing_marks_where_the_packet_was_dropped() -> None:
    topology, snapshot = traced.lab()
    trace = traced.dropped(topology, snapshot)
    root = ElementTree.fromstring(as_svg(trace, topology, snapshot, both_ways=False))
    (drop,) = [pill for pill in _pills(root) if "drop" in pill.attrib["class"]]
    assert "9\N{EN DASH}10" in "".join(drop.itertext())
    assert trace.ways[0].hops[-1].event is Event.DROPPED


def _pills(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [group for group in root.iter(f"{{{NAMESPACE}}}g") if "pill" in group.attrib.get("class", "")]


@pytest.mark.parametrize(
    ("steps", "text"), [([1], "1"), ([1, 2], "1\N{EN DASH}2"), ([1, 4, 5, 9], "1, 4\N{EN DASH}5, 9")]
)
def test_numbers_are_short(steps: list[int], text: str) -> None:
    assert numbers(steps) == text


def test_a_way_without_hops_is_no_way_to_look_at() -> None:
    topology, snapshot = traced.lab()
    trace = replace(traced.service(topology, snapshot), ways=())
    assert views(trace) == ()
    assert "hop-1-1" not in as_page(trace, topology, snapshot)
    assert ElementTree.fromstring(as_svg(trace, topology, snapshot, both_ways=True)) is not None


def test_a_member_that_is_not_drawn_has_no_spot() -> None:
    topology, snapshot = traced.lab()
    trace = traced.service(topology, snapshot)
    picture = drawn.make_picture(trace, topology, snapshot)
    stranger = replace(trace.ways[0].hops[0], member="stranger")
    view = View("there", Role.PROBE, (stranger, *trace.ways[0].hops[1:]))
    assert picture.spot(stranger) is None
    assert min(step for step, _ in drawn.legs(view, picture)) == 2


@pytest.mark.parametrize(
    ("palette", "of"), [(style.LIGHT, drawn.LIGHT), (style.DARK, drawn.DARK)], ids=["light", "dark"]
)
def test_text_can_be_read_on_what_it_is_written_on(palette: style.Palette, of: dict[str, str]) -> None:
    """4.5 to 1: WCAG 2.1, 1.4.3."""
    pairs = [
        (of[name], ground) for name in ("there", "back", "drop", "good") for ground in (palette.canvas, palette.card)
    ]
    pairs += [(of["on"], of[name]) for name in ("there", "back", "drop", "good")]
    pairs += [(text, ground) for text in (palette.text, palette.muted) for ground in (palette.canvas, palette.card)]
    assert [pair for pair in pairs if _contrast(*pair) < 4.5] == []


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_lab_that_is_traced_is_not_changed() -> None:
    topology, snapshot = traced.lab()
    kept: Topology = replace(topology)
    as_page(traced.service(topology, snapshot), topology, snapshot)
    assert topology == kept
