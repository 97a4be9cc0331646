"""A test for a trial of the tier: it eats all memory."""


def test_the_end() -> None:
    assert [b"x" * 200_000_000 for _ in range(20)]
