"""kube-ipvs0 on this kernel, a dummy or what stands in for it; and what is said where IPVS is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from netlab.errors import NotSupported
from netlab.kernel import features, netns
from netlab.proxy.ipvs import IpvsProxier
from netlab.proxy.ipvs_device import DEVICE, Device
from netlab.proxy.proxier import NodeTarget
from tests.root.proxy_nodes import run
from tests.unit.service_ports import NODE, NODE6, WEB

pytestmark = pytest.mark.root

NAME = "nl-ipvs-device"
V4, OTHER, V6 = ip_address("10.96.0.50"), ip_address("10.96.0.51"), ip_address("fd00:96::50")


@pytest.fixture
def device() -> Iterator[Device]:
    netns.create([NAME], lambda _: None)
    try:
        with closing(Device(NAME)) as found:
            yield found
    finally:
        netns.remove([NAME])


def test_addresses_are_local_although_the_device_is_down(device: Device) -> None:
    device.ensure()
    device.ensure()
    shown = run(NAME, "ip", "link", "show", DEVICE)
    assert "NOARP" in shown
    assert "UP" not in shown.split(">")[0]
    device.change([V4, OTHER, V6], [])
    device.change([V4], [OTHER])  # again
    device.change([], [OTHER])
    assert (device.addresses(4), device.addresses(6)) == ({V4}, {V6})
    assert re.findall(r"inet6? (\S+)", run(NAME, "ip", "address", "show", DEVICE)) == [
        "10.96.0.50/32",
        "fd00:96::50/128",
    ]
    for address in (V4, V6):
        assert run(NAME, "ip", "route", "get", str(address)).startswith("local")


def test_a_new_process_finds_the_device_of_an_old_one(device: Device) -> None:
    device.ensure()
    device.change([V4], [])
    with closing(Device(NAME)) as other:
        other.ensure()
        assert other.addresses(4) == {V4}
        other.remove()
    assert DEVICE not in run(NAME, "ip", "link")
    device.remove()


def test_a_kernel_without_ipvs_is_named_and_what_to_do(device: Device) -> None:
    try:
        features.require("ipvs", "this test")
    except NotSupported:
        proxier = IpvsProxier(NodeTarget(NAME, "n1", (NODE, NODE6)))
        with pytest.raises(NotSupported) as caught, closing(proxier):
            proxier.sync({WEB.key: WEB})
        assert "packet filter ipvs" in str(caught.value)
        assert "proxy ipvs needs it" in str(caught.value)
        assert "modprobe ip_vs" in caught.value.hint
        assert DEVICE not in run(NAME, "ip", "link")
    else:
        pytest.skip("this kernel has ipvs")
