"""scripts/test-vm itself, on a small suite with every kind of ending."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tier.report import Outcome, read
from tests.vm.conftest import processes_of
from tests.waiting import until

SUITE = Path("tests/tier/trial")  # never collected: their names do not begin with test_


def tier(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.tier", "--results", str(tmp_path / "results"), *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcomes(tmp_path: Path) -> list[tuple[str, Outcome]]:
    found = {}
    for file in sorted((tmp_path / "results").glob("vm*.xml")):
        found |= read(file.read_text())
    return sorted((key.rpartition("::")[2], outcome) for key, outcome in found.items())


def test_shares_are_run_and_brought_back(tmp_path: Path, runtime: Path) -> None:
    process = tier(tmp_path, "-n", "2", str(SUITE / "mixed.py"))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert output.rstrip().endswith("VM tier:\n3 passed, 1 failed, 1 skipped")
    assert sorted(outcome for _, outcome in outcomes(tmp_path)) == ["failed", "passed", "passed", "passed", "skipped"]
    (failed,) = (tmp_path / "results").glob("*.out")
    assert "assert 1 == 2" in failed.read_text()
    assert failed.with_suffix(".console").exists()


def test_what_failed_has_a_second_try(tmp_path: Path, runtime: Path) -> None:
    process = tier(tmp_path, "-n", "1", "--again", str(SUITE / "mixed.py"), str(SUITE / "noisy.py"))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "failed, and passed alone: tests.tier.trial.noisy::test_noisy" in output
    assert output.rstrip().endswith("VM tier:\n4 passed, 1 failed, 1 skipped")


@pytest.mark.parametrize(
    ("name", "why", "limit"),
    [
        ("panic.py", "the guest's kernel panicked: sysrq triggered crash", 200),
        ("hungry.py", "its memory ran out: python3 killed", 200),
        ("hanging.py", "not done after 60 s", 60),
    ],
)
def test_a_test_that_ends_the_run_is_named(tmp_path: Path, runtime: Path, name: str, why: str, limit: int) -> None:
    process = tier(tmp_path, "-n", "1", "--memory", "600", "--limit", str(limit), str(SUITE / name))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert why in output, output
    assert f"{name}::test_the_end" in output
    assert ("test_the_end", Outcome.FAILED) in outcomes(tmp_path)
    assert (tmp_path / "results/vm1.console").stat().st_size > 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_run_that_is_ended(tmp_path: Path, runtime: Path, number: signal.Signals) -> None:
    process = tier(tmp_path, "-n", "1", str(SUITE / "hanging.py"))
    assert process.stdout
    for line in process.stdout:
        if "collected" in line:
            break
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), rest
    until(lambda: not processes_of(runtime))
