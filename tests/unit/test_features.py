"""What can be said about features without a kernel."""

from __future__ import annotations

import pytest

from netlab.kernel import feature_probes as probes
from netlab.kernel import features

MODULES = """\
kernel/net/ipv4/ipip.ko.xz: kernel/net/ipv4/tunnel4.ko.xz kernel/net/ipv4/ip_tunnel.ko.xz
kernel/net/ipv4/ip_tunnel.ko.zst:
kernel/drivers/net/dummy.ko:
"""


@pytest.mark.parametrize(
    ("module", "installed"),
    [("ipip", True), ("ip_tunnel", True), ("dummy", True), ("tunnel4", False), ("ip", False), ("tunnel", False)],
)
def test_installed_modules_whatever_their_compression(module: str, installed: bool) -> None:
    assert probes.has_module(MODULES, module) is installed


def test_module_that_is_not_loaded_is_not_tried() -> None:
    def loading() -> probes.Finding:
        raise AssertionError("the probe would have loaded the module")

    remark = " (which adds tunl0)"
    finding = probes.unless_loading("ipip", loading, remark, is_unloaded=lambda module: module == "ipip")()
    assert finding == (True, "module ipip, loaded on first use (which adds tunl0)", "")


def test_module_that_is_loaded_or_not_installed_is_tried() -> None:
    tried = probes.Finding(False, "tried")
    assert probes.unless_loading("vxlan", lambda: tried, is_unloaded=lambda module: False)() == tried


def test_every_feature_has_one_name_and_says_how_to_get_it() -> None:
    rows = features._table()
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.needed_by and row.how_to_get for row in rows)


def test_every_kind_has_features() -> None:
    assert {row.kind for row in features._table()} == set(features.Kind)
