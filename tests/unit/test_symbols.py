"""Which function an address is in, by a list such as /proc/kallsyms."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.kernel.symbols import Symbols

CORE = """\
ffffffff81000000 T _stext
ffffffff81000100 t ip_rcv
ffffffff81000200 T __init_scratch_end
"""
MODULES = """\
ffffffffc0700100 t vxlan_xmit\t[vxlan]
ffffffffc0700000 t vxlan_rcv\t[vxlan]
ffffffffc0300000 t br_forward\t[bridge]
"""


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0xFFFFFFFF80000000, ""),
        (0xFFFFFFFF81000000, "_stext"),
        (0xFFFFFFFF810001FF, "ip_rcv"),
        (0xFFFFFFFFC0300010, "br_forward"),
        (0xFFFFFFFFC0700010, "vxlan_rcv"),
        (0xFFFFFFFFC0700110, "vxlan_xmit"),
    ],
)
def test_modules_are_in_no_order(tmp_path: Path, address: int, name: str) -> None:
    listed = tmp_path / "kallsyms"
    listed.write_text(CORE + MODULES)
    assert Symbols(listed).name(address) == name


@pytest.mark.parametrize("text", [None, "", "0000000000000000 T _stext\n0000000000000000 t ip_rcv\n"])
def test_a_kernel_that_does_not_tell(tmp_path: Path, text: str | None) -> None:
    listed = tmp_path / "kallsyms"
    if text is not None:
        listed.write_text(text)
    assert Symbols(listed).name(0xFFFFFFFF81000000) == ""


def test_a_kernel_without_modules(tmp_path: Path) -> None:
    listed = tmp_path / "kallsyms"
    listed.write_text(CORE)
    assert Symbols(listed).name(0xFFFFFFFF81000150) == "ip_rcv"
