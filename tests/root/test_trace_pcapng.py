"""A trace written for Wireshark, as tshark reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.found import labs
from netlab.kernel import netns
from netlab.lab import Lab, remove
from tests.root.ready import wait_until_ready

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark: scripts/setup readers installs it"),
]

FILE = """\
name: written
backend: vxlan
nodes: 2
pods: 2
proxy: none
"""
AS_ROOT = 'Running as user "root"'
FIELDS = ("frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "frame.comment", "frame.len")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    file = tmp_path / "written.yaml"
    file.write_text(FILE)
    found = Lab.load(str(file))
    found.up()
    wait_until_ready(netns.names("nl-written"))
    yield found
    for name in labs():
        remove(name)


def trace(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netlab", "trace", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def tshark(path: Path, *argv: str) -> list[str]:
    """Return what tshark says of a file, and fail if it says anything besides."""
    done = subprocess.run(["tshark", "-r", str(path), *argv], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if not line.startswith(AS_ROOT)] == []
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("by", ["ebpf", "sockets"])
def test_tshark_reads_interfaces_comments_and_times(tmp_path: Path, by: str) -> None:
    path = tmp_path / "trace.pcapng"
    done = trace("p-1", "p-2", "--by", by, "--size", "1000", "--pcapng", str(path))
    assert done.returncode == 0, done.stderr
    assert "answered" in done.stdout  # the tree is shown too
    selected = [word for field in FIELDS for word in ("-e", field)]
    rows = [line.split("\t") for line in tshark(path, "-T", "fields", *selected)]
    times = [float(row[0]) for row in rows]
    assert times == sorted(times)
    there = [row for row in rows if row[3].startswith("there, ")]
    places = [row[1] for row in there if not row[1].startswith(("n1/veth", "n2/veth"))]
    expected = ["p-1/eth0", "n1/cni0", "n1/flannel.1", "n1/eth0", "underlay/n1-eth0", "underlay/n2-eth0"]
    expected += ["n2/eth0", "n2/flannel.1", "n2/cni0", "p-2/eth0"]
    assert places[: len(expected)] == expected
    by_place = {row[1]: row for row in there}
    assert "ttl 64 -> 63" in by_place["n1/flannel.1"][3]
    assert "wrapped in VXLAN VNI 1" in by_place["n1/eth0"][3]
    assert by_place["n1/eth0"][4] == str(14 + 50 + 1000)  # of which 256 bytes were kept
    assert by_place["p-1/eth0"][2] == "0x00000002"
    assert any(row[3].startswith("back, ") for row in rows)


@pytest.mark.usefixtures("lab")
def test_a_file_that_cannot_be_written_is_said_after_the_answer() -> None:
    done = trace("p-1", "p-2", "--pcapng", "/nonexistent/x.pcapng")
    assert done.returncode == 1
    assert done.stderr == "netlab: cannot write /nonexistent/x.pcapng: No such file or directory\n"
    assert "answered" in done.stdout
