"""When to try again what failed. Pure: the owner has the clock."""

from __future__ import annotations

from types import TracebackType

PERIOD = 5.0  # seconds


class Retry:
    """Around work that may fail: `with retry: work()`; then ask it at times whether the work is due again."""

    def __init__(self) -> None:
        self.at: float | None = None  # when to ask
        self._failed = False

    def __enter__(self) -> None:
        self._failed = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = kind is not None
        if not self._failed:
            self.at = None

    def is_due(self, now: float) -> bool:
        """Say whether to try again now. The first asking after a failure starts the period."""
        due = self.at is not None and now >= self.at
        if self._failed and (due or self.at is None):
            self.at = now + PERIOD
        return due
