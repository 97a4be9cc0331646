"""Probes on the real kernel: two hosts on a switch, a third behind a router, and what can go wrong on the way.

a 10.99.1.1 ---+
b 10.99.1.2 ---+--- (switch) --- 10.99.1.254 router 10.99.2.254 --- c 10.99.2.1
                                 MTU 1500           MTU 1400
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from netlab.check.model import Answer, Member, Outcome, Probe
from netlab.errors import KernelError
from netlab.kernel import neighbors, netns, probe
from netlab.topology.model import CheckProtocol
from tests.root.ready import wait_until_ready

pytestmark = pytest.mark.root

PREFIX = f"nl-tq{os.getpid()}"
ROOMS = ("switch", "a", "b", "router", "c")
SHORT = 0.3  # seconds: where silence is what is expected
ADDRESSES = {
    "a": ("10.99.1.1", "fd99:1::1"),
    "b": ("10.99.1.2", "fd99:1::2"),
    "c": ("10.99.2.1", "fd99:2::1"),
}
CABLES = (("a", "eth0", "switch"), ("b", "eth0", "switch"), ("router", "eth0", "switch"))


def _name(room: str) -> str:
    return f"{PREFIX}.{room}"


def _run(room: str, *lines: str) -> None:
    batch = "\n".join(lines)
    subprocess.run(["ip", "-n", _name(room), "-batch", "-"], input=batch, text=True, check=True, capture_output=True)


def _nft(room: str, rules: str) -> None:
    netns.call(_name(room), lambda: subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True))


def _write(room: str, path: str, value: str) -> None:
    def inside() -> None:
        with open(f"/proc/sys/net/{path}", "w") as file:  # of the thread that opens it
            file.write(value)

    netns.call(_name(room), inside)


@pytest.fixture
def net() -> Iterator[None]:
    """Build the network of the module's docstring, in both IP versions, and take it away."""
    rooms = [_name(room) for room in ROOMS]
    try:
        netns.create(rooms, lambda name: None)
        for room in ROOMS:
            _write(room, "ipv6/conf/default/accept_dad", "0")  # as netlab does: addresses count at once
        _run("switch", "link add br0 type bridge", "link set br0 up")
        for room, interface, switch in CABLES:
            _run(switch, f"link add name to-{room} type veth peer name {interface} netns {_name(room)}")
            _run(switch, f"link set to-{room} master br0 up")
        _run("router", f"link add eth1 mtu 1400 type veth peer name eth0 mtu 1400 netns {_name('c')}")
        for room in ROOMS:
            _run(room, "link set lo up")
        for room, (ipv4, ipv6) in ADDRESSES.items():
            _run(room, "link set eth0 up", f"addr add {ipv4}/24 dev eth0", f"addr add {ipv6}/64 dev eth0 nodad")
        for interface, number in (("eth0", 1), ("eth1", 2)):
            ends = (
                f"addr add 10.99.{number}.254/24 dev {interface}",
                f"addr add fd99:{number}::fe/64 dev {interface} nodad",
            )
            _run("router", f"link set {interface} up", *ends)
        for room, number in (("a", 1), ("b", 1), ("c", 2)):
            _run(room, f"route add default via 10.99.{number}.254", f"route add default via fd99:{number}::fe")
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            _write("router", path, "1")
        wait_until_ready(rooms)
        yield
    finally:
        netns.remove(rooms)


def _member(room: str, *addresses: str) -> Member:
    found = tuple(ip_address(text) for text in addresses or ADDRESSES.get(room, ()))
    return Member(room, _name(room), room, _name(room), "", on_pod_network=False, addresses=found)


def _probe(source: str, target: str, **options: object) -> Probe:
    """Return a probe from a host to a host or an address."""
    if target in ADDRESSES:
        address = ip_address(ADDRESSES[target][1 if options.pop("v6", False) else 0])
    else:
        address = ip_address(target)
    return Probe(_member(source), _member(target, str(address)), address.version, address, **options)


def _ask(*probes: Probe, timeout: float = probe.TIMEOUT) -> list[Answer]:
    return probe.run(probes, timeout=timeout)


def _one(source: str, target: str, **options: object) -> Answer:
    return _ask(_probe(source, target, **options))[0]


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v6", [False, True])
def test_hosts_answer_on_a_switch_and_behind_a_router(net: None, v6: bool) -> None:
    pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "b"), ("a", "a")]
    answers = _ask(*(_probe(source, target, v6=v6) for source, target in pairs))
    assert [answer.outcome for answer in answers] == [Outcome.ANSWERED] * 5
    assert all(answer.seconds is not None and 0 <= answer.seconds < probe.TIMEOUT for answer in answers)


def test_each_of_many_answers_goes_to_its_own_question(net: None) -> None:
    """Some addresses answer and some do not: no answer may be booked for a neighbour."""
    _run("b", *(f"addr add 10.99.1.{last}/24 dev eth0" for last in range(100, 150, 2)))
    asked = [f"10.99.1.{last}" for last in range(100, 150)]
    answers = _ask(*(_probe("a", address) for address in asked), timeout=SHORT)
    answered = [address for address, answer in zip(asked, answers, strict=True) if answer.outcome is Outcome.ANSWERED]
    assert answered == asked[::2]


def test_two_checks_at_once_do_not_disturb_each_other(net: None) -> None:
    found: dict[str, list[Answer]] = {}

    def ask(target: str) -> None:
        found[target] = _ask(*[_probe("a", target)] * 300, timeout=SHORT)

    threads = [threading.Thread(target=ask, args=(target,)) for target in ("b", "10.99.1.77")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.outcome for answer in found["b"]} == {Outcome.ANSWERED}
    assert {answer.outcome for answer in found["10.99.1.77"]} == {Outcome.FAILED}


def test_silence_is_a_lost_packet_after_two_tries(net: None) -> None:
    _nft("b", "table ip t { chain c { type filter hook input priority 0; icmp type echo-request counter drop; }; }")
    lost = Answer(Outcome.FAILED, None, "no answer within 0.3 s, nor to a second packet")
    assert _ask(_probe("a", "b"), timeout=SHORT) == [lost]


def test_one_lost_packet_is_no_failure(net: None) -> None:
    first_only = "icmp type echo-request quota until 84 bytes drop"
    _nft("b", f"table ip t {{ chain c {{ type filter hook input priority 0; {first_only}; }}; }}")
    assert _one("a", "b").outcome is Outcome.ANSWERED


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("v6", "said"),
    [
        (False, "Frag needed and DF set, mtu=1400, said 10.99.1.254"),
        (True, "Packet too big, mtu=1400, said fd99:1::fe"),
    ],
)
def test_the_largest_packet_passes_and_one_byte_more_is_told_by_the_router(net: None, v6: bool, said: str) -> None:
    for _ in range(3):  # what the namespace has learned about the path makes no difference
        assert _one("a", "c", size=1400, v6=v6).outcome is Outcome.ANSWERED
        assert _one("a", "c", size=1401, v6=v6) == Answer(Outcome.TOO_BIG, None, said)


@pytest.mark.parametrize("v6", [False, True])
def test_a_repaired_path_is_seen_at_once(net: None, v6: bool) -> None:
    assert _one("a", "c", size=1450, v6=v6).outcome is Outcome.TOO_BIG
    _run("router", "link set eth1 mtu 1500")
    _run("c", "link set eth0 mtu 1500")
    assert _one("a", "c", size=1450, v6=v6).outcome is Outcome.ANSWERED


@pytest.mark.parametrize("v6", [False, True])
def test_a_packet_larger_than_the_own_link_names_its_mtu(net: None, v6: bool) -> None:
    _one("a", "c", size=1450, v6=v6)  # the namespace now knows a path MTU, which is not the link's
    assert _one("a", "c", size=1500, v6=v6).reason.startswith(("Frag needed", "Packet too big"))
    said = Answer(Outcome.TOO_BIG, None, "message too long, mtu=1500, said its own kernel")
    assert _one("a", "c", size=1501, v6=v6) == said
    assert _one("a", "b", size=65535, v6=v6) == said


@pytest.mark.parametrize("size", [28, 48, 84, 1500])
@pytest.mark.parametrize("v6", [False, True])
def test_sizes_within_the_link_are_answered(net: None, size: int, v6: bool) -> None:
    assert _one("a", "b", size=size, v6=v6).outcome is Outcome.ANSWERED


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "target", "said"),
    [
        ("", "10.99.30.1", "Destination net unreachable, said 10.99.1.254"),
        ("route add unreachable 10.99.30.0/24", "10.99.30.1", "Destination host unreachable, said 10.99.1.254"),
        ("route add prohibit 10.99.30.0/24", "10.99.30.1", "Packet filtered, said 10.99.1.254"),
        ("", "fd99:30::1", "Destination unreachable: no route, said fd99:1::fe"),
        (
            "route add prohibit fd99:30::/64",
            "fd99:30::1",
            "Destination unreachable: administratively prohibited, said fd99:1::fe",
        ),
    ],
)
def test_a_routers_refusal_is_told_in_its_words(net: None, route: str, target: str, said: str) -> None:
    if route:
        _run("router", route)
    assert _one("a", target) == Answer(Outcome.FAILED, None, said)


def test_a_blackhole_on_the_way_says_nothing(net: None) -> None:
    _run("router", "route add blackhole 10.99.30.0/24")
    lost = Answer(Outcome.FAILED, None, "no answer within 0.3 s, nor to a second packet")
    assert _ask(_probe("a", "10.99.30.1"), timeout=SHORT) == [lost]


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        (["route del default"], "Network is unreachable (no route), said its own kernel"),
        (["route add unreachable 10.99.30.0/24"], "No route to host (an unreachable route), said its own kernel"),
        (["route add prohibit 10.99.30.0/24"], "Permission denied (a prohibit route), said its own kernel"),
        (["route add blackhole 10.99.30.0/24"], "Invalid argument (a blackhole route), said its own kernel"),
    ],
)
@pytest.mark.parametrize("protocol", list(CheckProtocol))
def test_a_refusal_of_the_own_kernel_is_told(net: None, routes: list[str], said: str, protocol: CheckProtocol) -> None:
    _run("a", *routes)
    port = 80 if protocol is CheckProtocol.TCP else None
    assert _one("a", "10.99.30.1", protocol=protocol, port=port) == Answer(Outcome.FAILED, None, said)


def test_a_packet_filter_at_home_is_told(net: None) -> None:
    _nft("a", "table ip t { chain c { type filter hook output priority 0; icmp type echo-request drop; }; }")
    said = "Operation not permitted (a packet filter drops it), said its own kernel"
    assert _one("a", "b") == Answer(Outcome.FAILED, None, said)


def test_a_reject_rule_on_the_way_is_told(net: None) -> None:
    rule = "ip daddr 10.99.2.1 reject with icmp type admin-prohibited"
    _nft("router", f"table ip t {{ chain c {{ type filter hook forward priority 0; {rule}; }}; }}")
    said = Answer(Outcome.FAILED, None, "Packet filtered, said 10.99.1.254")
    assert _ask(_probe("a", "c"), _tcp("a", "c", 80)) == [said, said]


# --- TCP -------------------------------------------------------------------------------------------------------------


def _tcp(source: str, target: str, port: int, **options: object) -> Probe:
    return _probe(source, target, protocol=CheckProtocol.TCP, port=port, **options)


def _listener(room: str, family: socket.AddressFamily) -> socket.socket:
    def inside() -> socket.socket:
        return socket.create_server(("", 8080), family=family)

    return netns.call(_name(room), inside)


@pytest.mark.parametrize("v6", [False, True])
def test_a_connection_is_made_or_refused(net: None, v6: bool) -> None:
    with _listener("c", socket.AF_INET6 if v6 else socket.AF_INET):
        connected, refused = _ask(_tcp("a", "c", 8080, v6=v6), _tcp("a", "c", 81, v6=v6))
    assert connected.outcome is Outcome.ANSWERED
    assert connected.seconds is not None
    assert refused == Answer(Outcome.FAILED, None, "connection refused: nothing listens there")


def test_a_connection_to_silence_times_out(net: None) -> None:
    _nft("b", "table ip t { chain c { type filter hook input priority 0; tcp dport 80 drop; }; }")
    answers = _ask(_tcp("a", "b", 80), _probe("a", "b"), timeout=SHORT)
    assert answers[0] == Answer(Outcome.FAILED, None, "connection timed out after 0.6 s")
    assert answers[1].outcome is Outcome.ANSWERED


def test_a_connection_without_a_route_tells_who_said_so(net: None) -> None:
    said = Answer(Outcome.FAILED, None, "Destination net unreachable, said 10.99.1.254")
    assert _one("a", "10.99.30.1", protocol=CheckProtocol.TCP, port=80) == said


# --- the machine's limits --------------------------------------------------------------------------------------------


def test_a_missing_namespace_says_what_to_do(net: None) -> None:
    with pytest.raises(KernelError, match=r"nowhere.*does not exist") as caught:
        _ask(_probe("a", "b"), _probe("nowhere", "b"))
    assert "netlab up" in caught.value.hint


def test_a_missing_target_is_a_failed_probe(net: None) -> None:
    netns.remove([_name("b")])
    while "to-b" in netns.call(_name("switch"), lambda: [name for _, name in socket.if_nameindex()]):
        time.sleep(0.005)  # the kernel takes it down by and by
    assert _ask(_probe("a", "b"), timeout=SHORT)[0].outcome is Outcome.FAILED


def test_no_descriptor_is_left_open(net: None) -> None:
    _one("a", "b")
    before = os.listdir("/proc/self/fd")
    _ask(_probe("a", "b"), _probe("a", "c", size=1401), _tcp("a", "b", 81))
    with pytest.raises(KernelError):
        _ask(_probe("a", "b"), _probe("nowhere", "b"))
    assert os.listdir("/proc/self/fd") == before


def _in_a_child(script: str, *wrapper: str) -> str:
    """Run lines of Python that know this module as `t`; return what they print."""
    lines = f"import tests.root.test_probe as t\nt.PREFIX = {PREFIX!r}\n{script}"
    done = subprocess.run([*wrapper, sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def test_few_descriptors_are_enough(net: None) -> None:
    """A child whose hard limit leaves it 10 sockets connects 40 times."""
    script = (
        "import os, resource\n"
        "limit = len(os.listdir('/proc/self/fd')) + 74\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
        "print({answer.reason for answer in t._ask(*(t._tcp('a', 'c', port) for port in range(100, 140)))})\n"
    )
    assert _in_a_child(script) == "{'connection refused: nothing listens there'}\n"


def test_a_low_soft_limit_is_raised(net: None) -> None:
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (70, 4000))\n"
        "t._ask(*(t._tcp('a', 'c', port) for port in range(100, 140)))\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    assert _in_a_child(script) == "4000\n"


@pytest.mark.parametrize("capability", ["sys_admin", "net_raw"])
def test_a_missing_right_is_named(net: None, capability: str) -> None:
    said = _in_a_child("t._one('a', 'b')", "setpriv", f"--bounding-set=-{capability}")
    assert "the right to send from a lab's namespaces (CAP_SYS_ADMIN and CAP_NET_RAW) is not available here" in said
    assert "hint: run as root" in said


def test_full_send_buffers_are_waited_for_and_then_told(net: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets to hosts that do not answer ARP stay in the sender's buffer; the smallest one holds few of them."""
    monkeypatch.setattr("netlab.kernel.probe_sockets.BUFFER_BYTES", 1)
    start = time.monotonic()
    answers = _ask(*(_probe("a", f"10.99.1.{last}") for last in range(50, 60)), _probe("b", "a"), timeout=SHORT)
    told = [answer for answer in answers if answer.reason == "No buffer space available, said its own kernel"]
    assert answers[-1].outcome is Outcome.ANSWERED
    assert len(told) > 1
    assert time.monotonic() - start > len(told) * SHORT


def test_more_neighbours_than_the_kernel_holds_are_no_obstacle() -> None:
    """40 hosts that all ping each other need 1,560 neighbour entries; the kernel has 1,024 for the whole machine."""
    rooms = [f"h{number}" for number in range(40)]
    names = [_name(room) for room in ("switch", *rooms)]
    try:
        netns.create(names, lambda name: None)
        _run("switch", "link add br0 type bridge", "link set br0 up")
        for room in rooms:
            _run("switch", f"link add name {room} master br0 up type veth peer name eth0 netns {_name(room)}")
            _run(room, "link set lo up", "link set eth0 up", f"addr add 10.99.9.{int(room[1:]) + 1}/24 dev eth0")
        hosts = [
            Member(room, _name(room), "n", "", "", True, (ip_address(f"10.99.9.{i}"),))
            for i, room in enumerate(rooms, 1)
        ]
        probes = [Probe(a, b, 4, b.addresses[0]) for a in hosts for b in hosts if a is not b]
        answers = probe.run(probes)
    finally:
        netns.remove(names)
    assert [answer for answer in answers if answer.outcome is not Outcome.ANSWERED] == []


def test_flushing_keeps_what_was_put_there_on_purpose(net: None) -> None:
    _run("a", "neigh add 10.99.1.77 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
    _ask(_probe("a", "b"), _probe("a", "b", v6=True), _probe("a", "c"))
    neighbors.flush([_name("a"), _name("nowhere")])
    shown = subprocess.run(["ip", "-n", _name("a"), "neigh"], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["10.99.1.77", "dev", "eth0", "lladdr", "02:00:00:00:00:01", "PERMANENT"]
