"""Who takes part in `bench datapath`: labs of two nodes with a pod each, with one or another path between them."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from netlab import names
from netlab.bpf import loader
from netlab.bpf.assembler import Helper, assemble, call, leave
from netlab.bpf.loader import ProgramType, TcxHook
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.kernel.capture import ETH_P_ALL
from netlab.lab import Lab
from netlab.overlay.backend import UPLINK
from netlab.plan.objects import Forwarder
from netlab.plan.text import config_of
from netlab.tunnel.config import Config
from tests.bench import flannel, labs, traffic
from tests.bench.figures import FLANNEL, FORWARDERS, VXLAN, Topology
from tests.bench.measure import BenchError, run
from tests.bench.path import Way

BACKENDS = {
    "veth": "host-gw",
    VXLAN: "vxlan",
    FLANNEL: "{type: udp, forwarder: simple}",  # whose forwarders make room for flannel's
    "simple": "{type: udp, forwarder: simple}",
    "batched": "{type: udp, forwarder: batched}",
    "ebpf": "{type: udp, forwarder: ebpf}",
}
NODES = ("n1", "n2")
SO_ATTACH_FILTER = 26  # asm-generic/socket.h
LARGEST_FRAME = 1514  # bytes, with the Ethernet header
CUT_BY_THE_KERNEL = ("tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")


class Overlay:
    """A lab that is up: two nodes, a pod each. `said` is what its forwarders say that they are."""

    def __init__(self, variant: str, topology: Topology) -> None:
        """Bring the lab up; it ends with the sandbox. Raises NetlabError, and BenchError for another forwarder."""
        self.variant, self.topology = variant, topology
        self.lab = Lab.loads(labs.many_nodes(2, 2, BACKENDS[variant]), name=variant)
        self.lab.up()
        states = self.lab.forwarders()
        self.said = states[0].said if states else ""
        self.pids = [state.pid for state in states if state.pid]  # by node
        if variant in FORWARDERS and not self.said.startswith(variant):
            raise BenchError(f"this kernel has {self.said} instead")

    def way(self) -> Way:
        """Return where traffic goes from and to."""
        if self.topology is Topology.PODS:
            return Way(self.lab.netns("p-1"), self.lab.netns("p-2"), self.lab.address("p-2"))
        target = self.lab.address("n2") if self.variant == "veth" else tunnel_address(self.lab, "n2")
        return Way(self.lab.netns("n1"), self.lab.netns("n2"), target)

    def stop_forwarders(self) -> list[tuple[str, Config]]:
        """End the lab's forwarders for good; return the namespace of each, and what it was told."""
        self.pids = []
        return stop_forwarders(self.lab)


@contextmanager
def up(variant: str, topology: Topology, proxy: str) -> Iterator[Overlay]:
    """Bring a lab up, with flannel's proxy (a program) as its forwarder where that is the variant."""
    with ExitStack() as stack:
        overlay = Overlay(variant, topology)
        if variant == FLANNEL:
            overlay.pids = stack.enter_context(flannel.running(proxy, overlay.stop_forwarders()))
            overlay.said = f"C proxy of flannel {flannel.VERSION}"
        if topology is Topology.NIC:
            cut_frames(overlay.lab)
            join_uplinks(overlay.lab, stack)
        traffic.await_answer(overlay.way())
        yield overlay


def bring_up(
    stack: ExitStack, variants: Iterable[str], topology: Topology, proxy: str, notes: list[str]
) -> dict[str, Overlay]:
    """Return the labs of the variants, up until the end of the stack; note what they are and which cannot be had."""
    found = {}
    for variant in variants:
        try:
            overlay = found[variant] = stack.enter_context(up(variant, topology, proxy))
        except (BenchError, NetlabError) as exc:
            notes.append(f"{variant}: MISSING, not measured: {exc}")
        else:
            notes += [f"{variant}: {overlay.said}"] if overlay.said not in ("", variant) else []
    return found


def tunnel_address(lab: Lab, node: str) -> str:
    """Return the address that a node has on the overlay: its podCIDR's base."""
    cidr = lab.snapshot.leases[node].pod_cidr(4)
    assert cidr is not None
    return str(cidr.network_address)


def stop_forwarders(lab: Lab) -> list[tuple[str, Config]]:
    """End a lab's forwarders for good; return the namespace of each, by node, and what it was told."""
    kept = lab.keeper.observe().items()
    found = [(name, entry) for name, entries in sorted(kept) for entry in entries if isinstance(entry, Forwarder)]
    lab.keeper.change(stop=found)
    return [(name, config_of(entry)) for name, entry in found]


# --- an uplink like a network card -----------------------------------------------------------------------------------


def cut_frames(lab: Lab) -> None:
    """Let nodes send frames that a wire would carry, and put those that they receive together again, as a card does.

    A veth does the latter only where its other end, the switch's port here, does no TSO (veth_skb_is_eligible_for_gro).
    """
    off = [word for feature in CUT_BY_THE_KERNEL for word in (feature, "off")]
    for node in NODES:
        run(["ip", "netns", "exec", lab.netns(node), "ethtool", "-K", UPLINK, *off, "gro", "on"])
    for port in _ports(lab):
        run(["ip", "netns", "exec", names.fabric(lab.name), "ethtool", "-K", port["ifname"], "tso", "off"])


def join_uplinks(lab: Lab, stack: ExitStack) -> None:
    """Take frames from one uplink to the other past the fabric's bridge: a switch would not use the nodes' processors.

    By a program at each port, until `stack` is closed.
    """
    one, other = (port["ifindex"] for port in _ports(lab))
    for port, opposite in ((one, other), (other, one)):
        program = assemble([call(Helper.REDIRECT, opposite, 0), leave()])
        fd = loader.load(program, ProgramType.SCHED_CLS, name="bench_cable", maps={}, licence="Apache-2.0")
        stack.callback(os.close, fd)
        link = netns.call(names.fabric(lab.name), loader.attach_tcx, fd, port, TcxHook.INGRESS)
        stack.callback(os.close, link)


def _ports(lab: Lab) -> list[dict[str, Any]]:
    """Return the fabric's ports, as ip(8) shows them."""
    shown = run(["ip", "-n", names.fabric(lab.name), "-json", "link", "show", "type", "veth"]).output
    found: list[dict[str, Any]] = json.loads(shown)
    return found


@contextmanager
def no_large_frames(lab: Lab) -> Iterator[None]:
    """Raise BenchError at the end when a frame left a node that was longer than a wire carries."""
    with ExitStack() as stack:
        watches = {node: stack.enter_context(netns.call(lab.netns(node), _large_frames)) for node in NODES}
        yield
        for node, watch in watches.items():
            with suppress(BlockingIOError):
                size = watch.recv_into(bytearray(1), 1, socket.MSG_TRUNC)
                raise BenchError(f"{lab.name}: a frame of {size} bytes left {node}")


def _large_frames() -> socket.socket:
    """Return a packet socket that gets nothing but frames which leave by the uplink and are longer than allowed."""
    code = (  # linux/filter.h, linux/bpf_common.h
        (0x28, 0, 0, 0xFFFFF004),  # ldh [SKF_AD_OFF + SKF_AD_PKTTYPE]
        (0x15, 0, 3, socket.PACKET_OUTGOING),  # jeq
        (0x80, 0, 0, 0),  # ld len
        (0x25, 0, 1, LARGEST_FRAME),  # jgt
        (0x06, 0, 0, 0xFFFF),  # ret: all of it
        (0x06, 0, 0, 0),  # ret: not at all
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(code), ctypes.addressof(program)))
    opened.bind((UPLINK, ETH_P_ALL))
    return opened
