"""What a killed control plane has left of another mode: it is found without a program, taken away, tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import pytest

from netlab.control import proxies
from netlab.control.modes import clear
from netlab.control.proxies import Proxies
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.proxy import leftovers, tools
from netlab.proxy.iptables import IptablesProxier
from netlab.proxy.proxier import NodeTarget
from netlab.topology.model import Proxy
from tests.root.proxy_nodes import NAME, VARIANTS, nodes, plenty, proxier, rules, run, target

pytestmark = pytest.mark.root

MODES = {"iptables-legacy": Proxy.IPTABLES, "iptables-nft": Proxy.IPTABLES, "nftables": Proxy.NFTABLES}
FOREIGN = "table inet kube-proxy {\n chain x { }\n}\ntable ip mine {\n chain KUBE-EXTERNAL-SERVICES { }\n}\n"


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with nodes(NAME):
        yield


def leave(variant: str) -> None:
    """Write rules as a process that is killed then."""
    with closing(proxier(variant)) as one:
        one.sync(plenty(2))


def others(variant: str) -> list[Proxy]:
    return [mode for mode in (Proxy.IPTABLES, Proxy.NFTABLES, Proxy.IPVS) if mode is not MODES[variant]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_mode_left_is_taken_away_for_another_and_kept_for_itself(variant: str) -> None:
    run(NAME, "nft", "-f", "-", text=FOREIGN)
    assert [leftovers.find(target(variant), mode) for mode in Proxy] == [[]] * len(Proxy)
    leave(variant)
    whole = rules(variant)
    clear(target(variant), MODES[variant])
    assert rules(variant) == whole
    for mode in others(variant):
        leave(variant)
        assert leftovers.find(target(variant), mode) == [MODES[variant]]
        clear(target(variant), mode)
        assert leftovers.find(target(variant), mode) == []
        assert "KUBE-SVC" not in str(rules(variant))
    assert "table inet kube-proxy" in run(NAME, "nft", "list", "tables")


def test_a_node_that_has_nothing_starts_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise AssertionError("a program was started")

    leave("nftables")
    monkeypatch.setattr(tools, "run", refuse)
    assert leftovers.find(target("nftables"), Proxy.NFTABLES) == []


def seen(variant: str, name: str = NAME) -> NodeTarget:
    found = target(variant)
    return NodeTarget(found.netns, found.name, found.nodes, found.options, netns.inode(name))


def play(scene: Callable[[Proxies], Awaitable[None]]) -> list[str]:
    """Run a scene with proxies for nodes, and return what they say."""
    said: list[str] = []

    async def played() -> None:
        all_ = Proxies(said.append)
        try:
            await scene(all_)
        finally:
            await all_.stop(keep=["n1"])

    asyncio.run(played())
    return said


async def awaited(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.01)


def test_another_modes_rules_go_before_the_first_are_written() -> None:
    leave("iptables-legacy")

    async def scene(all_: Proxies) -> None:
        all_.change(plenty(2))
        await all_.want({"n1": (seen("nftables"), Proxy.NFTABLES)})
        await all_.settled()
        assert "KUBE-" not in str(rules("iptables-legacy"))
        assert "service-ips" in str(rules("nftables"))
        assert all_.failures() == {}

    assert play(scene) == []


def test_what_cannot_be_taken_away_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The own rules are written all the same."""
    leave("iptables-legacy")
    monkeypatch.setattr(proxies, "RETRY", 0.1)
    remove = refuse_to_remove(monkeypatch)

    async def scene(all_: Proxies) -> None:
        await all_.want({"n1": (seen("nftables"), Proxy.NFTABLES)})
        await all_.settled()
        assert "service-ips" in str(rules("nftables"))
        assert all_.failures() == {"n1": "rules of another mode are left: held"}
        assert "KUBE-" in str(rules("iptables-legacy"))
        monkeypatch.setattr(IptablesProxier, "remove", remove)
        await awaited(lambda: all_.failures() == {})
        assert "KUBE-" not in str(rules("iptables-legacy"))
        assert "service-ips" in str(rules("nftables"))

    assert play(scene) == ["node n1: rules of another mode are left: held"]


def test_a_node_without_a_mode_loses_its_rules_as_soon_as_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "RETRY", 0.1)
    remove = refuse_to_remove(monkeypatch)

    async def scene(all_: Proxies) -> None:
        await all_.want({"n1": (seen("iptables-legacy"), Proxy.IPTABLES)})
        await all_.settled()
        await all_.want({})
        assert "KUBE-" in str(rules("iptables-legacy"))
        monkeypatch.setattr(IptablesProxier, "remove", remove)
        await awaited(lambda: "KUBE-" not in str(rules("iptables-legacy")))

    assert play(scene) == ["node n1: rules of mode iptables are left: held"]


def test_a_node_that_has_gone_is_let_go_of_in_silence() -> None:
    async def scene(all_: Proxies) -> None:
        await all_.want({"n1": (seen("iptables-legacy"), Proxy.IPTABLES)})
        await all_.settled()
        netns.remove([NAME])
        await all_.want({})

    assert play(scene) == []


def refuse_to_remove(monkeypatch: pytest.MonkeyPatch) -> Callable[[IptablesProxier], None]:
    """Have iptables hold its rules, and return what takes them away."""
    real = IptablesProxier.remove

    def refuse(_: IptablesProxier) -> None:
        raise NetlabError("held")

    monkeypatch.setattr(IptablesProxier, "remove", refuse)
    return real
