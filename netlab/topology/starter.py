"""The topology file that `netlab init` writes."""

from __future__ import annotations

from pathlib import Path


def starter() -> str:
    """Return a commented topology file that can be brought up as it is."""
    return Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8")
