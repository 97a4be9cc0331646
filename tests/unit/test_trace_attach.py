"""Where on its way a packet met its rules, and where its addresses were changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netlab.trace.attach import attach_connections, attach_rules, without_comment
from netlab.trace.connections import Connection, Ends
from netlab.trace.correlate import Role, correlate
from netlab.trace.explain import explain
from netlab.trace.headers import TCP, UDP, Ethernet, Headers, Ip, Tcp, Udp, Vxlan
from netlab.trace.hits import Hit, Section, sections
from netlab.trace.model import Cause, Event, Hop, Places, Source, Topic, Way
from tests.unit.recorded_traces import load
from tests.unit.traced_hops import FRAME, MAC1, MAC2, NODE1, NODE2, A, B, hop, ip

VETH, BRIDGE, UPLINK, TUNNEL = 2, 3, 4, 5
AROUND: Headers = (Ethernet(MAC1, MAC2, 0x0800), ip(NODE1, NODE2, ident=9), Udp(50000, 8472), Vxlan(1))
HIT = Hit("ip", "nat", "PRE", "rule", 5, ident=7, protocol=UDP, src=A.packed)


def forwarded(*tunnel: Hop) -> Way:
    """Return a packet through n1: a veth, a bridge, a tunnel's device if it is seen there, out by the uplink."""
    inner = (*FRAME[:1], replace(FRAME[1], ttl=63), *FRAME[2:])  # type: ignore[arg-type,type-var]
    return Way(
        Role.PROBE,
        (
            hop("p/eth0", Event.OUT, ifindex=VETH),
            hop("n1/veth1", ifindex=VETH),
            hop("n1/cni0", ifindex=BRIDGE),
            *tunnel,
            hop("n1/eth0", Event.OUT, ifindex=UPLINK, headers=(*AROUND, *inner)),
        ),
    )


def section(namespace: str = "lab.n1", hit: Hit = HIT, *hits: Hit, **fields: object) -> Section:
    first = replace(hit, **fields)  # type: ignore[arg-type]
    return Section(namespace, first, hits or (first,))


def text(namespace: str, hit: Hit) -> str:
    return f"rule {hit.chain} of {namespace}"


def attached(way: Way, *found: Section) -> list[list[str]]:
    """Return the texts of each hop's causes."""
    (result,) = attach_rules([way], found, text)
    return [[cause.text for cause in one.causes] for one in result.hops]


SAID = "nat PRE: rule PRE of lab.n1"
FLANNEL = hop("n1/flannel.1", Event.OUT, ifindex=TUNNEL)


@pytest.mark.parametrize(
    ("devices", "place"),
    [
        ({"iif": VETH}, 1),
        ({"iif": BRIDGE}, 2),
        ({"iif": BRIDGE, "oif": TUNNEL}, 3),
        ({"oif": TUNNEL}, 3),
        ({"iif": 77}, 1),  # a device that nobody saw: where it came in first
        ({"oif": 77}, 3),  # rules sent it to another
    ],
)
def test_a_rule_is_where_its_devices_are(devices: dict[str, int], place: int) -> None:
    found = attached(forwarded(FLANNEL), section(**devices))
    assert found == [[SAID] if number == place else [] for number in range(5)]


def test_a_rule_about_a_tunnel_that_no_packet_is_seen_at_is_where_it_came_in() -> None:
    assert attached(forwarded(), section(iif=BRIDGE, oif=TUNNEL)) == [[], [], [SAID], []]


def test_a_rule_at_output_is_where_the_outer_packet_leaves() -> None:
    outer = section(ident=9, src=NODE1.packed, oif=UPLINK)
    assert attached(forwarded(), outer)[3] == [SAID]


def test_the_packet_that_is_outermost_is_meant_before_one_inside() -> None:
    """Both came in by the uplink: first in its tunnel, then (its own MAC's) without."""
    way = Way(
        Role.PROBE,
        (hop("n1/eth0", ifindex=UPLINK, headers=(*AROUND, *FRAME)), hop("n1/eth0", ifindex=UPLINK)),
    )
    assert attached(way, section(iif=UPLINK)) == [[], [SAID]]
    assert attached(way, section(iif=UPLINK, ident=9)) == [[SAID], []]


def test_a_dropped_packets_rule_is_where_it_was_dropped() -> None:
    way = Way(Role.PROBE, (hop("n1/veth1", ifindex=VETH), hop("n1/veth1", Event.DROPPED, ifindex=VETH)))
    assert attached(way, section(iif=BRIDGE, oif=UPLINK)) == [[], [SAID]]


@pytest.mark.parametrize(
    "foreign",
    [
        section("lab.n2", iif=VETH),
        section(iif=VETH, ident=8),
        section(iif=VETH, protocol=TCP),
    ],
)
def test_reports_about_what_nobody_saw_are_left(foreign: Section) -> None:
    assert attached(forwarded(), foreign) == [[], [], [], []]


def test_ipv6_has_no_identification_to_go_by() -> None:
    headers: Headers = (replace(FRAME[1], version=6, ident=0), *FRAME[2:])  # type: ignore[arg-type,type-var]
    assert attached(Way(Role.PROBE, (hop(headers=headers),)), section(ident=0)) == [[SAID]]


def test_a_report_goes_to_the_first_way_that_it_fits() -> None:
    ways = attach_rules([forwarded(), forwarded()], [section(iif=VETH)], text)
    assert [len(one.hops[1].causes) for one in ways] == [1, 0]


def test_rules_come_behind_causes_that_are_there() -> None:
    cause = Cause(Topic.TUNNEL, "a cable")
    way = Way(Role.PROBE, (replace(hop(), causes=(cause,)),))
    (found,) = attach_rules([way], [section()], text)
    assert found.hops[0].causes == (cause, Cause(Topic.RULE, SAID, "", Source.SEEN))


@pytest.mark.parametrize(
    ("hit", "said", "shown"),
    [
        (HIT, '-m comment --comment "the web" -j ACCEPT', ("nat PRE: -j ACCEPT", "the web")),
        (HIT, "", ("nat PRE: rule 5", "")),
        (replace(HIT, handle=0, number=3), "", ("nat PRE: rule 3", "")),
        (replace(HIT, kind="policy", verdict="drop"), "", ("nat PRE: policy drop", "")),
        (replace(HIT, kind="policy", number=3), "drop", ("nat PRE: policy drop", "")),
        (replace(HIT, kind="policy", number=3), "accept", None),
    ],
)
def test_what_is_shown_of_a_report(hit: Hit, said: str, shown: tuple[str, str] | None) -> None:
    (found,) = attach_rules([Way(Role.PROBE, (hop(),))], [section("lab.n1", hit)], lambda namespace, one: said)
    wanted = (Cause(Topic.RULE, shown[0], shown[1], Source.SEEN),) if shown else ()
    assert found.hops[0].causes == wanted


@pytest.mark.parametrize(
    ("rule", "rest", "comment"),
    [
        ("-p tcp -j ACCEPT", "-p tcp -j ACCEPT", ""),
        ('-d 10.0.0.1/32 -m comment --comment "ns/web cluster IP" -j X', "-d 10.0.0.1/32 -j X", "ns/web cluster IP"),
        ("-m comment --comment flanneld -j ACCEPT", "-j ACCEPT", "flanneld"),
        ('tcp dport 80 accept comment "web: 80"', "tcp dport 80 accept", "web: 80"),
        ("", "", ""),
    ],
)
def test_comments_of_rules(rule: str, rest: str, comment: str) -> None:
    assert without_comment(rule) == (rest, comment)


# --- connections -----------------------------------------------------------------------------------------------------

CONNECTION = Connection(UDP, Ends(A, 40000, B, 53), Ends(NODE2, 5353, A, 40000))


def translated(*namespaces: str) -> Way:
    changed = tuple(
        replace(hop(f"{name}/eth{number}", changes=("destination x -> y",)), ifindex=number)
        for number, name in enumerate(namespaces)
    )
    return Way(Role.PROBE, changed)


def places(way: Way, connection: Connection = CONNECTION, namespace: str = "lab.n1") -> list[int]:
    (found,) = attach_connections([way], [(namespace, connection)])
    return [place for place, one in enumerate(found.hops) if one.causes]


def test_a_connection_is_where_the_packet_was_changed_last() -> None:
    assert places(translated("n1", "n1", "n2")) == [1]
    (found,) = attach_connections([translated("n1")], [("lab.n1", CONNECTION)])
    assert found.hops[0].causes == (Cause(Topic.CONNTRACK, str(CONNECTION), source=Source.SEEN),)


def test_a_connection_that_is_not_translated_says_nothing() -> None:
    plain = replace(CONNECTION, reply=Ends(B, 53, A, 40000))
    assert places(translated("n1"), plain) == []


def test_a_connection_of_others_says_nothing() -> None:
    assert places(translated("n1"), namespace="lab.n2") == []
    assert places(translated("n1"), replace(CONNECTION, original=Ends(B, 1, A, 2))) == []
    assert places(Way(Role.PROBE, (replace(translated("n1").hops[0], changes=("ttl 64 -> 63",)),))) == []
    assert places(replace(translated("n1"), role=Role.ANSWER)) == []


# --- recorded --------------------------------------------------------------------------------------------------------


def recorded_ways(name: str, namespace: str, reader: str = "nftables") -> dict[str, list[str]]:
    """Return the rules and connections of a recorded probe, by namespace and device."""
    recorded = load(name)
    journeys = correlate(recorded.sightings, recorded.find_device)
    known = Places({}, {}, 80)
    ways = [Way(one.role, explain(one.way, {}, known, start=0)) for one in journeys]
    found = attach_rules(ways, sections(namespace, recorded.hits(reader, namespace)), text)
    found = attach_connections(found, [(namespace, one) for one in recorded.connections(namespace)])
    return {f"{one.device} {one.event}": topics(one) for one in found[0].hops if one.causes}


def topics(one: Hop) -> list[str]:
    assert all(isinstance(header, (Ethernet, Ip, Udp, Tcp, Vxlan)) for header in one.headers)
    return [cause.text.partition(":")[0] if cause.topic is Topic.RULE else str(cause.topic) for cause in one.causes]


def test_a_recorded_service_has_its_rules_where_it_comes_in_and_where_it_leaves() -> None:
    found = recorded_ways("cluster-ip", "nl-services.n1")
    assert list(found) == ["cni0 in", "flannel.1 out", "eth0 out"]  # the last are those of the outer packet
    assert [words.partition("-")[0] for words in found["cni0 in"]] == [
        "nat PREROUTING",
        "nat KUBE",
        "nat KUBE",
        "nat KUBE",
        "conntrack",
    ]
    assert found["flannel.1 out"][:2] == ["filter FORWARD", "filter FLANNEL-FWD"]


def test_a_recorded_legacy_rule_is_where_it_drops() -> None:
    assert recorded_ways("legacy-drop", "nl-vxlan.n1", "log") == {"cni0 dropped": ["filter FORWARD"]}
