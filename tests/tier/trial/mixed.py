"""Tests for a trial of the tier: three pass, one fails, one skips."""

import os

import pytest


@pytest.mark.parametrize("number", [1, 2])
def test_in_a_vm(number: int) -> None:
    assert os.uname().nodename.startswith("vm")


def test_the_source_can_be_written(tmp_path: object) -> None:
    with open("/netlab/written", "w") as stream:
        stream.write("here")


def test_fails() -> None:
    assert 1 == 2  # noqa: PLR0133


@pytest.mark.skip(reason="a trial")
def test_skips() -> None:
    raise AssertionError
