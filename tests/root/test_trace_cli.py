"""`netlab trace` and `netlab explain` as typed: what they print, their exit status, what is wrong with a question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.lab import Lab
from netlab.paths import state_dir

pytestmark = pytest.mark.root

TOPOLOGY = """
proxy: iptables
nodes: 2
pods:
- {name: p, node: n1}
- {name: web, replicas: 2, labels: {app: web}, containers: [{name: echo, ports: [8080]}]}
services:
- {name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
- {name: peers, clusterIP: None, selector: {app: web}}
"""
STATE = state_dir()  # the module's lab is not in a test's own folder


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[Lab]:
    with Lab.loads(TOPOLOGY, name="tcli") as found:
        yield found


def netlab(*words: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns), "NETLAB_STATE": str(STATE)}
    return subprocess.run(
        [sys.executable, "-m", "netlab", *words, "-l", "tcli"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("p", "web-3"), 2, "has no member 'web-3'\n  hint: did you mean web-2 or web-1?"),
        (("pod/n1", "web-1"), 2, "has no pod 'n1'"),
        (("p", "svc/wbe"), 2, "there is no service 'wbe'\n  hint: did you mean web?"),
        (("p", "svc/web:81"), 2, "service web has no port '81'\n  hint: it has 80/TCP"),
        (("p", "svc/peers"), 2, "service peers has no cluster IP"),
        (("svc/web", "p"), 2, "service 'web' cannot send"),
        (("p", "web-1:x"), 2, "'x' is not a port's number"),
        (("p", "web-1:65536"), 2, "there is no port 65536"),
        (("p", "a/b"), 2, "'a/b' is not something to trace to or from"),
        (("p", "web-1:80", "--icmp"), 2, "an echo request has no port"),
        (("p", "web-1", "-6"), 2, "web-1 has no IPv6 address"),
    ],
)
def test_what_is_wrong_with_a_question(words: tuple[str, ...], status: int, said: str) -> None:
    for command in ("trace", "explain"):
        done = netlab(command, *words)
        assert done.returncode == status
        assert said in done.stderr


def test_the_exit_status_says_whether_it_arrived() -> None:
    for target, status in (("web-1", 0), ("svc/web", 0), ("203.0.113.99", 1), ("web-1:9", 1)):
        assert netlab("trace", "p", target).returncode == status, target
    assert netlab("explain", "p", "web-2").returncode == 0
    assert netlab("explain", "p", "198.51.100.1").returncode == 1


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    done = netlab("trace", "p", "svc/web", "--reply", columns=columns)
    lines = done.stdout.splitlines()
    assert len(lines) > 40
    assert [line for line in lines if len(line) > columns and " " in line.strip()] == []
    assert "\x1b" not in done.stdout


def test_layers_field_by_field() -> None:
    lines = netlab("trace", "p", "svc/web", "--detail").stdout.splitlines()
    first = next(place for place, line in enumerate(lines) if "| IP: version=4" in line)
    assert "| Ethernet: dst=" in lines[first - 1]
    assert any("| TCP: sport=" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_by_counters(lab: Lab) -> None:
    """The way is what the tables foretell; where it is lost nobody counts any more."""
    done = netlab("trace", "p", "web-2", "--by", "counters", "--json")
    found = json.loads(done.stdout)
    assert (found["verdict"], done.returncode) == ("answered", 0)
    assert "counted" in found["seenBy"]
    by_ebpf = json.loads(netlab("trace", "p", "web-2", "--json").stdout)
    places = [
        [(hop["member"], hop["device"], hop["event"]) for hop in one["ways"][0]["hops"]] for one in (found, by_ebpf)
    ]
    assert places[0] == places[1]
    rule = ["FORWARD", "-d", lab.address("web-2"), "-j", "DROP"]
    lab.exec("n1", ["iptables", "-I", *rule])
    try:
        done = netlab("trace", "p", "web-2", "--by", "counters", "--wait", "0.2")
    finally:
        lab.exec("n1", ["iptables", "-D", *rule])
    assert done.returncode == 1
    assert "it was last seen on n1, cni0, going in" in " ".join(done.stdout.split())


def test_several_probes_are_counted() -> None:
    *_, first, second, third = netlab("trace", "p", "svc/web", "--count", "24").stdout.splitlines()
    assert first == "24 probes: 24 answered"
    assert {second.split()[-2], third.split()[-2]} == {"web-1", "web-2"}
    assert int(second.split()[0]) + int(third.split()[0]) == 24


def test_json() -> None:
    found = json.loads(netlab("trace", "p", "svc/web", "--json").stdout)
    assert (found["format"], found["verdict"]) == (1, "answered")
    assert found["ways"][0]["hops"][0]["device"] == "eth0"
    assert len(json.loads(netlab("trace", "p", "web-1", "--count", "2", "-o", "json").stdout)) == 2


@pytest.mark.parametrize("option", ["--pcapng", "--html", "--svg"])
def test_files(option: str, tmp_path: Path) -> None:
    target = tmp_path / "trace"
    assert netlab("trace", "p", "svc/web", option, str(target)).returncode == 0
    assert target.stat().st_size > 1000
    done = netlab("trace", "p", "web-1", option, str(tmp_path / "none" / "trace"))
    assert done.returncode == 1
    assert f"cannot write {tmp_path}/none/trace: No such file or directory" in done.stderr
