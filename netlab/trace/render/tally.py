"""Several traces of one question in a few lines: how they ended, and at whom. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from netlab.trace.correlate import Role
from netlab.trace.model import Trace


def tally(traces: Sequence[Trace]) -> Iterator[str]:
    """Yield how many ended how, then where each kind ended, most first."""
    verdicts = Counter(str(trace.verdict) for trace in traces)
    yield f"{len(traces)} probes: {', '.join(f'{number} {verdict}' for verdict, number in verdicts.most_common())}"
    for (verdict, place), number in Counter((str(trace.verdict), _end(trace)) for trace in traces).most_common():
        yield f"  {number:4}  {verdict} at {place}"


def _end(trace: Trace) -> str:
    probe = next((way for way in trace.ways if way.role is Role.PROBE), None)
    return f"{probe.hops[-1].member} {probe.hops[-1].device}" if probe else "its sender"
