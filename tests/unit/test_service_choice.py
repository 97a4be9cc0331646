"""Which endpoints a packet may go to on a node (facts.md 8.2)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from netlab.service.choice import choose
from netlab.service.model import Endpoint, Policy, Protocol, ServicePort


def endpoint(number: int, node: str = "n1", **conditions: bool) -> Endpoint:
    return Endpoint(ip_address(f"10.244.1.{number}"), 80, node, **conditions)


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
