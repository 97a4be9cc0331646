"""What `scripts/test-vagrant` decides: the box, the reading of a capture, the result page."""

from __future__ import annotations

import re
from pathlib import Path

from tests.vagrant import recipe, report, wire

ROOT = Path(__file__).parents[2]

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}  # or scapy asks for them by ARP


def test_the_box_holds_what_setup_would_install() -> None:
    setup = (ROOT / "scripts/setup").read_text()
    setup = re.sub(r"^\[[^\n]* = vm \].*?^\)", "", setup, flags=re.MULTILINE | re.DOTALL)  # a node starts no machines
    setup = re.sub(r"^if [^\n]* = readers \].*?^fi", "", setup, flags=re.MULTILINE | re.DOTALL)  # nor reads files
    found = re.findall(r"\[[\w-]+\]=([\w-]+)", setup) + re.findall(r"missing\+=\(([\w -]+)\)", setup)
    wanted = {package for words in found for package in words.split()}
    assert "iproute2" in wanted
    assert wanted <= set(recipe.WANTED_BY_SETUP)


def test_the_box_holds_what_pip_would_fetch_for_the_build_too() -> None:
    pyproject = {
        "build-system": {"requires": ["setuptools>=68"]},
        "project": {"dependencies": ["click"], "optional-dependencies": {"test": ["pytest"], "lint": ["ruff"]}},
    }
    assert recipe.requirements(pyproject) == ("click", "pytest", "ruff", "setuptools>=68", "wheel")


def test_packages_without_wheels_are_fetched_as_sources() -> None:
    wheels, sources = recipe.pip_argvs("python3", Path("x"), ["click>=8", "python-iptables>=1"])
    assert "click>=8" in wheels
    assert "python-iptables>=1" not in wheels
    assert sources[-1] == "python-iptables>=1"


def test_a_box_is_named_by_what_goes_into_it() -> None:
    assert recipe.key(["click"]) == recipe.key(["click"])
    assert recipe.key(["click"]) != recipe.key(["click>=8"])


def test_the_partition_table_fills_the_disk() -> None:
    sector = recipe.partition_table()
    start, count = (int.from_bytes(sector[446 + at : 450 + at], "little") for at in (8, 12))
    assert len(sector) == 512
    assert sector[-2:] == b"\x55\xaa"
    assert (start * 512, (start + count) * 512) == (recipe.PARTITION, recipe.DISK)


def test_only_the_tunnels_own_pings_count() -> None:
    from scapy.layers.inet import ICMP, IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    tunnel = wire.Tunnel(vni=77, port=4789, outer=("192.0.2.1", "192.0.2.2"), inner=("10.0.0.1", "10.0.0.2"))
    ping = IP(src="10.0.0.1", dst="10.0.0.2") / ICMP()
    outside = Ether(**MACS) / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=40000, dport=4789)
    back = (
        Ether(**MACS)
        / IP(src="192.0.2.2", dst="192.0.2.1")
        / UDP(sport=40000, dport=4789)
        / VXLAN(vni=77, flags=8)
        / Ether(**MACS)
    )
    reply = back / IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type="echo-reply")
    frames = [
        outside / VXLAN(vni=77, flags=8) / Ether(**MACS) / ping,
        outside / VXLAN(vni=78, flags=8) / Ether(**MACS) / ping,
        Ether(**MACS) / ping,
        reply,
    ]
    parsed = [Ether(bytes(frame)) for frame in frames]
    assert (wire.find_echoes(parsed, tunnel).requests, wire.find_echoes(parsed, tunnel).replies) == (1, 1)
    assert not wire.find_echoes(parsed[1:], tunnel).both_ways


def test_the_result_replaces_the_section_of_the_page_only(tmp_path: Path) -> None:
    found = report.Report(tmp_path / "report.json")
    found.versions["Vagrant"] = "2.3.4"
    with found.step("vagrant up"):
        pass
    found.check("a node pings another", True, "0% packet loss")
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.replace_section(page, report.section(found, "2030-01-02"))
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert "| a node pings another | ok | 0% packet loss |" in once
    assert report.replace_section(once, report.section(found, "2030-01-02")) == once
    report.replace_section((ROOT / "docs/vagrant.md").read_text(), "")


def test_a_result_without_checks_is_not_good(tmp_path: Path) -> None:
    assert not report.Report(tmp_path / "report.json").good


def test_a_result_is_the_same_outside_the_cell(tmp_path: Path) -> None:
    inside = report.Report(tmp_path / "report.json")
    with inside.step("vagrant up"):
        inside.check("a node pings another", False, "100% packet loss")
    outside = report.Report(tmp_path / "report.json")
    outside.load()
    assert outside == inside
    assert not outside.good
