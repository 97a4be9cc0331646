"""flannel's own C proxy on one node and a forwarder of netlab's on the other: one wire format, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netlab.lab import Lab
from tests.bench import flannel, processes
from tests.bench.overlays import stop_forwarders
from tests.root.forwarders import KINDS, wanted, words
from tests.root.tunnel_nodes import ping, transfer
from tests.tier.report import OPTIONAL

pytestmark = pytest.mark.root

SIZE = 10_000_000  # bytes
LARGEST = 1472 - 28  # bytes of a ping's payload that make a packet as large as the tunnel's MTU


@pytest.fixture(scope="module")
def proxy() -> Path:
    try:
        return flannel.get_proxy()
    except flannel.MissingProxyError as exc:
        pytest.skip(f"{OPTIONAL}{exc}")


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest, proxy: Path) -> Iterator[Lab]:
    """Make a lab with netlab's forwarder on n1 and flannel's on n2, which is to n1's a process only."""
    with Lab(wanted()) as lab:
        told = dict(stop_forwarders(lab))
        ours, theirs = lab.netns("n1"), lab.netns("n2")
        peers = tuple(replace(peer, plain=True) for peer in told[ours].peers)
        config = replace(told[ours], forwarder=request.param.value, peers=peers)
        with flannel.running(proxy, [(theirs, told[theirs])]), processes.forwarder(ours, config) as ready:
            assert ready.said == words(request.param)
            yield lab


def test_packets_of_every_size_are_answered_both_ways(lab: Lab) -> None:
    one, two = (lab.netns(pod) for pod in ("p-1", "p-2"))
    for size in (0, 1, 56, LARGEST):
        assert ping(one, lab.address("p-2"), f"-s{size}")
        assert ping(two, lab.address("p-1"), f"-s{size}")


@pytest.mark.parametrize(("source", "target"), [("p-1", "p-2"), ("p-2", "p-1")])
def test_what_tcp_carries_arrives_as_it_was(lab: Lab, source: str, target: str) -> None:
    transfer(lab.netns(source), lab.netns(target), lab.address(target), SIZE)
