"""Log files that stay small: one older generation is kept beside each."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = 10 * 1024 * 1024  # bytes; kubelet's containerLogMaxSize


def append(path: Path, output: bytes) -> None:
    """Add output to a log and rotate it when it has grown to the limit. What cannot be written is lost."""
    try:
        size = _write(path, output)
        if size >= LIMIT:
            os.replace(path, older(path))
    except OSError:
        return  # a full disk or a folder that is gone must not stop a container


def older(path: Path) -> Path:
    """Return where a log's older generation is kept."""
    return path.with_name(f"{path.name}.1")


def _write(path: Path, output: bytes) -> int:
    """Append, and return the size that the file has then."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, output)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)
