"""A test for a trial of the tier: it never ends."""

import time


def test_the_end() -> None:
    time.sleep(10_000)
