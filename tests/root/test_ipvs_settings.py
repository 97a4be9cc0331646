"""kube-proxy's settings of mode ipvs, from the topology file to the kernel."""

from __future__ import annotations

import pytest

from netlab.lab import Lab
from tests.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("ipvs")]

TOPOLOGY = """
nodes: 1
proxy: ipvs
ipvs: {scheduler: %s, strictARP: %s}
"""


def schedulers(lab: Lab) -> set[str]:
    """Return what the node's virtual servers choose by."""
    lines = lab.exec("n1", ["ipvsadm", "-Sn"]).stdout.splitlines()
    return {line.split(" -s ")[1].split()[0] for line in lines if " -s " in line}


def strict_arp(lab: Lab) -> list[str]:
    names = [f"net.ipv4.conf.all.{name}" for name in ("arp_ignore", "arp_announce")]
    return lab.exec("n1", ["sysctl", "-n", *names]).stdout.split()


def test_the_scheduler_and_strict_arp_are_the_files() -> None:
    with Lab.loads(TOPOLOGY % ("wrr", "false"), name="ipvsset") as lab:
        until(lambda: schedulers(lab) == {"wrr"})
        assert strict_arp(lab) == ["0", "0"]
        Lab.loads(TOPOLOGY % ("sh", "true"), name="ipvsset").up()
        until(lambda: schedulers(lab) == {"sh"})
        assert strict_arp(lab) == ["1", "2"]
