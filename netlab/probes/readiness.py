"""What the outcomes of a readiness probe come to, and when the next one is due: kubelet's worker as a value. Pure.

A container with a readiness probe starts unready. Probes are due every period from its start on; those within the
initial delay are left out, so with a delay of 5 s and a period of 10 s the first one is due after 10 s
(kubernetes, pkg/kubelet/prober/worker.go). Times are seconds of one clock that never goes back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from netlab.topology.pod import Probe


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one probe went; the reason says why it failed, or what is strange about a success."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProbeState:
    """Where a container stands with its readiness probe. Make it with `started`."""

    probe: Probe
    start: float  # of the container
    next_due: float
    is_ready: bool = False
    last: Outcome | None = None
    run: int = 0  # how many outcomes like the last one came one after the other

    @classmethod
    def started(cls, probe: Probe, now: float) -> ProbeState:
        """Return the state of a container that starts, or starts again."""
        skipped = math.ceil(probe.initial_delay / probe.period)
        return cls(probe, now, now + skipped * probe.period)

    def after(self, outcome: Outcome, now: float) -> ProbeState:
        """Return the state after a probe that was due and ended at `now`; ticks that it missed are not made up for."""
        run = self.run + 1 if self.last is not None and self.last.ok == outcome.ok else 1
        threshold = self.probe.success_threshold if outcome.ok else self.probe.failure_threshold
        is_ready = outcome.ok if run >= threshold else self.is_ready
        return replace(self, next_due=self._tick_after(now), is_ready=is_ready, last=outcome, run=run)

    def is_due(self, now: float) -> bool:
        """Say whether the next probe should be made."""
        return now >= self.next_due

    def _tick_after(self, now: float) -> float:
        """Return the first tick after both the one that was due and `now`."""
        period = self.probe.period
        passed = math.floor((now - self.next_due) / period)
        tick = self.next_due + (max(0, passed) + 1) * period
        return tick if tick > now else tick + period  # the sum was rounded
