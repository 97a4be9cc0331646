"""What may be asked as soon as `netlab up` has returned: servers that have started, and those that never will."""

from __future__ import annotations

import time

import pytest

from tests.root.service_lab import CLOSED, DROPPED, REFUSED, running

pytestmark = pytest.mark.root

MANY = 40  # so that the last server starts long after the first

TOPOLOGY = """
nodes: 2
pods:
- name: web
  replicas: {pods}
  labels: {{app: web}}
  containers: [{{name: echo, ports: [8080], {more}}}]
- {{name: client, node: n1}}
services: [{{name: web, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}]
"""


@pytest.mark.parametrize("more", ["", "readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 300}"])
def test_all_servers_are_ready_when_up_returns(more: str) -> None:
    with running(TOPOLOGY.format(pods=MANY, more=more), "first") as lab:
        assert {lab.get("pods", f"web-{number}")["ready"] for number in range(1, MANY + 1)} == {"1/1"}
        assert lab.ask_often("client", lab.cluster_ip("web")) & {REFUSED, DROPPED, CLOSED} == set()


@pytest.mark.parametrize(
    "more",
    [
        "readinessProbe: {exec: {command: ['false']}, periodSeconds: 300}",
        "readinessProbe: {httpGet: {path: /ready, port: 8080}, initialDelaySeconds: 300}",
        "command: [netlab-echo, --port, 9/TCP]",
    ],
)
def test_nobody_waits_long_for_servers_that_do_not_become_ready(more: str) -> None:
    begin = time.monotonic()
    with running(TOPOLOGY.format(pods=1, more=more), "first") as lab:
        assert time.monotonic() - begin < 20.0  # seconds, in a slow VM too
        assert lab.ask("client", lab.cluster_ip("web")) == REFUSED
