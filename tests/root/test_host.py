"""The host's own network reads the same before a lab, while it is up and carries traffic, and after it."""

from __future__ import annotations

import re
import subprocess

import pytest

from netlab.lab import Lab

pytestmark = pytest.mark.root

LISTINGS = [
    ["ip", "-d", "address"],
    ["ip", "route", "show", "table", "all"],
    ["ip", "-6", "route", "show", "table", "all"],
    ["ip", "rule"],
    ["ip", "netns", "list-id"],
    ["bridge", "fdb"],
    ["nft", "-s", "list", "ruleset"],
    ["iptables-save"],
    ["ip6tables-save"],
    ["sysctl", "-a", "-r", r"^net\.(ipv4|ipv6|bridge|core|netfilter)\."],
    ["cat", "/etc/hosts", "/etc/resolv.conf", "/proc/self/mountinfo"],
]
# counters and what the kernel changes by itself: conntrack's count, lifetimes, a reachable time that is drawn anew
VOLATILE = re.compile(
    r"(valid_lft|expires|nf_conntrack_count|base_reachable|random|^#|^:| /run/netns|nf_conntrack_buckets).*"
)


def host() -> dict[str, list[str]]:
    found = {}
    for argv in LISTINGS:
        output = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        found[" ".join(argv)] = [line for line in output.splitlines() if not VOLATILE.search(line)]
    return found


@pytest.mark.parametrize("file", ["vxlan-3", "dual-stack", "containers"])
def test_the_host_is_untouched(file: str) -> None:
    before = host()
    assert before["ip -d address"]
    with Lab.load(f"topologies/{file}.yaml") as lab:
        assert lab.check(wait=5.0).ok
        during = host()
    after = host()
    for listing, lines in before.items():
        assert during[listing] == lines, f"{listing} changed while the lab was up"
        assert after[listing] == lines, f"{listing} changed"
