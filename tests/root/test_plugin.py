"""The pytest plugin, used as its users use it."""

from __future__ import annotations

import pytest

from netlab import Lab

pytestmark = pytest.mark.root

TWO = """\
name: two
nodes: 2
pods: 2
"""


@pytest.mark.netlab(TWO)
def test_lab_is_up_for_the_test(lab: Lab) -> None:
    assert lab.exec("p-1", ["ping", "-c1", "-W2", lab.address("p-2")]).returncode == 0


@pytest.mark.netlab("topologies/vxlan-2.yaml")
def test_lab_of_a_file(lab: Lab) -> None:
    assert lab.status().drift == ()
