"""A test for a trial of the tier: it takes more memory than there is, at once, so that nothing thrashes for long."""

import mmap


def test_the_end() -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    assert [mmap.mmap(-1, 500_000_000, flags=flags) for _ in range(8)]
