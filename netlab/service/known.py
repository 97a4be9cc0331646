"""What a lab knows of a Service by itself, so that nobody must guess it from rules."""

from __future__ import annotations

from dataclasses import dataclass

from netlab.service.model import ServicePort
from netlab.topology.model import Topology
from netlab.topology.service import Service


@dataclass(frozen=True, slots=True)
class Known:
    """What the control plane knows of a Service, or without one the topology.

    `service` is None where there is none of that name; `names` are namespace and name of every Service; `endpoints` are
    the addresses of those that are ready.
    """

    service: Service | None = None
    ports: tuple[ServicePort, ...] = ()
    endpoints: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()


def declared(topology: Topology, service: str, namespace: str) -> Known:
    """Return what a topology says of a Service."""
    held = {one.key: one for one in topology.services}
    return Known(held.get((namespace, service)), names=tuple(held))
