"""Service rules that the kernel holds, read back by each reader and put into words; `netlab svc` on a lab."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from netlab.explain import saved
from netlab.explain.model import Counters, Reading, Source, Tables
from netlab.explain.read import read
from netlab.explain.tree import tree
from netlab.kernel import netns
from netlab.lab import Lab
from netlab.service.model import Endpoint, ProxyNode, ServicePort
from netlab.topology.model import Proxy, Topology
from netlab.topology.service import Port, Service
from tests.labs import topology
from tests.unit.explained import GOLDEN, iptables_of, nft_text, only, restore_text, said, shares, spoken
from tests.unit.service_ports import FULL, NODE, NODE6, WEB
from tests.unit.test_explain import BALANCED, EMPTY
from tests.waiting import until

pytestmark = pytest.mark.root

V6 = replace(
    FULL,
    cluster_ip=IPv6Address("fd00:96::50"),
    load_balancer_ips=(IPv6Address("2001:db8::7"),),
    source_ranges=(IPv6Network("2001:db8:1::/64"),),
    endpoints=tuple(Endpoint(IPv6Address(f"fd00:244::{number}"), 8080, "n1") for number in (1, 2, 3)),
)


def run(argv: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program where this thread is."""
    environment = {**os.environ, **more}
    return subprocess.run(list(argv), capture_output=True, text=True, check=False, env=environment)


def load(tool: str, ports: Sequence[ServicePort], node: ProxyNode = NODE) -> None:
    argv = ["nft", "-f", "-"] if tool == "nft" else [tool, "--noflush"]
    text = nft_text(ports, node) if tool == "nft" else restore_text(ports, node)
    subprocess.run(argv, input=text, text=True, check=True)


def loaded(*tools: str, ports: Sequence[ServicePort] = (WEB,), node: ProxyNode = NODE) -> Reading:
    """Load rules into a fresh namespace and read them back."""

    def inside() -> Reading:
        for tool in tools:
            load(tool, ports, node)
        return read(run, [4, 6])

    return netns.call_anonymous(inside)


READERS = [
    ("iptables-legacy-restore", Source.LEGACY),
    ("iptables-nft-restore", Source.NFT_BACKED),
    ("nft", Source.NFTABLES),
]
each_reader = pytest.mark.parametrize(("tool", "source"), READERS, ids=["legacy", "nft-backed", "nftables"])


@each_reader
def test_what_was_loaded_is_what_is_said(tool: str, source: Source) -> None:
    """The kernel's listing says the same as the renderer's text, for a Service with everything and one with nothing."""
    reading = loaded(tool, ports=(BALANCED, EMPTY))
    (tables,) = reading.tables
    assert (tables.source, tables.version, reading.remarks) == (source, 4, ())
    if source is Source.NFTABLES:
        assert "rejected (has no endpoints)" in str(said(tables, name="none"))
        assert shares(spoken(tables)) == dict.fromkeys(("10.244.1.5:8080", "10.244.2.6:8080"), Fraction(1, 2))
        return
    for client in ("", "10.244.1.5", "10.244.7.7", "198.51.100.9"):
        assert said(tables, client) == said(iptables_of(BALANCED, EMPTY), client)
    assert said(tables, name="none") == said(iptables_of(EMPTY), name="none")


@each_reader
@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shares_are_exact(tool: str, source: Source, count: int) -> None:
    ends = tuple(Endpoint(IPv4Address("10.244.3.1") + number, 8080, "n1") for number in range(count))
    (tables,) = loaded(tool, ports=(replace(WEB, endpoints=ends),)).tables
    assert shares(spoken(tables)) == {str(endpoint): Fraction(1, count) for endpoint in ends}


@pytest.mark.parametrize("tool", ["ip6tables-legacy-restore", "ip6tables-nft-restore", "nft"])
def test_ipv6(tool: str) -> None:
    (tables,) = loaded(tool, ports=(V6,), node=NODE6).tables
    assert tables.version == 6
    assert shares(spoken(tables)) == {f"[fd00:244::{number}]:8080": Fraction(1, 3) for number in (1, 2, 3)}
    assert "fd00:244::1 is in fd00:244::/32: not masqueraded" in "\n".join(said(tables, "fd00:244::1"))


def test_python_iptables_reads_what_iptables_save_writes() -> None:
    def inside() -> tuple[Tables, str]:
        load("iptables-legacy-restore", (BALANCED, EMPTY))
        (tables,) = read(run, [4]).tables
        return tables, run(["iptables-legacy-save", "-c"]).stdout

    tables, text = netns.call_anonymous(inside)
    wanted = {place: rules for place, rules in saved.parse(text).items() if place[0] in ("nat", "filter")}
    assert tables.chains == wanted


def test_only_the_chains_of_one_service_are_read() -> None:
    """They are nearly all there is where a node has many Services; the words stay the same."""
    others = [replace(WEB, name=f"web-{number}", cluster_ip=IPv4Address("10.96.1.0") + number) for number in range(30)]

    def inside() -> list[Tables]:
        load("iptables-legacy-restore", (BALANCED, *others))
        return [read(run, [4], service).tables[0] for service in ("", "default/web")]

    every, own = netns.call_anonymous(inside)
    assert said(own) == said(every)
    assert only(own).chains == only(every).chains
    assert sum(map(len, own.chains.values())) == sum(map(len, every.chains.values())) - 30 * 7


def test_nft_still_lists_as_the_golden_says() -> None:
    """The unit tests read that file: `nft -j` of the same Services must be the same but for handles and version."""

    def inside() -> str:
        load("nft", (BALANCED, EMPTY))
        return run(["nft", "-j", "list", "table", "ip", "kube-proxy"]).stdout

    found, golden = (_bare(text) for text in (netns.call_anonymous(inside), GOLDEN.read_text()))
    assert found == golden


def _bare(text: str) -> list[str]:
    entries = [entry for entry in json.loads(text)["nftables"] if "metainfo" not in entry]
    return sorted(re.sub(r'"handle": \d+', "", _in_order(entry)) for entry in entries)


def _in_order(entry: dict[str, dict[str, object]]) -> str:
    """Return an entry as text; the kernel lists a map's elements in no order."""
    for body in entry.values():
        if "elem" in body:
            body["elem"] = sorted(body["elem"], key=json.dumps)  # type: ignore[call-overload]
    return json.dumps(entry, sort_keys=True)


def test_counters() -> None:
    def inside() -> Tables:
        load("iptables-legacy-restore", (WEB,))
        argv = "ip link set lo up; ip address add 10.96.0.50/32 dev lo; ping -c1 -W1 10.96.0.50"
        run(["sh", "-c", argv])
        run([sys.executable, "-c", SEND])
        return read(run, [4]).tables[0]

    tables = netns.call_anonymous(inside)
    entry = only(tables).steps[0][0]
    assert entry.counters is not None
    assert entry.counters.packets == 1
    assert all(isinstance(rule.counters, Counters) for rule in only(tables).rules)


SEND = """
import socket
s = socket.socket()
s.setblocking(False)
s.connect_ex(("10.96.0.50", 80))
"""


# --- changed by hand, mixed, missing ---------------------------------------------------------------------------------


def by_hand(tool: str, command: str) -> Tables:
    def inside() -> Tables:
        load(tool, (WEB,))
        done = run(shlex.split(command))
        assert not done.returncode, done.stderr
        return read(run, [4]).tables[0]

    return netns.call_anonymous(inside)


@pytest.mark.parametrize(("variant", "tool"), [("legacy", READERS[0][0]), ("nft", READERS[1][0])])
def test_a_rule_changed_by_hand_changes_the_words(variant: str, tool: str) -> None:
    chain = next(iter(only(iptables_of(WEB)).rules)).action.chain  # type: ignore[union-attr]
    target = next(place[1] for place in only(iptables_of(WEB)).chains if "SEP" in place[1])
    match = "-m statistic --mode random --probability 0.1"
    tables = by_hand(tool, f"iptables-{variant} -t nat -R {chain} 2 {match} -j {target}")
    assert sorted(shares(spoken(tables)).values()) == [Fraction(1, 10), Fraction(9, 10)]


def test_and_in_nftables_mode() -> None:
    (port,) = tree("default", "web", loaded("nft").tables[0])
    chain = next(name for _, name in port.chains if name.startswith("service-"))
    tables = by_hand("nft", f"nft insert rule ip kube-proxy {chain} ip saddr 10.244.1.2 drop")
    assert "10.244.1.2 is 10.244.1.2: dropped: the client hears nothing" in said(tables, "10.244.1.2")[2]


def test_both_kinds_at_once() -> None:
    reading = loaded(*(tool for tool, _ in READERS))
    assert [tables.source for tables in reading.tables] == [source for _, source in READERS]
    (remark,) = reading.remarks
    assert "legacy tables and nft-backed tables and kube-proxy's nftables table at once" in remark


def test_reading_makes_no_tables() -> None:
    """python-iptables makes a legacy table by opening it."""

    def inside() -> tuple[str, str]:
        load("iptables-nft-restore", (WEB,))
        before = run(["nft", "list", "ruleset"]).stdout
        read(run, [4, 6])
        assert run(["nft", "list", "ruleset"]).stdout == before
        return run(["cat", "/proc/net/ip_tables_names"]).stdout, run(["cat", "/proc/net/ip6_tables_names"]).stdout

    assert netns.call_anonymous(inside) == ("", "")


def test_without_libiptc_iptables_save_reads(tmp_path: Path) -> None:
    (tmp_path / "iptc.py").write_text("raise ImportError('libip4tc.so is not here')\n")

    def inside() -> Reading:
        load("iptables-legacy-restore", (WEB,))
        return read(lambda argv: run(argv, PYTHONPATH=str(tmp_path)), [4])

    reading = netns.call_anonymous(inside)
    assert [tables.source for tables in reading.tables] == [Source.LEGACY_SAVE]
    assert "libip4tc.so is not here; to have it: apt install" in reading.remarks[0]
    assert said(reading.tables[0]) == said(iptables_of(WEB))


# --- the commands ----------------------------------------------------------------------------------------------------


def netlab(*argv: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "netlab", *argv], COLUMNS="80")


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("explain", "wn"), "did you mean default/own?"),
    (("rules", "own", "--node", "n3"), "lab tsvc has no cluster node 'n3'"),
    (("explain", "own", "--from", "p-9"), "has no pod, node or machine 'p-9'"),
    (("rules", "own", "--node", "n2"), "there is no Service default/own on node n2"),
]


def lab_with_a_service() -> Topology:
    """Return a lab of two pods behind a Service; n2 is in nftables mode."""
    base = topology("tsvc", nodes=2, pods=2, proxy=Proxy.IPTABLES)
    service = Service("web", selector=(("app", "web"),), ports=(Port(80),))
    pods = tuple(replace(pod, labels=(("app", "web"),)) for pod in base.pods)
    nodes = (base.nodes[0], replace(base.nodes[1], proxy=Proxy.NFTABLES))
    return replace(base, services=(service,), pods=pods, nodes=nodes)


def balanced(argv: Sequence[str]) -> str:
    """Return what a command says as soon as both pods are behind the Service, in one line."""
    found = [""]

    def whole() -> bool:
        found[0] = " ".join(netlab("svc", *argv).stdout.split())
        return found[0].count("with probability 1/2 (50 %)") == 2

    until(whole, 20)
    return found[0]


def test_what_the_lab_makes_is_what_is_said() -> None:
    with Lab(lab_with_a_service()) as lab:
        own, other = (lab.addresses(pod)[0] for pod in ("p-1", "p-2"))
        said_of = {pod: balanced(["explain", "web", "--from", pod]) for pod in ("p-1", "p-2")}
        assert "IPv4, read by iptables-nft-save from the nft-backed tables" in said_of["p-1"]
        assert "IPv4, read by nft from kube-proxy's table" in said_of["p-2"]
        for pod, address, node in (("p-1", own, "n1"), ("p-2", other, "n2")):
            assert f"Service default/web on node {node} " in said_of[pod]
            assert f"{address} is in 10.244.0.0/16: not masqueraded" in said_of[pod]
            assert f"{address}:80, pod {pod} on {node}; itself (hairpin): masqueraded" in said_of[pod]


def test_the_commands_on_legacy_tables() -> None:
    with Lab(lab_with_a_service()) as lab:
        ends = tuple(Endpoint(lab.addresses(pod)[0], 80, "n1") for pod in ("p-1", "p-2"))
        node = replace(NODE, addresses=lab.addresses("n1"))
        service = replace(WEB, name="own", cluster_ip=IPv4Address("10.96.0.77"), endpoints=ends)
        lab.exec("n1", ["iptables-legacy-restore", "--noflush"], stdin=restore_text((service,), node))
        balanced(["explain", "web", "--node", "n2"])
        rules = netlab("svc", "rules", "own")
        assert rules.returncode == 0, rules.stderr
        assert "IPv4, read by python-iptables from the legacy tables" in rules.stdout
        assert "Service rules are in legacy tables and nft-backed tables" in " ".join(rules.stdout.split())
        assert re.search(r"^ +0 +0  to 10\.96\.0\.77:80/tcp -> KUBE-SVC-", rules.stdout, re.MULTILINE)
        assert max(map(len, rules.stdout.splitlines())) <= 80
        for argv, message in MISTAKES:
            done = netlab("svc", *argv)
            assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    done = netlab("svc", "rules", "own", "-l", "tsvc")
    assert (done.returncode, "there is no lab tsvc" in done.stderr) == (2, True)
