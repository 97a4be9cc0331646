"""A test for a trial of the tier: it ends the guest's kernel."""

from pathlib import Path


def test_before() -> None:
    pass


def test_the_end() -> None:
    Path("/proc/sysrq-trigger").write_text("c")
