"""A test that fails on a busy machine: here, the first time."""

from pathlib import Path

SEEN = Path("/run/noisy-test-was-here")


def test_noisy() -> None:
    """Pass from the second time on."""
    seen = SEEN.exists()
    SEEN.touch()
    assert seen
