"""The network between VMs: what crosses it is seen and can be disturbed, and it touches nothing of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.utils import rdpcap

from netlab.errors import UsageError
from netlab.vm.boot import Boot
from netlab.vm.client import VmNetwork
from netlab.vm.guest import GuestVm
from netlab.vm.switch import Action
from tests.root.conftest import host_network


def ping(vm: GuestVm, to: str, *options: str) -> subprocess.CompletedProcess[str]:
    return vm.run(["ping", "-c1", "-W2", *options, to])


def test_every_frame_is_captured_once(pair: VmNetwork, tmp_path: Path) -> None:
    one, two = pair.vms
    for vm in pair.vms:
        vm.run(["ip", "neighbor", "flush", "dev", "eth0"], check=True)
    with pair.capture(tmp_path / "wire.pcap"):
        assert ping(one, "vm2").returncode == 0
    frames = [frame for frame in rdpcap(str(tmp_path / "wire.pcap")) if ARP in frame or IP in frame]
    kinds = [(frame[ARP].op if ARP in frame else frame[ICMP].type, frame[Ether].src) for frame in frames]
    mac = {vm.name: vm.vm.mac for vm in pair.vms}
    assert kinds[:4] == [(1, mac["vm1"]), (2, mac["vm2"]), (8, mac["vm1"]), (0, mac["vm2"])]
    assert frames[0][Ether].dst == "ff:ff:ff:ff:ff:ff"
    assert frames[2][Ether].dst == mac["vm2"]
    assert (frames[2][IP].src, frames[2][IP].dst) == (one.address, two.address)
    assert all(checksum_is_right(frame) for frame in frames if IP in frame)


def checksum_is_right(frame: Ether) -> bool:
    copy = frame[IP].copy()
    del copy.chksum
    return bool(IP(bytes(copy)).chksum == frame[IP].chksum)


def test_a_vxlan_crosses_it(pair: VmNetwork, tmp_path: Path) -> None:
    one, two = pair.vms
    for number, (vm, peer) in enumerate(((one, two), (two, one)), start=1):
        create = f"ip link add vx0 type vxlan id 7 dstport 8472 remote {peer.address} local {vm.address} dev eth0"
        vm.run(["sh", "-ec", f"{create}; ip address add 10.9.0.{number}/24 dev vx0; ip link set vx0 up"], check=True)
    try:
        with pair.capture(tmp_path / "wire.pcap"):
            assert ping(one, "10.9.0.2", "-s", "1422").returncode == 0  # 1422 + 8 + 20 = 1450, the VXLAN's MTU
    finally:
        for vm in pair.vms:
            vm.run(["ip", "link", "delete", "vx0"], check=True)
    tunnelled = [frame for frame in rdpcap(str(tmp_path / "wire.pcap")) if VXLAN in frame and ICMP in frame[VXLAN]]
    assert [(frame[IP].src, frame[VXLAN].vni, frame[VXLAN][IP].src) for frame in tunnelled] == [
        (one.address, 7, "10.9.0.1"),
        (two.address, 7, "10.9.0.2"),
    ]
    assert all(frame[UDP].dport == 8472 and len(frame) == 1500 + 14 for frame in tunnelled)


def test_a_dropped_frame_is_captured_and_does_not_arrive(pair: VmNetwork, tmp_path: Path) -> None:
    one, _ = pair.vms
    with pair.capture(tmp_path / "wire.pcap"), pair.fault(Action.DROP, filter="icmp[icmptype] = icmp-echo") as fault:
        assert ping(one, "vm2").returncode == 1
        assert fault.counts() == (1, 1)
    assert [frame[ICMP].type for frame in rdpcap(str(tmp_path / "wire.pcap")) if ICMP in frame] == [8]
    assert ping(one, "vm2").returncode == 0


def test_a_fault_may_hold_for_one_direction_and_every_second_frame(pair: VmNetwork) -> None:
    one, two = pair.vms
    with pair.fault(Action.DROP, filter="icmp", from_port="vm2", every=2) as fault:
        done = one.run(["ping", "-c4", "-i0.2", "-W2", "vm2"])
        assert "4 packets transmitted, 2 received" in done.stdout
        assert fault.counts() == (4, 2)
    with pair.fault(Action.DROP, filter="icmp[icmptype] = icmp-echo", from_port="vm2"):
        assert ping(one, "vm2").returncode == 0
        assert ping(two, "vm1").returncode == 1


def test_a_delay_is_seen_by_the_guests(pair: VmNetwork) -> None:
    with pair.fault(Action.DELAY, filter="icmp[icmptype] = icmp-echoreply", seconds=0.4):
        shown = ping(pair.vms[0], "vm2").stdout
    assert 400 <= float(shown.partition("time=")[2].split()[0]) < 1400


def test_a_wrong_filter_is_refused_in_tcpdumps_words(pair: VmNetwork) -> None:
    with (
        pytest.raises(UsageError, match=r"syntax error|unknown host|can't parse"),
        pair.fault(Action.DROP, filter="udp prt 9"),
    ):
        pass
    with pytest.raises(UsageError, match="no port vm9"), pair.fault(Action.DROP, from_port="vm9"):
        pass


def test_a_capture_that_cannot_be_written_is_refused(pair: VmNetwork, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*No such file"), pair.capture(tmp_path / "no" / "wire.pcap"):
        pass


def test_the_largest_frame_passes_and_the_next_does_not(pair: VmNetwork) -> None:
    one, _ = pair.vms
    assert ping(one, "vm2", "-M", "do", "-s", "1472").returncode == 0
    assert "message too long, mtu=1500" in ping(one, "vm2", "-M", "do", "-s", "1473").stderr


def test_three_vms_share_a_segment(vms: Callable[[int], VmNetwork]) -> None:
    three = vms(3)
    for vm in three.vms:
        for other in three.vms:
            assert ping(vm, other.name).returncode == 0


def test_nothing_of_this_machines_network_is_touched(boot: Boot) -> None:
    before = host_network()
    with VmNetwork.start(f"host-{os.getpid()}", count=2, boot=boot) as net:
        assert ping(net.vms[0], "vm2").returncode == 0
        assert host_network() == before
    assert host_network() == before
