"""The udp backend's programs over time: peers that change under traffic, processes that end or lack the right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from netlab.errors import KernelError
from netlab.tunnel.fastpath import FastPath
from netlab.tunnel.maps import Counter
from netlab.tunnel.routes import Peer
from tests.root.tunnel_nodes import (
    NODES,
    POD_IPS,
    PODS,
    PORT,
    attach,
    await_batches,
    both_attached,
    needs_tcx,
    peer,
    ping,
    send_raw,
    spoofed,
    transfer,
    two_nodes,
)

pytestmark = [pytest.mark.root, needs_tcx]

MEGABYTE = 1 << 20
REPOSITORY = Path(__file__).parents[2]


# --- changes ---------------------------------------------------------------------------------------------------------


def many(count: int) -> list[Peer]:
    """Return peers that nobody asks for."""
    return [
        Peer(IPv4Address(f"192.168.{100 + n // 250}.{n % 250}"), (IPv4Network(f"10.{n // 250}.{n % 250}.0/24"),))
        for n in range(count)
    ]


def test_peers_change_while_tcp_runs() -> None:
    with both_attached() as paths:
        sets = iter(range(1000))

        def change() -> None:
            for number, path in enumerate(paths, 1):
                path.set_peers([peer(3 - number), *many(next(sets) % 7 * 20)])

        transfer(PODS[1], PODS[2], POD_IPS[2], 8 * MEGABYTE, during=change)
        assert next(sets) > 10
        found = [path.counters() for path in paths]
    quiet = (Counter.DROPPED, Counter.UP_NO_ROUTE, Counter.UP_NOT_ADMITTED)
    assert all(counters[counter].packets == 0 for counters in found for counter in quiet)


def test_the_maps_say_exactly_what_was_set_last() -> None:
    elsewhere = Peer(IPv4Address("192.168.77.66"), peer(2).pod_cidrs)
    with both_attached() as (path, other):
        for peers, works in (([], False), ([peer(2)], True), ([elsewhere], False), ([*many(3), peer(2)], True)):
            path.set_peers(peers)
            assert ping(PODS[1], POD_IPS[2]) == works, peers
        other.set_peers([])
        assert not ping(PODS[1], POD_IPS[2])
        assert other.counters()[Counter.UP_NOT_ADMITTED].batches == 1


def test_the_longest_prefix_wins_for_destinations_and_for_sources() -> None:
    wide = Peer(IPv4Address("192.168.77.66"), (IPv4Network("10.244.0.0/16"),))
    with both_attached() as (path, other):
        path.set_peers([wide, peer(2)])
        other.set_peers([wide, peer(1)])
        assert ping(PODS[1], POD_IPS[2])
        send_raw(NODES[1], spoofed(sender="192.168.77.66"))
        await_batches(other, Counter.UP_NOT_ADMITTED, 1)


def test_closing_detaches() -> None:
    with two_nodes():
        paths = attach(1), attach(2)
        assert ping(PODS[1], POD_IPS[2])
        for path in paths:
            path.close()
        assert not ping(PODS[1], POD_IPS[2])


# --- processes -------------------------------------------------------------------------------------------------------


def start(body: str) -> subprocess.Popen[str]:
    """Run Python that attaches to node 1, in a process of its own, and then a body that knows `path` and `peer`."""
    script = f"from tests.root.tunnel_nodes import attach, peer; import os; path = attach(1)\n{textwrap.dedent(body)}"
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=REPOSITORY)


def test_a_process_that_is_killed_leaves_no_program_behind() -> None:
    with two_nodes():
        path = attach(2)
        process = start("print('attached', flush=True); input()")
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "attached\n"
            assert ping(PODS[1], POD_IPS[2])
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert not ping(PODS[1], POD_IPS[2])
        path.close()


def test_a_process_may_drop_its_privileges_once_attached() -> None:
    body = """
        os.setresuid(65534, 65534, 65534)
        path.set_peers([])
        path.set_peers([peer(2)])
        print(len(path.counters()))
    """
    with two_nodes():
        said, _ = start(body).communicate(timeout=20)
    assert said == f"{len(Counter)}\n"


def test_a_process_without_privileges_is_told_the_kernels_words() -> None:
    script = """
        import json, os
        from ipaddress import IPv4Address
        from netlab.errors import KernelError
        from netlab.tunnel.fastpath import REFUSALS, FastPath
        os.setresuid(65534, 65534, 65534)
        try:
            FastPath.attach(None, "lo", "lo", local=IPv4Address("10.0.0.1"), port=8285, peers=[])
        except KernelError as exc:
            print(json.dumps([exc.errno in REFUSALS, exc.message]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=20
    )
    assert json.loads(done.stdout) == [True, "make BPF map routes: Operation not permitted (EPERM)"]


def test_a_missing_interface_is_named_and_nothing_is_left() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with two_nodes(), pytest.raises(KernelError, match="attach BPF programs to wlan7: No such device"):
        FastPath.attach(NODES[1], "flannel0", "wlan7", local=peer(1).address, port=PORT, peers=[])
    assert len(os.listdir("/proc/self/fd")) == descriptors
