"""One forwarder after another on one TUN device, which outlives them: the next finds none of their settings."""

from __future__ import annotations

import pytest

from netlab.lab import Lab
from netlab.topology.model import ForwarderKind, UdpBackend
from tests.root.forwarders import wanted
from tests.root.tunnel_nodes import transfer

pytestmark = pytest.mark.root

SIZE = 1_000_000  # bytes


@pytest.mark.parametrize("before", [ForwarderKind.BATCHED, ForwarderKind.EBPF])
@pytest.mark.parametrize("after", [ForwarderKind.SIMPLE, ForwarderKind.BATCHED])
def test_tcp_goes_on_after_a_change_of_the_forwarder(before: ForwarderKind, after: ForwarderKind) -> None:
    """A device that still gives super-packets would give them to one that cannot cut them."""
    with Lab(wanted(UdpBackend(forwarder=before))):
        lab = Lab(wanted(UdpBackend(forwarder=after)))
        lab.up()
        transfer(lab.netns("p-1"), lab.netns("p-2"), lab.address("p-2"), SIZE)
