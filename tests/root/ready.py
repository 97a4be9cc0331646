"""Waiting until a network that was just made carries packets: the kernel finishes some of the work by itself, later.

A bridge forwards from a port once the port's carrier has been noticed, and an IPv6 address answers once its
solicited-node group is joined (RFC 4291 section 2.7.1). Both are done by work queues of the whole machine (linkwatch,
ipv6_addrconf): with big labs coming up beside a test that takes a while.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from netlab.kernel import netns

TENTATIVE = 0x40
PATIENCE = 20.0  # seconds
AT_ONCE = ("lo", "kube-ipvs0")  # whose addresses answer at once: the second is never up


def wait_until_ready(names: Iterable[str]) -> None:
    """Wait until every bridge port forwards and every IPv6 address answers in the given namespaces."""
    give_up = time.monotonic() + PATIENCE
    for name in names:
        while waiting := netns.call(name, _not_ready):
            assert time.monotonic() < give_up, f"{name}: {waiting} not ready yet"
            time.sleep(0.005)


def _not_ready() -> list[str]:
    """Return the bridge ports and addresses of this thread's namespace that are not in service yet."""
    shown = subprocess.run(["bridge", "-json", "link"], capture_output=True, text=True, check=True).stdout
    ports = [port["ifname"] for port in json.loads(shown or "[]") if port["state"] != "forwarding"]
    addresses = [line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines()]
    joined = {tuple(line.split()[1:3]) for line in Path("/proc/thread-self/net/igmp6").read_text().splitlines()}
    silent = [
        address
        for address, _, _, _, flags, device in addresses
        if device not in AT_ONCE
        and (int(flags, 16) & TENTATIVE or (device, "ff0200000000000000000001ff" + address[-6:]) not in joined)
    ]
    return ports + silent
