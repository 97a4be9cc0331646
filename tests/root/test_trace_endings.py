"""A trace that is ended in the middle leaves nothing that watches; what it has chosen is put back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netlab.kernel import netns
from netlab.lab import Lab
from tests.labs import topology
from tests.waiting import until

pytestmark = pytest.mark.root

SETTING = Path("/proc/sys/net/netfilter/nf_log/2")
NOBODY = "10.244.1.99"  # ARP asks for it for three seconds


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(topology("ends", nodes=1, pods=1)) as lab:
        yield lab


def setting(lab: Lab) -> str:
    return netns.call(lab.netns("n1"), SETTING.read_text)


def tables(lab: Lab) -> str:
    return lab.exec("n1", ["nft", "list", "tables"]).stdout


def left(lab: Lab) -> list[Path]:
    return list(lab.folder.path.glob("nf-log.*"))


@contextmanager
def tracing(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """Begin a trace that takes a while, and wait until it watches."""
    argv = [sys.executable, "-m", "netlab", "trace", "p-1", NOBODY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: "netlab_trace" in tables(lab) and left(lab))
        yield process


def test_killed(lab: Lab) -> None:
    before = setting(lab)
    with tracing(lab) as process:
        process.kill()
    until(lambda: "netlab_trace" not in tables(lab))
    done = subprocess.run([sys.executable, "-m", "netlab", "trace", "p-1", "n1"], capture_output=True, check=False)
    assert done.returncode == 0
    assert (setting(lab), left(lab)) == (before, [])


def test_interrupted(lab: Lab) -> None:
    before = setting(lab)
    with tracing(lab) as process:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in said[1]
    assert "netlab_trace" not in tables(lab)
    assert (setting(lab), left(lab)) == (before, [])
