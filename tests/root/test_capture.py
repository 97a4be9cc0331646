"""`netlab capture` of many namespaces at once: what is seen, in which order, what was lost, how it ends."""

from __future__ import annotations

import io
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from netlab.bpf.pcap_filter import kernel_filter
from netlab.found import labs
from netlab.kernel import netns
from netlab.kernel.capture import Captures, Packet
from netlab.lab import Lab, remove
from tests.root.ready import wait_until_ready

pytestmark = pytest.mark.root

FILE = """\
name: cap
backend: {backend}
nodes: 2
pods: 2
proxy: none
"""
PATIENCE = 20.0  # seconds
NETLAB = (sys.executable, "-m", "netlab")
ALONE = "nl-capture-test"


@pytest.fixture
def up(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Bring a lab up: with VXLAN, or the backend that a test asks for."""
    file = tmp_path / "cap.yaml"
    file.write_text(FILE.format(backend=getattr(request, "param", "vxlan")))
    lab = Lab.load(str(file))
    lab.up()
    wait_until_ready(netns.names("nl-cap"))
    yield lab
    for name in labs():
        remove(name)


@contextmanager
def capturing(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a capture to a pipe and wait until it works: what it writes first says so."""
    running = subprocess.Popen(
        [*NETLAB, "capture", *argv, "-w", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()


def begun(running: subprocess.Popen[bytes]) -> bytes:
    """Wait for a file's first bytes and return them."""
    assert running.stdout is not None
    first = os.read(running.stdout.fileno(), 1)
    assert first, running.communicate()[1].decode()
    return first


def ended(running: subprocess.Popen[bytes], first: bytes, number: int = signal.SIGINT) -> tuple[list[Any], str]:
    """End a capture; return the packets as scapy reads them, and what it said."""
    from scapy.utils import PcapNgReader

    import netlab.packets  # noqa: F401  (the layers)

    running.send_signal(number)
    rest, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, said.decode()
    return list(PcapNgReader(io.BytesIO(first + rest))), said.decode()


def ping(lab: Lab, source: str, target: str) -> None:
    done = lab.exec(source, ["ping", "-c1", "-W5", lab.address(target)])
    assert done.returncode == 0, done.stdout


def netlab(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NETLAB, *argv], capture_output=True, text=True, check=False, timeout=60)


# --- a lab -----------------------------------------------------------------------------------------------------------


def test_one_packet_everywhere_in_the_order_of_time(up: Lab) -> None:
    with capturing("all", "-f", "icmp or udp port 8472") as running:
        first = begun(running)
        ping(up, "p-1", "p-2")
        packets, said = ended(running, first)
    times = [packet.time for packet in packets]
    assert times == sorted(times)
    places = [(one.sniffed_on, one.direction) for one in packets if one.haslayer("ICMP")]
    first_half = [(place, way) for place, way in places[: len(places) // 2] if not place.startswith(("n1/v", "n2/v"))]
    assert first_half == [
        ("p-1/eth0", 2),
        ("n1/cni0", 1),
        ("n1/flannel.1", 2),
        ("n1/eth0", 2),
        *(("underlay/n1-eth0", 1), ("underlay/n2-eth0", 2)),
        ("n2/eth0", 1),
        ("n2/flannel.1", 1),
        ("n2/cni0", 2),
        ("p-2/eth0", 1),
    ]
    assert f"{len(packets)} frames at " in said
    assert said.endswith("the kernel dropped none\n")


@pytest.mark.parametrize("up", ["{type: udp, forwarder: simple}"], indirect=True)
def test_a_filter_fits_bare_packets_too(up: Lab) -> None:
    with capturing("n1", "-i", "any", "-f", f"icmp and host {up.address('p-2')}") as running:
        first = begun(running)
        ping(up, "p-1", "p-2")
        packets, _ = ended(running, first, signal.SIGTERM)
    at_tun = [packet for packet in packets if packet.sniffed_on == "n1/flannel0"]
    assert [packet.name for packet in at_tun] == ["IP", "IP"]  # the request and the answer
    assert {packet.sniffed_on for packet in packets} > {"n1/flannel0", "n1/cni0"}
    assert "n1/eth0" not in {packet.sniffed_on for packet in packets}  # UDP there


def test_a_reader_that_goes_away_ends_it_silently(up: Lab) -> None:
    with capturing("n1", "-f", "port 1") as running:  # nothing will come: it has to notice by itself
        written = begun(running)
        assert running.stdout is not None
        while b"n1/eth0" not in written:  # which is all that it writes
            written += os.read(running.stdout.fileno(), 4096)
        running.stdout.close()
        assert running.stderr is not None
        assert (running.stderr.read(), running.wait(PATIENCE)) == (b"", 0)


@pytest.mark.usefixtures("up")
def test_a_closed_pipe_ends_the_words_too() -> None:
    running = subprocess.Popen([*NETLAB, "capture", "all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.close()
    assert running.wait(PATIENCE) == 0
    assert running.stderr is not None
    assert b"Traceback" not in running.stderr.read()


def test_several_members_in_words(up: Lab) -> None:
    command = [*NETLAB, "exec", "p-1", "--", "ping", "-c1", up.address("p-2")]
    done = netlab("capture", "p-1", "p-2", "-i", "eth0", "-f", "icmp", "--", *command)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1:3] for line in done.stdout.splitlines()] == [
        ["out", "p-1/eth0"],
        ["in", "p-2/eth0"],
        ["out", "p-2/eth0"],
        ["in", "p-1/eth0"],
    ]
    assert "4 frames at 2 interfaces; the kernel dropped none" in done.stderr


@pytest.mark.usefixtures("up")
def test_a_file_needs_no_scapy(tmp_path: Path) -> None:
    program = (
        "import sys; from netlab.cli.main import cli\n"
        f"cli.main(['capture', 'all', '--idle', '0.1', '-w', {str(tmp_path / 'x.pcapng')!r}], standalone_mode=False)\n"
        "sys.exit('scapy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.pcapng").read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"


MISTAKES = [
    (["all", "-f", "tcp prot 80"], 2, "syntax error at 'prot', character 5"),
    (["all", "-w", "x.pcap"], 2, "call it x.pcapng"),
    (["all", "-i", "nosuch"], 1, "No such device"),
    (["n1", "p-1", "-i", "cni0"], 1, "nl-cap.p-1: capture on cni0: No such device (ENODEV): it has lo, eth0"),
    (["p-3"], 2, "has no pod, node or router 'p-3'"),
    ([], 2, "name pods and nodes"),
    (["n1", "-w", "/nonexistent/x.pcapng"], 1, "cannot write /nonexistent/x.pcapng: No such file"),
    (["n1", "-w", "/dev/full"], 1, "cannot write /dev/full: No space left"),
    (["n1", "--", "no-such-program"], 2, "cannot run no-such-program"),
]


@pytest.mark.usefixtures("up")
def test_mistakes_are_explained() -> None:
    for argv, status, said in MISTAKES:
        done = netlab("capture", *argv)
        assert (done.returncode, said in done.stderr) == (status, True), (argv, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("up")
def test_frames_do_not_go_to_a_terminal() -> None:
    reader, terminal = pty.openpty()
    running = subprocess.run(
        [*NETLAB, "capture", "n1", "-w", "-"], stdout=terminal, stderr=subprocess.PIPE, check=False, text=True
    )
    os.close(reader)
    os.close(terminal)
    assert running.returncode == 2
    assert "wireshark -k -i -" in running.stderr


# --- one namespace ---------------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[str]:
    """Make a namespace with a veth pair, `one` and `two`; everything in it is up."""

    netns.create([ALONE], lambda _: add_cable("one", "two"))
    yield ALONE
    netns.remove([ALONE])


def add_cable(one: str, two: str) -> None:
    """Make a veth pair in this thread's namespace, and wait until it carries frames."""
    give_up = time.monotonic() + PATIENCE
    with IPRoute() as ipr:
        ipr.link("add", ifname=one, kind="veth", peer={"ifname": two})
        for name in ("lo", one, two):
            ipr.link("set", index=ipr.link_lookup(ifname=name)[0], state="up")
        while not is_up(ipr, one, two):
            assert time.monotonic() < give_up
            time.sleep(0.005)


def is_up(ipr: IPRoute, *names: str) -> bool:
    return all(link.get("operstate") == "UP" for name in names for link in ipr.get_links(ifname=name))


def send(frame: bytes, interface: str) -> None:
    """Send a frame from this thread's namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        sender.send(frame)


def awaited(captures: Captures, count: int) -> list[Packet]:
    """Take packets until there are so many."""
    found: list[Packet] = []
    give_up = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < give_up, f"{len(found)} of {count} came"
        captures.wait(1.0, {})
        found += captures.take()
    return found


def test_what_the_kernel_has_no_room_for_is_counted(alone: str) -> None:
    sent = 500

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(sent):
                sender.sendto(bytes(60_000), ("127.0.0.1", 9))

    with Captures([alone], None, kernel_filter("udp port 9"), everywhere=True) as captures:
        netns.call(alone, flood)
        seen = len(captures.finish())
        dropped = captures.dropped()[alone]
        assert dropped > 0
        assert seen + dropped == 2 * sent  # each goes out of lo, and comes in
        assert sum(captures.received) == seen
        netns.call(alone, flood)
        awaited(captures, 1)
        assert captures.dropped()[alone] > dropped  # it counts on


def test_a_vlan_tag_is_put_back(alone: str) -> None:
    frame = bytes.fromhex("0200000000020200000000018100000508060001") + bytes(50)
    with Captures([alone], "two", kernel_filter(""), everywhere=True) as captures:
        netns.call(alone, send, frame, "one")
        found = next(one for one in awaited(captures, 1) if not one.outgoing and one.content[:6] == frame[:6])
    assert (found.content, found.length) == (frame, len(frame))


def test_an_interface_that_comes_later_has_its_name(alone: str) -> None:
    frame = bytes.fromhex("ffffffffffff02000000000188b5") + b"later".ljust(50, b"\0")

    def later() -> None:
        add_cable("three", "four")
        send(frame, "three")

    with Captures([alone], None, kernel_filter("ether proto 0x88b5"), everywhere=True) as captures:
        assert [one.name for one in captures.interfaces] == ["lo", "two", "one"]
        netns.call(alone, later)
        found = awaited(captures, 2)
        places = [(captures.interfaces[one.interface].name, one.outgoing) for one in found]
    assert places == [("three", True), ("four", False)]


def test_an_interface_may_go_down_and_come_up(alone: str) -> None:
    frame = bytes.fromhex("ffffffffffff02000000000188b5") + bytes(50)

    def toggle() -> None:
        with IPRoute() as ipr:
            for state in ("down", "up"):
                ipr.link("set", index=ipr.link_lookup(ifname="two")[0], state=state)
            while not is_up(ipr, "one", "two"):
                time.sleep(0.005)
        send(frame, "one")

    with Captures([alone], "two", kernel_filter("ether proto 0x88b5"), everywhere=True) as captures:
        netns.call(alone, toggle)
        assert [one.content for one in awaited(captures, 1)] == [frame]
        before = time.monotonic()
        captures.wait(0.2, {})  # what it said of going down is forgotten: this would be a busy loop
        assert time.monotonic() - before > 0.1
