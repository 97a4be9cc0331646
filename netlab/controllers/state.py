"""What controllers know of a pod that exists."""

from __future__ import annotations

from dataclasses import dataclass

from netlab.topology.addresses import Address
from netlab.topology.pod import Pod

Key = tuple[str, str]  # namespace and name, of a Service or a pod


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod that was made and is not gone yet. Times are in seconds, of one monotonic clock.

    `addresses` are the pod's, one per family: its node's for one with hostNetwork, none before it has any. `ready` is
    the pod's own condition, which stays true while a pod that is `terminating` still answers.
    """

    pod: Pod
    addresses: tuple[Address, ...] = ()
    ready: bool = False
    terminating: bool = False
    ready_since: float | None = None
    created: float = 0.0

    @property
    def key(self) -> Key:
        """Return what names it in the cluster."""
        return self.pod.namespace, self.pod.name

    def unavailable_for(self, min_ready: float, now: float) -> float | None:
        """Return the seconds until it counts as available: 0 for now, None while it is not ready or is ending."""
        if not self.ready or self.terminating:
            return None
        since = now if self.ready_since is None else self.ready_since
        return max(0.0, since + min_ready - now)
