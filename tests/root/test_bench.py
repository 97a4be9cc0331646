"""`netlab bench` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netlab.found import labs
from tests.root.test_cli import netlab

pytestmark = pytest.mark.root


def test_pod_networks_are_compared(tmp_path: Path) -> None:
    done = netlab("bench", "--rounds", "1", "--seconds", "0.2", "simple", "vxlan", "-o", "json")
    assert done.returncode == 0, done.stderr
    simple, vxlan = json.loads(done.stdout)
    assert (simple["variant"], simple["ratio"], vxlan["variant"]) == ("simple", 1.0, "vxlan")
    assert 0 < simple["gigabits"] < vxlan["gigabits"]
    assert 0 < vxlan["round_trip"] < 1
    assert labs() == []


def test_another_variant_is_refused() -> None:
    done = netlab("bench", "wireguard")
    assert done.returncode == 2
    assert "there is no variant 'wireguard'" in done.stderr
    assert "there are simple, batched, ebpf, vxlan, host-gw" in done.stderr
