"""A signal as something to wait for, beside the other descriptors of an event loop."""

from __future__ import annotations

import os
import signal


def wake_on(number: signal.Signals) -> int:
    """Return a descriptor that can be read after the signal. One signal in a process; reading never blocks."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(number, lambda _number, _frame: None)
    return reader
