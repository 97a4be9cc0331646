"""Which endpoints a packet may go to on a node (facts.md 8.2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netlab.service.choice import choose
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort


def endpoint(number: int, node: str = "n1", *, hints: tuple[str, ...] = (), **conditions: bool) -> Endpoint:
    return Endpoint(ip_address(f"10.244.1.{number}"), 80, node, **conditions, node_hints=hints)


def port(*endpoints: Endpoint) -> ServicePort:
    return ServicePort("default", "web", "", Protocol.TCP, ip_address("10.96.0.20"), 80, endpoints=endpoints)


HERE, THERE = endpoint(1), endpoint(2, "n2")
LEAVING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        ((), (), ()),
        ((THERE, HERE), (HERE, THERE), (HERE,)),
        ((THERE,), (THERE,), ()),
        ((HERE, endpoint(3, **LEAVING)), (HERE,), (HERE,)),
        ((THERE, endpoint(3, **LEAVING)), (THERE,), (endpoint(3, **LEAVING),)),
        ((endpoint(3, **LEAVING),), (endpoint(3, **LEAVING),), (endpoint(3, **LEAVING),)),
        ((endpoint(3, **GONE), endpoint(4, ready=False, serving=False)), (), ()),
        ((endpoint(1, **GONE), HERE, endpoint(1, **LEAVING)), (HERE,), (HERE,)),
    ],
    ids=["none", "ready", "elsewhere", "one leaves", "the local one leaves", "all leave", "not serving", "named twice"],
)
def test_the_ready_ones_or_else_those_that_still_serve(
    endpoints: tuple[Endpoint, ...], cluster: tuple[Endpoint, ...], local: tuple[Endpoint, ...]
) -> None:
    found = choose(port(*endpoints), "n1")
    assert (found.under(Policy.CLUSTER), found.under(Policy.LOCAL)) == (cluster, local)
    assert found.any == bool(cluster or local)


MINE, THEIRS, BOTH = (endpoint(i, "n2", hints=hints) for i, hints in enumerate((("n1",), ("n2",), ("n1", "n2")), 5))


@pytest.mark.parametrize(
    ("endpoints", "cluster"),
    [
        ((MINE, THEIRS), (MINE,)),
        ((MINE, THEIRS, BOTH), (MINE, BOTH)),
        ((THEIRS,), (THEIRS,)),
        ((MINE, THEIRS, THERE), (THERE, MINE, THEIRS)),
        ((MINE, THEIRS, endpoint(9, ready=False)), (MINE,)),
        ((endpoint(8, **LEAVING, hints=("n1",)), endpoint(9, **LEAVING, hints=("n2",))), (8, 9)),
    ],
    ids=["one", "two", "none is mine", "one is for all", "an unready one is for all", "ready ones only"],
)
def test_endpoints_meant_for_a_node(endpoints: tuple[Endpoint, ...], cluster: tuple[Endpoint | int, ...]) -> None:
    """Where each ready one is for some nodes and one for this (facts.md 8.3). Policy Local asks where they are."""
    found = choose(port(*endpoints), "n1")
    wanted = [ip_address(f"10.244.1.{one}") if isinstance(one, int) else one.address for one in cluster]
    assert [one.address for one in found.cluster] == wanted
    assert choose(port(MINE, replace(THEIRS, node="n1")), "n1").local == (replace(THEIRS, node="n1"),)
