"""Ways to carry pods' packets between nodes. `OVERLAYS` is the whole list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from netlab.overlay.backend import Overlay
from netlab.overlay.bridge import BridgeOverlay
from netlab.overlay.hostgw import HostGwOverlay
from netlab.overlay.ipip import IpipOverlay
from netlab.overlay.udp import UdpOverlay
from netlab.overlay.vxlan import VxlanOverlay
from netlab.topology.model import Backend

OVERLAYS: Mapping[str, Callable[[Any], Overlay]] = {
    "bridge": BridgeOverlay,
    "vxlan": VxlanOverlay,
    "host-gw": HostGwOverlay,
    "ipip": IpipOverlay,
    "udp": UdpOverlay,
}


def overlay_of(backend: Backend) -> Overlay:
    """Return the overlay that a topology's backend asks for."""
    return OVERLAYS[backend.type](backend)
