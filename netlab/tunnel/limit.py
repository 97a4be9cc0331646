"""A limit of how often something may happen: a token bucket. Pure: the caller holds the clock."""

from __future__ import annotations


class Limit:
    """At most `rate` times a second in the long run, and `burst` times at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = self._burst
        self._last = 0.0

    def allows(self, now: float) -> bool:
        """Say whether it may happen at `now` (seconds on any clock that does not go back), and count it if so."""
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
