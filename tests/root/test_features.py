"""Features on this kernel: what the probes say agrees with iproute2, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netlab import names
from netlab.cli import doctor as command
from netlab.doctor import NOT_THE_KERNELS, compare, judge
from netlab.errors import NotSupported
from netlab.kernel import features, netns
from netlab.kernel.features import Kind
from tests.users import User, can_play_users, new_user

pytestmark = pytest.mark.root

DOCTOR = ("-c", "import sys; sys.argv = ['netlab', 'doctor', '-o', 'json']; from netlab.cli.main import main; main()")
MAKE = {  # how iproute2 makes one of each; `p` and `q` are a cable that is there already
    "veth": ["type veth peer name y"],
    "bridge": ["type bridge"],
    "vxlan": ["type vxlan id 1 dstport 8472"],
    "wireguard": ["type wireguard"],
    "vlan": ["link p type vlan id 7"],
    "vrf": ["type vrf table 10"],
}


@pytest.fixture
def user() -> Iterator[User]:
    if not can_play_users():
        pytest.skip("only a full root can play another user")
    with new_user() as found:
        yield found


def _ip_can(words: list[str]) -> bool:
    """Say whether `ip link add` makes such an interface in a fresh namespace."""
    lines = f"link add p type veth peer name q\nlink add name x {' '.join(words)}\n"
    ran = netns.call_anonymous(
        lambda: subprocess.run(["ip", "-batch", "-"], input=lines, text=True, capture_output=True, check=False)
    )
    return ran.returncode == 0


@pytest.fixture(scope="module")
def found() -> dict[str, features.Feature]:
    return {feature.name: feature for feature in features.probe()}


@pytest.mark.parametrize("name", MAKE)
def test_link_types_agree_with_iproute2(found: dict[str, features.Feature], name: str) -> None:
    assert found[name].available == _ip_can(MAKE[name])


def test_root_with_a_network_has_the_basics(found: dict[str, features.Feature]) -> None:
    for name in ("network namespaces", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "veth", "bridge"):
        assert found[name].available, found[name]


def test_packet_filters_agree_with_their_programs(found: dict[str, features.Feature]) -> None:
    rules = "*nat\n-A POSTROUTING -m comment --comment x -m mark --mark 1 -j MASQUERADE\nCOMMIT\n"
    ran = netns.call_anonymous(
        lambda: subprocess.run(["iptables-restore"], input=rules, text=True, capture_output=True, check=False)
    )
    expected = {"iptables", "comment", "mark"}
    assert (expected <= {name for name in expected if found[name].available}) == (ran.returncode == 0)


def test_probing_leaves_nothing_behind(found: dict[str, features.Feature]) -> None:
    before = _host()
    assert features.probe()
    assert _host() == before


def _host() -> tuple[str, list[str], int]:
    shown = [["ip", "-d", "link"], ["ip", "-br", "addr"], ["ip", "route", "show", "table", "all"], ["ip", "rule"]]
    network = "".join(subprocess.run(argv, capture_output=True, text=True, check=True).stdout for argv in shown)
    return network, netns.names(names.PREFIX), len(os.listdir("/proc/self/fd"))


def test_probes_of_one_kind_only() -> None:
    assert {feature.kind for feature in features.probe([Kind.QDISC])} == {Kind.QDISC}


def test_require_is_silent_about_what_is_there_and_explains_what_is_not(found: dict[str, features.Feature]) -> None:
    for feature in found.values():
        if feature.available:
            features.require(feature.name, "this test")
        else:
            with pytest.raises(NotSupported) as caught:
                features.require(feature.name, "this test")
            assert caught.value.exit_status == 3
            assert caught.value.hint == feature.how_to_get
            assert "this test needs it" in caught.value.message


def test_doctor_as_root() -> None:
    ran = subprocess.run([sys.executable, *DOCTOR], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["ready"], report["untried"]) == (True, "")
    assert {"ipip", "tun", "netem", "ipvs", "br_netfilter"} <= {feature["name"] for feature in report["features"]}


def test_doctor_without_root_tries_in_namespaces_of_its_own(user: User) -> None:
    process = user.start(*DOCTOR)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    report = json.loads(out)
    available = {feature["name"] for feature in report["features"] if feature["available"]}
    assert report["rootless"]
    assert {"veth", "bridge", "user namespaces", "program ip"} <= available
    assert not available & {"root", "ebpf", "tracefs"}
    assert list((user.home / "run").iterdir()) == []  # no keeper


def test_doctor_where_namespaces_are_forbidden(user: User) -> None:
    process = user.start(*DOCTOR, namespaces_forbidden=True)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    report = json.loads(out)
    assert not report["ready"]
    assert "user.max_user_namespaces" in report["untried"]
    assert "veth" not in {feature["name"] for feature in report["features"]}


def test_require_without_privilege_says_so(user: User) -> None:
    code = "from netlab.kernel import features\ntry: features.require('veth', 'x')\nexcept Exception as exc: print(exc)"
    out, err = user.start("-c", code).communicate(timeout=60)
    assert "make network namespaces" in out, err


def test_each_one_has_room_beside_a_guests(capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor --vm` says what a feature that only the guest has is good for."""
    found = features.probe(set(Kind).difference(NOT_THE_KERNELS))
    here, guest = (
        judge([replace(one, available=has) for one in found], rootless=False, untried="") for has in (False, True)
    )
    command._print_both(compare(here, guest), "6.1", "6.1")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > len(found)
    assert max(map(len, lines)) <= 80
