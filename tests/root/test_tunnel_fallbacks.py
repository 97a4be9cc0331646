"""A kernel that lacks something: the forwarder says what, and carries everything all the same.

The kernel here has it all, so a seccomp filter answers as one without would (refusals.py).
"""

from __future__ import annotations

import errno
import random
from functools import partial
from pathlib import Path

import pytest

from netlab.kernel import tun
from netlab.kernel.feature_probes import BPF_SYSCALL
from netlab.tunnel.offloads import SOL_UDP, UDP_GRO, UDP_SEGMENT
from tests.root.forwarders import KERNEL
from tests.root.refusals import MACHINE, Refusal, refusing
from tests.root.tunnel_traffic import at_once, datagrams, errors, may_be_fragmented, pieces, train, transfer
from tests.root.tunnel_wire import PODS, PODS_V6, Process, config_of, forwarders, network
from tests.volume import VOLUME

pytestmark = pytest.mark.root

SETSOCKOPT = {"x86_64": 54, "aarch64": 208}
IOCTL = {"x86_64": 16, "aarch64": 29}
NO_GRO = Refusal(SETSOCKOPT[MACHINE], errno.ENOPROTOOPT, {1: SOL_UDP, 2: UDP_GRO})
NO_SEGMENT = Refusal(SETSOCKOPT[MACHINE], errno.ENOPROTOOPT, {1: SOL_UDP, 2: UDP_SEGMENT})
NO_USO = Refusal(IOCTL[MACHINE], errno.EINVAL, {1: tun.TUNSETOFFLOAD}, {2: tun.USO})
NO_BPF = Refusal(BPF_SYSCALL[MACHINE], errno.EPERM, {})
OLD_BPF = Refusal(BPF_SYSCALL[MACHINE], errno.ENOSYS, {})


# --- what is said, and what is carried --------------------------------------------------------------------------------

LACKS = {
    "no USO": ("batched", [NO_USO], ["no USO by TUN (Linux 6.2)"]),
    "no UDP_SEGMENT": ("batched", [NO_SEGMENT], ["no UDP_SEGMENT (Linux 4.18)"]),
    "no UDP_GRO": ("batched", [NO_GRO], ["no UDP_GRO (Linux 5.0)"]),
    "none of them": (
        "batched",
        [NO_USO, NO_SEGMENT, NO_GRO],
        ["no USO by TUN (Linux 6.2)", "no UDP_SEGMENT (Linux 4.18)", "no UDP_GRO (Linux 5.0)"],
    ),
    "no eBPF": ("ebpf", [NO_BPF], ["no eBPF: Operation not permitted"]),
    "no bpf at all": ("ebpf", [OLD_BPF], ["no eBPF: Function not implemented"]),
    "nothing of all that": (
        "auto",
        [NO_BPF, NO_USO, NO_SEGMENT, NO_GRO],
        [
            "no eBPF: Operation not permitted",
            *("no USO by TUN (Linux 6.2)", "no UDP_SEGMENT (Linux 4.18)", "no UDP_GRO (Linux 5.0)"),
        ],
    ),
}


@pytest.mark.parametrize("name", LACKS)
def test_what_is_missing_is_said_and_everything_is_carried(name: str, tmp_path: Path) -> None:
    forwarder, refusals, lacks = LACKS[name]
    with network(direct=True), forwarders(forwarder, tmp_path, before=refusing(*refusals)) as ends:
        assert {end.said for end in ends} == {f"batched ({', '.join(with_kernels(lacks))})"}
        carry_everything()
        found = ends[0].counted()
        is_in_log = [line for line in ends[0].log() if "goes on without eBPF" in line]
    assert (found["sentBatches"] < found["sentPackets"]) == (NO_SEGMENT not in refusals)
    assert (found["receivedBatches"] < found["receivedPackets"]) == (
        NO_SEGMENT not in refusals and NO_GRO not in refusals
    )
    assert bool(is_in_log) == (forwarder != "batched")


def with_kernels(lacks: list[str]) -> list[str]:
    """Add what this kernel lacks itself."""
    uso = "no USO by TUN (Linux 6.2)"
    if KERNEL >= (6, 2) or uso in lacks:
        return lacks
    at = 1 if lacks[0].startswith("no eBPF") else 0
    return [*lacks[:at], uso, *lacks[at:]]


@pytest.mark.parametrize("one", ["simple", "batched"])
@pytest.mark.parametrize("refusals", [[NO_GRO], [NO_SEGMENT, NO_USO]], ids=["no GRO", "no SEGMENT nor USO"])
def test_a_peer_may_have_more(one: str, refusals: list[Refusal], tmp_path: Path) -> None:
    with (
        network(direct=True),
        Process(1, config_of(1, one), tmp_path) as near,
        Process(2, config_of(2, "batched"), tmp_path, before=refusing(*refusals)) as far,
    ):
        assert near.said.startswith(one)
        assert far.said.startswith("batched (no ")
        carry_everything()


def carry_everything() -> None:
    """Send TCP of both IP versions, datagrams of many sizes and trains, both ways."""
    one, two = PODS[1:]
    at_once(
        *(partial(transfer, *ends, 4 * VOLUME) for ends in ((one, two), (two, one))),
        partial(transfer, PODS_V6[1], PODS_V6[2], 2 * VOLUME),
    )
    payloads = [random.Random(length).randbytes(length) for length in range(0, 3000, 13)]
    assert datagrams(one, two, payloads, setup=may_be_fragmented) == payloads
    content = random.Random(1).randbytes(44 * 999 - 1)
    for ends in ((one, two), (two, one), PODS_V6[1:]):
        assert train(*ends, content, 999) == pieces(content, 999)
    assert errors(one, two) == {}


# --- without numpy ---------------------------------------------------------------------------------------------------


def test_without_numpy_the_simple_loop_carries_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without libstdc++, where numpy is installed and cannot be loaded."""
    (tmp_path / "numpy.py").write_text("raise ImportError('libstdc++.so.6: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        network(direct=True),
        Process(1, config_of(1, "auto"), tmp_path) as one,
        Process(2, config_of(2, "auto"), tmp_path),
    ):
        assert one.said == "simple (numpy cannot be imported)"
        transfer(*PODS[1:], VOLUME)
