"""Settings of every unit test."""

from __future__ import annotations

from hypothesis import settings

# One example may take what it takes: machines differ, and an emulated one is ten times slower.
settings.register_profile("netlab", deadline=None)
settings.load_profile("netlab")
