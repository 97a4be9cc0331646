"""What a program expects of whoever starts it, and how a shell says that it could not."""

from __future__ import annotations

import signal

NOT_EXECUTABLE = 126  # exit statuses, POSIX.1-2017, 2.8.2
NOT_FOUND = 127
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # and ignored signals stay so across exec


def exit_status_of(refusal: OSError) -> int:
    """Return a shell's exit status for a program that could not be started."""
    return NOT_FOUND if isinstance(refusal, FileNotFoundError) else NOT_EXECUTABLE
