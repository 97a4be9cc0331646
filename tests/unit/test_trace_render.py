"""A trace as lines and as JSON: recorded ways, and one with something of everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.trace import headers as headers_of
from netlab.trace.correlate import Role, correlate
from netlab.trace.explain import explain
from netlab.trace.headers import ICMP, TCP, Ethernet, Headers, Icmp, Quote, Tcp, Udp, Vxlan
from netlab.trace.model import Cause, Drop, Event, Hop, Places, Source, Topic, Trace, Verdict, Way
from netlab.trace.render.as_json import FORMAT, as_json
from netlab.trace.render.tree import NARROWEST, tree
from tests.unit.recorded_traces import NAMES, load
from tests.unit.traced_hops import FRAME, MAC1, MAC2, NODE1, NODE2, PACKET, hop, ip

PLACES = Places({}, {}, 80)
RULE = "nat KUBE-SERVICES: -d 10.96.0.80/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-CDGGSHYLG3RE2FKL"
CAUSES = (
    Cause(Topic.ROUTE, "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink", "lease of n2"),
    Cause(Topic.RULE, RULE, "default/web:http cluster IP", Source.SEEN),
)
AROUND: Headers = (Ethernet(MAC1, MAC2, 0x0800), ip(NODE1, NODE2), Udp(50000, 8472), Vxlan(1))
DROP = Drop("NO_SOCKET", "__udp4_lib_rcv", "nobody on q listens on UDP port 53", "ip netns exec lab.q ss -lntu")
ERROR: Headers = (ip(protocol=ICMP), Icmp(3, 3), Quote(), *PACKET)
EVERYTHING = Trace(
    "lab",
    "p -> q (udp to 10.244.2.2:53)",
    Verdict.DROPPED,
    "dropped on q, eth0: nobody on q listens on UDP port 53; q told p: port unreachable",
    (
        Way(
            Role.PROBE,
            (
                replace(hop("p/eth0", Event.OUT), frame=b"frame!", packet=b"packet"),
                replace(hop("n1/veth1"), time=12345, causes=CAUSES),
                hop(
                    "n1/eth0", Event.OUT, headers=(*AROUND, *FRAME), changes=("wrapped in VXLAN VNI 1", "ttl 64 -> 63")
                ),
                replace(hop("q/eth0", Event.DROPPED), member="q"),
            ),
            copies=((hop("n1/veth2", Event.OUT), hop("r/eth0", Event.DROPPED)),),
            drop=DROP,
        ),
        Way(Role.FRAGMENT, (hop("p/eth0", Event.OUT, headers=(replace(ip(), offset=1480),)),)),  # type: ignore[type-var]
        Way(Role.ANSWER, (hop("q/eth0", Event.OUT, headers=(ip(protocol=TCP), Tcp(53, 1, 2, 3, "SA"))),)),
        Way(Role.ERROR, (hop("q/eth0", Event.OUT, headers=ERROR), replace(hop("p/", Event.DELIVERED), member=""))),
        Way(Role.ANSWER_FRAGMENT, (hop("q/eth0", Event.OUT),)),
        Way(Role.MORE, (hop("p/eth0", Event.OUT),)),
    ),
    "eBPF programs at the kernel's tracepoints",
    ("by the tables it would have gone on: out by veth9 of n2, and come to q", "eBPF is not to be had"),
    began=1_790_000_000_000_000_000,
)


def recorded(name: str) -> Trace:
    """Return a record as a trace, with the causes that need no tables."""
    found = load(name)
    ways = []
    for journey in correlate(found.sightings, found.find_device):
        copies = tuple(explain(copy, {}, PLACES, start=0) for copy in journey.copies)
        ways.append(Way(journey.role, explain(journey.way, {}, PLACES, start=0), copies))
    return Trace(name, f"{name} -> recorded", Verdict.ANSWERED, "it answered", tuple(ways), "a record", began=1)


TRACES = {"everything": EVERYTHING, **{name: recorded(name) for name in NAMES}}


def lines(trace: Trace, width: int = 80, *, both_ways: bool = True) -> list[str]:
    return list(tree(trace, width=width, both_ways=both_ways))


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 40, 60, 80, 200])
@pytest.mark.parametrize("name", TRACES)
def test_no_line_is_longer_but_for_a_single_word(name: str, width: int) -> None:
    for line in lines(TRACES[name], width):
        words = line.replace("* ", "", 1).split()
        assert len(line) <= max(width, NARROWEST) or len(words) == 1, line
        assert line == line.rstrip()


@given(
    st.lists(st.text("abc -", max_size=90), max_size=4),
    st.lists(st.text("abc -/", max_size=300), max_size=4),
    st.integers(1, 220),
)
def test_nor_is_it_whatever_a_trace_says(changes: list[str], causes: list[str], width: int) -> None:
    said = tuple(Cause(Topic.RULE, text, text) for text in causes)
    one = replace(hop(), changes=tuple(changes), causes=said)
    trace = replace(
        EVERYTHING,
        ways=(Way(Role.PROBE, (one,), copies=((one,),)),),
        question=" -> ".join(causes),
        summary=" ".join(changes),
        remarks=tuple(causes),
    )
    for line in lines(trace, width):
        words = line.replace("* ", "", 1).split()
        assert len(line) <= max(width, NARROWEST) or len(words) == 1, line


def test_the_order_of_what_is_told() -> None:
    found = lines(EVERYTHING, 200)
    assert found[0] == EVERYTHING.question
    assert found[2] == "there: 10.244.1.2:40000 > 10.244.2.2:53 ttl 64 udp"
    assert found[3:5] == ["p", "     0.0 us  out  eth0"]
    at = found.index("n1")
    assert found[at + 1 : at + 7] == [
        "    12.3 us  in   veth1",
        f"{'':13}~route {CAUSES[0].text}  (lease of n2)",
        f"{'':13}rule {RULE}  (default/web:http cluster IP)",
        "     0.0 us  out  eth0",
        f"{'':13}* wrapped in VXLAN VNI 1",
        f"{'':13}* ttl 64 -> 63",
    ]
    assert found[at + 7 : at + 9] == ["q", "     0.0 us  DROP eth0"]
    assert found[at + 9 : at + 12] == ["  a copy of it:", "  n1", "       0.0 us  out  veth2"]


def test_how_it_ended_is_told_last() -> None:
    found = lines(EVERYTHING, 200)
    assert found[-6:] == [
        f"dropped: {EVERYTHING.summary}",
        "  the kernel's reason: NO_SOCKET in __udp4_lib_rcv",
        f"  look at: {DROP.hint}",
        "seen by eBPF programs at the kernel's tracepoints; ~ was looked up afterwards",
        *EVERYTHING.remarks,
    ]


def titles(trace: Trace, *, both_ways: bool) -> list[str]:
    found = lines(trace, 200, both_ways=both_ways)
    return [found[place + 1].partition(":")[0] for place, line in enumerate(found[:-1]) if not line][:-1]


def test_which_ways_are_shown() -> None:
    answered = replace(EVERYTHING, verdict=Verdict.ANSWERED)
    assert titles(EVERYTHING, both_ways=False) == ["there", "a fragment", "back, an ICMP error"]
    assert titles(answered, both_ways=False) == ["there", "a fragment"]
    assert titles(answered, both_ways=True) == [
        "there",
        "a fragment",
        "back",
        "back, an ICMP error",
        "fragment of the answer",
        "later packet",
    ]


def test_a_prediction_has_no_times_and_no_marks() -> None:
    found = lines(replace(EVERYTHING, began=0, seen_by="what the tables say", remarks=()), 200)
    assert not any(" us " in line or "~" in line for line in found)
    assert f"{'':13}out  eth0" in found
    assert found[-1] == "what the tables say"


def test_what_stands_out_is_said_to_the_style() -> None:
    told: dict[str, list[str]] = {}

    def style(text: str, what: str) -> str:
        told.setdefault(what, []).append(text)
        return text

    assert list(tree(EVERYTHING, width=80, both_ways=True, style=style)) == lines(EVERYTHING)
    assert set(told) == {"title", "way", "member", "device", "event", "change", "cause", "bad", "aside"}
    assert "DROP" in told["bad"]
    assert told["member"][-3:] == ["outside the lab", "q", "p"]
    good = replace(EVERYTHING, verdict=Verdict.ANSWERED)
    told.clear()
    list(tree(good, width=200, both_ways=False, style=style))
    assert told["good"] == [f"answered: {EVERYTHING.summary}"]


def test_a_trace_of_nothing() -> None:
    nothing = Trace("lab", "p -> q", Verdict.NOT_SENT, "p sent nothing: no packet was seen", (), "eBPF", began=1)
    assert lines(nothing) == [
        "p -> q",
        "",
        "not sent: p sent nothing: no packet was seen",
        "seen by eBPF; ~ was looked up afterwards",
    ]


# --- JSON ------------------------------------------------------------------------------------------------------------

# Fields of the model that have another name, or another form, there.
NAMES_THERE = {"time": "timeNs", "began": "beganNs", "seen_by": "seenBy", "frame": "bytes", "packet": "bytes"}
LEFT_OUT = {"ifindex"}  # a number of this machine: the device's name is there


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def names_there(value: Any) -> set[str]:
    return {NAMES_THERE.get(field.name, camel(field.name)) for field in fields(value)} - LEFT_OUT


def walk(value: Any, found: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each dataclass of the model with what it became."""
    if is_dataclass(value):
        yield value, found
        for field in fields(value):
            yield from walk(getattr(value, field.name), found.get(NAMES_THERE.get(field.name, camel(field.name))))
    elif isinstance(value, tuple):
        assert len(value) == len(found)
        for inner, there in zip(value, found, strict=True):
            yield from walk(inner, there)


@pytest.mark.parametrize("name", TRACES)
def test_every_field_of_the_model_is_there(name: str) -> None:
    for value, found in walk(TRACES[name], as_json(TRACES[name])):
        extra = {Trace: {"format"}}.get(type(value), set())
        if type(value).__module__ == headers_of.__name__:
            extra = {"layer"}
        assert set(found) == names_there(value) | extra


@pytest.mark.parametrize("name", TRACES)
def test_it_comes_back_as_it_went(name: str) -> None:
    found = as_json(TRACES[name])
    assert json.loads(json.dumps(found)) == found


def test_values_are_plain() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(inner) for key, inner in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, bool)

    assert not isinstance(as_json(EVERYTHING)["verdict"], Enum)
    assert plain(as_json(EVERYTHING))


def test_a_trace_in_full() -> None:
    found = as_json(EVERYTHING)
    assert (found["format"], found["lab"], found["verdict"]) == (FORMAT, "lab", "dropped")
    assert found["remarks"] == list(EVERYTHING.remarks)
    probe, _, _, error, *_ = found["ways"]
    assert probe["role"] == "probe"
    assert probe["hops"][0]["bytes"] == b"frame!packet".hex()
    assert probe["hops"][1]["timeNs"] == 12345
    assert probe["hops"][1]["causes"][0] == {
        "topic": "route",
        "text": CAUSES[0].text,
        "origin": "lease of n2",
        "source": "looked up",
    }
    assert [header["layer"] for header in probe["hops"][2]["headers"]] == [
        "ethernet",
        "ip",
        "udp",
        "vxlan",
        "ethernet",
        "ip",
        "udp",
    ]
    assert probe["copies"][0][1]["event"] == "dropped"
    assert probe["drop"]["sentence"] == DROP.sentence
    assert error["drop"] is None
    assert error["hops"][0]["headers"][2] == {"layer": "quoted"}
    assert error["hops"][0]["headers"][0] | {"ttl": 64} == {
        "layer": "ip",
        "version": 4,
        "src": "10.244.1.2",
        "dst": "10.244.2.2",
        "protocol": 1,
        "ttl": 64,
        "length": 44,
        "ident": 7,
        "dontFragment": False,
        "moreFragments": False,
        "offset": 0,
    }
    assert isinstance(EVERYTHING.ways[0].hops[0], Hop)
