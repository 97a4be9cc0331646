"""Which endpoints a packet may go to on a node: kube-proxy's CategorizeEndpoints (facts.md 8.2, 8.3). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netlab.service.model import Endpoint, Policy, ServicePort


class Choice(NamedTuple):
    """The endpoints of a port as seen from one node, in order of address and port."""

    cluster: tuple[Endpoint, ...]  # for policy Cluster
    local: tuple[Endpoint, ...]  # for policy Local
    any: bool  # whether there is one at all: it tells DROP from REJECT

    def under(self, policy: Policy) -> tuple[Endpoint, ...]:
        """Return those that a traffic policy allows."""
        return self.local if policy is Policy.LOCAL else self.cluster


def choose(port: ServicePort, node: str) -> Choice:
    """Return the endpoints of a port for a node: the ready ones, or else those that still serve while they end."""
    cluster = _near(_usable(port.endpoints), node)
    local = _usable(endpoint for endpoint in port.endpoints if endpoint.node == node)
    return Choice(cluster, local, bool(cluster or local))


def _near(found: tuple[Endpoint, ...], node: str) -> tuple[Endpoint, ...]:
    """Return the endpoints that are meant for a node, where every one is for some and one for this; else all."""
    if not all(endpoint.node_hints and endpoint.ready for endpoint in found):
        return found
    return tuple(endpoint for endpoint in found if node in endpoint.node_hints) or found


def _usable(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return each address and port once, in order: two EndpointSlices may name one while it moves (facts.md 8.1)."""
    best: dict[tuple[int, int], Endpoint] = {}
    for endpoint in endpoints:
        place = int(endpoint.address), endpoint.port
        other = best.get(place)
        if other is None or (endpoint.ready, endpoint.serving) >= (other.ready, other.serving):
            best[place] = endpoint
    found = [best[place] for place in sorted(best)]
    ready = tuple([endpoint for endpoint in found if endpoint.ready])
    return ready or tuple(endpoint for endpoint in found if endpoint.serving and endpoint.terminating)
