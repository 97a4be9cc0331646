"""What a daemon says to the supervisor that has started it: that it is ready, or why it cannot be (`spec`)."""

from __future__ import annotations

import os
from contextlib import suppress

from netlab.supervisor.spec import FAILED, NOTIFY, READY

__all__ = ["FAILED", "READY", "tell"]


def tell(kind: bytes, words: str) -> None:
    """Say READY or FAILED, with words; nobody hears it from a daemon that was started by hand."""
    if NOTIFY in os.environ:
        with suppress(OSError):  # the supervisor has ended, and this process will
            os.write(int(os.environ[NOTIFY]), kind + words.encode())
