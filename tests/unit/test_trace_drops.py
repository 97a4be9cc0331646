"""What the kernel's reasons mean: each row of the table is met, and by what it is for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netlab.bpf import btf
from netlab.trace.correlate import Role
from netlab.trace.drop_table import TABLE, Row
from netlab.trace.drops import REFUSING, find_drop, name_rule
from netlab.trace.headers import ICMP, TCP, Ethernet, Headers, Icmp, Ip, Tcp, Udp, Vxlan
from netlab.trace.model import Cause, Drop, Event, Hop, Topic, Way
from tests.unit.traced_hops import FRAME, MAC1, MAC2, MAC3, NODE1, NODE2, PACKET, FakeTables, device, hop, ip, route

VXLAN: Headers = (Ethernet(MAC1, MAC2, 0x0800), ip(NODE1, NODE2), Udp(50000, 8472), Vxlan(7), *FRAME)
OF_OTHER_KERNELS = {"VXLAN_NO_REMOTE"}  # Linux 6.12 alone
WORDS = {
    "member": "n1",
    "device": "eth0",
    "src": "10.244.1.2",
    "dst": "10.244.2.2",
    "length": "44",
    "mac": MAC2,
    "vni": "?",
    "port": "UDP port 53",
    "iptables": "iptables",
    "forwarding": "net.ipv4.ip_forward",
    "refusal": "n1 has no route to 10.244.2.2",
    "return_route": "n1 sends to 10.244.1.2 by another device than eth0",
    "next_hop": "10.244.2.2",
    "mtu": "the next device's MTU at n1 is less",
}


def name_of(row: Row) -> str:
    return f"{row.reason}@{row.place}"


@pytest.mark.parametrize("row", TABLE, ids=name_of)
def test_every_row_is_met(row: Row) -> None:
    found = find_drop(row.reason, row.place, [hop("p/eth0"), hop()])
    words = {**WORDS, "reason": row.reason.removesuffix("_CSUM"), "place": row.place or "it"}
    look = "; ".join(f"ip netns exec lab.n1 {command}" for command in row.look)
    assert (found.sentence, found.hint) == (row.sentence.format(**words), look.format(**words))
    assert (found.reason, found.place) == (row.reason, row.place)


@pytest.mark.parametrize("row", TABLE, ids=name_of)
def test_no_row_stands_behind_one_that_takes_its_place(row: Row) -> None:
    before = TABLE[: TABLE.index(row)]
    assert not [one for one in before if row.reason.startswith(one.reason) and row.place.startswith(one.place)]


@pytest.mark.parametrize("row", TABLE, ids=name_of)
@pytest.mark.parametrize("headers", [(), FRAME, PACKET, VXLAN, (ip(protocol=ICMP), Icmp(8, 0))], ids=len)
def test_every_sentence_is_whole_whatever_is_known(row: Row, headers: Headers) -> None:
    nowhere = replace(hop(headers=headers), device="")
    for tables in (None, FakeTables()):
        found = find_drop(row.reason, row.place, [nowhere], tables)
        for text in (found.sentence, found.hint):
            assert text.strip()
            assert not {"{", "}"} & set(text)
            assert "None" not in text
            assert "  " not in text


def test_every_reason_is_one_of_the_kernels() -> None:
    if not btf.VMLINUX.exists():
        pytest.skip("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
    known = btf.find({}, ("skb_drop_reason",), needed_by="a test").enums["skb_drop_reason"].values()
    names = [name.removeprefix("SKB_DROP_REASON_") for name in known]
    absent = {row.reason for row in TABLE if not any(name.startswith(row.reason) for name in names)}
    assert absent <= OF_OTHER_KERNELS


@pytest.mark.parametrize(
    ("reason", "place", "said"),
    [
        ("NO_TX_TARGET", "vxlan_xmit", f"eth0 has no FDB entry for {MAC2}"),
        ("NO_TX_TARGET", "br_dev_xmit", f"no port for {MAC2}"),
        ("NO_TX_TARGET", "dev_hard_start_xmit", "eth0 has nowhere to send it"),
        ("IP_INHDR", "ip_forward", "TTL is used up"),
        ("IP_INHDR", "ip6_forward", "hop limit is used up"),
        ("IP_INHDR", "ip_rcv_core", "IP header is broken"),
        ("TCP_CSUM", "tcp_v4_rcv", "TCP checksum is wrong"),
        ("TCP_RESET", "tcp_v4_rcv", "TCP of n1 refused it"),
        ("NOT_SPECIFIED", "br_handle_frame_finish", "hairpin"),
        ("NOT_SPECIFIED", "br_handle_frame", "not in state forwarding"),
        ("NOT_SPECIFIED", "nf_hook_slow", "packet filter"),
        ("NOT_SPECIFIED", "nft_do_chain", "packet filter"),
        ("NOT_SPECIFIED", "xfrm_input", "in xfrm_input"),
        ("reason 300", "x", "reason 300"),
    ],
)
def test_reasons_at_places(reason: str, place: str, said: str) -> None:
    assert said in find_drop(reason, place, [hop()]).sentence


def test_a_tunnels_packet_that_nobody_takes_lacks_a_tunnel_device() -> None:
    assert find_drop("NO_SOCKET", "__udp4_lib_rcv", [hop(headers=VXLAN)]).sentence == (
        "n1 has no tunnel device that would unwrap it"
    )


def test_the_inner_packet_is_spoken_of_and_the_outer_frame() -> None:
    assert "VNI 7" in find_drop("VXLAN_VNI_NOT_FOUND", "vxlan_rcv", [hop(headers=VXLAN)]).sentence
    assert find_drop("OTHERHOST", "ip_rcv_core", [hop(headers=VXLAN)]).sentence.startswith(f"it is for MAC {MAC2}")
    assert "10.244.2.2" in find_drop("IP_INNOROUTES", "ip_error", [hop(headers=VXLAN)]).sentence


def test_ports_are_named_with_their_protocol() -> None:
    tcp: Headers = (ip(protocol=TCP), Tcp(1, 80, 0, 0, "S"))
    assert find_drop("NO_SOCKET", "tcp_v4_rcv", [hop(headers=tcp)]).sentence == "nobody on n1 listens on TCP port 80"
    assert find_drop("NO_SOCKET", "udp", [hop()]).hint == "ip netns exec lab.n1 ss -lntu"


# --- with the tables of the namespace --------------------------------------------------------------------------------

TABLES = FakeTables(
    links=[device("eth0"), device("flannel.1", "vxlan", mtu=1450)],
    routes=[
        route("10.244.2.0/24", "flannel.1", NODE2),
        route("10.244.1.0/24", "cni0"),
        *(route(f"10.{number}.0.0/16", "", kind=kind) for number, kind in enumerate(REFUSING)),
    ],
)


def said(reason: str, place: str, *hops: Hop) -> str:
    return find_drop(reason, place, hops or [hop()], TABLES).sentence


def to(dst: str) -> Hop:
    header = replace(ip(), dst=NODE2.__class__(dst))
    return hop(headers=(FRAME[0], header, *FRAME[2:]))


def test_the_route_that_refuses_is_named() -> None:
    for number, kind in enumerate(REFUSING):
        assert said("NOT_SPECIFIED", "ip_error", to(f"10.{number}.0.1")) == (
            f"a route of n1 refuses it: {kind} 10.{number}.0.0/16"
        )
    assert said("IP_INNOROUTES", "ip_error", to("192.0.2.1")) == (
        "n1 has no route to 192.0.2.1: Network is unreachable"
    )


def test_a_route_that_is_there_now_was_not_then() -> None:
    assert said("IP_INNOROUTES", "ip_error") == "n1 had no route to 10.244.2.2"


def test_the_way_back_that_the_filter_expects_is_named() -> None:
    assert said("IP_RPFILTER", "ip_route_input_slow") == (
        "rp_filter: n1 sends to 10.244.1.2 by another device than eth0: 10.244.1.0/24 dev cni0"
    )


def test_the_mtu_that_is_too_small_is_named() -> None:
    assert "it has 44 bytes, and the MTU of flannel.1 is 1450" in said("PKT_TOO_BIG", "ip_forward")


def test_the_next_hop_that_does_not_answer_is_named() -> None:
    assert f"the MAC of {NODE2} on eth0" in said("NEIGH_FAILED", "neigh_invalidate")


def test_a_route_is_asked_for_by_where_it_came_in() -> None:
    tables = replace(TABLES, asked=[])
    find_drop("IP_INNOROUTES", "x", [hop(), hop(event=Event.DROPPED)], tables)
    assert (ip().dst, ip().src, "eth0", 0) in tables.asked
    tables.asked.clear()
    find_drop("IP_INNOROUTES", "x", [hop("p/eth0"), hop(event=Event.DROPPED)], tables)
    assert (ip().dst, ip().src, "", 0) in tables.asked


def test_a_wrong_mac_is_looked_up_where_it_was_chosen() -> None:
    chosen = replace(
        hop("n2/flannel.1", Event.OUT),
        causes=(Cause(Topic.NEIGHBOR, f"x lladdr {MAC2}"), Cause(Topic.FDB, "y")),
    )
    found = find_drop("OTHERHOST", "ip_rcv_core", [chosen, hop(event=Event.DROPPED)])
    assert found.hint == (
        "ip netns exec lab.n2 ip neigh show dev flannel.1; ip netns exec lab.n2 bridge fdb show dev flannel.1"
    )
    other = replace(chosen, headers=(Ethernet(MAC1, MAC3, 0x0800), *PACKET))
    assert find_drop("OTHERHOST", "ip_rcv_core", [other, hop()]).hint == "ip netns exec lab.n1 ip link"


def test_a_flooded_frame_is_looked_up_at_its_bridge() -> None:
    flooded = replace(
        hop("n2/veth1", Event.OUT),
        causes=(Cause(Topic.FDB, f"{MAC2} is not in the FDB of cni0: flooded to all ports"),),
    )
    found = find_drop("OTHERHOST", "ip_rcv_core", [flooded, hop("r/eth0", Event.DROPPED)])
    assert "the bridge of n2 knew no port for it" in found.sentence
    assert found.hint == "ip netns exec lab.n2 bridge link; ip netns exec lab.n2 bridge fdb show"


def test_ipv6_has_its_own_tools() -> None:
    version6 = replace(hop(), headers=(FRAME[0], replace(ip(), version=6), *FRAME[2:]))
    assert "ip6tables-save -c" in find_drop("NETFILTER_DROP", "nf_hook_slow", [version6]).hint
    assert "net.ipv6.conf.all.forwarding" in find_drop("IP_INADDRERRORS", "ip6_forward", [version6]).hint


# --- the rule that ended it ------------------------------------------------------------------------------------------


def filtered(*causes: Cause, place: str = "n1/cni0") -> Way:
    last = hop("n1/cni0", Event.DROPPED)
    return Way(
        Role.PROBE, (replace(hop(place), causes=causes), last), drop=find_drop("NETFILTER_DROP", "nf_hook_slow", [last])
    )


RULE = Cause(Topic.RULE, "filter FORWARD: -p udp -j DROP", "port 53 is closed")


def sentence(way: Way) -> str:
    named = name_rule(way).drop
    assert named
    return named.sentence


def test_the_last_rule_is_named() -> None:
    plain = filtered().drop
    assert plain
    jump = Cause(Topic.RULE, "filter FORWARD: -j X")
    assert sentence(filtered(jump, RULE)) == (f"{plain.sentence}: filter FORWARD: -p udp -j DROP (port 53 is closed)")
    assert sentence(filtered(jump)) == f"{plain.sentence}: filter FORWARD: -j X"


@pytest.mark.parametrize("way", [filtered(), filtered(RULE, place="p/eth0"), filtered(Cause(Topic.ROUTE, "x"))])
def test_without_a_rule_of_that_namespace_nothing_is_named(way: Way) -> None:
    assert name_rule(way) == way


def test_other_ends_are_no_rules_doing() -> None:
    for drop in (None, Drop("NO_SOCKET", "udp", "nobody listens", "ss")):
        way = replace(filtered(RULE), drop=drop)
        assert name_rule(way) == way
    assert isinstance(FRAME[1], Ip)
