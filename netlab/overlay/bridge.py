"""No overlay at all: pods reach the pods of their own node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netlab.overlay.backend import Share, Site
from netlab.store.store import Lease
from netlab.topology.model import BridgeBackend


@dataclass(frozen=True, slots=True)
class BridgeOverlay:
    """flannel's `alloc`: a lease and nothing else."""

    options: BridgeBackend
    overhead: int = 0

    def pod_mtu(self, link_mtu: int) -> int:
        """Return the link's MTU: nothing is added."""
        return link_mtu

    def share(self, site: Site, peers: Iterable[Lease]) -> Share:
        """Return nothing: there is no way to other nodes."""
        return Share(frozenset())
