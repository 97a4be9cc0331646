"""A container is not ready, nor asked whether it is, until its startup probe has succeeded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.root.service_lab import ServiceLab, running
from tests.waiting import until

pytestmark = pytest.mark.root

TOPOLOGY = """
nodes: 1
pods:
- name: web
  labels: {{app: web}}
  containers:
  - name: slow
    command: sleep inf
    startupProbe: {{exec: {{command: "echo x >> {folder}/asked; test -e {folder}/started"}}, periodSeconds: 1}}
- name: api
  labels: {{app: web}}
  containers:
  - name: slow
    command: sleep inf
    startupProbe: {{exec: {{command: "test -e {folder}/started"}}, periodSeconds: 1, failureThreshold: 1}}
    readinessProbe: {{exec: {{command: "echo x >> {folder}/ready; test -e {folder}/started"}}, periodSeconds: 1}}
services: {{web: {{selector: {{app: web}}, ports: [80]}}}}
"""


def ready(lab: ServiceLab) -> list[str]:
    return [lab.get("pods", name)["ready"] for name in ("web", "api")]


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_startup_goes_before_readiness(tmp_path: Path) -> None:
    with running(TOPOLOGY.format(folder=tmp_path), "startup") as lab:
        until(lambda: lines(tmp_path / "asked") >= 3)
        assert ready(lab) == ["0/1", "0/1"]
        assert not (tmp_path / "ready").exists()
        (tmp_path / "started").touch()
        until(lambda: ready(lab) == ["1/1", "1/1"])
        asked = lines(tmp_path / "asked")
        until(lambda: lines(tmp_path / "ready") >= 3)
        assert lines(tmp_path / "asked") == asked
        lab.wait_for_endpoints("web", 2)
