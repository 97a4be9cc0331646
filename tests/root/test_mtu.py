"""MTU: the largest packet passes whole, one byte more gets the right answer (facts.md 9.1)."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import ICMP, IP, IPerror
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

from netlab.lab import Lab
from netlab.topology.model import (
    Backend,
    BridgeBackend,
    HostGwBackend,
    Node,
    Role,
    Topology,
    VxlanBackend,
)
from tests.labs import routed, topology
from tests.root.journeys import IN, OUT, address
from tests.root.sniff import ECHO_SIZE, Taps, has_dont_fragment, innermost, kind_of, path_mtu, ping

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Case:
    """A way between two pods, and the largest packet on it: `pod` bytes as the pods see it, `wire` on the underlay."""

    backend: Backend
    link: int
    pod: int
    wire: int
    version: int = 4
    dual_stack: bool = False

    def __str__(self) -> str:
        options = "-mtu1400" if getattr(self.backend, "mtu", None) else ""
        return f"{self.backend.type}{options}-{self.link}-ipv{self.version}{'-dual' if self.dual_stack else ''}"

    @property
    def topology(self) -> Topology:
        nodes = 1 if self.backend.type == "bridge" else 2
        return topology("tpmtu", nodes=nodes, pods=2, backend=self.backend, dual_stack=self.dual_stack, mtu=self.link)


CASES = (
    Case(BridgeBackend(), 1500, 1500, 0),
    Case(BridgeBackend(), 9000, 9000, 0),
    Case(HostGwBackend(), 1500, 1500, 1500),
    Case(HostGwBackend(), 9000, 9000, 9000),
    Case(HostGwBackend(), 1500, 1500, 1500, version=6, dual_stack=True),
    Case(VxlanBackend(), 1500, 1450, 1500),
    Case(VxlanBackend(), 9000, 8950, 9000),
    Case(VxlanBackend(mtu=1400), 1500, 1350, 1400),
    Case(VxlanBackend(), 1500, 1450, 1500, dual_stack=True),
    Case(VxlanBackend(direct_routing=True), 1500, 1450, 1450),
    Case(VxlanBackend(mtu=1400), 1500, 1350, 1420, version=6, dual_stack=True),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_largest_packet_passes_and_one_byte_more_does_not_leave_the_pod(case: Case) -> None:
    with Lab(case.topology) as lab:
        target = address(lab, "p-2", case.version)
        wires = [] if case.backend.type == "bridge" else ["n1 eth0", "fabric n2-eth0"]
        with Taps(lab, "p-1 eth0", "p-2 eth0", *wires) as taps:
            crossing = taps.ping("p-1", target, size=case.pod)
            with pytest.raises(OSError, match="too long") as caught:
                ping(lab, "p-1", target, size=case.pod + 1)
            assert taps.ping("p-1", target).replies
            sent = [entry for entry in taps.everything("p-1 eth0") if kind_of(entry.packet) == "request"]
        assert caught.value.errno == errno.EMSGSIZE
        assert [_size(entry.packet) for entry in sent] == [case.pod, ECHO_SIZE]  # nothing of what was too long
        assert path_mtu(lab, "p-1", target) == case.pod
    for tap, way in (("p-1 eth0", OUT), ("p-1 eth0", IN), ("p-2 eth0", IN), ("p-2 eth0", OUT)):
        assert [_size(e.packet) for e in crossing.sightings if (e.tap, e.way) == (tap, way)] == [case.pod], (tap, way)
    for tap in wires:
        assert [_size(packet) for packet in crossing.at(tap)] == [case.wire, case.wire]
    if case.version == 4:
        assert has_dont_fragment(innermost(crossing.at("p-2 eth0")[0]))


def _size(frame: object) -> int:
    """Return the bytes of a frame's IP packet."""
    return len(frame) - 14  # type: ignore[arg-type]


@pytest.mark.parametrize(("link", "vtep", "size"), [(1500, 1430, 1431), (1500, 1430, 1450), (9000, 8930, 8931)])
def test_the_ipv6_vtep_holds_twenty_bytes_less_than_pods_were_told_and_says_so(link: int, vtep: int, size: int) -> None:
    """flannel takes 50 off for IPv6 as well (facts.md 1.10); the kernel keeps the device at 70 below its parent."""
    with Lab(topology("tpmtu6", nodes=2, pods=2, dual_stack=True, mtu=link)) as lab:
        pod, target = address(lab, "p-1", 6), address(lab, "p-2", 6)
        with Taps(lab, "p-1 eth0", "n1 cni0", "n1 flannel-v6.1", "n1 eth0", "p-2 eth0") as taps:
            largest = taps.ping("p-1", target, size=vtep)
            refused = taps.ping("p-1", target, size=size)
            known = path_mtu(lab, "p-1", target)
            with pytest.raises(OSError, match="too long"):  # the pod has learned
                ping(lab, "p-1", target, size=size)
            assert taps.ping("p-1", target, size=vtep).replies
        assert [_size(packet) for packet in largest.at("n1 eth0")] == [link, link]
        assert [_size(packet) for packet in largest.at("p-2 eth0")] == [vtep, vtep]
        error = refused.error_at("p-1 eth0")
        assert (error[IPv6].src, error[IPv6].dst) == ("fd00:10:244:1::1", pod)
        assert (error[ICMPv6PacketTooBig].code, error[ICMPv6PacketTooBig].mtu) == (0, vtep)
        assert refused.taps() == ["p-1 eth0", "n1 cni0"]
        assert known == vtep


# --- where a router has a smaller link -------------------------------------------------------------------------------


def narrow(name: str, backend: Backend) -> Topology:
    """Return a lab whose first rack has links of 9000 bytes and the second, with a client beside the cluster, 1500."""
    base = routed(name, backend, nodes=2)
    wide, usual = base.segments
    client = Node("client", usual.name, Role.EXTERNAL)
    return replace(base, segments=(replace(wide, mtu=9000), usual), nodes=(*base.nodes, client))


@pytest.mark.parametrize("size", [1501, 9000])
def test_a_router_says_how_much_its_next_link_holds_and_masquerade_passes_that_on(size: int) -> None:
    with Lab(narrow("tpnarrow", HostGwBackend())) as lab:
        pod, node, client = (address(lab, name) for name in ("p-1", "n1", "client"))
        with Taps(lab, "p-1 eth0", "n1 eth0", "r1 eth0", "r1 eth1", "client eth0") as taps:
            largest = taps.ping("p-1", client, size=1500)
            refused = taps.ping("p-1", client, size=size)
            known = path_mtu(lab, "p-1", client)
            assert taps.ping("p-1", client, size=1500).replies
        assert [_size(packet) for packet in largest.at("client eth0")] == [1500, 1500]
        error = refused.error_at("p-1 eth0")
        assert (error[IP].src, error[IP].dst) == ("172.18.1.1", pod)
        assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1500)
        assert (error[IPerror].src, error[IPerror].dst) == (pod, client)
        outside = refused.error_at("n1 eth0")  # the same, before the node has put the pod's address back
        assert (outside[IP].dst, outside[IPerror].src, outside[IPerror].dst) == (node, node, client)
        assert refused.taps() == ["p-1 eth0", "n1 eth0", "r1 eth0"]
        assert known == 1500


def test_vxlan_lets_the_router_cut_the_outer_packet_and_the_far_node_says_what_its_pods_hold() -> None:
    with Lab(narrow("tpcut", VxlanBackend())) as lab:
        pod, target = address(lab, "p-1"), address(lab, "p-2")
        with Taps(lab, "p-1 eth0", "n1 eth0", "n2 eth0", "n2 flannel.1", "n2 cni0", "p-2 eth0") as taps:
            refused = taps.ping("p-1", target, size=8950)
            pieces = [entry.packet for entry in taps.everything("n2 eth0") if entry.way == IN and IP in entry.packet]
            known = path_mtu(lab, "p-1", target)
            largest = taps.ping("p-1", target, size=1450)
        assert _size(refused.at("n1 eth0")[0]) == 9000
        assert len({packet[IP].id for packet in pieces}) == 1
        assert sum(packet[IP].len - 20 for packet in pieces) == 9000 - 20
        assert max(packet[IP].len for packet in pieces) <= 1500
        assert _size(refused.at("n2 flannel.1")[0]) == 8950
        error = refused.error_at("p-1 eth0")
        assert (error[IP].src, error[IP].dst) == ("10.244.2.0", pod)
        assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1450)
        assert "p-2 eth0" not in refused.taps()
        assert known == 1450
        assert [_size(packet) for packet in largest.at("p-2 eth0")] == [1450, 1450]
