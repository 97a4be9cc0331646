"""JSON messages, one a line: what the keeper, its clients and the agents (`inside/agent.py`) speak."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]
LONGEST = 16 * 1024 * 1024  # bytes in a line; more is no message


def pack(message: Message) -> bytes:
    """Return a message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def to_text(content: bytes) -> str:
    """Return bytes as text that fits into a message."""
    return base64.b64encode(content).decode("ascii")


def to_bytes(text: str) -> bytes:
    """Return what `to_text` was given."""
    return base64.b64decode(text)


class Splitter:
    """Bytes in, whole messages out."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, received: bytes) -> Iterator[Message]:
        """Yield the messages that are complete now. Raises ValueError for a line that is none."""
        self._rest += received
        *lines, rest = self._rest.split(b"\n")
        self._rest = bytearray(rest)
        if len(rest) > LONGEST:
            raise ValueError(f"a line of more than {LONGEST} bytes")
        for line in lines:
            if line.strip():
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError(f"not a message: {line[:80]!r}")
                yield message
