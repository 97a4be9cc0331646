"""`up` is idempotent, changes only what differs, sees drift and repairs it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from netlab import names
from netlab.lab import Lab
from netlab.plan.diff import Action
from netlab.plan.drift import differences
from netlab.plan.objects import FdbEntry
from netlab.topology.model import HostGwBackend, Netfilter, Node, Pod, Topology, VxlanBackend
from tests.labs import topology

pytestmark = pytest.mark.root

NAME = "conv"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(topology(NAME)) as lab:
        yield lab


def ip(member: str, command: str) -> None:
    """Do something by hand in a member's namespace: one command, or several with "; " between them."""
    for one in command.split("; "):
        program, _, rest = one.partition(" ")
        subprocess.run([program, "-n", names.netns(NAME, member), *rest.split()], check=True)


def pings(lab: Lab, source: str = "p-1", target: str = "p-2") -> bool:
    return lab.exec(source, ["ping", "-c1", "-W1", lab.address(target)]).returncode == 0


def test_a_second_up_changes_nothing(lab: Lab) -> None:
    assert lab.up().ops == ()
    assert pings(lab)


DRIFTS: dict[str, tuple[str, str]] = {
    "n1: route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink: missing": ("n1", "ip route del 10.244.2.0/24"),
    "n1: address 10.244.1.1/24 on cni0: missing": ("n1", "ip addr del 10.244.1.1/24 dev cni0"),
    "n1: interface flannel.1: is down": ("n1", "ip link set flannel.1 down"),
    "n1: interface cni0: mtu is 1400, should be 1450": ("n1", "ip link set cni0 mtu 1400"),
    "p-1: interface eth0: mtu is 1300, should be 1450": ("p-1", "ip link set eth0 mtu 1300"),
    "p-1: interface eth0: missing": ("p-1", "ip link set eth0 down; ip link set eth0 name wan0"),
    "n1: interface flannel.1: missing": ("n1", "ip link del flannel.1"),
    "n1: interface cni0: missing": ("n1", "ip link del cni0"),
    "n1: neighbor 10.244.2.0 lladdr": ("n1", "ip neigh flush dev flannel.1 nud permanent"),
    "n1: FDB entry": ("n1", "bridge fdb del MAC dev flannel.1 dst 172.18.0.3 self"),
    "n1: interface eth0: is down": ("n1", "ip link set eth0 down"),
    "n1: interface eth0: missing": ("n1", "ip link set eth0 netns nl-conv.n2 name stolen"),
    "p-1: route 0.0.0.0/0 via 10.244.1.1 dev eth0: missing": ("p-1", "ip route replace blackhole default"),
    "p-1: interface lo: missing": ("p-1", "ip link set lo down"),
}


@pytest.mark.parametrize("said", DRIFTS)
def test_drift_is_reported_and_repaired(lab: Lab, said: str) -> None:
    member, command = DRIFTS[said]
    before = lab.status().state.objects
    if "MAC" in command:
        entries = (entry for entry in before[names.netns(NAME, "n1")] if isinstance(entry, FdbEntry))
        command = command.replace("MAC", next(entry.mac for entry in entries if str(entry.dst) == "172.18.0.3"))
    ip(member, command)
    found = [str(difference) for difference in differences(lab.status().drift)]
    assert any(line.startswith(said.partition(" via ")[0] if "blackhole" in command else said) for line in found), found
    lab.up()
    status = lab.status()
    assert status.drift == ()
    assert status.state.objects == before
    assert pings(lab)


def test_a_sysctl_and_a_rule_are_watched_too(lab: Lab) -> None:
    node = names.netns(NAME, "n1")
    for command in (
        "sysctl -q -w net.ipv4.ip_forward=0",
        "iptables -t nat -F FLANNEL-POSTRTG",
        "iptables -D FORWARD 1",
    ):
        subprocess.run(["ip", "netns", "exec", node, *command.split()], check=True)
    assert {str(difference) for difference in differences(lab.status().drift)} == {
        "n1: sysctl net/ipv4/ip_forward: value is 0, should be 1",
        "n1: iptables nat FLANNEL-POSTRTG: the rules were changed",
        "n1: iptables filter FLANNEL-FWD: the rules were changed",
    }
    assert len(lab.up().ops) == 3
    assert lab.status().drift == ()


def test_what_others_made_is_reported_and_left_alone(lab: Lab) -> None:
    ip("n1", "ip link add mine type bridge")
    ip("n1", "ip route add 198.51.100.0/24 dev cni0")
    assert lab.up().ops == ()
    foreign = lab.status().state.foreign[names.netns(NAME, "n1")]
    assert {entry.key for entry in foreign} == {("link", "mine"), ("route", "198.51.100.0/24")}


def add_pod(before: Topology) -> Topology:
    return replace(before, pods=(*before.pods, Pod("extra", "n2")))


def remove_node(before: Topology) -> Topology:
    pods = tuple(pod for pod in before.pods if pod.node != "n3")
    return replace(before, nodes=before.nodes[:2], pods=pods)


def add_node(before: Topology) -> Topology:
    return replace(before, nodes=(Node("n0", "underlay"), *before.nodes))  # in front: nobody may be renumbered


def switch_backend(before: Topology) -> Topology:
    return replace(before, backend=HostGwBackend())


def change_vni(before: Topology) -> Topology:
    return replace(before, backend=VxlanBackend(vni=42))


SERVER = """
import socket
listener = socket.create_server(("", 9))
print("listening", flush=True)
connection = listener.accept()[0]
while data := connection.recv(99):
    connection.sendall(data)
"""
CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 9))
while True:
    connection.sendall(input().encode())
    print(connection.recv(99).decode(), flush=True)
"""
EDITS = (add_pod, remove_node, add_node, change_vni, switch_backend)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_keeps_connections(lab: Lab, edit: Callable[[Topology], Topology]) -> None:
    """A TCP connection between two pods that stay carries data before and after."""
    processes = []
    try:
        processes.append(start("p-2", SERVER))
        assert read_line(processes[0]) == "listening"
        processes.append(start("p-1", CLIENT, lab.address("p-2")))
        assert echo(processes[1], "before") == "before"
        changed = Lab(edit(lab.topology))
        outcome = changed.up()
        assert outcome.ops
        assert changed.status().drift == ()
        assert echo(processes[1], "after") == "after"
        touched = {op.netns for op in outcome.ops if op.action in (Action.ADD_NETNS, Action.DELETE_NETNS)}
        assert not touched & {names.netns(NAME, name) for name in ("n1", "n2", "p-1", "p-2")}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def start(member: str, code: str, *arguments: str) -> subprocess.Popen[str]:
    argv = ["ip", "netns", "exec", names.netns(NAME, member), "python3", "-c", code, *arguments]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def echo(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdin
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return read_line(process)


def test_a_bridge_keeps_its_mtu_when_its_last_port_leaves(lab: Lab) -> None:
    """The kernel resets a bridge's MTU with its ports unless it was set after creation, to another value."""
    for pod in ("p-1", "p-4"):
        ip(pod, "ip link del eth0")
    assert not [d for d in differences(lab.status().drift) if "cni0" in str(d)]


def rules_of(member: str) -> str:
    """Return every rule in a member's namespace that is flannel's, by the tools' own listings."""
    listings = (["iptables-save"], ["nft", "list", "ruleset"])
    argvs = [["ip", "netns", "exec", names.netns(NAME, member), *argv] for argv in listings]
    outputs = [subprocess.run(argv, capture_output=True, text=True, check=True).stdout for argv in argvs]
    return "\n".join(line for output in outputs for line in output.splitlines() if "flannel" in line.lower())


def test_rules_that_are_not_wanted_any_more_go(lab: Lab) -> None:
    assert "FLANNEL-POSTRTG" in rules_of("n1")
    Lab(replace(lab.topology, ip_masq=False)).up()
    assert "FLANNEL-POSTRTG" not in rules_of("n1")
    assert "FLANNEL-FWD" in rules_of("n1")
    nftables = Lab(replace(lab.topology, netfilter=Netfilter.NFTABLES))
    nftables.up()
    assert "FLANNEL" not in rules_of("n1")
    assert "table ip flannel-ipv4" in rules_of("n1")
    assert nftables.up().ops == ()
    lab.up()
    assert "flannel-ipv4" not in rules_of("n1")
    assert "FLANNEL-POSTRTG" in rules_of("n1")
