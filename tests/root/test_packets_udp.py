"""Packets in UDP as flannel's udp backend carries them (facts.md 1.9), at every interface; errors; who may send."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPerror, TCPerror
from scapy.packet import Raw

from netlab.kernel import netns
from netlab.lab import Lab
from netlab.topology.model import ForwarderKind, UdpBackend
from netlab.tunnel.packet import Drop
from tests.labs import routed, topology
from tests.root.forwarders import KINDS, log, words
from tests.root.journeys import (
    IN,
    NO_MACS,
    OUT,
    Header,
    Hop,
    Side,
    across_router,
    address,
    by_udp,
    inside,
    on_wire,
    outer_header,
    run,
    taps_of,
)
from tests.root.sniff import Taps, has_dont_fragment, innermost, kind_of, path_mtu, ping, send_udp
from tests.root.test_mtu import narrow
from tests.waiting import until

pytestmark = pytest.mark.root

PORT = 8285


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> UdpBackend:
    kind: ForwarderKind = request.param
    return UdpBackend(forwarder=kind)


def by_programs(backend: UdpBackend) -> bool:
    """Say whether programs in the kernel forward: packet sockets on flannel0 do not see what those send."""
    return words(backend.forwarder) == "ebpf"


def seen(hops: list[Hop], backend: UdpBackend) -> list[Hop]:
    """Return the hops that packet sockets see."""
    return [hop for hop in hops if not (by_programs(backend) and hop.tap.endswith("flannel0") and hop.way == OUT)]


def dropped(lab: Lab, node: str) -> Mapping[str, int]:
    """Return what a node's forwarder has dropped, by reason."""
    found = lab.counters(node)
    return {reason.value: found[reason] for reason in Drop if found.get(reason)}


# --- every interface -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [PORT, 9285])
def test_a_packet_between_nodes_at_every_interface(backend: UdpBackend, port: int) -> None:
    with Lab(topology("tpu", backend=replace(backend, port=port))) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        there, back = seen(by_udp(one, two), backend), seen(by_udp(two, one), backend)
        with Taps(lab, *taps_of(by_udp(one, two)), "n3 eth0", "n3 flannel0", "p-3 eth0") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    if port != PORT:  # scapy looks into the datagrams of flannel's port only
        there, back = ([hop._replace(headers=hop.headers[:1]) for hop in hops] for hops in (there, back))
        assert {entry.packet[UDP].dport for entry in crossing.sightings if UDP in entry.packet} == {port}
        return
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert set(crossing.taps()) == {*taps_of(there), *taps_of(back)}
    for hop in on_wire(one, two):
        for packet in crossing.at(hop.tap):
            outer, inner = packet[IP], packet[UDP].payload
            assert (packet[UDP].sport, packet[UDP].dport) == (PORT, PORT)
            assert (outer.len, packet[UDP].len) == (inner.len + 28, inner.len + 8)  # the inner packet and nothing else
            assert (packet[UDP].chksum == 0) == by_programs(backend)


def test_the_datagram_holds_the_packet_with_one_hop_less_and_a_right_checksum(backend: UdpBackend) -> None:
    taps_there = ("n1 cni0", "n1 eth0", "p-2 eth0")
    with Lab(topology("tpubytes", nodes=2, pods=2, backend=backend)) as lab, Taps(lab, *taps_there) as taps:
        cookie = send_udp(lab, "p-1", address(lab, "p-2"), payload=os.urandom(501))
        taps.wait_for("p-2 eth0", IN, cookie)
        crossing = taps.crossing(cookie)
    sent, carried, arrived = (innermost(crossing.at(tap)[0]) for tap in taps_there)  # then comes an error: port closed
    assert (sent.ttl, carried.ttl, arrived.ttl) == (64, 62, 60)
    for packet in (carried, arrived):
        computed = packet.copy()
        del computed.chksum, computed[UDP].chksum
        computed = IP(bytes(computed))
        assert computed.chksum == packet.chksum
        if not by_programs(backend):  # a virtual link asks nobody to complete it
            assert computed[UDP].chksum == packet[UDP].chksum
        restored = packet.copy()
        restored.ttl, restored.chksum = sent.ttl, sent.chksum
        restored[UDP].chksum = sent[UDP].chksum  # unfinished there: the kernel completes it on its way into the tunnel
        assert bytes(restored) == bytes(sent)  # nothing else has changed


def test_tos_and_fragments_are_carried_as_they_are(backend: UdpBackend) -> None:
    with Lab(topology("tputos", nodes=2, pods=2, backend=backend)) as lab, Taps(lab, "p-2 eth0", "n1 eth0") as taps:
        target = address(lab, "p-2")
        run(lab, "p-1", f"ping -c1 -W2 -M dont -Q 0x2a -s 4000 {target}")  # ECT(0), three fragments
        arrived = [entry.packet[IP] for entry in taps.everything("p-2 eth0") if entry.way == IN and IP in entry.packet]
    assert {packet.tos for packet in arrived} == {0x2A}
    assert [(packet.frag * 8, str(packet.flags)) for packet in arrived] == [(0, "MF"), (1448, "MF"), (2896, "")]
    assert sum(packet.len - 20 for packet in arrived) == 4008


def test_a_router_forwards_the_outer_packet_and_leaves_the_inner_one_alone(backend: UdpBackend) -> None:
    with Lab(routed("tpur", backend)) as lab:
        one, two = Side.of(lab, "p-1"), Side.of(lab, "p-2")
        there, back = (seen(_through_router(lab, *way), backend) for way in ((one, two), (two, one)))
        with Taps(lab, *taps_of(_through_router(lab, one, two)), "n3 eth0", "n4 eth0") as taps:
            crossing = taps.ping("p-1", two.pod_ip)
    assert crossing.requests == there
    assert crossing.replies == back[::-1]
    assert set(crossing.taps()) == {*taps_of(there), *taps_of(back)}


def _through_router(lab: Lab, src: Side, dst: Side) -> list[Hop]:
    """Return the hops of a packet through UDP from one rack to the other."""
    inner = Header(NO_MACS, (src.pod_ip, dst.pod_ip), 62)
    return by_udp(src, dst, across_router(lab, src, dst, outer_header(src, dst), inner))


def test_a_node_speaks_to_a_remote_pod_with_the_address_of_its_tunnel(backend: UdpBackend) -> None:
    with Lab(topology("tpun", nodes=2, pods=2, backend=backend)) as lab:
        two = Side.of(lab, "p-2")
        with Taps(lab, "n1 flannel0", "p-2 eth0") as taps:
            crossing = taps.ping("n1", two.pod_ip)
            answered = taps.ping("n1", "10.244.2.0")
    asked = ("10.244.1.0", two.pod_ip)
    there = [Hop("n1 flannel0", OUT, (Header(NO_MACS, asked, 64),))]
    assert [hop for hop in crossing.requests if hop.tap == "n1 flannel0"] == seen(there, backend)
    assert [(hop.headers[0].ips, hop.headers[0].ttl) for hop in crossing.requests if hop.way == IN] == [(asked, 61)]
    assert [hop.headers[0].ips for hop in answered.replies] == [("10.244.2.0", "10.244.1.0")]


def test_without_masquerade_a_node_answers_a_remote_pod_with_its_own_address(backend: UdpBackend) -> None:
    wanted = replace(topology("tpumasq", nodes=2, pods=2, backend=backend), ip_masq=False)
    with Lab(wanted) as lab, Taps(lab, "p-1 eth0", "n2 flannel0") as taps:
        crossing = taps.ping("p-1", address(lab, "n2"))
        assert {hop.tap for hop in crossing.replies} == {"p-1 eth0", *([] if by_programs(backend) else ["n2 flannel0"])}
        assert dropped(lab, "n1") == {}


def test_the_kernel_holds_flannels_device(backend: UdpBackend) -> None:
    with Lab(topology("tpuk", nodes=2, pods=2, backend=backend)) as lab:
        link = inside(lab, "n1", lambda ipr: next(entry for entry in ipr.get_links(ifname="flannel0")))
        shown = run(lab, "n1", "ip -d tuntap show")
        routes = run(lab, "n1", "ip route show dev flannel0")
    assert link.get(("linkinfo", "kind")) == "tun"
    assert link.get("mtu") == 1472
    assert shown.startswith("flannel0: tun")
    assert "persist" in shown
    assert routes.strip() == "10.244.0.0/16 proto 110 scope link"


# --- MTU -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [1500, 9000])
def test_the_largest_packet_fills_the_link_and_one_byte_more_does_not_leave_the_pod(
    backend: UdpBackend, link: int
) -> None:
    with Lab(topology("tpumtu", nodes=2, pods=2, backend=backend, mtu=link)) as lab:
        target = address(lab, "p-2")
        with Taps(lab, "p-1 eth0", "n1 eth0", "p-2 eth0") as taps:
            crossing = taps.ping("p-1", target, size=link - 28)
            with pytest.raises(OSError, match="too long"):
                ping(lab, "p-1", target, size=link - 27)
        assert [packet[IP].len for packet in crossing.at("n1 eth0")] == [link, link]
        assert [packet[IP].len for packet in crossing.at("p-2 eth0")] == [link - 28, link - 28]
        assert path_mtu(lab, "p-1", target) == link - 28
        assert has_dont_fragment(crossing.at("n1 eth0")[0])  # the kernel's default: it fits, so nobody has to cut it


def test_what_is_too_large_for_a_link_on_the_way_is_cut_by_the_sending_node(backend: UdpBackend) -> None:
    """The outer packet may not be fragmented on the way; once the kernel has learned that, it fragments it itself."""
    with Lab(narrow("tpucut", backend)) as lab:
        target = address(lab, "p-2")
        with Taps(lab, "p-1 eth0", "n1 eth0", "r1 eth1", "n2 eth0", "n2 flannel0", "n2 cni0") as taps:
            cookie = ping(lab, "p-1", target, size=8972)
            taps.wait_for("n1 eth0", IN, cookie)  # the router's "fragmentation needed"
            lost = taps.crossing(cookie)
            refused = taps.ping("p-1", target, size=8972)
            pieces = [entry.packet for entry in taps.everything("n2 eth0") if entry.way == IN and IP in entry.packet]
            largest = taps.ping("p-1", target, size=1472)
        assert lost.taps() == ["p-1 eth0", "n1 eth0"]
        assert max(packet[IP].len for packet in pieces) <= 1500
        assert sum(packet[IP].len - 20 for packet in pieces) == 9000 - 20
        error = refused.error_at("p-1 eth0")  # the far node's kernel: its pods hold 1472
        assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1472)
        assert largest.replies
        assert dropped(lab, "n1") == {}


# --- hops and errors -------------------------------------------------------------------------------------------------


def probe(lab: Lab, target: str, ttl: int) -> bytes:
    """Send an echo request of p-1 with so many hops and return its cookie."""
    cookie = os.urandom(8)
    message = bytes(ICMP(type=8, id=7, seq=ttl) / Raw(cookie))
    with netns.call(lab.netns("p-1"), socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as opened:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        opened.sendto(message, (target, 0))
    return cookie


def test_four_hops_lie_between_pods_of_two_nodes_and_each_answers(backend: UdpBackend) -> None:
    with Lab(topology("tputtl", nodes=2, pods=2, backend=backend)) as lab:
        target, seen = address(lab, "p-2"), {}
        with Taps(lab, "p-1 eth0") as taps:
            for ttl in range(1, 6):
                cookie = probe(lab, target, ttl)
                answer = taps.wait_for("p-1 eth0", IN, cookie, kinds=("error", "reply")).packet
                seen[ttl] = (answer[IP].src, answer[ICMP].type, answer[ICMP].code)
        assert seen == {
            1: ("10.244.1.1", 11, 0),  # n1's kernel
            2: ("10.244.1.0", 11, 0),  # its forwarder
            3: ("10.244.2.0", 11, 0),  # n2's forwarder
            4: ("10.244.2.0", 11, 0),  # n2's kernel
            5: (target, 0, 0),
        }
        assert dropped(lab, "n1") == dropped(lab, "n2") == {"ttl-exceeded": 1}


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_datagram_whose_packet_has_no_hops_left_never_wraps_around(backend: UdpBackend, ttl: int) -> None:
    with Lab(topology("tpuwrap", nodes=2, pods=2, backend=backend)) as lab:
        inner = IP(src=address(lab, "p-2"), dst=address(lab, "p-1"), ttl=ttl) / UDP(dport=9) / Raw(os.urandom(8))
        with Taps(lab, "n1 flannel0", "p-1 eth0") as taps:
            inject(lab, "n2", "n1", bytes(inner))
            until(lambda: dropped(lab, "n1") == {"ttl-exceeded": 1})
            assert not [
                entry for tap in ("n1 flannel0", "p-1 eth0") for entry in taps.everything(tap) if entry.way == IN
            ]


def test_nobodys_address_is_answered_and_tcp_fails_at_once(backend: UdpBackend) -> None:
    with Lab(topology("tpunet", nodes=2, pods=2, backend=backend)) as lab:
        pod = address(lab, "p-1")
        with Taps(lab, "p-1 eth0") as taps:
            error = taps.ping("p-1", "10.244.77.2").error_at("p-1 eth0")
            assert (error[IP].src, error[IP].dst) == ("10.244.1.0", pod)
            assert (error[ICMP].type, error[ICMP].code) == (3, 0)
            assert (error[IPerror].src, error[IPerror].dst) == (pod, "10.244.77.2")
            with netns.call(lab.netns("p-1"), socket.socket) as opened:
                opened.settimeout(5)
                with pytest.raises(OSError, match="unreachable"):
                    opened.connect(("10.244.77.2", 80))
            quoted = [entry.packet for entry in taps.everything("p-1 eth0") if TCPerror in entry.packet]
        assert quoted
        assert dropped(lab, "n1") == {"no-route": 1 + len(quoted)}


def test_errors_are_limited(backend: UdpBackend) -> None:
    with Lab(topology("tpulimit", nodes=1, pods=1, backend=backend)) as lab:
        with Taps(lab, "p-1 eth0") as taps:
            with netns.call(lab.netns("p-1"), socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as opened:
                for number in range(1000):
                    try:
                        opened.sendto(number.to_bytes(8, "big"), ("10.244.77.2", 9))
                    except OSError:  # the error about an earlier one
                        continue
            until(lambda: dropped(lab, "n1").get("no-route", 0) >= 500)
            errors = [entry for entry in taps.everything("p-1 eth0") if kind_of(entry.packet) == "error"]
        assert 1 <= len(errors) < 200


# --- who may send ----------------------------------------------------------------------------------------------------


def inject(lab: Lab, sender: str, target: str, payload: bytes, source: str = "") -> None:
    """Send a datagram to a node's forwarder from another machine. A peer is known by its address, whatever its port."""
    with netns.call(lab.netns(sender), socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind((source or address(lab, sender), 0))
        opened.sendto(payload, (address(lab, target), PORT))


def test_only_a_known_node_may_send_and_only_for_its_own_pods(backend: UdpBackend) -> None:
    wanted = topology("tpuspoof", nodes=3, pods=3, backend=backend)
    with Lab(wanted) as lab:
        one, two, three = (address(lab, f"p-{number}") for number in (1, 2, 3))
        good = bytes(IP(src=two, dst=one, ttl=60) / UDP(dport=9) / Raw(b"known and its own"))
        with Taps(lab, "p-1 eth0") as taps:
            inject(lab, "n2", "n1", good)
            taps.wait_for("p-1 eth0", IN, b"known and its own")
            for spoofed in (three, one, "10.244.1.0", "172.18.0.4", "198.51.100.7", "0.0.0.0", "127.0.0.1"):
                inject(lab, "n2", "n1", bytes(IP(src=spoofed, dst=one, ttl=60) / UDP(dport=9) / Raw(b"spoofed")))
            run(lab, "n2", "ip address add 172.18.0.99/16 dev eth0")
            inject(lab, "n2", "n1", good, source="172.18.0.99")
            inject(lab, "n1", "n1", good)
            until(lambda: sum(dropped(lab, "n1").values()) == 9)
            arrived = [entry for entry in taps.everything("p-1 eth0") if entry.way == IN and UDP in entry.packet]
        assert dropped(lab, "n1") == {"foreign-source": 7, "unknown-sender": 2}
        assert len(arrived) == 1
        said = log(lab)
        assert said[0] == "refused a datagram from 172.18.0.3: foreign-source"
        assert len(said) <= 4, "the log is limited"


# --- beside others ---------------------------------------------------------------------------------------------------


def test_counters_say_what_was_carried(backend: UdpBackend) -> None:
    with Lab(topology("tpucount", nodes=2, pods=2, backend=backend)) as lab:
        with Taps(lab, "p-1 eth0") as taps:
            for _ in range(3):
                taps.ping("p-1", address(lab, "p-2"), size=500)
        for node in ("n1", "n2"):
            found = lab.counters(node)
            assert (found["sentPackets"], found["sentBytes"], found["sentBatches"]) == (3, 1500, 3)
            assert (found["receivedPackets"], found["receivedBytes"], found["receivedBatches"]) == (3, 1500, 3)
        assert dropped(lab, "n1") == {}


def test_pods_of_one_node_do_not_go_through_the_tunnel(backend: UdpBackend) -> None:
    with (
        Lab(topology("tpulocal", nodes=1, pods=2, backend=backend)) as lab,
        Taps(lab, "p-1 eth0", "n1 flannel0") as taps,
    ):
        assert taps.ping("p-1", address(lab, "p-2")).taps() == ["p-1 eth0"]
