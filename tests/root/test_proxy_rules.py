"""Proxiers on the real kernel: every rule loads, and any way of changes ends where one full sync does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from netlab.errors import ProgramError
from netlab.proxy import listing, tools
from netlab.proxy.proxier import PortKey
from netlab.service.model import ServicePort
from tests.root.proxy_nodes import (
    FRESH,
    NAME,
    VARIANTS,
    fresh,
    nodes,
    plenty,
    proxier,
    rich,
    rules,
    run,
    settle,
    variants_of,
)
from tests.unit.service_ports import EVERYWHERE, HERE, WEB

pytestmark = pytest.mark.root


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    with nodes(NAME):
        yield request.param


def test_every_rule_loads_and_is_listed_as_complete(variant: str) -> None:
    one = proxier(variant)
    one.sync({})
    assert one.is_intact()
    one.sync(rich())
    assert one.is_intact()
    text = str(rules(variant))
    assert [str(port) for port in rich().values() if str(port.cluster_ip) not in text] == []
    one.close()


@pytest.mark.parametrize("variant", VARIANTS[:2], indirect=True)
def test_a_listing_means_what_was_written(variant: str) -> None:
    """Of every kind of rule, also after changes, which leave shared chains in another order."""
    one = proxier(variant)
    one.sync(rich())
    for round_ in range(2):
        for version, written in one._rules.items():  # type: ignore[attr-defined]
            assert written.is_complete(listing.parse(tools.save(NAME, variant, version))), (round_, version)
        one.sync(dict.fromkeys(sorted(rich())[::3]))
        one.sync({key: port for key, port in rich().items() if key in sorted(rich())[::6]})
    one.close()


def test_changes_end_where_one_full_sync_does(variant: str) -> None:
    pool = plenty(12)
    order = random.Random(5)
    one = proxier(variant)
    wanted: dict[PortKey, ServicePort] = {}
    for _ in range(12):
        changes: dict[PortKey, ServicePort | None] = {}
        for key in order.sample(sorted(pool), 4):
            port = pool[key]
            changes[key] = order.choice([None, *variants_of(port)])
        one.sync(changes)
        wanted = {key: port for key, port in {**wanted, **changes}.items() if port}
        if order.random() < 0.5:
            settle(one)
    settle(one)
    assert rules(variant) == fresh(variant, wanted)
    assert one.is_intact()
    one.sync(dict.fromkeys(wanted))
    settle(one)
    assert rules(variant) == fresh(variant, {})
    one.close()


def test_a_new_proxier_ends_what_an_old_one_left(variant: str) -> None:
    proxier_before, one = proxier(variant), proxier(variant)
    proxier_before.sync(rich())
    proxier_before.close()
    wanted = plenty(3)
    one.sync(wanted)
    assert rules(variant) == fresh(variant, wanted)
    one.close()


@pytest.mark.parametrize("tool", ["iptables-legacy", "iptables-nft"])
def test_a_sync_that_was_cut_off_is_repaired(tool: str) -> None:
    """The tool ends between its tables, as when netlab is killed."""
    wanted = plenty(3)
    with nodes(NAME, FRESH):
        whole = proxier(tool, FRESH)
        whole.sync(rich())
        whole.close()
        saved = tools.save(FRESH, tool, 4)
        filter_only = (
            saved[saved.index("*filter") :].partition("COMMIT\n")[0] + "COMMIT\n*nat\n:KUBE-SVC-HALF - [0:0]\n"
        )
        with pytest.raises(ProgramError, match="COMMIT expected"):
            tools.restore(NAME, tool, 4, [filter_only])
        assert "KUBE-SERVICES" in tools.save(NAME, tool, 4)
        one = proxier(tool)
        one.sync(wanted)
        with_policies = rules(tool)
        one.close()
    assert with_policies == fresh(tool, wanted)


FOREIGN = """\
*filter
:MINE - [0:0]
-A INPUT -j MINE
-A FORWARD -m comment --comment "KUBE-SERVICES by name only" -j ACCEPT
-A MINE -j RETURN
COMMIT
*nat
:MINE - [0:0]
-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE
-A PREROUTING -j MINE
COMMIT
"""
FOREIGN_NFT = (
    "table ip mine {\n chain input { type filter hook input priority 0; }\n set kube-proxy { type ipv4_addr; }\n}\n"
)


def _put_foreign(variant: str) -> object:
    if variant == "nftables":
        run(NAME, "nft", "-f", "-", text=FOREIGN_NFT)
    else:
        tools.restore(NAME, variant, 4, [FOREIGN])
    return rules(variant)


def test_foreign_rules_stay_as_they_are(variant: str) -> None:
    before = _put_foreign(variant)
    one = proxier(variant)
    one.sync(rich())
    one.sync(dict.fromkeys(sorted(rich())[::2]))
    settle(one)
    one.resync()
    assert "mine" in str(rules(variant)).lower()
    one.remove()
    after = rules(variant)
    assert variant == "nftables" or "KUBE-SERVICES by name only" in str(after)
    assert _without_empty(after) == _without_empty(before)


def _without_empty(found: object) -> object:
    """Leave out built-in chains, which stay once a table was used."""
    if isinstance(found, dict) and 4 in found:
        return {version: {key: value for key, value in of.items() if value} for version, of in found.items()}
    return found


@pytest.mark.parametrize("variant", VARIANTS[:2], indirect=True)
def test_a_change_that_fails_is_tried_again(variant: str) -> None:
    """A foreign rule keeps a chain that is to go. No rule of another table can, in mode nftables."""
    one = proxier(variant)
    wanted = plenty(2)
    one.sync(wanted)
    chain = next(name for table, name in rules(variant)[4] if name.startswith("KUBE-SEP-"))  # type: ignore[index]
    run(NAME, variant, "-t", "nat", "-I", "OUTPUT", "-d", "192.0.2.77", "-j", chain)
    gone = dict.fromkeys(wanted)
    with pytest.raises(ProgramError, match="restore"):
        one.sync(gone)
    assert not one.is_intact()
    run(NAME, variant, "-t", "nat", "-D", "OUTPUT", "-d", "192.0.2.77", "-j", chain)
    assert one.tick(100.0) is not None
    assert one.tick(200.0) is None
    assert one.is_intact()
    assert rules(variant) == fresh(variant, {})
    one.close()


def test_two_services_that_claim_one_address(variant: str) -> None:
    """Nobody forbids it for external addresses. Where one lets go, the other has it."""
    other = replace(EVERYWHERE, name="other", cluster_ip=IPv4Address("10.96.0.51"), node_port=0)
    both = {port.key: port for port in (EVERYWHERE, other)}
    one = proxier(variant)
    one.sync({EVERYWHERE.key: EVERYWHERE})
    one.sync({other.key: other})
    assert rules(variant) == fresh(variant, both)
    one.sync({EVERYWHERE.key: None})
    settle(one)
    assert rules(variant) == fresh(variant, {other.key: other})
    one.close()


def test_an_address_moves_from_a_service_to_another_at_once(variant: str) -> None:
    other = replace(EVERYWHERE, name="other")
    one = proxier(variant)
    one.sync({EVERYWHERE.key: EVERYWHERE})
    one.sync({other.key: other, EVERYWHERE.key: None})
    settle(one)
    assert rules(variant) == fresh(variant, {other.key: other})
    one.close()


def test_comments_go_everywhere_in_a_large_cluster() -> None:
    few = plenty(2)
    big = replace(WEB, name="big", cluster_ip=IPv4Address("10.96.9.9"), endpoints=tuple(MANY))
    with nodes(NAME):
        one = proxier("iptables-legacy")
        one.sync(few)
        one.sync({big.key: big})
        assert rules("iptables-legacy") == fresh("iptables-legacy", {**few, big.key: big})
        one.sync({big.key: None})
        assert rules("iptables-legacy") == fresh("iptables-legacy", few)
        one.close()


MANY = [replace(HERE, address=IPv4Address("10.244.5.0") + number) for number in range(1001)]
