"""Somebody else changes a node's rules: it is noticed without listing them, and repaired."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Any

import pytest

from netlab.proxy import generation, tools
from netlab.proxy.proxier import Proxier
from netlab.proxy.watch import LOOKS
from tests.root.proxy_nodes import NAME, VARIANTS, nodes, plenty, proxier, rules, run, settle

pytestmark = pytest.mark.root

ELEMENT = "ip kube-proxy service-ips { 10.96.1.0 . tcp . 80 }"
DAMAGE = [
    ("iptables-nft", "nft flush ruleset"),
    ("iptables-nft", "iptables-nft -F"),
    ("iptables-nft", "iptables-nft -t nat -F KUBE-SERVICES"),
    ("iptables-nft", "iptables-nft -t nat -D KUBE-MARK-MASQ 1"),
    ("iptables-nft", "iptables-nft -t nat -R KUBE-MARK-MASQ 1 -j RETURN"),
    ("iptables-nft", "iptables-nft -D FORWARD 1"),
    ("iptables-nft", "ip6tables-nft -t nat -F"),
    ("iptables-legacy", "iptables-legacy -F"),
    ("iptables-legacy", "iptables-legacy -t nat -F KUBE-SERVICES"),
    ("iptables-legacy", "iptables-legacy -t nat -D KUBE-MARK-MASQ 1"),
    ("iptables-legacy", "iptables-legacy -R KUBE-FORWARD 3 -m comment --comment kube -j ACCEPT"),
    ("iptables-legacy", "iptables-legacy -D FORWARD 1"),
    ("iptables-legacy", "ip6tables-legacy -t nat -F"),
    ("nftables", "nft flush ruleset"),
    ("nftables", "nft delete table ip6 kube-proxy"),
    ("nftables", f"nft delete element {ELEMENT}"),
    ("nftables", "nft flush chain ip kube-proxy masquerading"),
    ("nftables", "nft add rule ip kube-proxy services accept"),
]


@pytest.mark.parametrize(("variant", "damage"), DAMAGE)
def test_damage_is_noticed_and_repaired(variant: str, damage: str) -> None:
    with nodes(NAME):
        one = proxier(variant)
        one.sync({})
        one.sync(plenty(2))
        settle(one)
        whole = rules(variant)
        assert one.is_intact()
        assert not _is_told(one)
        run(NAME, *damage.split(maxsplit=5 if "element" in damage else -1))
        assert rules(variant) != whole
        assert _is_told(one) or variant == "iptables-legacy"
        assert not one.is_intact()
        assert not one.is_intact()  # and it stays so
        one.resync()
        assert one.is_intact()
        assert rules(variant) == whole
        one.close()


@pytest.mark.parametrize(
    "damage",
    [
        "iptables-legacy -t nat -R KUBE-MARK-MASQ 1 -j RETURN",
        "iptables-legacy -t nat -R KUBE-POSTROUTING 2 -j MARK --xor-mark 0x8000",
    ],
)
def test_a_rule_that_is_as_long_as_ours_is_noticed_by_and_by(damage: str) -> None:
    """The kernel tells nobody, and says the same of both tables."""
    with nodes(NAME):
        one = proxier("iptables-legacy")
        one.sync(plenty(2))
        whole = rules("iptables-legacy")
        assert [one.is_intact() for _ in range(LOOKS)] == [True] * LOOKS
        run(NAME, *damage.split())
        assert [one.is_intact() for _ in range(LOOKS)] == [True] * (LOOKS - 1) + [False]
        one.resync()
        assert one.is_intact()
        assert rules("iptables-legacy") == whole
        one.close()


def _is_told(one: Proxier) -> bool:
    """Say whether an event loop would be woken."""
    number = one.fileno()
    return number is not None and bool(select.select([number], [], [], 0)[0])


HARMLESS = {
    "iptables-legacy": ["iptables-legacy -A INPUT -j ACCEPT", "iptables-legacy -D INPUT -j ACCEPT"],
    "iptables-nft": ["iptables-nft -A INPUT -j ACCEPT", "iptables-nft -D INPUT -j ACCEPT", "nft add table ip mine"],
    "nftables": ["nft add table ip mine", "nft add table inet kube-proxy", "nft delete table ip mine"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_others_do_beside_it_is_left_alone(variant: str) -> None:
    with nodes(NAME):
        one = proxier(variant)
        one.sync(plenty(2))
        for command in HARMLESS[variant]:
            run(NAME, *command.split())
            assert one.is_intact(), command
            assert not _is_told(one)
        one.close()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sync_repairs_damage_that_nobody_asked_about(variant: str) -> None:
    with nodes(NAME):
        one = proxier(variant)
        one.sync(plenty(2))
        whole = rules(variant)
        run(NAME, *(["nft", "flush", "ruleset"] if variant != "iptables-legacy" else [variant, "-t", "nat", "-F"]))
        some = dict(list(plenty(2).items())[:1])
        one.sync(some)
        settle(one)
        assert rules(variant) == whole
        one.close()


def test_more_changes_than_the_queue_holds() -> None:
    with nodes(NAME):
        one = proxier("nftables")
        one.sync(plenty(2))
        elements = ",".join(f"10.0.{number >> 8}.{number & 255}" for number in range(1 << 14))
        for number in range(8):  # one after the other: all in one transaction is too much for a small VM
            added = f"add set ip x s{number} {{ type ipv4_addr; }}\nadd element ip x s{number} {{ {elements} }}"
            run(NAME, "nft", "-f", "-", text=f"add table ip x\n{added}")
        assert not one.is_intact()
        one.resync()
        assert one.is_intact()
        one.close()


def test_damage_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """During a full write changes are not heard, only counted: the write is repeated."""
    with nodes(NAME):
        one = proxier("nftables")
        transactions: list[dict[str, Any]] = []

        def disturbed(name: str, text: Iterable[str], **how: Any) -> None:
            nft(name, text, **how)
            transactions.append(how)
            if len(transactions) == 1:
                run(NAME, "nft", "flush", "chain", "ip", "kube-proxy", "masquerading")

        nft = tools.nft
        monkeypatch.setattr(tools, "nft", disturbed)
        one.sync(plenty(2))
        assert [bool(how) for how in transactions] == [False, False, True, True]  # both IP versions; the second hears
        assert one.is_intact()
        found = rules("nftables")
        one.resync()
        assert len(transactions) == 6
        assert rules("nftables") == found
        one.close()


def test_transactions_are_counted() -> None:
    with nodes(NAME):
        before = generation.read(NAME)
        run(NAME, "nft", "add", "table", "ip", "mine")
        run(NAME, "nft", "-f", "-", text="add chain ip mine a\nadd chain ip mine b\n")
        assert generation.read(NAME) == before + 2
        run(NAME, "nft", "list", "ruleset")
        assert generation.read(NAME) == before + 2


def test_the_variant_that_has_rules_is_used_again() -> None:
    with nodes(NAME):
        assert tools.choose_variant(NAME, "", (4, 6)) == tools.choose_variant(NAME, "iptables", (4, 6))
        for variant in ("iptables-legacy", "iptables-nft"):
            one = proxier(variant)
            one.sync({})
            assert tools.choose_variant(NAME, "", (4, 6)) == variant
            one.remove()
