"""Rules read back and put into words: what is said comes from the rules, in both modes."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.explain import nft, saved
from netlab.explain.gaps import gaps
from netlab.explain.model import From, Jump, Recent, SetMark, Source, State, Tables, To, Unknown
from netlab.explain.tree import services, tree
from netlab.explain.words import line
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort
from tests.unit.explained import iptables_of, nft_of_golden, only, said, shares, spoken, under
from tests.unit.service_ports import EVERYWHERE, FULL, HERE, NODE, NODE6, THERE, WEB

BALANCED = replace(EVERYWHERE, external_policy=Policy.LOCAL, affinity=10800)
EMPTY = replace(WEB, name="none", cluster_ip=IPv4Address("10.96.0.51"), node_port=30081, endpoints=())
POD, OWN, CLIENT = "10.244.1.2", "10.244.1.5", "198.51.100.9"
SVC, EXT, FW = (f"KUBE-{kind}-CDGGSHYLG3RE2FKL" for kind in ("SVC", "EXT", "FW"))
SEES = "masqueraded (the endpoint sees the node)"


def endpoints(count: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(IPv4Address("10.244.3.1") + number, 8080, "n1") for number in range(count))


# --- probabilities ---------------------------------------------------------------------------------------------------


def kernel(probability: float) -> str:
    """Write a probability as iptables-save does: a 31-bit number, eleven decimals."""
    return f"{round(probability * 2**31) / 2**31:.11f}"


@pytest.mark.parametrize("count", range(1, 21))
def test_each_of_n_endpoints_has_exactly_1_in_n(count: int) -> None:
    tables = iptables_of(replace(WEB, endpoints=endpoints(count)))
    assert shares(spoken(tables)) == {str(endpoint): Fraction(1, count) for endpoint in endpoints(count)}


@pytest.mark.parametrize("count", range(1, 21))
def test_so_it_is_in_nftables_mode(count: int) -> None:
    elements = [[number, {"goto": {"target": f"endpoint-{number}"}}] for number in range(count)]
    body = {"key": {"numgen": {"mode": "random", "mod": count, "offset": 0}}, "data": {"set": elements}}
    action = nft._action("vmap", body)
    assert [share for share, _ in action.shares] == [Fraction(1, count)] * count  # type: ignore[union-attr]


@given(st.integers(1, 5000))
def test_the_fraction_behind_what_the_kernel_keeps(count: int) -> None:
    written = f"{1 / count:.10f}"
    assert saved.fraction(written) == saved.fraction(kernel(float(written))) == Fraction(1, count)


@pytest.mark.parametrize(("text", "meant"), [("0.33333333349", "1/3"), ("0.75", "3/4"), ("0", "0"), ("1", "1")])
def test_fractions_that_somebody_wrote(text: str, meant: str) -> None:
    assert saved.fraction(text) == Fraction(meant)


def test_a_probability_that_is_near_nothing_simple_stays() -> None:
    assert saved.fraction("0.12345678901") == Fraction("0.12345678901")


# --- words, iptables mode --------------------------------------------------------------------------------------------


def test_a_cluster_ip() -> None:
    assert said(iptables_of(WEB)) == [
        "To 10.96.0.50:80/tcp (cluster IP):",
        f"  to {SVC}:",
        f"    not from 10.244.0.0/16: {SEES}",
        "    with probability 1/2 (50 %): 10.244.1.5:8080, pod web-1 on n1",
        "    with probability 1/2 (50 %): 10.244.2.6:8080, pod web-2 on n2",
        "  an endpoint's packet to itself (hairpin) is masqueraded",
    ]


def test_the_worked_example() -> None:
    """facts.md 11.5: NodePort, load balancer with a range, policy Cluster."""
    lines = said(iptables_of(FULL))
    assert under(lines, "To 203.0.113.7:80/tcp (loadbalancer IP)") == [
        f"to {FW}:",
        f"from 198.51.100.0/24: to {EXT}:",
        SEES,
        f"to {SVC}:",
        "with probability 1/2 (50 %): 10.244.1.5:8080, pod web-1 on n1",
        "with probability 1/2 (50 %): 10.244.2.6:8080, pod web-2 on n2",
        "a remark, which does nothing: other traffic to default/web:http will be dropped by KUBE-PROXY-FIREWALL",
        f"what is not translated above: dropped (traffic not accepted by {FW}): the client hears nothing",
        "an endpoint's packet to itself (hairpin) is masqueraded",
    ]
    assert under(lines, "To port 30080/tcp of the node (NodePort)")[0] == f"to {EXT}, as above"


def test_no_endpoints() -> None:
    refused = "rejected (has no endpoints): the client is told at once (connection refused)"
    assert said(iptables_of(EMPTY), name="none") == [
        "To 10.96.0.51:80/tcp:",
        f"  {refused}",
        "To port 30081/tcp of the node (NodePort):",
        f"  {refused}",
    ]


def test_policy_local_without_a_local_endpoint() -> None:
    elsewhere = replace(FULL, endpoints=(THERE,), external_policy=Policy.LOCAL, source_ranges=())
    lines = said(iptables_of(elsewhere), CLIENT)
    dropped = "dropped (has no local endpoints): the client hears nothing"
    assert under(lines, "To 203.0.113.7:80/tcp")[-1] == under(lines, "To port 30080/tcp")[-1] == dropped
    inside = under(said(iptables_of(elsewhere), POD), "To 203.0.113.7:80/tcp")
    assert inside[0:2] == [f"to {EXT}:", f"10.244.1.2 is in 10.244.0.0/16: to {SVC}:"]
    assert inside[2] == "with probability 1 (100 %): 10.244.2.6:8080, pod web-2 on n2"


def test_affinity() -> None:
    found = under(said(iptables_of(replace(WEB, affinity=600))), "To 10.96.0.50")
    assert (
        "affinity: a client returns to the endpoint it used within 600 s: 10.244.1.5:8080 or 10.244.2.6:8080" in found
    )
    assert found[-2] == "with probability 1/2 (50 %): 10.244.2.6:8080, pod web-2 on n2; client remembered"


# --- a packet of one pod ---------------------------------------------------------------------------------------------


def test_a_pod_is_not_masqueraded() -> None:
    assert under(said(iptables_of(WEB), POD), "To 10.96.0.50") == [
        f"to {SVC}:",
        "10.244.1.2 is in 10.244.0.0/16: not masqueraded",
        "with probability 1/2 (50 %): 10.244.1.5:8080, pod web-1 on n1",
        "with probability 1/2 (50 %): 10.244.2.6:8080, pod web-2 on n2",
    ]


@pytest.mark.parametrize("tables", [iptables_of(BALANCED, EMPTY), nft_of_golden()], ids=["iptables", "nftables"])
def test_a_source_that_no_rule_touches_is_seen(tables: Tables) -> None:
    """externalTrafficPolicy Local keeps it (facts.md 3.7)."""
    assert under(said(tables, POD), "To 192.0.2.9")[-1] == f"no rule masquerades it: the endpoint sees {POD}"
    lines = [f"{'  ' * line.depth}{line.text}" for line in spoken(tables, CLIENT)]
    assert f"{CLIENT} is no address of the node: not masqueraded" in under(lines, "To 192.0.2.9")
    assert "the endpoint sees" not in "\n".join(under(lines, "To 192.0.2.9"))


def test_an_endpoint_may_meet_itself() -> None:
    found = under(said(iptables_of(WEB), OWN), "To 10.96.0.50")
    assert found[-2] == "with probability 1/2 (50 %): 10.244.1.5:8080, pod web-1 on n1; itself (hairpin): masqueraded"
    assert "hairpin" not in found[-1]


def test_a_pod_in_the_nodes_own_namespace_is_masqueraded() -> None:
    found = said(iptables_of(BALANCED), "172.18.0.2", from_node=True)
    assert f"172.18.0.2 is not in 10.244.0.0/16: {SEES}" in under(found, "To 10.96.0.50")
    assert f"172.18.0.2 is an address of the node: {SEES}" in under(found, "To 192.0.2.9")


@pytest.mark.parametrize("tables", [iptables_of(BALANCED, EMPTY), nft_of_golden()], ids=["iptables", "nftables"])
def test_who_may_use_the_load_balancer(tables: Tables) -> None:
    outside = under(said(tables, POD), "To 203.0.113.7")
    assert "10.244.1.2 is not in 198.51.100.0/24" in outside[1]
    assert "dropped" in outside[-1]
    inside = "\n".join(under(said(tables, CLIENT), "To 203.0.113.7"))
    assert "198.51.100.9 is in 198.51.100.0/24" in inside
    assert "as above" in inside or "10.244.1.5:8080" in inside


@pytest.mark.parametrize("tables", [iptables_of(BALANCED, EMPTY), nft_of_golden()], ids=["iptables", "nftables"])
def test_policy_local_keeps_to_the_node_for_those_outside(tables: Tables) -> None:
    assert "10.244.2.6" not in "\n".join(under(said(tables, CLIENT), "To 192.0.2.9"))
    assert "10.244.2.6" in "\n".join(under(said(tables, CLIENT), "To 10.96.0.50"))


# --- what somebody changed -------------------------------------------------------------------------------------------


def test_a_changed_probability_is_what_is_said() -> None:
    changed = iptables_of(WEB, change=("--probability 0.5000000000", "--probability 0.2000000000"))
    assert shares(spoken(changed)) == {"10.244.1.5:8080": Fraction(1, 5), "10.244.2.6:8080": Fraction(4, 5)}


def test_a_changed_destination_is_what_is_said() -> None:
    changed = iptables_of(WEB, change=("--to-destination 10.244.2.6:8080", "--to-destination 10.244.9.9:81"))
    assert "with probability 1/2 (50 %): 10.244.9.9:81" in under(said(changed), "To 10.96.0.50")
    listed = nft_of_golden(('{"addr": "10.244.2.6", "port": 8080}', '{"addr": "10.244.9.9", "port": 81}'))
    assert "with probability 1/2 (50 %): 10.244.9.9:81; client remembered" in under(said(listed), "To 10.96.0.50")


def test_a_lost_last_rule_leaves_packets_behind() -> None:
    port = replace(WEB, endpoints=endpoints(3))
    last = re.search(r"-A KUBE-SVC.*3\.3:8080.*\n", "\n".join([*_text(port), ""]))
    assert last
    found = said(iptables_of(port, change=(last[0], "")), POD)
    assert found[-1] == "  with probability 1/3 (33.3 %): no rule changes its destination or refuses it"


def _text(port: ServicePort) -> list[str]:
    from tests.unit.explained import as_saved, restore_text

    return as_saved(restore_text([port])).splitlines()


def test_a_rule_in_front_ends_the_way() -> None:
    entry = next(text for text in _text(WEB) if text.startswith("-A KUBE-SVC"))
    found = said(iptables_of(WEB, change=(entry, f"-A {SVC} -s 10.244.1.2/32 -j RETURN\n{entry}")), POD)
    assert found[1:] == [
        f"  to {SVC}:",
        f"    10.244.1.2 is 10.244.1.2: out of {SVC} again",
        "  no rule changes its destination or refuses it",
    ]


def test_a_goto_does_not_come_back() -> None:
    entry = next(text for text in _text(WEB) if text.startswith("-A KUBE-SVC"))
    for option, endpoints_are_reached in (("-j", True), ("-g", False)):
        changed = iptables_of(WEB, change=(entry, f":X - [0:0]\n-A {SVC} {option} X\n{entry}"))
        assert ("10.244.2.6:8080" in "\n".join(said(changed, POD))) is endpoints_are_reached


def test_a_rule_in_front_of_an_endpoint_is_not_overlooked() -> None:
    entry = next(text for text in _text(WEB) if text.startswith("-A KUBE-SEP"))
    chain = entry.split()[1]
    added = f"-A {chain} -m statistic --mode random --probability 0.25 -j RETURN\n{entry}"
    assert under(said(iptables_of(WEB, change=(entry, added)), POD), "To 10.96.0.50")[2:] == [
        f"with probability 1/2 (50 %): to {chain}:",
        f"with probability 1/8 (12.5 %): out of {chain} again",
        "10.244.1.2 is not 10.244.1.5: not masqueraded",
        "with probability 3/8 (37.5 %): new destination 10.244.1.5:8080, pod web-1 on n1",
        "with probability 5/8 (62.5 %): 10.244.2.6:8080, pod web-2 on n2",
    ]


def test_a_foreign_condition_is_kept_as_it_is() -> None:
    entry = next(text for text in _text(WEB) if text.startswith("-A KUBE-SVC"))
    changed = iptables_of(WEB, change=(entry, f"{entry.replace('-j ', '-i eth7 -m length --length 1:99 -j ')}"))
    assert f"-i eth7, --length 1:99: {SEES}" in "\n".join(said(changed)).replace("not from 10.244.0.0/16, ", "")


def test_a_hairpin_rule_that_is_gone() -> None:
    gone = next(text for text in _text(WEB) if "-s 10.244.1.5 -j KUBE-MARK-MASQ" in text)
    changed = iptables_of(WEB, change=(f"{gone}\n", ""))
    assert said(changed)[-1] == "  no rule masquerades 10.244.1.5:8080 to itself (hairpin): such a connection fails"
    assert "itself (hairpin): NOT masqueraded, fails" in "\n".join(said(changed, OWN))


@pytest.mark.parametrize("instead", ["", "-A KUBE-MARK-MASQ -j MARK --xor-mark 0x004000"])
def test_a_mark_chain_that_marks_nothing(instead: str) -> None:
    changed = iptables_of(WEB, change=("-A KUBE-MARK-MASQ -j MARK --or-mark 0x004000", instead))
    assert "KUBE-MARK-MASQ, which marks nothing: not masqueraded" in "\n".join(said(changed))
    assert [text for text in gaps(changed) if "nothing is masqueraded" in text]


@pytest.mark.parametrize(
    ("lost", "said_of_it"),
    [
        (r"-A PREROUTING .*-j KUBE-SERVICES", "no rule leads from PREROUTING to KUBE-SERVICES"),
        (r"-A KUBE-SERVICES .*-j KUBE-NODEPORTS", "no rule leads to nat KUBE-NODEPORTS"),
        (r"-A POSTROUTING .*", "nothing is masqueraded"),
    ],
)
def test_gaps(lost: str, said_of_it: str) -> None:
    assert not list(gaps(iptables_of(FULL)))
    rule = next(text for text in _text(FULL) if re.fullmatch(lost, text))
    assert said_of_it in "\n".join(gaps(iptables_of(FULL, change=(rule, ""))))


def test_the_golden_listing_has_no_gaps() -> None:
    assert not list(gaps(nft_of_golden()))
    lost = nft_of_golden(('"chain": "nat-output", "handle"', '"chain": "nat-prerouting", "handle"'))
    assert "no rule leads from nat-output to services" in "\n".join(gaps(lost))


# --- words, nftables mode --------------------------------------------------------------------------------------------


def test_nftables_mode_in_words() -> None:
    name = "SUSTUHLJ-default/web/tcp/http"
    lines = said(nft_of_golden())
    assert under(lines, "To 10.96.0.50:80/tcp (cluster IP)") == [
        f"to service-{name}:",
        f"not from 10.244.0.0/16: {SEES}",
        "affinity: a client returns to the endpoint it used within 10800 s: 10.244.1.5:8080 or 10.244.2.6:8080",
        "with probability 1/2 (50 %): 10.244.1.5:8080, pod web-1 on n1; client remembered",
        "with probability 1/2 (50 %): 10.244.2.6:8080, pod web-2 on n2; client remembered",
        "an endpoint's packet to itself (hairpin) is masqueraded",
    ]
    assert "To port 30080/tcp of the node (NodePort, at 172.18.0.2):" in lines


def test_other_ports_of_a_cluster_ip_are_refused_in_this_mode() -> None:
    refused = "rejected: the client is told at once (connection refused)"
    assert under(said(nft_of_golden(), POD), "To ports of 10.96.0.50 that no Service has") == [refused]
    assert not [text for text in said(nft_of_golden()) if "To ports of 203.0.113.7" in text]
    assert not [text for text in said(iptables_of(BALANCED)) if "To ports of" in text]


def test_elements_that_refuse_are_found_by_their_comment() -> None:
    assert said(nft_of_golden(), name="none") == [
        "To 10.96.0.51:80/tcp:",
        "  rejected (has no endpoints): the client is told at once (connection refused)",
        "To port 30081/tcp of the node (NodePort, at 172.18.0.2):",
        "  rejected (has no endpoints): the client is told at once (connection refused)",
        "To ports of 10.96.0.51 that no Service has:",
        "  rejected: the client is told at once (connection refused)",
    ]


def test_or_by_their_address() -> None:
    plain = ('{"concat": ["10.96.0.51", "tcp", 80]}', '{"concat": ["tcp", 30081]}')
    tables = nft_of_golden(*((f'{{"elem": {{"val": {key}, "comment": "default/none:http"}}}}', key) for key in plain))
    assert not tree("default", "none", tables)
    (found,) = tree("default", "none", tables, [EMPTY])
    listed = [line(rule) for rule in found.rules]
    assert listed == ["to 10.96.0.51:80/tcp -> reject-chain", "to 172.18.0.2:30081/tcp -> reject-chain"]


# --- the model -------------------------------------------------------------------------------------------------------


def test_rules_stand_in_a_packets_order() -> None:
    found = dict.fromkeys((rule.table, rule.chain) for rule in only(iptables_of(BALANCED)).rules)
    names = [f"{table} {re.sub('-[A-Z2-7]{16}', '', chain)}" for table, chain in found]
    assert names == [
        *("nat KUBE-SERVICES", "nat KUBE-NODEPORTS", "nat KUBE-FW", "nat KUBE-EXT", "nat KUBE-SVC", "nat KUBE-SVL"),
        *("nat KUBE-SEP", "nat KUBE-SEP", "filter KUBE-PROXY-FIREWALL", "filter KUBE-NODEPORTS"),
    ]


def test_each_service_has_its_own_rules_only() -> None:
    other = replace(WEB, name="web-2", cluster_ip=IPv4Address("10.96.0.60"))
    tables = iptables_of(WEB, other, replace(WEB, namespace="kube"), replace(WEB, port_name="x", port=81))
    assert services([tables]) == {("default", "web"), ("default", "web-2"), ("kube", "web")}
    assert [port.port for port in tree("default", "web", tables)] == ["default/web:http", "default/web:x"]
    text = "\n".join(line(rule) for port in tree("default", "web", tables) for rule in port.rules)
    assert "10.96.0.60" not in text
    assert "10.96.0.50:81/tcp" in text


def test_every_mark_and_option_is_understood() -> None:
    texts = _text(replace(EVERYWHERE, affinity=600, external_policy=Policy.LOCAL, protocol=Protocol.UDP))
    tables = Tables(Source.LEGACY, 4, saved.parse("\n".join(texts)))
    own = [rule for port in tree("default", "web", tables) for rule in port.rules]
    assert not [one for rule in own for one in rule.conditions if isinstance(one, Unknown)]


def test_a_line_of_iptables_save() -> None:
    text = (
        '[3:180] -A X ! -s 10.0.0.0/8 -d 10.96.0.1/32 -i eth0 -p tcp -m comment --comment "- a -j b" -m conntrack !'
        " --ctstate NEW,RELATED -m recent --rcheck --seconds 9 --reap --name L --mask 255.255.255.255 --rsource -g Y"
    )
    found = saved.rule("nat", shlex.split(text))
    assert found.counters == (3, 180)
    assert found.comment == "- a -j b"
    assert found.action == Jump("Y", returns=False)
    assert set(found.conditions) >= {
        From((ip_network("10.0.0.0/8"),), negated=True),
        To((ip_network("10.96.0.1"),)),
        Unknown("-i eth0"),
        State(("NEW", "RELATED"), negated=True),
        Recent("L", 9),
    }


@pytest.mark.parametrize(
    ("text", "bits"),
    [("--or-mark 0x4000", 0x4000), ("--set-xmark 0x4000/0x4000", 0x4000), ("--set-xmark 0x4000/0x0", 0)],
)
def test_only_setting_the_bit_counts_as_a_mark(text: str, bits: int) -> None:
    """--set-xmark v/m with an empty mask flips the bits: KUBE-POSTROUTING clears the mark so."""
    assert saved.rule("nat", f"-A X -j MARK {text}".split()).action == SetMark(bits)


def test_ipv6() -> None:
    ends = tuple(Endpoint(IPv6Address(f"fd00:244::{number}"), 8080, "n1") for number in (1, 2, 3))
    port = replace(WEB, cluster_ip=IPv6Address("fd00:96::50"), endpoints=ends)
    tables = iptables_of(port, node=NODE6)
    assert shares(spoken(tables)) == {f"[fd00:244::{number}]:8080": Fraction(1, 3) for number in (1, 2, 3)}
    lines = said(tables, "fd00:244::2")
    assert lines[0] == "To [fd00:96::50]:80/tcp (cluster IP):"
    assert "fd00:244::2 is in fd00:244::/32: not masqueraded" in lines[2]
    assert lines[4].endswith("itself (hairpin): masqueraded")


def test_rules_without_comments() -> None:
    """kube-proxy leaves them out of endpoints' rules in large clusters (facts.md 3.8)."""
    text = re.sub(r'(?<=-A KUBE-S(?:VC|EP)-.{16}) -m comment --comment (".*?"|\S+)', "", "\n".join(_text(WEB)))
    tables = Tables(Source.LEGACY, 4, saved.parse(text))
    assert said(tables) == said(iptables_of(WEB))
    assert NODE.local  # the masquerade rule is there
    assert HERE in WEB.endpoints
